"""Is what a card computes right?  The three comparisons of the tests, at real size and in the card's own arithmetic.

bfloat16 has 8 significant bits, so two right ways to compute one number differ, and equality cannot be asked for.
What can be: beside the same model in float32, the packed pass is no further off than the plain one.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from minirft.cost.gpu_parts import Cases, Row, Sizes, endless, free, one_line
from minirft.cost.shapes import Shape, filler, fit_shape, questions
from minirft.engine import DECODERS, LoraSettings
from minirft.policy import Policy
from minirft.sampler import sample_groups
from minirft.samples import Prompt, Rollout

FACTOR = 1.5
"""How much larger than the plain path's the packed path's rounding error may be; 1.05 on a CPU with a miniature."""
TEMPERATURE = 0.1
"""Near-uniform sampling over 151,936 tokens would turn float32 rounding into another token now and then."""


def correct(source: str, device: str, sizes: Sizes) -> Cases:
    """Sampling, scoring with gradients, and 4-bit training after a rollout; each row says `ok`."""
    yield "sampler, float32", partial(same_tokens, source, device, sizes)
    yield "packed against naive, bfloat16", partial(rounding, source, device, sizes)
    yield "nf4, learning after a rollout", partial(after_a_rollout, source, device, sizes)


def adapted(source: str, device: str, dtype: str, quantize: str = "none") -> Policy:
    """The policy with adapters whose B is drawn at random: at zero the gradient of A would be zero too."""
    policy = endless(Policy.load(source, device=device, dtype=dtype, quantize=quantize, lora=LoraSettings()))
    generator = torch.Generator().manual_seed(1)
    for name, weight in policy.trainable().items():
        if "lora_B" in name:
            weight.data.copy_(0.02 * torch.randn(weight.shape, generator=generator))
    return policy


def _prompts(policy: Policy, sizes: Sizes, count: int) -> tuple[list[Prompt], int, int]:
    length, completion, group = sizes.check
    shape = fit_shape(policy, Shape(length, completion, group, count))
    return [policy.encode(sample) for sample in questions(filler(policy, shape), shape, 0)], completion, group


def same_tokens(source: str, device: str, sizes: Sizes) -> Row:
    """Every decoder against the naive loop, at the same uniform numbers: tokens equal, log-probs close."""
    policy = adapted(source, device, "float32")
    prompts, length, group = _prompts(policy, sizes, 2)
    uniforms = torch.rand(2 * group, length, generator=torch.Generator().manual_seed(0))
    settings = {"max_completion_length": length, "uniforms": uniforms, "temperature": TEMPERATURE}
    naive = sample_groups(policy, prompts, group, shared=False, **settings)
    drawn = naive.completion_ids
    found: Row = {"tokens": drawn.numel(), "distinct": len(drawn.unique()), "decoders": {}}
    for decoder in DECODERS:
        try:
            rollout = sample_groups(policy, prompts, group, decoder=decoder, **settings)
            equal = rollout.completion_ids == drawn
            apart = (rollout.logprobs - naive.logprobs)[equal].abs().max().item()
            found["decoders"][decoder] = {"equal": int(equal.sum()), "logprobs_apart": apart}
        except Exception as error:  # the other decoders may work
            found["decoders"][decoder] = {"equal": 0, "error": one_line(error)}
    return found | {"ok": all(row["equal"] == found["tokens"] for row in found["decoders"].values())}


def rounding(source: str, device: str, sizes: Sizes) -> Row:
    """Log-probs and LoRA gradients in bfloat16, packed and naive, as distances from the naive path in float32."""
    torch.backends.cudnn.allow_tf32 = False
    policy = adapted(source, device, "float32")
    prompts, length, group = _prompts(policy, sizes, 1)
    generator = torch.Generator().manual_seed(0)
    rollout = sample_groups(policy, prompts, group, max_completion_length=length, generator=generator)
    truth, same = (_scored(policy, rollout, shared) for shared in (False, True))
    del policy
    free()
    policy = adapted(source, device, "bfloat16")
    naive, packed = (_scored(policy, rollout, shared) for shared in (False, True))
    found = {
        "float32_packed_to_naive": _distances(same, truth),
        "bfloat16_naive_to_float32": _distances(naive, truth),
        "bfloat16_packed_to_float32": _distances(packed, truth),
    }
    allowed = {name: FACTOR * value for name, value in found["bfloat16_naive_to_float32"].items()}
    within = all(value <= allowed[name] for name, value in found["bfloat16_packed_to_float32"].items())
    return found | {"factor": FACTOR, "ok": within and max(found["float32_packed_to_naive"].values()) < 1e-3}


def _scored(policy: Policy, rollout: Rollout, shared: bool) -> tuple[Tensor, Tensor]:
    """Log-probs of a rollout, and the gradient of their weighted sum over all adapters, as one vector each."""
    logprobs = policy.logprobs(rollout, shared=shared)
    weights = torch.randn(logprobs.shape, generator=torch.Generator().manual_seed(1)).to(logprobs)
    learning = list(policy.trainable().values())
    gradients = torch.autograd.grad((logprobs * weights).sum(), learning, materialize_grads=True)
    return logprobs.detach().float().flatten(), torch.cat([gradient.float().flatten() for gradient in gradients])


def _distances(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Root mean square of the log-probs' difference in nats, and |g - g'| / |g'| of the gradients."""
    logprobs = (one[0] - other[0]).square().mean().sqrt().item()
    return {"logprobs": logprobs, "gradient": ((one[1] - other[1]).norm() / other[1].norm()).item()}


def after_a_rollout(source: str, device: str, sizes: Sizes) -> Row:
    """The gradient of a 4-bit model before and after it has sampled; the same one twice shows the card's own noise."""
    policy = adapted(source, device, "bfloat16", quantize="nf4")
    prompts, length, group = _prompts(policy, sizes, 1)
    settings = {"max_completion_length": length, "generator": torch.Generator().manual_seed(0)}
    ids = torch.randint(0, 256, (group, length), generator=torch.Generator().manual_seed(2)).to(device)
    rollout = Rollout(  # of made-up tokens: a sampled one would need the rollout that is to come
        prompts=prompts,
        completion_ids=ids,
        completion_mask=torch.ones_like(ids, dtype=torch.bool),
        logprobs=torch.zeros(ids.shape, device=device),
        texts=[""] * group,
        finished=torch.zeros(group, dtype=torch.bool, device=device),
        group_size=group,
        temperature=1.0,
    )
    alone, again = (_scored(policy, rollout, shared=True) for _ in range(2))
    sample_groups(policy, prompts, group, **settings)
    after = _scored(policy, rollout, shared=True)
    found = {"again": _distances(again, alone), "after_a_rollout": _distances(after, alone)}
    learning = alone[1].abs().max().item() > 0
    return found | {"ok": learning and found["after_a_rollout"]["gradient"] <= 3 * found["again"]["gradient"] + 1e-4}

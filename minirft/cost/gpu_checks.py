"""Two parts of the GPU benchmark: checks of correctness at real size on a card, and the speed of decoding.

bfloat16 has 8 significant bits, so two correct computations of one number differ, and equality cannot be required.  The
check is: compared with the same model in float32, the packed pass has no larger error than the plain one.

The speed of decoding is in milliseconds per token step, beside the least that the card's bandwidth allows.  A token
step reads every weight of the language model and all keys and values, and computes little.  The bandwidth is measured
with a large copy, so the bound is that of this card.
"""

from __future__ import annotations

import statistics
import time
from functools import partial

import torch
from torch import Tensor

from minirft.cost.gpu_parts import Cases, Row, Sizes, free, one_line, synchronise
from minirft.cost.shapes import Shape, endless, filler, fit_shape, load_policy, questions
from minirft.engine import DECODERS, LoraSettings
from minirft.policy import Policy
from minirft.sampler import sample_groups
from minirft.samples import Prompt, Rollout

FACTOR = 1.5
"""Allowed rounding error of the packed path divided by that of the plain path; 1.05 was measured on a CPU."""
TEMPERATURE = 0.1
"""A low temperature: in near-uniform sampling over 151,936 tokens float32 rounding sometimes changes a token."""


def correct(source: str, device: str, sizes: Sizes) -> Cases:
    """Yield checks of sampling, of scoring with gradients, and of 4-bit training after a rollout; a row has `ok`."""
    yield "sampler, float32", partial(same_tokens, source, device, sizes)
    yield "packed against naive, bfloat16", partial(rounding, source, device, sizes)
    yield "nf4, learning after a rollout", partial(after_a_rollout, source, device, sizes)


def adapted(source: str, device: str, dtype: str, quantize: str = "none") -> Policy:
    """Load the policy with adapters that are not zero."""
    return load_policy(source, LoraSettings(), device=device, dtype=dtype, quantize=quantize)


def _prompts(policy: Policy, sizes: Sizes, count: int) -> tuple[list[Prompt], int, int]:
    length, completion, group = sizes.check
    shape = fit_shape(policy, Shape(length, completion, group, count))
    return [policy.encode(sample) for sample in questions(filler(policy, shape), shape, 0)], completion, group


def same_tokens(source: str, device: str, sizes: Sizes) -> Row:
    """Compare every decoder with the naive loop at the same uniform numbers: equal tokens, close log-probs."""
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
    """Measure distances of log-probs and LoRA gradients in bfloat16, packed and naive, from the naive float32 path."""
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
    """Return the log-probs of a rollout, and the gradient of their weighted sum, as one vector each."""
    logprobs = policy.logprobs(rollout, shared=shared)
    weights = torch.randn(logprobs.shape, generator=torch.Generator().manual_seed(1)).to(logprobs)
    learning = list(policy.trainable().values())
    gradients = torch.autograd.grad((logprobs * weights).sum(), learning, materialize_grads=True)
    return logprobs.detach().float().flatten(), torch.cat([gradient.float().flatten() for gradient in gradients])


def _distances(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Return the root mean square difference of log-probs in nats, and |g - g'| / |g'| of the gradients."""
    logprobs = (one[0] - other[0]).square().mean().sqrt().item()
    return {"logprobs": logprobs, "gradient": ((one[1] - other[1]).norm() / other[1].norm()).item()}


def after_a_rollout(source: str, device: str, sizes: Sizes) -> Row:
    """Compare the gradient of a 4-bit model before and after sampling; repeating it shows the noise of the card."""
    policy = adapted(source, device, "bfloat16", quantize="nf4")
    prompts, length, group = _prompts(policy, sizes, 1)
    settings = {"max_completion_length": length, "generator": torch.Generator().manual_seed(0)}
    ids = torch.randint(0, 256, (group, length), generator=torch.Generator().manual_seed(2)).to(device)
    rollout = Rollout(  # of arbitrary tokens, because sampling must come later
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


# ------------------------------------------------------------------ decoding


def decode(source: str, device: str, sizes: Sizes) -> Cases:
    """Yield milliseconds per token step of each decoder, beside the least that the card's bandwidth allows."""
    for quantize in ("none", "nf4"):
        name = "nf4" if quantize == "nf4" else "bfloat16"
        yield name, partial(decode_speeds, source, device, sizes, quantize)


def decode_speeds(source: str, device: str, sizes: Sizes, quantize: str) -> Row:
    """Measure one row for each decoder and number of prompts; a row of a decoder that fails has an error."""
    lora = LoraSettings()
    policy = endless(Policy.load(source, quantize=quantize, lora=lora, dtype="bfloat16", device=device))
    length, first, last = sizes.decode
    shape = fit_shape(policy, Shape(length, last, 8, max(sizes.decode_prompts)))
    prompts = [policy.encode(sample) for sample in questions(filler(policy, shape), shape, 0)]
    bandwidth = copy_bandwidth(torch.device(device))
    rows = []
    for count in sizes.decode_prompts:
        least = bytes_per_step(policy, count, length, 8 * count, (first + last) / 2)
        for decoder in DECODERS:
            row = {"decoder": decoder, "rows": 8 * count, "bytes_per_step": least, "floor_ms": 1e3 * least / bandwidth}
            try:
                spent = step_milliseconds(policy, prompts[:count], decoder, first, last)
                median = statistics.median(spent)
                row |= {"ms_per_step": median, "ms_spread": [min(spent), max(spent)]}
                row |= {"tokens_per_second": 8e3 * count / median, "times_floor": median / row["floor_ms"]}
            except Exception as error:  # the other decoders may work
                row["error"] = one_line(error)
            rows.append(row)
            free()
    return {"bandwidth_gb_per_second": bandwidth / 1e9, "prompt": length, "speeds": rows}


def step_milliseconds(policy: Policy, prompts: list[Prompt], decoder: str, first: int, last: int) -> list[float]:
    """Measure three times the milliseconds of one more token for all rows, with sampling.

    It is the time for `last` tokens minus that for `first`: prefill and graph recording are in both, and cancel.
    """

    def seconds(limit: int) -> float:
        synchronise(policy.device)
        start = time.perf_counter()
        generator = torch.Generator().manual_seed(0)
        sample_groups(policy, prompts, 8, max_completion_length=limit, generator=generator, decoder=decoder)
        synchronise(policy.device)
        return time.perf_counter() - start

    seconds(first)
    return [1e3 * (seconds(last) - seconds(first)) / (last - first) for _ in range(3)]


def bytes_per_step(policy: Policy, prompts: int, prompt: int, rows: int, tokens: float) -> int:
    """Count the least bytes of a token step: weights once, and the cache of `prompts` x `prompt` + `rows` x `tokens`.

    A group shares its prompt's keys, so they count once.  Token embeddings do not count, because only a few rows are
    read.  4-bit weights count packed, with their scales.
    """
    language = policy.language_model
    weights = [*language.layers.parameters(), *language.norm.parameters(), policy.lm_head.weight]
    config = language.config
    heads, size = config.num_key_value_heads, config.hidden_size // config.num_attention_heads
    cache = 2 * config.num_hidden_layers * heads * size * policy.dtype.itemsize
    return int(sum(map(_stored_bytes, weights)) + cache * (prompts * prompt + rows * tokens))


def _stored_bytes(weight: Tensor) -> int:
    state = getattr(weight, "quant_state", None)
    if state is None:
        return weight.nbytes
    return weight.nbytes + state.absmax.nbytes + (state.state2.absmax.nbytes if state.nested else 0)


def copy_bandwidth(device: torch.device) -> float:
    """Measure the bytes per second that a large copy reads and writes; the median of 10."""
    size = 2**31 if device.type == "cuda" else 2**26
    origin, copy = (torch.zeros(size, dtype=torch.uint8, device=device) for _ in range(2))
    speeds = []
    for _ in range(10):
        synchronise(device)
        start = time.perf_counter()
        copy.copy_(origin)
        synchronise(device)
        speeds.append(2 * size / (time.perf_counter() - start))
    return statistics.median(speeds)

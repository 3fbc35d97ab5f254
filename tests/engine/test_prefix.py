"""The shared prefix against the plain model: same log-probs, same gradients."""

from pathlib import Path

import pytest
import torch
from conftest import BACKWARD, FORWARD, apart, rounding, shaken
from torch import Tensor

from minirft.engine.layers import Spans
from minirft.engine.logprobs import _packed_positions, packed_logprobs, passes
from minirft.policy import LoraSettings, Policy
from minirft.sampler import sample_groups
from minirft.samples import Rollout, Sample

LORA = LoraSettings(r=4, alpha=8)
VARIANTS = {
    "full": {},
    "full, checkpointed": {"checkpointing": True},
    "full with vision": {"train_vision": True},
    "full with vision, checkpointed": {"train_vision": True, "checkpointing": True},
    "lora": {"lora": LORA},
    "lora, checkpointed": {"lora": LORA, "checkpointing": True},
    "lora on all": {"lora": LoraSettings(r=4, alpha=8, targets="all")},
    "nf4 + lora": {"lora": LORA, "quantize": "nf4"},
    "nf4 + lora, checkpointed": {"lora": LORA, "quantize": "nf4", "checkpointing": True},
}


def rollout_of(policy: Policy, samples: list[Sample], seed: int = 0, temperature: float = 1.3) -> Rollout:
    """Three prompts of different length, four completions each, some of them short."""
    return sample_groups(
        policy,
        [policy.encode(sample) for sample in samples],
        4,
        temperature=temperature,
        max_completion_length=16,
        generator=torch.Generator().manual_seed(seed),
    )


def gradient(policy: Policy, loss: Tensor) -> Tensor:
    """The gradient of every trainable weight as one vector."""
    weights = list(policy.trainable().values())
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights, materialize_grads=True)])


def relative(a: Tensor, b: Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("variant", VARIANTS)
def test_packed_pass_equals_the_naive_path(variant: str, miniature: Path, samples: list[Sample]) -> None:
    """Catches a wrong mask, position or off-by-one anywhere in the packed pass, and a gradient lost on the way."""
    policy = shaken(Policy.load(miniature, **VARIANTS[variant]))
    rollout = rollout_of(policy, samples)
    assert rollout.finished.any()
    assert not rollout.finished.all()
    packed, naive = (policy.logprobs(rollout, shared=shared) for shared in (True, False))
    weights = torch.randn(packed.shape, generator=torch.Generator().manual_seed(1))
    error = relative(gradient(policy, (packed * weights).sum()), gradient(policy, (naive * weights).sum()))
    print(f"\n{variant:32} log-probs {apart(packed, naive):.1e}   gradient {error:.1e} (relative errors)", end="")
    assert apart(packed, naive) < rounding(FORWARD)
    assert error < rounding(BACKWARD)
    assert apart(packed, rollout.logprobs) < rounding(FORWARD), "training scores another distribution than was sampled"
    assert not packed[~rollout.completion_mask].any()


@pytest.mark.parametrize("rows_per_pass", [1, 3, 4, 7, 12])
def test_rows_per_pass_does_not_change_the_gradient(
    rows_per_pass: int, lora_policy: Policy, samples: list[Sample]
) -> None:
    """Catches a group split over passes whose second half reads the wrong prompt."""
    rollout = rollout_of(lora_policy, samples)
    weights = torch.randn(rollout.logprobs.shape, generator=torch.Generator().manual_seed(1))
    whole = gradient(lora_policy, (lora_policy.logprobs(rollout) * weights).sum())
    parts = [
        gradient(lora_policy, (lora_policy.logprobs(rollout, rows) * weights[rows]).sum())
        for rows in passes(rollout, rows_per_pass)
    ]
    assert len(parts) == -(-12 // rows_per_pass)
    assert relative(sum(parts), whole) < rounding(BACKWARD)


def test_any_rows_in_any_form(policy: Policy, samples: list[Sample]) -> None:
    """Catches rows mixed up when groups are skipped: each row's numbers do not depend on who else is scored."""
    rollout = rollout_of(policy, samples)
    every = policy.logprobs(rollout)
    for rows in ([1, 6], [11], slice(4, 8), [0, 1, 2, 3, 8]):
        assert apart(policy.logprobs(rollout, rows), every[rows]) < rounding(FORWARD)
    assert passes(rollout, 2, rows=[0, 5, 7]) == [[0, 5], [7]]


def test_four_dimensional_mask_oracle(policy: Policy, samples: list[Sample]) -> None:
    """Catches a completion that sees its neighbour: the same packed sequence under an explicit (L, L) mask."""
    rollout = rollout_of(policy, samples)
    prompts = rollout.prompts
    rows = [[rollout.tokens(b) for b in range(12)[rollout.rows(p)]] for p in range(3)]
    lengths = [[len(ids) for ids in members] for members in rows]
    # Owner of a token: (prompt, completion), completion -1 for the prompt itself.
    owner = [(p, -1) for p, prompt in enumerate(prompts) for _ in range(len(prompt))]
    owner += [(p, c) for p, members in enumerate(rows) for c, ids in enumerate(members) for _ in ids]
    sees = [[j <= i and o[0] == q[0] and o[1] in (-1, q[1]) for j, o in enumerate(owner)] for i, q in enumerate(owner)]
    inputs = {
        "inputs_embeds": torch.cat(
            [*map(policy.embed_prompt, prompts), *(policy.embed(ids) for members in rows for ids in members)]
        )[None],
        "position_ids": _packed_positions(prompts, lengths),
        "use_cache": False,
    }
    masked = policy.language_model(attention_mask={"full_attention": torch.tensor(sees)[None, None]}, **inputs)
    spans = Spans.of([len(prompt) for prompt in prompts], lengths, inputs["inputs_embeds"])
    packed = policy.language_model(spans=spans, **inputs)
    assert apart(packed.last_hidden_state, masked.last_hidden_state) < rounding(FORWARD)


def test_entropy_of_both_paths(policy: Policy, samples: list[Sample]) -> None:
    """Catches an entropy of other tokens or another temperature, and one that carries a gradient."""
    rollout = rollout_of(policy, samples)
    logprobs, entropy = policy.logprobs(rollout, entropy=True)
    _, naive = policy.logprobs(rollout, shared=False, entropy=True)
    assert torch.allclose(entropy, naive, atol=1e-4)
    assert logprobs.requires_grad
    assert not entropy.requires_grad


@pytest.mark.parametrize("train_vision", [False, True])
def test_vision_tower_runs_once_per_picture(train_vision: bool, miniature: Path, samples: list[Sample]) -> None:
    """Catches the tower run once per completion, recomputed when frozen, or drawn into the graph when frozen."""
    policy = Policy.load(miniature, train_vision=train_vision)
    calls = []
    policy.core.model.visual.register_forward_hook(lambda module, args, out: calls.append(out.pooler_output))
    rollout = rollout_of(policy, samples)
    assert len(calls) == 3
    policy.logprobs(rollout).sum().backward()
    assert len(calls) == (6 if train_vision else 3)
    assert any(out.requires_grad for out in calls) == train_vision
    seen = [weight.grad is not None for weight in policy.core.model.visual.parameters()]
    assert all(seen) if train_vision else not any(seen)


def test_checkpointing_leaves_no_trace(miniature: Path, samples: list[Sample]) -> None:
    """Catches a model left in train mode, in which transformers drops the cache and sampling goes wrong silently."""
    policy = Policy.load(miniature, checkpointing=True)
    before = rollout_of(policy, samples)
    calls = []
    policy.language_model.layers[0].self_attn.register_forward_pre_hook(lambda *_: calls.append(1))
    policy.logprobs(before).sum().backward()
    assert len(calls) == 2, "the layer was not recomputed: checkpointing is off"
    assert not any(module.training for module in policy.model.modules())
    assert torch.equal(rollout_of(policy, samples).completion_ids, before.completion_ids)


def test_lm_head_runs_on_completion_tokens_only(policy: Policy, samples: list[Sample]) -> None:
    """Catches logits computed for the prompt, which at 151,936 tokens is the largest waste of all."""
    rollout = rollout_of(policy, samples)
    seen = []
    policy.lm_head.register_forward_hook(lambda module, args, out: seen.append(args[0].shape[0]))
    policy.logprobs(rollout)
    assert sum(seen) == rollout.lengths.sum()
    assert max(seen) <= 128


def test_length_one_completions(policy: Policy, samples: list[Sample]) -> None:
    """Catches an empty slice: a completion that is only the end of turn is predicted at the prompt's last token."""
    prompt, end = policy.encode(samples[0]), torch.tensor([policy.eos_ids[0]])
    (packed,) = packed_logprobs(policy, [(prompt, [end, end])], 1.0)
    assert packed.shape == (2,)
    assert torch.allclose(packed[0], packed[1])

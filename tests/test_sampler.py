"""Sampling through the shared cache against sampling the plain way."""

from pathlib import Path

import pytest
import torch
from conftest import FORWARD, apart, rounding, shaken

from minirft.engine.logprobs import naive_logits
from minirft.policy import LoraSettings, Policy
from minirft.sampler import pick, sample_groups
from minirft.samples import Prompt, Sample


def by_the_whole_model(policy: Policy, prompt: Prompt, uniforms: torch.Tensor, temperature: float) -> list[list[int]]:
    """The oracle: for each token of each row, the whole model over prompt, picture and all tokens so far; no cache."""
    rows = []
    for numbers in uniforms:
        ids = torch.zeros(1, 0, dtype=torch.long)
        for number in numbers:
            logits = naive_logits(policy, prompt, ids)[:, -1]
            token, _ = pick(logits, number[None], temperature, policy.banned)
            ids = torch.cat([ids, token[None]], dim=1)
            if int(token) in policy.eos_ids:
                break
        rows.append(ids[0].tolist())
    return rows


@torch.no_grad()
def test_sampling_equals_the_whole_model(lora_policy: Policy, samples: list[Sample]) -> None:
    """Both paths wrong in the same way: they share a loop, and this oracle shares nothing with it but `pick`."""
    prompts = [lora_policy.encode(sample) for sample in samples]
    uniforms = torch.rand(9, 12, generator=torch.Generator().manual_seed(1))
    rollout = sample_groups(lora_policy, prompts, 3, temperature=1.2, max_completion_length=12, uniforms=uniforms)
    for p, prompt in enumerate(prompts):
        rows = range(3 * p, 3 * p + 3)
        assert [rollout.tokens(b).tolist() for b in rows] == by_the_whole_model(
            lora_policy, prompt, uniforms[rows.start : rows.stop], 1.2
        )


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_shared_equals_naive(kind: str, miniature: Path, samples: list[Sample]) -> None:
    """Catches wrong positions, a leaking pad, rows swapped when one ends: tokens equal, log-probs to rounding.

    Where a row ends is chance, and another version's pictures move it: only all 48 rows together must end in many ways.
    """
    policy = shaken(Policy.load(miniature, lora=LoraSettings(r=4, alpha=8) if kind == "lora" else None))
    prompts, lengths = [policy.encode(sample) for sample in samples], set()
    for seed in range(4):
        uniforms = torch.rand(12, 20, generator=torch.Generator().manual_seed(seed))
        settings = {"temperature": 1.2, "max_completion_length": 20, "uniforms": uniforms}
        shared, naive = (sample_groups(policy, prompts, 4, shared=shared, **settings) for shared in (True, False))
        assert torch.equal(shared.completion_ids, naive.completion_ids)
        assert torch.equal(shared.completion_mask, naive.completion_mask)
        assert torch.equal(shared.finished, naive.finished)
        assert shared.texts == naive.texts
        error = apart(shared.logprobs, naive.logprobs)
        print(f"\n{kind}, seed {seed}: {int(shared.lengths.sum())} tokens equal, log-probs apart {error:.1e}", end="")
        assert error < rounding(FORWARD)
        lengths |= set(shared.lengths.tolist())
    assert len(lengths) > 2, "no row ended early: the test would prove little"


def test_greedy_paths_agree_and_are_not_vacuous(policy: Policy, samples: list[Sample]) -> None:
    """Catches greedy decoding that is not the argmax, or a miniature so degenerate that equality means nothing."""
    prompts = [policy.encode(sample) for sample in samples]
    shared, naive = (
        sample_groups(policy, prompts, 1, max_completion_length=12, greedy=True, shared=shared)
        for shared in (True, False)
    )
    assert torch.equal(shared.completion_ids, naive.completion_ids)
    assert len(shared.completion_ids.unique()) > 6


def test_a_row_depends_on_its_own_numbers_only(policy: Policy, samples: list[Sample]) -> None:
    """Catches leaks between rows and prompts: other neighbours, other batch, same tokens."""
    prompts = [policy.encode(sample) for sample in samples]
    uniforms = torch.rand(6, 12, generator=torch.Generator().manual_seed(3))
    together = sample_groups(policy, prompts, 2, max_completion_length=12, uniforms=uniforms)
    for p in range(3):
        alone = sample_groups(policy, [prompts[p]], 2, max_completion_length=12, uniforms=uniforms[2 * p : 2 * p + 2])
        for g in range(2):
            assert torch.equal(alone.tokens(g), together.tokens(2 * p + g))


def test_mask_and_end_of_turn(policy: Policy, samples: list[Sample]) -> None:
    """Catches an end-of-turn token left out of the mask: then stopping is never learned."""
    prompts = [policy.encode(sample) for sample in samples]
    rollout = sample_groups(policy, prompts, 4, max_completion_length=16, generator=torch.Generator().manual_seed(0))
    for b in range(12):
        tokens = rollout.tokens(b).tolist()
        assert rollout.finished[b] == (tokens[-1] in policy.eos_ids)
        assert not set(tokens[:-1]) & set(policy.eos_ids)
        assert rollout.finished[b] or len(tokens) == 16
        assert not rollout.completion_ids[b, len(tokens) :].any()
        assert not rollout.logprobs[b, len(tokens) :].any()
        assert (rollout.logprobs[b, : len(tokens)] < 0).all()
        assert "<|im_end|>" not in rollout.texts[b]


def test_banned_tokens_are_never_sampled(policy: Policy, samples: list[Sample]) -> None:
    """Catches a sampled picture token, after which the next forward pass would raise."""
    head = policy.lm_head.weight.data
    with torch.no_grad():  # hidden states have a mean direction: push the banned logits along it
        hidden = []
        policy.lm_head.register_forward_hook(lambda module, args, out: hidden.append(args[0]))
        prompts = [policy.encode(sample) for sample in samples]
        sample_groups(policy, prompts, 2, max_completion_length=4, generator=torch.Generator().manual_seed(0))
        head[policy.banned] += 100 * torch.cat(hidden).mean(0)
    picture = policy.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    assert picture in policy.banned
    assert max(policy.banned) == head.shape[0] - 1
    for greedy in (False, True):
        rollout = sample_groups(
            policy, prompts, 2, max_completion_length=8, greedy=greedy,
            generator=None if greedy else torch.Generator().manual_seed(0),
        )  # fmt: skip
        assert not torch.isin(rollout.completion_ids[rollout.completion_mask], policy.banned).any()
        assert rollout.logprobs.isfinite().all()


def test_pick_follows_the_distribution() -> None:
    """Catches a biased sampler: the uniform grid reproduces softmax(logits / T) to its own resolution."""
    logits = torch.tensor([1.0, -1.0, 0.5, 3.0, 0.0])
    n, banned = 20_000, torch.tensor([3])
    grid = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    tokens, logprobs = pick(logits.expand(n, -1), grid, 0.7, banned)
    wanted = (logits / 0.7).index_fill(0, banned, -torch.inf).softmax(-1)
    assert torch.allclose(tokens.bincount(minlength=5) / n, wanted, atol=2 / n)
    assert torch.allclose(logprobs.exp(), wanted[tokens], atol=1e-6)
    edge, _ = pick(logits.expand(2, -1), torch.tensor([0.0, 1 - 2**-24]), 0.7, torch.tensor([0, 4]))
    assert edge.tolist() == [1, 3]


@pytest.mark.parametrize(
    "wrong",
    [
        {"group_size": 0},
        {"temperature": 0.0},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"max_completion_length": 0},
        {"uniforms": torch.rand(3, 3)},
    ],
)
def test_refuses_nonsense(wrong: dict[str, object], policy: Policy, samples: list[Sample]) -> None:
    """Catches a division by zero temperature that would sample NaN."""
    with pytest.raises(ValueError, match=r"group_size|uniforms"):
        sample_groups(policy, [policy.encode(samples[0])], **{"group_size": 2, "max_completion_length": 4} | wrong)


def test_the_prompt_passes_once(policy: Policy, samples: list[Sample]) -> None:
    """Catches a prompt that is run again for each completion, and ended rows that still cost."""
    rows = []
    policy.language_model.register_forward_hook(
        lambda module, args, out: rows.append(tuple(out.last_hidden_state.shape[:2]))
    )
    prompts = [policy.encode(sample) for sample in samples]
    rollout = sample_groups(policy, prompts, 4, max_completion_length=16, generator=torch.Generator().manual_seed(0))
    assert rows[0] == (3, max(map(len, prompts)))
    assert all(t == 1 for _, t in rows[1:])
    assert sum(r for r, _ in rows[1:]) == int((rollout.lengths - 1).sum())

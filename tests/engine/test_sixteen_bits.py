"""Weights as published: query and key biases that make raw scores of 1e3 to 1e5, in numbers of 16 bits.

Rounding: bfloat16 keeps 8 significant bits and float16 11, so a raw score of 1e4 rounds by up to 32 and 4, and 1e5
is no float16 at all.
"""

from pathlib import Path

import pytest
import torch
from conftest import biased
from test_train import earnable
from torch.nn.functional import scaled_dot_product_attention

from minirft import UserError
from minirft.engine.layers import OnPrompts, one_token_attention
from minirft.loss import LOSSES
from minirft.policy import LoraSettings, Policy
from minirft.runs.config import GRPOConfig
from minirft.runs.step import make_optimiser, mismatch
from minirft.sampler import pick, sample_groups
from minirft.samples import Sample
from minirft.train import add_gradients, grpo_step

SIXTEEN = ["bfloat16", "float16"]
RAW = [1e3, 1e4, 1e5]


def load(miniature: Path, dtype: str, raw: float, lora: bool = False) -> Policy:
    return biased(Policy.load(miniature, dtype=dtype, lora=LoraSettings(r=4, alpha=8) if lora else None), raw)


def rollout_of(policy: Policy, samples: list[Sample], **options: object):
    prompts = [policy.encode(sample) for sample in samples]
    generator = torch.Generator().manual_seed(0)
    return sample_groups(policy, prompts, 8, max_completion_length=24, generator=generator, **options)


@pytest.mark.parametrize("raw", [0.0, 1e3, 1e4, 8e4])
@pytest.mark.parametrize("dtype", SIXTEEN)
def test_one_token_is_as_exact_as_sdpa(dtype: str, raw: float) -> None:
    """Scores rounded to 16 bits before they are scaled: 13% off at 1e3, half at 1e4, NaN at 8e4 in float16."""
    d, generator = 128, torch.Generator().manual_seed(0)
    bias = torch.zeros(d)
    bias[-8:] = (raw / 8) ** 0.5

    def draw(rows: int, tokens: int, shift: torch.Tensor | float) -> torch.Tensor:
        return (torch.randn(rows, 2, tokens, d, generator=generator) + shift).to(getattr(torch, dtype))

    q, prompt, seen, k, v = draw(4, 1, bias), draw(1, 64, bias), draw(1, 64, 0.0), draw(4, 8, bias), draw(4, 8, 0.0)
    view = OnPrompts([prompt], [seen], None, None, torch.arange(4)[None], torch.arange(4))
    found = one_token_attention(q, k, v, view, 0, d**-0.5)[:, 0].double()
    keys, values = (torch.cat([a.expand(4, -1, -1, -1), b], 2) for a, b in ((prompt, k), (seen, v)))
    exact = ((q.double() @ keys.double().mT * d**-0.5).softmax(-1) @ values.double())[:, :, 0]
    theirs = scaled_dot_product_attention(q, keys, values)[:, :, 0].double()
    # Weights, values and their sum are rounded once each in both; ours rounds two partial sums.
    unit = torch.finfo(getattr(torch, dtype)).eps / 2
    assert (found - exact).norm() < 4 * unit * exact.norm() + (theirs - exact).norm()


@pytest.mark.parametrize("decoder", ["growing", "graph"])
@pytest.mark.parametrize("raw", RAW)
@pytest.mark.parametrize("dtype", SIXTEEN)
def test_sampler_and_learner_are_one_policy(
    dtype: str, raw: float, decoder: str, miniature: Path, samples: list[Sample]
) -> None:
    """Sampling from another policy than the one that learns: .10 to .33 nats a token apart, float16 dies at 1e5."""
    policy = load(miniature, dtype, raw)
    rollout = rollout_of(policy, samples, decoder=decoder)
    with torch.no_grad():
        apart = (policy.logprobs(rollout) - rollout.logprobs)[rollout.completion_mask].abs().mean()
    assert apart < 0.02


def test_float32_is_what_it_was(miniature: Path, samples: list[Sample]) -> None:
    """A repair for 16 bits that copies the keys of a float32 model, or changes what it samples."""
    policy = load(miniature, "float32", 1e4)
    rollout = rollout_of(policy, samples)
    with torch.no_grad():
        apart = (policy.logprobs(rollout) - rollout.logprobs)[rollout.completion_mask].abs().max()
    assert apart < 0.02


@pytest.mark.parametrize("greedy", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_logits_that_are_not_finite_stop_with_one_line(
    dtype: str, greedy: bool, miniature: Path, samples: list[Sample]
) -> None:
    """Greedy texts of "!!!!", or an index out of bounds, in place of the cause."""
    policy = load(miniature, dtype, 0.0)
    policy.language_model.norm.weight.data.fill_(torch.inf)
    with pytest.raises(UserError, match="not finite") as error:
        rollout_of(policy, samples, greedy=greedy)
    assert "\n" not in str(error.value) and dtype in str(error.value)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_token_is_always_in_the_vocabulary(bad: float) -> None:
    """A search among NaNs that ends behind the last token: a device assert on CUDA."""
    logits = torch.zeros(3, 10)
    logits[1, 4] = bad
    for uniforms in (None, torch.tensor([0.0, 0.5, 1 - 2**-24])):
        tokens, logprobs = pick(logits, uniforms, 1.0, torch.tensor([9]))
        assert tokens.max() < 10
        assert logprobs.isnan().tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("kind", "dtype"), [*((kind, "bfloat16") for kind in sorted(LOSSES)), ("gspo", "float32"), ("gspo", "float16")]
)
def test_first_update_has_ratio_one(kind: str, dtype: str, miniature: Path, samples: list[Sample]) -> None:
    """Old log-probs of the sampler: GSPO at the paper's bounds clips a third of the rows and loses their gradient.

    The gradient must be TRL's, whose old log-probs are the detached ones, to the last bit of one arithmetic.
    """
    policy = load(miniature, dtype, 1e4, lora=True)
    policy = with_b(policy)
    rollout = rollout_of(policy, samples)
    config = GRPOConfig(train="lora", loss=kind, clip_eps=3e-4, clip_eps_high=4e-4)
    advantages = torch.randn(24, generator=torch.Generator().manual_seed(0))
    old, rows = torch.zeros_like(rollout.logprobs), list(range(24))
    shares = add_gradients(policy, rollout, old, None, advantages, config, rows, rows)
    assert shares["clip_fraction"] == 0
    assert shares["ratio_mean"] == pytest.approx(1, abs=1e-6)  # a sum of 24 to 600 float32 weights
    ours = taken(policy)

    logprobs, mask = policy.logprobs(rollout), rollout.completion_mask
    gain = (logprobs - logprobs.detach()).exp() * advantages[:, None] * mask  # TRL 1.16, unclipped at ratio 1
    if kind in ("grpo", "gspo"):
        loss = -(gain.sum(1) / mask.sum(1)).mean()
    else:
        loss = -gain.sum() / (24 * config.max_completion_length if kind == "dr_grpo" else mask.sum())
    (loss * policy.loss_scale.value).backward()
    theirs = taken(policy)
    assert torch.nn.functional.cosine_similarity(ours, theirs, dim=0) > 0.999
    assert (ours - theirs).norm() < 0.03 * theirs.norm()


def with_b(policy: Policy) -> Policy:
    generator = torch.Generator().manual_seed(5)
    for name, weight in policy.trainable().items():
        if "lora_B" in name:
            weight.data.copy_(0.01 * torch.randn(weight.shape, generator=generator))
    return policy


def taken(policy: Policy) -> torch.Tensor:
    grads = [weight.grad.double().flatten() for weight in policy.trainable().values() if weight.grad is not None]
    policy.model.zero_grad()
    return torch.cat(grads)


def test_later_updates_are_measured_from_the_first(miniature: Path, samples: list[Sample]) -> None:
    """Old log-probs that move with the weights, so that nothing is ever clipped; or those of the sampler."""
    policy = with_b(load(miniature, "bfloat16", 1e4, lora=True))
    rollout = rollout_of(policy, samples)
    config, rows = GRPOConfig(train="lora"), list(range(24))
    old, advantages = torch.zeros_like(rollout.logprobs), torch.ones(24)
    with torch.no_grad():
        before = policy.logprobs(rollout)
    for half in (rows[:12], rows[12:]):
        add_gradients(policy, rollout, old, None, advantages, config, rows, half)
    assert (old - before).abs().max() < 0.1 and old.any(1).all()
    kept = old.clone()
    for weight in policy.trainable().values():
        weight.data.add_(0.02)
    shares = add_gradients(policy, rollout, old, None, advantages, config, rows, rows, first=False)
    assert torch.equal(old, kept)
    with torch.no_grad():
        change = (policy.logprobs(rollout) - kept)[rollout.completion_mask]
    assert change.square().mean() > 1e-4, "the same weights: a ratio of 1 would prove nothing"
    assert shares["ratio_mean"] == pytest.approx(change.exp().mean().item(), abs=1e-5)  # a mean of float32 ratios
    assert shares["ratio_mean"] != pytest.approx(1, abs=1e-5)


def test_an_overflow_takes_the_same_step_again(miniature: Path, samples: list[Sample]) -> None:
    """A second try after a float16 overflow that counts as the second update, with other old log-probs."""
    rows = []
    for scale in (2.0**40, 2.0**8):
        policy = with_b(load(miniature, "float16", 1e4, lora=True))
        policy.loss_scale.value = scale
        config = GRPOConfig(
            train="lora", loss="gspo", clip_eps=3e-4, clip_eps_high=4e-4, max_completion_length=12, learning_rate=1e-5
        )
        row, _ = grpo_step(policy, None, make_optimiser(policy, config), samples, earnable(), config, 1)
        rows.append(row)
    assert rows[0]["clip_fraction"] == rows[1]["clip_fraction"] == 0
    assert rows[0]["ratio_mean"] == pytest.approx(1, abs=1e-6)


def test_mismatch_is_logged_and_said(
    miniature: Path, samples: list[Sample], capsys: pytest.CaptureFixture[str]
) -> None:
    """A policy that samples otherwise than it learns, unseen."""
    policy = with_b(load(miniature, "bfloat16", 1e4, lora=True))
    config = GRPOConfig(train="lora", max_completion_length=12, updates_per_rollout=2, importance_cap=2.0)
    row, _ = grpo_step(policy, None, make_optimiser(policy, config), samples, earnable(), config, 1)
    assert 0 < row["mismatch"] < 0.02
    assert "mismatch" not in capsys.readouterr().err
    rollout = rollout_of(policy, samples)
    off = rollout.logprobs + 0.25 * rollout.completion_mask
    assert mismatch(rollout, off, [0, 3], 7)["mismatch"] == pytest.approx(0.25, abs=1e-5)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "step 7" in said and "mismatch" in said
    assert mismatch(rollout, off, [], 7) == {}

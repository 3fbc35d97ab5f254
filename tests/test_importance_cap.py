"""`importance_cap`, truncated importance sampling, against the formula written out and against TRL's own lines.

Formula: the gain of token t is multiplied by min(exp(log π_old[t] - log π_sampler[t]), cap), a constant; the KL term
is not.  π_old is the learning path before the rollout's first update.  Source: Yao et al. 2025, "Your efficient RL
framework secretly brings you off-policy RL training" (truncated importance sampling, per token).
"""

import inspect
import math
import textwrap
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import BACKWARD, apart, rounding
from test_loss_vs_trl import batch, our_loss, trainer, trl_loss  # noqa: F401  (a fixture)

from minirft.loss import LOSSES, sampler_correction
from minirft.policy import Policy
from minirft.runs.config import GRPOConfig
from minirft.sampler import sample_groups
from minirft.samples import Rollout, Sample
from minirft.train import add_gradients

CAP = 1.5


def trl_ratio(grpo_trainer, old: torch.Tensor, sampled: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The lines of TRL that turn two log-probs into a capped weight, cut from its source and run."""
    source = inspect.getsource(grpo_trainer.GRPOTrainer._generate_and_score_completions)
    start = source.index("            if self.use_vllm and self.vllm_importance_sampling_correction:\n")
    stop = source.index("            # Compute the per-token log probabilities for the reference model", start)
    settings = SimpleNamespace(
        use_vllm=True,
        vllm_importance_sampling_correction=True,
        vllm_importance_sampling_mode="token_truncate",
        vllm_importance_sampling_clip_min=None,
        vllm_importance_sampling_clip_max=CAP,
    )
    names = {"torch": torch, "math": math, "self": settings, "tool_mask": None, "completion_mask": mask.long()}
    names |= {"old_per_token_logps": old, "sampling_per_token_logps": sampled}
    exec(textwrap.dedent(source[start:stop]), names)
    return names["vllm_importance_sampling_ratio"]


def test_weights_are_the_formula():
    """Bug: the ratio upside down, the cap a floor, a mean over the sequence, or a cap on the logarithm."""
    old, sampled = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0)).unbind()
    pairs = zip(old.flatten().tolist(), sampled.flatten().tolist(), strict=True)
    expected = torch.tensor([min(math.exp(o - s), CAP) for o, s in pairs]).view_as(old)
    found = sampler_correction(old, sampled, CAP)
    # A difference below 8 rounds by 2⁻²⁴ of itself, its exponential by as much of 1; doubled.
    torch.testing.assert_close(found, expected, rtol=2 * (8 + 1) * 2**-24, atol=0)
    assert (found == CAP).any() and (found < 1).any() and ((found > 1) & (found < CAP)).any()


@pytest.mark.parametrize("kind", LOSSES)
def test_corrected_loss_and_gradient_are_trls(trainer, kind):  # noqa: F811
    """Bug: a weight on the KL term, inside the clipping, or with a gradient of its own."""
    data = batch(1)
    mask, old = data[-1], data[1]
    sampled = old + 0.5 * torch.randn(old.shape, generator=torch.Generator().manual_seed(9))
    theirs = trl_ratio(trainer, old, sampled, mask)
    ours = sampler_correction(old, sampled, CAP)
    torch.testing.assert_close(ours[mask], theirs[mask], rtol=1e-6, atol=0)  # the same float32 operations
    assert 0.1 < (theirs == CAP).float().mean() < 0.5
    found, expected = our_loss(kind, data, 0.04, weights=ours), trl_loss(trainer, kind, data, 0.04, correction=theirs)
    # Sums of at most 56 terms of size 1: 56 * 2⁻²⁴ = 3e-6.
    torch.testing.assert_close(found[0], expected[0], atol=3e-6, rtol=0)
    torch.testing.assert_close(found[1], expected[1], atol=3e-6, rtol=0)
    plain = our_loss(kind, data, 0.04)
    assert (plain[1] - found[1]).abs().max() > 1e-3, "a weight that changes nothing proves nothing"


def moved(policy: Policy, samples: list[Sample]) -> Rollout:
    """A rollout whose sampler is half a nat off the learner in each token."""
    prompts = [policy.encode(sample) for sample in samples]
    generator = torch.Generator().manual_seed(0)
    rollout = sample_groups(policy, prompts, 4, max_completion_length=12, generator=generator)
    noise = 0.5 * torch.randn(rollout.logprobs.shape, generator=generator)
    return replace(rollout, logprobs=(rollout.logprobs + noise) * rollout.completion_mask)


def test_a_step_weighs_by_old_over_sampler(lora_policy: Policy, samples: list[Sample]):
    """Bug: the cap not handed on, weights from rows of another pass, or from log-probs that move with the updates."""
    rollout = moved(lora_policy, samples)
    config = GRPOConfig(train="lora", loss="dapo", importance_cap=CAP, clip_eps=0.99, clip_eps_high=100)
    advantages = torch.randn(12, generator=torch.Generator().manual_seed(1))
    mask, weights = rollout.completion_mask, list(lora_policy.trainable().values())
    with torch.no_grad():
        before = lora_policy.logprobs(rollout)
    ratio = (before.double() - rollout.logprobs.double()).exp().clamp(max=CAP).float()
    old = torch.zeros_like(rollout.logprobs)
    for first in (True, False):
        now = lora_policy.logprobs(rollout)
        gain = (now - before).exp() * advantages[:, None] * ratio
        expected = torch.autograd.grad(-gain[mask].sum() / mask.sum(), weights)
        for rows in ([0, 1, 2, 3, 4], [5, 6, 7, 8, 9, 10, 11]):
            add_gradients(lora_policy, rollout, old, None, advantages, config, list(range(12)), rows, first=first)
        found = torch.cat([weight.grad.flatten() for weight in weights])
        assert apart(found, torch.cat([gradient.flatten() for gradient in expected])) < rounding(BACKWARD)
        lora_policy.model.zero_grad()
        for weight in weights:
            weight.data.mul_(1.02)

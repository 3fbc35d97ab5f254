"""The reference stays what the policy was."""

from pathlib import Path

import torch
from conftest import FORWARD, apart, rounding

from minirft.policy import Policy
from minirft.reference import make_reference
from minirft.sampler import sample_groups
from minirft.samples import Rollout, Sample


def rollout_of(policy: Policy, samples: list[Sample]) -> Rollout:
    prompts = [policy.encode(sample) for sample in samples]
    return sample_groups(policy, prompts, 2, max_completion_length=8, generator=torch.Generator().manual_seed(0))


def disturb(policy: Policy) -> None:
    for weight in policy.trainable().values():
        weight.data.mul_(1.1)


def test_full_parameter_reference_is_a_frozen_copy(policy: Policy, samples: list[Sample]) -> None:
    """Catches a reference that shares the weights it should remember, so that the KL reads 0 for ever."""
    rollout = rollout_of(policy, samples)
    reference = make_reference(policy, 0.04)
    before = policy.logprobs(rollout).detach()
    disturb(policy)
    assert torch.equal(reference.logprobs(rollout), before)
    assert not torch.allclose(policy.logprobs(rollout), before, atol=1e-2)
    assert not reference.logprobs(rollout).requires_grad
    assert not any(weight.requires_grad for weight in reference.policy.model.parameters())
    assert all(weight.requires_grad for weight in policy.language_model.parameters())


def test_frozen_vision_is_shared_and_learning_vision_is_not(miniature: Path) -> None:
    """Catches a copied tower (memory), or a shared one that learns (the reference would drift)."""
    for train_vision in (False, True):
        policy = Policy.load(miniature, train_vision=train_vision)
        copied = make_reference(policy, 0.04).policy
        assert (copied.core.model.visual is policy.core.model.visual) != train_vision
        assert copied.language_model is not policy.language_model
        assert all(weight.requires_grad for weight in policy.core.model.visual.parameters()) == train_vision


def test_learning_vision_reference_keeps_its_own_features(miniature: Path, samples: list[Sample]) -> None:
    """Catches remembered features of a tower that has changed since."""
    policy = Policy.load(miniature, train_vision=True)
    reference = make_reference(policy, 0.04)
    rollout = rollout_of(policy, samples)
    before = reference.logprobs(rollout)
    disturb(policy)
    assert torch.equal(reference.logprobs(rollout), before)


def test_lora_reference_is_the_untouched_model(miniature: Path, lora_policy: Policy, samples: list[Sample]) -> None:
    """Catches adapters that stay on in the reference, or off in the policy afterwards."""
    rollout = rollout_of(lora_policy, samples)
    untouched = Policy.load(miniature).logprobs(rollout).detach()
    reference = make_reference(lora_policy, 0.04)
    mine = lora_policy.logprobs(rollout).detach()
    assert apart(reference.logprobs(rollout), untouched) < rounding(FORWARD)
    assert torch.equal(lora_policy.logprobs(rollout), mine)
    assert not torch.allclose(mine, untouched, atol=1e-2)
    assert apart(reference.logprobs(rollout, [1, 4]), untouched[[1, 4]]) < rounding(FORWARD)


def test_no_reference_without_a_kl_term(policy: Policy) -> None:
    """Catches a second model in memory that nobody reads."""
    assert make_reference(policy, 0.0) is None

"""Advantages: hand-worked values, then invariances, then fuzz.  Parity with TRL is in test_loss_vs_trl.py."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minirft.advantages import degenerate_groups, group_advantages
from minirft.lessons import gdpo_advantages

REWARDS = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.9, 0.2, 0.4, 0.1], [0.3, 0.3, 0.3, 0.3]])
GROUPS = st.lists(
    st.lists(st.floats(0, 3, width=32), min_size=4, max_size=4), min_size=1, max_size=5
).map(lambda rows: torch.tensor(rows, dtype=torch.float64))  # fmt: skip


@pytest.mark.parametrize(("ddof", "expected"), [(1, 0.8659), (0, 0.9998)])
def test_ddof_is_the_divisor_of_the_standard_deviation(ddof, expected):
    """Bug: the population std where TRL has the sample one; at G = 4 that is 15% of the advantage."""
    advantages = group_advantages(REWARDS[:1], ddof=ddof)
    torch.testing.assert_close(advantages, expected * torch.tensor([[1.0, 1, -1, -1]]), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("eps", "expected"), [(1e-8, 1.22), (1e-4, 0.55), (1e-2, 0.01)])
def test_eps_decides_how_near_ties_count(eps, expected):
    """Bug: an eps that is not the documented one; near-tied graded rewards show it first."""
    near_tie = torch.tensor([[0.7001, 0.7000, 0.7000, 0.6999]], dtype=torch.float64)
    assert group_advantages(near_tie, eps=eps)[0, 0].item() == pytest.approx(expected, abs=5e-3)


def test_scales_by_hand():
    """Bug: a scale that divides by the wrong spread, or 'none' that still subtracts the mean."""
    centred = REWARDS - REWARDS.mean(1, keepdim=True)
    torch.testing.assert_close(group_advantages(REWARDS, "mean"), centred)
    torch.testing.assert_close(group_advantages(REWARDS, "batch"), centred / (REWARDS.std() + 1e-4), atol=1e-6, rtol=0)
    torch.testing.assert_close(
        group_advantages(REWARDS, "std"), centred / (REWARDS.std(1, keepdim=True) + 1e-4), atol=1e-3, rtol=0
    )
    assert group_advantages(REWARDS, "none") is REWARDS


@pytest.mark.parametrize("scale", ["std", "mean", "batch"])
def test_degenerate_groups_get_exactly_zero(scale):
    """Bug: rounding of the mean (0.1 + 0.1 + ...) divided by eps becomes an advantage out of nothing."""
    rewards = torch.tensor([[0.1] * 7, [0.7] * 7, [1 / 3] * 7])
    assert (rewards - rewards.mean(1, keepdim=True)).abs().max() > 0  # float32 does round here
    assert degenerate_groups(rewards).all()
    assert (group_advantages(torch.cat([rewards, torch.eye(7)]), scale)[:3] == 0).all()


@settings(deadline=None)
@given(GROUPS, st.floats(-5, 5), st.floats(0.5, 3))
def test_shift_and_scale_of_rewards(rewards, shift, factor):
    """Bug: a baseline that is not the group's mean: a constant added to all rewards then changes something."""
    alive = ~degenerate_groups(rewards, tol=1e-3)
    for scale in ("std", "mean", "batch"):
        moved = group_advantages(rewards + shift, scale)
        torch.testing.assert_close(moved[alive], group_advantages(rewards, scale)[alive], atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(moved.sum(1), torch.zeros(len(rewards), dtype=torch.float64), atol=1e-7, rtol=0)
    larger = group_advantages(factor * rewards, "std", eps=0.0)
    torch.testing.assert_close(larger[alive], group_advantages(rewards, "std", eps=0.0)[alive])


@settings(deadline=None)
@given(GROUPS, st.permutations(range(4)))
def test_order_inside_and_between_groups(rewards, order):
    """Bug: statistics taken along the wrong axis: then reordering prompts or siblings mixes groups."""
    for scale in ("std", "mean", "batch", "none"):
        advantages = group_advantages(rewards, scale)
        torch.testing.assert_close(group_advantages(rewards[:, order], scale), advantages[:, order])
        torch.testing.assert_close(group_advantages(rewards.flip(0), scale), advantages.flip(0))
    torch.testing.assert_close(group_advantages(rewards)[:1], group_advantages(rewards[:1]))


def test_gdpo_normalises_each_part():
    """Bug: a part with a small spread drowned by one with a large spread, which is what GDPO is there to mend."""
    parts = torch.tensor([[[1.0, 0, 1, 0]] * 2, [[0.01, 0.01, 0, 0]] * 2])
    one = gdpo_advantages(parts, eps=1e-8)
    hundredfold = gdpo_advantages(parts * torch.tensor([1.0, 100]).view(2, 1, 1), eps=1e-8)
    torch.testing.assert_close(one, hundredfold)
    torch.testing.assert_close(one.std(), torch.tensor(1.0))
    assert one[0, 1].abs() < 1e-5  # each part wins once


def test_gdpo_zeroes_groups_that_are_degenerate_in_every_part():
    """Bug: the batch mean subtracted in the second step leaks into a group that taught nothing."""
    parts = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0))
    parts[:, 1] = torch.tensor([[0.3], [0.7]])
    parts[0, 2] = 0.5
    advantages = gdpo_advantages(parts)
    assert (advantages[1] == 0).all()
    assert (advantages[2] != 0).any()


@pytest.mark.parametrize(
    ("rewards", "scale", "message"),
    [
        (torch.zeros(3, 1), "std", "group of 1"),
        (torch.tensor([[0.0, float("nan")]]), "mean", r"rewards\[0, 1\] is nan"),
        (torch.tensor([[0.0, float("inf")]]), "none", r"rewards\[0, 1\] is inf"),
        (torch.zeros(4), "std", r"shape \(P, G\), got torch.float32 \(4,\)"),
        (torch.zeros(1, 4, dtype=torch.long), "std", "floating point"),
        (torch.zeros(1, 4), "group", "scale must be"),
    ],
)
def test_what_makes_no_sense_is_refused(rewards, scale, message):
    """Bug: NaN rewards or groups of one that become NaN weights three modules later."""
    with pytest.raises(ValueError, match=message):
        group_advantages(rewards, scale)

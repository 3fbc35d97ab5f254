"""Losses: enumeration and finite differences first, then the sign, the clip, masks and micro-batches."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minirft.loss import LOSSES, clipped_gain, kl_estimate, policy_loss

LENGTH = 5  # max_completion_length


def batch(seed=0, rows=6, tokens=LENGTH, drift=0.4):
    """Random (logprobs, old, ref, advantages, mask) in float64; lengths differ, every row has a token."""
    generator = torch.Generator().manual_seed(seed)

    def logprobs():
        return -3 * torch.rand(rows, tokens, dtype=torch.float64, generator=generator) - 0.1

    old = logprobs()
    new = old + drift * torch.randn(rows, tokens, dtype=torch.float64, generator=generator)
    lengths = torch.randint(1, tokens + 1, (rows, 1), generator=generator)
    advantages = torch.randn(rows, dtype=torch.float64, generator=generator)
    return new, old, logprobs(), advantages, torch.arange(tokens) < lengths


def run(kind, logprobs, *rest, **options):
    """(loss, gradient by logprobs, metrics)."""
    leaf = logprobs.clone().requires_grad_()
    loss, metrics = policy_loss(kind, leaf, *rest, max_completion_length=LENGTH, **options)
    loss.backward()
    return loss.detach(), leaf.grad, metrics


# --- oracle 1: enumeration of a policy small enough to write down


class Enumerated:
    """Every completion of up to two tokens over {a, b, end}: end | a end | a a ... and its log-probabilities."""

    answers = [(2,)] + [(first, second) for first in (0, 1) for second in (0, 1, 2)]
    mask = torch.tensor([[True, len(answer) > 1] for answer in answers])
    rewards = torch.tensor([0.1, 0.9, 0.3, 0.0, 1.0, 0.2, 0.6], dtype=torch.float64)

    def __init__(self, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.logits = torch.randn(3, 3, dtype=torch.float64, generator=generator).requires_grad_()

    def logprobs(self):
        table = self.logits.log_softmax(-1)  # row 0: the first token; row 1 + a: the token after a
        rows = [[table[0, y[0]], table[1 + y[0], y[1]] if len(y) > 1 else table[0, 0] * 0] for y in self.answers]
        return torch.stack([torch.stack(row) for row in rows])

    def gradient(self, value):
        return torch.autograd.grad(value, self.logits, retain_graph=True)[0]


@pytest.mark.parametrize("kind", LOSSES)
def test_expected_gradient_is_that_of_the_expected_reward(kind):
    """Bug: any wrong sign, ratio, mask or weight.  GRPO and GSPO ascend E[r / length] instead: the length bias."""
    policy = Enumerated()
    logprobs = policy.logprobs()
    chance = logprobs.sum(-1).exp()
    torch.testing.assert_close(chance.sum().item(), 1.0)
    advantages = chance.detach() * policy.rewards  # the expectation over completions, written as weights of rows
    loss, _ = policy_loss(kind, logprobs, logprobs.detach(), None, advantages, policy.mask, max_completion_length=2)
    lengths = policy.mask.sum(-1)
    per_row = kind in ("grpo", "gspo")
    divisor = {"grpo": 7, "gspo": 7, "dr_grpo": 7 * 2}.get(kind, lengths.sum())
    reward = policy.rewards / lengths if per_row else policy.rewards
    # ∇ Σ π(y) c(y) with c a constant of y: for per-row losses c is r / length
    torch.testing.assert_close(
        policy.gradient(loss), -policy.gradient((policy.logprobs().sum(-1).exp() * reward).sum()) / divisor
    )


def test_off_policy_gradient_is_right_inside_the_bounds():
    """Bug: old log-probs that are not the sampler's.  One token, samples of another policy, bounds wide open."""
    policy, sampler = Enumerated(0), Enumerated(1)
    now, old = policy.logits[:1].log_softmax(-1).T, sampler.logits.detach()[:1].log_softmax(-1).T
    rewards = torch.tensor([0.2, 1.0, 0.5], dtype=torch.float64)
    mask = torch.ones(3, 1, dtype=torch.bool)
    loss, _ = policy_loss("grpo", now, old, None, old.exp()[:, 0] * rewards, mask, clip_eps=1, clip_eps_high=99)
    expected = (policy.logits[0].softmax(-1) * rewards).sum()
    torch.testing.assert_close(3 * loss, -expected)
    torch.testing.assert_close(3 * policy.gradient(loss), -policy.gradient(expected))


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_kl_estimators_value_and_gradient(kind):
    """Bug: log ref - log π for log π - log ref.  As losses: k1 has gradient 0, k2 ∇KL(π‖ref), k3 ∇KL(ref‖π)."""
    policy, other = Enumerated(0), Enumerated(1)
    log_pi, log_ref = policy.logits[0].log_softmax(-1), other.logits[0].detach().log_softmax(-1)
    forward, reverse = (log_pi.exp() * (log_pi - log_ref)).sum(), (log_ref.exp() * (log_ref - log_pi)).sum()
    estimate = (log_pi.detach().exp() * kl_estimate(log_pi, log_ref, kind)).sum()
    if kind != "k2":
        torch.testing.assert_close(estimate, forward)
    target = {"k1": 0 * forward, "k2": forward, "k3": reverse}[kind]
    torch.testing.assert_close(policy.gradient(estimate), policy.gradient(target))


# --- oracle 2: finite differences, and a loop that reads like the papers


@pytest.mark.parametrize("kl", ["k1", "k2", "k3"])
@pytest.mark.parametrize("kind", [kind for kind in LOSSES if kind != "cispo"])
def test_finite_differences(kind, kl):
    """Bug: a detach too many or too few.  CISPO is left out: its weight is detached by definition."""
    new, *rest = batch()
    options = {"kl_coef": 0.1, "kl": kl, "max_completion_length": LENGTH}
    assert torch.autograd.gradcheck(lambda x: policy_loss(kind, x, *rest, **options)[0], new.requires_grad_())


def test_cispo_gradient_by_hand():
    """Bug: a gradient through CISPO's weight, or clipped tokens that lose theirs."""
    new, old, _, advantages, mask = batch()
    _, gradient, metrics = run("cispo", new, old, None, advantages, mask, clip_eps_high=0.1)
    weight = (new - old).exp().clamp(max=1.1)
    torch.testing.assert_close(gradient, -weight * advantages[:, None] * mask / mask.sum())
    assert metrics["clip_fraction_high"] > 0
    assert metrics["clip_fraction_low"] == 0


@pytest.mark.parametrize("kind", LOSSES)
def test_equals_a_loop_over_rows_and_tokens(kind):
    """Bug: a broadcast along the wrong axis, invisible when B = T."""
    new, old, ref, advantages, mask = batch(rows=4)
    rows = []
    for b in range(4):
        length = int(mask[b].sum())
        steps = [(new[b, t], old[b, t], ref[b, t]) for t in range(length)]
        mean_log_ratio = sum(p - q for p, q, _ in steps) / length
        values = []
        for p, q, r in steps:
            ratio, a = (mean_log_ratio if kind == "gspo" else p - q).exp(), advantages[b]
            gain = min(ratio * a, ratio.clamp(0.8, 1.3) * a) if kind != "cispo" else ratio.clamp(max=1.3) * a * p
            values.append(-gain + 0.1 * ((r - p).exp() - (r - p) - 1))
        rows.append(values)
    total = sum(sum(values) for values in rows)
    expected = {
        "grpo": sum(sum(values) / len(values) for values in rows) / 4,
        "dr_grpo": total / (4 * LENGTH),
        "dapo": total / mask.sum(),
    }
    loss, _, _ = run(kind, new, old, ref, advantages, mask, clip_eps=0.2, clip_eps_high=0.3, kl_coef=0.1)
    torch.testing.assert_close(loss, expected[{"gspo": "grpo"}.get(kind, kind if kind in expected else "dapo")])


# --- sign, ratio, clip


@pytest.mark.parametrize("kind", LOSSES)
def test_raising_a_good_completion_lowers_the_loss(kind):
    """Bug: the sign, which squares and absolute values cannot see."""
    new, _, _, advantages, mask = batch()
    _, gradient, _ = run(kind, new, new, None, advantages, mask)
    assert (gradient.sign() == -advantages.sign()[:, None] * mask).all()


@pytest.mark.parametrize("kind", LOSSES)
def test_first_update_reads_zero_and_still_teaches(kind):
    """Bug: 'the loss is 0, so nothing is learnt'; or old log-probs left attached, and then nothing is learnt."""
    new, _, _, advantages, _ = batch()
    mask = torch.ones_like(new, dtype=torch.bool)
    loss, gradient, metrics = run(kind, new, new, None, advantages - advantages.mean(), mask)
    if kind != "cispo":  # which reads -mean(A log π)
        assert abs(loss) < 1e-12
    assert gradient.abs().max() > 1e-3
    torch.testing.assert_close(metrics["ratio_mean"].item(), 1.0)
    assert metrics["clip_fraction"] == 0
    leaf, ref, advantages = (tensor.clone().requires_grad_() for tensor in (new, new + 1, advantages))
    policy_loss(kind, leaf, leaf, ref, advantages, mask, kl_coef=0.1, max_completion_length=LENGTH)[0].backward()
    assert leaf.grad.abs().max() > 1e-3
    assert ref.grad is None
    assert advantages.grad is None


@pytest.mark.parametrize(
    ("ratio", "advantage", "alive"),
    [(0.5, 1.0, True), (0.5, -1.0, False), (1.5, 1.0, False), (1.5, -1.0, True), (1.1, 1.0, True), (0.9, -1.0, True)],
)
def test_four_quadrants_of_the_clip(ratio, advantage, alive):
    """Bug: max for negative advantages: then a bad token that grew is left to grow."""
    leaf = torch.tensor([ratio]).requires_grad_()
    clipped_gain(leaf, torch.tensor([advantage]), 0.8, 1.2).sum().backward()
    assert leaf.grad.item() == (advantage if alive else 0.0)


def test_upper_bound_is_its_own():
    """Bug: clip_eps_high ignored, or used for both sides."""
    new = torch.tensor([[1.25, 0.75]], dtype=torch.float64).log()
    mask = torch.ones(1, 2, dtype=torch.bool)
    for high, alive in ((None, 0.0), (0.3, 1.25)):
        _, gradient, metrics = run("dapo", new, 0 * new, None, torch.ones(1), mask, clip_eps=0.2, clip_eps_high=high)
        torch.testing.assert_close(-2 * gradient, torch.tensor([[alive, 0.75]], dtype=torch.float64))
        assert metrics["clip_fraction_high"] == (0.5 if alive == 0 else 0)
    _, _, metrics = run("dapo", new, 0 * new, None, -torch.ones(1), mask, clip_eps=0.2, clip_eps_high=0.3)
    assert (metrics["clip_fraction_low"], metrics["clip_fraction_high"]) == (0.5, 0)


def test_metrics_of_a_sequence_ratio_are_shares_of_rows():
    """Bug: GSPO's clipping reported for token ratios, which it does not use."""
    new = torch.tensor([[0.4, -0.2, 0.0], [0.3, 0.0, 0.0], [-0.6, 0.0, 0.0]], dtype=torch.float64)
    mask = torch.tensor([[True, True, False], [True, False, False], [True, True, True]])
    _, _, metrics = run("gspo", new, 0 * new, None, torch.tensor([1.0, 1.0, -1.0]), mask, clip_eps=0.15)
    ratios = torch.tensor([0.1, 0.3, -0.2], dtype=torch.float64).exp()  # means over a row's tokens
    torch.testing.assert_close(metrics["ratio_mean"], ratios.mean())
    assert [round(metrics[f"clip_fraction_{side}"].item(), 4) for side in ("low", "high")] == [0.3333, 0.3333]


# --- masks, order, micro-batches


@pytest.mark.parametrize("junk", [7.0, -1e30, float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("kind", LOSSES)
def test_padding_is_never_read(kind, junk):
    """Bug: a mask multiplied in afterwards: NaN * 0 is NaN, in the loss or only in the gradient."""
    new, old, ref, advantages, mask = batch()
    plain = run(kind, new, old, ref, advantages, mask, kl_coef=0.1)
    dirty = [torch.where(mask, tensor, junk) for tensor in (new, old, ref)]
    for wider in (0, 3):
        padded = [torch.nn.functional.pad(tensor, (0, wider), value=junk) for tensor in dirty]
        wide_mask = torch.nn.functional.pad(mask, (0, wider), value=False)
        loss, gradient, metrics = run(kind, *padded, advantages, wide_mask, kl_coef=0.1)
        torch.testing.assert_close(loss, plain[0])
        torch.testing.assert_close(gradient[:, : new.shape[1]], plain[1])
        assert (gradient[~wide_mask] == 0).all()
        torch.testing.assert_close(metrics, plain[2])


@pytest.mark.parametrize("kind", LOSSES)
def test_order_of_rows_does_not_matter(kind):
    """Bug: rows and advantages paired by anything but position."""
    data = batch()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    loss, gradient, _ = run(kind, *data, kl_coef=0.1)
    other, other_gradient, _ = run(kind, *(tensor[order] for tensor in data), kl_coef=0.1)
    torch.testing.assert_close(other, loss)
    torch.testing.assert_close(other_gradient, gradient[order])


@settings(max_examples=20, deadline=None)
@given(kind=st.sampled_from(sorted(LOSSES)), seed=st.integers(0, 999), cuts=st.sets(st.integers(1, 5)))
def test_any_split_into_passes_gives_the_same_step(kind, seed, cuts):
    """Bug: a mean per pass, then a mean of passes: the gradient then depends on rows_per_pass."""
    data = batch(seed)
    loss, gradient, metrics = run(kind, *data, kl_coef=0.1, clip_eps=0.1)
    edges = [0, *sorted(cuts), 6]
    totals = {"step_rows": 6, "step_tokens": int(data[-1].sum())}
    passes = [
        run(kind, *(tensor[start:stop] for tensor in data), kl_coef=0.1, clip_eps=0.1, **totals)
        for start, stop in pairwise(edges)
    ]
    torch.testing.assert_close(sum(one[0] for one in passes), loss)
    torch.testing.assert_close(torch.cat([one[1] for one in passes]), gradient)
    torch.testing.assert_close({key: sum(one[2][key] for one in passes) for key in metrics}, metrics)


@pytest.mark.parametrize("kind", LOSSES)
def test_rows_without_advantage_may_be_skipped(kind):
    """Bug: skipping degenerate groups makes the others count more.  Without KL they are only in the totals."""
    new, old, _, advantages, mask = batch()
    advantages[2:4] = 0
    _, gradient, _ = run(kind, new, old, None, advantages, mask)
    keep = torch.tensor([0, 1, 4, 5])
    kept = (tensor[keep] for tensor in (new, old))
    totals = {"step_rows": 6, "step_tokens": int(mask.sum())}
    _, fewer, _ = run(kind, *kept, None, advantages[keep], mask[keep], **totals)
    torch.testing.assert_close(fewer, gradient[keep])
    assert (gradient[2:4] == 0).all()


@pytest.mark.parametrize("kind", LOSSES)
def test_a_row_without_tokens_is_nothing(kind):
    """Bug: 0 / 0."""
    new, old, ref, advantages, mask = batch()
    mask[1] = False
    loss, gradient, metrics = run(kind, new, old, ref, advantages, mask, kl_coef=0.1)
    assert loss.isfinite()
    assert (gradient[1] == 0).all()
    assert all(value.isfinite() for value in metrics.values())


# --- the KL term and the door


def test_kl_is_added_and_logged():
    """Bug: KL subtracted, or logged as something else than what was penalised."""
    new, old, ref, advantages, mask = batch()
    without, _, _ = run("dapo", new, old, None, advantages, mask)
    logged_only, _, metrics = run("dapo", new, old, ref, advantages, mask)
    with_kl, _, same = run("dapo", new, old, ref, advantages, mask, kl_coef=0.5)
    torch.testing.assert_close(logged_only, without)
    torch.testing.assert_close(with_kl, without + 0.5 * metrics["kl"])
    assert metrics["kl"] == same["kl"] > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "ppo"}, "kind must be one of grpo, dr_grpo"),
        ({"advantages": torch.ones(2, 3)}, r"got \(6, 5\), \(2, 3\)"),
        ({"old_logprobs": torch.ones(6, 4)}, r"old_logprobs \(6, 4\) must have the shape of logprobs \(6, 5\)"),
        ({"completion_mask": torch.ones(6, 5)}, "boolean"),
        ({"ref_logprobs": None, "kl_coef": 0.1}, "needs ref_logprobs"),
        ({"kind": "dr_grpo", "max_completion_length": None}, "max_completion_length"),
        ({"kl": "k4"}, "kl must be"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    """Bug: (B, 1) against (B,) broadcasts to (B, B) without a word."""
    names = ("logprobs", "old_logprobs", "ref_logprobs", "advantages", "completion_mask")
    with pytest.raises(ValueError, match=message):
        policy_loss(**{"kind": "grpo", **dict(zip(names, batch(), strict=True)), **change})

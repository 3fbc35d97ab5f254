"""The losses of the GRPO family turn log-probabilities, advantages and a mask into one number to differentiate.

Every loss has the same form, L = -reduce[surrogate(ρ, A) - β KL], with three choices:

               ratio ρ      surrogate                    reduce
    grpo       token        min(ρ A, clip(ρ) A)          mean over a row's tokens, then mean over rows
    dr_grpo    token        min(ρ A, clip(ρ) A)          sum / (rows * max_completion_length)
    dapo       token        min(ρ A, clip(ρ) A)          sum / tokens
    bnpo       token        min(ρ A, clip(ρ) A)          sum / tokens
    gspo       sequence     min(ρ A, clip(ρ) A)          as grpo
    cispo      token        sg[min(ρ, high)] A log π     sum / tokens         sg: a constant for the gradient

**Why the loss is 0 and the model still learns.**  In the first update on a rollout old = π, so ρ is 1 whatever
the weights are.  The loss is then minus the mean advantage, which is 0 because advantages are centred in their group
(for `grpo`; the others weigh rows by length).  The gradient is not 0: ∇ρ = ρ ∇log π = ∇log π, so
∇L = -mean[A ∇log π].  The value of the loss is no measure of progress: look at the reward.

**Micro-batches.**  "rows" and "tokens" count the whole step; they are passed as `step_rows` and `step_tokens`.
So the losses and metrics of several passes add up to those of one pass, however the step is split.

Deviations.  TRL's `bnpo` divides by the tokens of the micro-batch, so it changes with the size of the micro-batch.
Ours divides by the tokens of the step and so equals `dapo`, whose wider upper bound is an argument here.  The bounds
of ρ are 1 - clip_eps and 1 + clip_eps_high in all losses; for CISPO, TRL's `epsilon_high` is our 1 + clip_eps_high,
as in MiniMax-M1.  The GSPO and DAPO papers have no KL term; `kl_coef=0` reproduces them.
"""

from typing import Literal

import torch
from torch import Tensor

Estimator = Literal["k1", "k2", "k3"]


# --- the first choice: the ratio ρ


def token_ratio(log_ratio: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute ρ = π / π_old of each token, (B, T) -> (B, T); the mask is not used.

    >>> token_ratio(torch.zeros(1, 2)).tolist()
    [[1.0, 1.0]]
    """
    return log_ratio.exp()


def sequence_ratio(log_ratio: Tensor, mask: Tensor) -> Tensor:
    """Compute ρ = (π(y) / π_old(y))^(1/length) of each completion y, (B, T) -> (B, 1).  GSPO, arXiv 2507.18071 eq. 7.

    One ratio covers the whole completion, as the reward does.  It stays close to 1: the paper clips at 3e-4 and 4e-4.

    >>> mask = torch.tensor([[1.0, 1.0, 0.0]])
    >>> sequence_ratio(torch.tensor([[1.0, -1.0, 0.0]]), mask).tolist()
    [[1.0]]
    """
    return ((log_ratio * mask).sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp(min=1)).exp()


# --- the second choice: the surrogate, a gain


def clipped_gain(ratio: Tensor, advantages: Tensor, low: float, high: float) -> Tensor:
    """Compute min(ρ A, clip(ρ, low, high) A).

    With A > 0 the gain stops growing above `high`; with A < 0 it stops growing below `low`.
    Source: PPO, arXiv 1707.06347 eq. 7.

    >>> ratio = torch.tensor([0.5, 1.5])
    >>> clipped_gain(ratio, torch.tensor(1.0), 0.75, 1.25).tolist()
    [0.5, 1.25]
    >>> clipped_gain(ratio, torch.tensor(-1.0), 0.75, 1.25).tolist()
    [-0.75, -1.5]
    """
    return torch.min(ratio * advantages, ratio.clamp(low, high) * advantages)


def capped_gain(ratio: Tensor, advantages: Tensor, logprobs: Tensor, high: float) -> Tensor:
    """Compute sg[min(ρ, high)] A log π: REINFORCE with a capped weight, in which every token keeps its gradient.

    Source: CISPO, arXiv 2506.13585 eq. 4 and 5.

    >>> capped_gain(torch.tensor([0.5, 1.5]), torch.tensor(1.0), torch.tensor([-1.0, -1.0]), 1.25).tolist()
    [-0.5, -1.25]
    """
    return ratio.clamp(max=high).detach() * advantages * logprobs


# --- the third choice: how (B, T) becomes one number


def mean_of_row_means(values: Tensor, mask: Tensor, rows: int) -> Tensor:
    """Compute (1 / rows) Σ_b (1 / |b|) Σ_t values[b, t]; a row without tokens counts as 0.

    >>> mean_of_row_means(torch.tensor([[3.0, 3.0], [5.0, 9.0]]), torch.tensor([[1.0, 1.0], [1.0, 0.0]]), rows=2)
    tensor(4.)
    """
    return ((values * mask).sum(-1) / mask.sum(-1).clamp(min=1)).sum() / rows


def per_row(values: Tensor, mask: Tensor, rows: int, tokens: int | Tensor, limit: int | None) -> Tensor:
    """Give every completion the same weight; a token of a short one weighs more.  GRPO, arXiv 2402.03300 eq. 3."""
    return mean_of_row_means(values, mask, rows)


def per_token(values: Tensor, mask: Tensor, rows: int, tokens: int | Tensor, limit: int | None) -> Tensor:
    """Give every token of the step the same weight: a mean over tokens.  DAPO, arXiv 2503.14476 eq. 8.

    The paper's bounds are clip_eps 0.2 and clip_eps_high 0.28, so that unlikely tokens can grow more.
    """
    return (values * mask).sum() / tokens


def per_limit(values: Tensor, mask: Tensor, rows: int, tokens: int | Tensor, limit: int | None) -> Tensor:
    """Give every token the same constant weight, whatever the lengths in the batch.  Dr. GRPO, arXiv 2503.20783 §3.2.

    The constant is 1 / (rows * max_completion_length).  The paper combines it with advantages of scale "mean".
    """
    if limit is None:
        raise ValueError("dr_grpo divides by max_completion_length, which is None")
    return (values * mask).sum() / (rows * limit)


LOSSES = {  # kind: (ratio, surrogate, reduce), the table above
    "grpo": (token_ratio, clipped_gain, per_row),
    "dr_grpo": (token_ratio, clipped_gain, per_limit),
    "dapo": (token_ratio, clipped_gain, per_token),
    "bnpo": (token_ratio, clipped_gain, per_token),  # TRL's name; `dapo` once the batch is the whole step
    "gspo": (sequence_ratio, clipped_gain, per_row),
    "cispo": (token_ratio, capped_gain, per_token),
}


# --- the KL penalty, and a weight on the gain


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, kind: Estimator = "k3") -> Tensor:
    """Estimate KL(π ‖ ref) in nats from tokens that π sampled; with l = log π - log ref:

        k1 = l        k2 = l² / 2        k3 = exp(-l) - 1 + l

    k1 and k3 have the right mean; k2 and k3 are never negative.  As a loss on π's own samples their gradients
    differ: the gradient of k1 is 0 on average, of k2 it is ∇KL(π ‖ ref), of k3 it is ∇KL(ref ‖ π).  Both tensors have
    the same shape, which may be any.
    Source: joschu.net/blog/kl-approx.html; k3 is DeepSeekMath's, arXiv 2402.03300 eq. 4.

    >>> kl_estimate(torch.tensor([-1.0]), torch.tensor([-2.0]), "k2").tolist()
    [0.5]
    """
    difference = logprobs - ref_logprobs
    if kind == "k1":
        return difference
    if kind == "k2":
        return difference.square() / 2
    if kind == "k3":
        return (-difference).exp() - 1 + difference
    raise ValueError(f"kl must be 'k1', 'k2' or 'k3', got {kind!r}")


def sampler_correction(old_logprobs: Tensor, sampler_logprobs: Tensor, cap: float) -> Tensor:
    """Compute the importance weight min(π_old / π_sampler, cap) of each token, (B, T).

    Sampling and learning use the same weights, so in exact arithmetic it is 1; in 16 bits the two paths round
    differently.  Source: Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training";
    TRL's `vllm_importance_sampling_mode="token_truncate"` (TRL's default drops completions with a ratio above 3).

    >>> sampler_correction(torch.tensor([0.0, 5.0]), torch.tensor([0.0, 0.0]), cap=2.0).tolist()
    [1.0, 2.0]
    """
    return (old_logprobs - sampler_logprobs).exp().clamp(max=cap)


# --- all together


def policy_loss(
    kind: str,
    logprobs: Tensor,
    old_logprobs: Tensor,
    ref_logprobs: Tensor | None,
    advantages: Tensor,
    completion_mask: Tensor,
    *,
    clip_eps: float = 0.2,
    clip_eps_high: float | None = None,
    kl_coef: float = 0.0,
    kl: Estimator = "k3",
    max_completion_length: int | None = None,
    weights: Tensor | None = None,
    step_rows: int | None = None,
    step_tokens: int | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute the loss `kind` of one pass, and its metrics (keys and formulas: `log.METRICS`).

    `logprobs`, `old_logprobs` (of the policy before the rollout's first update), `ref_logprobs` and the boolean
    `completion_mask` are (B, T); `advantages` is (B,).  Only `logprobs` gets a gradient, and values on padding
    are not used.  `weights` (B, T), positive, multiply each token's gain (see `sampler_correction`).
    `clip_eps_high` defaults to `clip_eps`.  `step_rows` and `step_tokens` count the rows and tokens of the
    whole step, without padding; they default to those of this pass.  Loss and metrics of a step's passes add up.
    A row that is in no pass but counted in `step_rows` and `step_tokens` is a row with a loss of 0.
    Raises `ValueError` on shapes that do not fit, an unknown kind, or `kl_coef` without `ref_logprobs`.

    >>> mask = torch.tensor([[True, True, True], [True, False, False]])  # a long good answer, a short bad one
    >>> logprobs = torch.full((2, 3), -1.0)
    >>> args = (logprobs, logprobs, None, torch.tensor([1.0, -1.0]), mask)
    >>> {kind: round(policy_loss(kind, *args, max_completion_length=4)[0].item(), 2) for kind in LOSSES}
    {'grpo': 0.0, 'dr_grpo': -0.25, 'dapo': -0.5, 'bnpo': -0.5, 'gspo': 0.0, 'cispo': 0.5}
    """
    _check(kind, logprobs, old_logprobs, ref_logprobs, advantages, completion_mask, kl_coef)
    logprobs = torch.where(completion_mask, logprobs, 0.0)
    log_ratio = logprobs - torch.where(completion_mask, old_logprobs.detach(), 0.0)
    divergence = torch.zeros_like(logprobs)
    if ref_logprobs is not None:
        divergence = kl_estimate(logprobs, torch.where(completion_mask, ref_logprobs.detach(), 0.0), kl)
    advantages = advantages.detach().to(logprobs)[:, None]
    advantages = advantages if weights is None else advantages * weights.detach()
    mask = completion_mask.to(logprobs)
    rows = len(logprobs) if step_rows is None else step_rows
    tokens = completion_mask.sum().clamp(min=1) if step_tokens is None else step_tokens
    low, high = 1 - clip_eps, 1 + (clip_eps if clip_eps_high is None else clip_eps_high)

    ratio_of, surrogate, reduce = LOSSES[kind]
    ratio = ratio_of(log_ratio, mask)
    if surrogate is capped_gain:
        low, gain = 0.0, capped_gain(ratio, advantages, logprobs, high)
    else:
        gain = clipped_gain(ratio, advantages, low, high)
    penalty = kl_coef * divergence if kl_coef else torch.zeros_like(logprobs)
    loss = reduce(penalty - gain, mask, rows, tokens, max_completion_length)
    shares = mask / tokens if ratio.shape == mask.shape else torch.full_like(ratio, 1 / rows)
    metrics = {"loss": loss.detach(), **_ratio_metrics(ratio.detach(), advantages, shares, low, high)}
    if ref_logprobs is not None:
        metrics["kl"] = (divergence.detach() * mask).sum() / tokens
    return loss, metrics


def _ratio_metrics(ratio: Tensor, advantages: Tensor, shares: Tensor, low: float, high: float) -> dict[str, Tensor]:
    """Compute the mean ratio and the clipped shares over tokens (B, T), or over rows for a sequence ratio (B, 1)."""
    advantages = advantages[:, : ratio.shape[1]]  # only their sign is used, which is equal along a row
    below = (shares * ((ratio < low) & (advantages < 0))).sum()
    above = (shares * ((ratio > high) & (advantages > 0))).sum()
    return {
        "ratio_mean": (shares * ratio).sum(),
        "clip_fraction": below + above,
        "clip_fraction_low": below,
        "clip_fraction_high": above,
    }


def _check(
    kind: str, logprobs: Tensor, old: Tensor, ref: Tensor | None, advantages: Tensor, mask: Tensor, kl_coef: float
) -> None:
    if kind not in LOSSES:
        raise ValueError(f"kind must be one of {', '.join(LOSSES)}, got {kind!r}")
    for name, tensor in (("old_logprobs", old), ("ref_logprobs", ref), ("completion_mask", mask)):
        if tensor is not None and tensor.shape != logprobs.shape:
            raise ValueError(f"{name} {tuple(tensor.shape)} must have the shape of logprobs {tuple(logprobs.shape)}")
    if logprobs.dim() != 2 or advantages.shape != logprobs.shape[:1]:
        raise ValueError(f"logprobs (B, T), advantages (B,): got {tuple(logprobs.shape)}, {tuple(advantages.shape)}")
    if mask.dtype != torch.bool:
        raise ValueError(f"completion_mask must be boolean, got {mask.dtype}")
    if kl_coef and ref is None:
        raise ValueError(f"kl_coef {kl_coef} needs ref_logprobs, got None")

"""Our trainers of the comparison: the real `grpo_step` with and without the shared prefix, checked to be equal."""

import copy
import zlib
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, cast
from unittest import mock

import torch
from torch import Tensor, nn

from minirft import UserError, train
from minirft.advantages import group_advantages
from minirft.cost.shapes import Shape, questions
from minirft.cost.work import Mark
from minirft.policy import Policy
from minirft.reference import Reference
from minirft.rewards import Score
from minirft.runs import GRPOConfig
from minirft.samples import Rollout, Sample

Found = tuple[float, dict[str, Tensor]]  # the loss of a step, and its gradient by weight


@dataclass
class Ours:
    """A trainer of ours to measure: "ours", or "naive" with `config.shared_prefix` off.

    `step(turn)` is one GRPO step on new pictures; with `cached` the pictures are the same in every step.
    """

    policy: Policy
    reference: Reference | None
    config: GRPOConfig
    shape: Shape
    text: str
    cached: bool = False
    optimiser: torch.optim.Optimizer = field(init=False)
    seen_before: list[Sample] = field(init=False)

    def __post_init__(self) -> None:
        self.policy = _as_configured(self.policy, self.config)
        if self.reference:
            self.reference = replace(self.reference, policy=_as_configured(self.reference.policy, self.config))
        self.optimiser = torch.optim.AdamW(self.policy.trainable().values(), lr=self.config.learning_rate)
        self.seen_before = questions(self.text, self.shape, 0) if self.cached else []

    @property
    def marks(self) -> list[Mark]:
        """Return the phase of each marked function; the rest of the step is "update"."""
        return [
            (self.policy, "encode", "prepare"),
            (train, "sample_groups", "generate"),
            (train, "score", "score"),
            (Reference, "logprobs", "score"),
        ]

    def step(self, turn: int, watched: AbstractContextManager) -> None:
        """Do one step inside the context that measures it."""
        # The paths have different pictures, so neither finds features that the other has cached.
        samples = self.seen_before or questions(self.text, self.shape, 2 * turn + self.config.shared_prefix)
        with watched:
            train.grpo_step(self.policy, self.reference, self.optimiser, samples, reward, self.config, 1)


def _as_configured(policy: Policy, config: GRPOConfig) -> Policy:
    """Copy a policy with the same weights and caches, and the prefix and decoder of `config`."""
    own = copy.copy(policy)
    own.shared_prefix, own.decoder = config.shared_prefix, config.decoder
    return own


def settings(shape: Shape, checkpointing: bool, kl_coef: float) -> GRPOConfig:
    """Return settings with the lengths of the shape, and a step size so small that the model hardly changes."""
    return GRPOConfig(
        prompts_per_step=shape.prompts,
        group_size=shape.group,
        max_completion_length=shape.completion,
        max_prompt_length=shape.prompt,
        checkpointing=checkpointing,
        kl_coef=kl_coef,
        learning_rate=1e-6,
    )


def reward(completion: str, asked: Any) -> Score:
    """Return a cheap number in [0, 1) that depends on the completion.

    >>> reward("cat", "").total != reward("dog", "").total
    True
    """
    value = zlib.crc32(completion.encode()) / 2**32
    return Score(value, {"hash": value})


def loss_and_gradients(policy: Policy, rollout: Rollout, config: GRPOConfig, shared: bool) -> Found:
    """Return the loss of a step on a rollout, and its gradient by weight.

    The rollout's log-probs serve as the old ones and as the reference's.  The gradients are cleared afterwards.
    """
    scores, _ = train.score(rollout, reward)
    advantages = group_advantages(scores, config.advantage_scale, eps=config.advantage_eps).flatten()
    rows, reference = list(range(len(rollout.texts))), rollout.logprobs if config.kl_coef else None
    given = policy, rollout, rollout.logprobs, reference, advantages, config
    with mock.patch.object(policy, "shared_prefix", shared):
        metrics = train.add_gradients(*given, rows, rows, first=False)
    return metrics["loss"], taken_gradients(policy)


def taken_gradients(policy: Policy) -> dict[str, Tensor]:
    """Return the gradients by weight, and clear them."""
    gradients = {name: weight.grad for name, weight in policy.trainable().items() if weight.grad is not None}
    policy.model.zero_grad(set_to_none=True)
    return gradients


def difference(ours: Found, other: Found, allowed: float, what: str) -> dict[str, float]:
    """Return |loss - loss'|, whose terms have size 1, and |gradient - gradient'| / |gradient| over all weights.

    Raises `UserError` if more than rounding, `allowed`, is between them, because times would mean nothing.
    """
    if missing := ours[1].keys() ^ other[1].keys():
        raise UserError(f"the two paths differ: only one gives {min(missing)} a gradient; nothing was timed")
    gap = sum((gradient - other[1][name]).double().square().sum().item() for name, gradient in ours[1].items())
    size = sum(gradient.double().square().sum().item() for gradient in ours[1].values())
    gaps = {"loss": abs(ours[0] - other[0]), "gradient": (gap / size) ** 0.5}
    if not max(gaps.values()) < allowed:
        raise UserError(
            f"{what} and ours differ on the same rollout (loss {gaps['loss']:.1e}, gradient {gaps['gradient']:.1e}, "
            f"allowed {allowed:.1e}): nothing was timed"
        )
    return gaps


def tolerance(policy: Policy, tokens: int) -> float:
    """Return the largest difference that float32 rounding explains: 6 √2 u √(n + m s²), u = 2⁻²⁴.

    n is the number of roundings on the longest path through the language model over `tokens` keys, times three,
    because a backward pass takes the path twice more.  Errors add up like a random walk, which exceeds 6 standard
    deviations with a probability below 3e-8 (Higham and Mary 2019, theorem 2.4).  In each layer the large biases of
    queries and keys give m roundings (half the width of a head) the weight s = raw score * scaling instead of 1.
    """
    config = policy.language_model.config
    width = config.hidden_size // config.num_attention_heads
    layer = 3 * config.hidden_size + config.intermediate_size + width + tokens
    squares = 3.0 * (config.num_hidden_layers * layer + config.hidden_size)
    for block in policy.language_model.layers:
        squares += width / 2 * (raw_score(block.self_attn, width) * width**-0.5) ** 2
    return float(6 * 2**0.5 * 2**-24 * squares**0.5)


def raw_score(attention: nn.Module, width: int) -> float:
    """Return the largest product of query bias and key bias in an unscaled score, over all heads and rotations."""

    def pairs(projection: nn.Module) -> Tensor:  # (heads, width / 2): the length of each rotary pair
        return cast(Tensor, projection.bias).detach().float().view(-1, 2, width // 2).norm(dim=1)

    q, k = pairs(cast(nn.Module, attention.q_proj)), pairs(cast(nn.Module, attention.k_proj))
    return float((q * k.repeat_interleave(len(q) // len(k), 0)).sum(-1).max())

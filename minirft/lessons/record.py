"""Rollouts as plain data for the rollout browser: groups, with four numbers for every token."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from minirft.loss import kl_estimate, policy_loss, token_ratio
from minirft.policy import Policy
from minirft.rewards import Score
from minirft.runs import GRPOConfig, given_rollout
from minirft.samples import Rollout, Sample
from minirft.show import Record


def records(
    policy: Policy,
    rollout: Rollout,
    scores: Sequence[Score],
    advantages: Tensor,
    *,
    now: Tensor | None = None,
    reference: Tensor | None = None,
    config: GRPOConfig | None = None,
    step: int = 0,
) -> list[Record]:
    """Return the P groups of a rollout.  `policy` only decodes the tokens.

        log-prob           log π_old, of the policy that sampled, in nats
        ratio              ρ = π / π_old, where `now` has log π of the policy as it is now
        KL                 k3 of the policy now to the reference, in nats, where `reference` has its log-probs
        gradient weight    -∂L / ∂ log π: how strongly the update pushes the token up (`token_weights`)

    `advantages` is (P, G); `now` and `reference` are (B, T) and default to the sampling policy's own.
    """
    old = rollout.logprobs
    now, reference = old if now is None else now, old if reference is None else reference
    numbers = {
        "log-prob": old,
        "ratio": token_ratio(now - old),
        "KL": kl_estimate(now, reference),
        "gradient weight": token_weights(rollout, advantages, now, config or GRPOConfig()),
    }
    return list(_records(policy, rollout, scores, advantages, numbers, step))


def token_weights(rollout: Rollout, advantages: Tensor, logprobs: Tensor, config: GRPOConfig) -> Tensor:
    """Compute -∂L / ∂ log π of each token, (B, T): positive where the update makes the token likelier.

    In the first update of `grpo` it is A / (B |o|): the advantage over rows and over the completion's tokens.
    `logprobs` (B, T) are those of the present policy.  The KL term is left out.
    """
    leaf = logprobs.detach().clone().requires_grad_()
    loss, _ = policy_loss(
        config.loss, leaf, rollout.logprobs, None, advantages.flatten(), rollout.completion_mask,
        clip_eps=config.clip_eps, clip_eps_high=config.clip_eps_high,
        max_completion_length=config.max_completion_length,
    )  # fmt: skip
    loss.backward()
    return -leaf.grad


def written_again(policy: Policy, samples: Sequence[Sample], rows: Sequence[Mapping[str, Any]]) -> Rollout:
    """Rebuild the rollout of rows of `completions.jsonl`: tokenise the texts again, one group for each sample.

    The log-probs are those of `policy`, which may differ from the policy that sampled.  Every completion is assumed to
    have ended by itself.
    """
    texts = [row["text"] for row in rows]
    ids = [policy.tokenizer(text, add_special_tokens=False)["input_ids"] + [policy.eos_ids[0]] for text in texts]
    rollout = given_rollout(policy, samples, texts, ids)
    with torch.no_grad():
        return replace(rollout, logprobs=policy.logprobs(rollout))


def records_written(
    before: Policy, now: Policy, samples: Sequence[Sample], rows: Sequence[Mapping[str, Any]], step: int = 0
) -> list[Record]:
    """Return the groups of a step's rows of `completions.jsonl`, with log-probs of two policies, such as the base.

    log-prob before    log π_before of each token, in nats
    log-prob now       log π_now
    change             log π_now - log π_before: blue where training made the token likelier
    """
    rollout = written_again(before, samples, rows)
    later = written_again(now, samples, rows).logprobs
    numbers = {"change": later - rollout.logprobs, "log-prob before": rollout.logprobs, "log-prob now": later}
    totals = [float("nan") if row["reward"] is None else row["reward"] for row in rows]
    scores = [Score(total, row["parts"], row["failure"]) for total, row in zip(totals, rows, strict=True)]
    advantages = torch.tensor([row["advantage"] for row in rows]).view(len(samples), -1)
    return list(_records(before, rollout, scores, advantages, numbers, step))


def _records(
    policy: Policy, rollout: Rollout, scores: Sequence[Score], advantages: Tensor, numbers: dict[str, Tensor], step: int
) -> Iterator[Record]:
    lengths = rollout.lengths.tolist()
    for p, sample in enumerate(rollout.samples):
        rows, mine = range(len(scores))[rollout.rows(p)], scores[rollout.rows(p)]
        yield Record(
            sample=sample,
            texts=rollout.texts[rollout.rows(p)],
            rewards=[score.total for score in mine],
            advantages=advantages[p].tolist(),
            parts={name: [score.parts[name] for score in mine] for name in mine[0].parts},
            tokens=[[policy.tokenizer.decode([i]) for i in rollout.tokens(b).tolist()] for b in rows],
            heat={name: [values[b, : lengths[b]].tolist() for b in rows] for name, values in numbers.items()},
            failures=[score.failure for score in mine],
            step=step,
        )

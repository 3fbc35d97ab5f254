"""This module is the supervised baseline: it imitates written answers instead of rewarding sampled ones.

Samples, trainable weights, optimiser and evaluation are the same as for GRPO.  The completions are the written targets,
and the loss is cross-entropy.  The target is the answer alone (`sft_target = "answer"`, as in the paper) or the answer
with its reasoning ("reasoning"), which is the stronger baseline.

Deviation from the paper: its baseline is LoRA with 64 rows per step and half the run as warm-up, and its RFT trains all
weights with 16 rows per step; here the two differ only in the objective.
"""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from minirft import UserError
from minirft.data import Screening, training_feed
from minirft.engine import pad_rows, passes
from minirft.policy import Policy
from minirft.runs.config import GRPOConfig
from minirft.runs.folder import Row, anchored, open_run
from minirft.runs.loop import run_steps
from minirft.runs.step import learning_rate, optimiser_step
from minirft.samples import Rollout, Sample


def sft(config: GRPOConfig, resume: Path | None = None, progress: bool = False) -> Iterator[Row]:
    """Start or resume a supervised run; yield every row when it is logged.  Raises as `minirft.train.run` does."""
    config = anchored(config)
    screening = Screening(config.data, resume, progress)
    feed = training_feed(config, screening)
    run = open_run("sft", config, resume)

    def do_step(samples: list[Sample], step: int) -> tuple[Row, list[Row]]:
        return sft_step(run.policy, run.optimiser, samples, config, step)

    yield from run_steps(run, config.sft_steps, feed, do_step, progress, screening)


def sft_step(
    policy: Policy, optimiser: torch.optim.Optimizer, samples: list[Sample], config: GRPOConfig, step: int
) -> tuple[Row, list[Row]]:
    """Do one step on P samples: L = -(1 / tokens) Σ_b Σ_t log π(token | prompt, tokens before), at temperature 1."""
    start = time.perf_counter()
    rollout = written_rollout(policy, samples, config.sft_target)
    rows = list(range(len(samples)))
    rate = learning_rate(step, config.sft_steps, config.sft_learning_rate, config.lr_schedule, config.warmup_steps)
    norm = None
    while norm is None:  # as in `grpo_step`
        losses = [add_gradients(policy, rollout, part) for part in passes(rollout, config.rows_per_pass or None)]
        norm = optimiser_step(policy, optimiser, rate, config.max_grad_norm, rollout, rows, step)
    tokens, seconds = int(rollout.lengths.sum()), time.perf_counter() - start
    row = {"step": step, "loss": sum(losses), "grad_norm": norm, "lr": rate, "tokens": tokens, "seconds": seconds}
    return row, [{"sample": sample.id, "text": text} for sample, text in zip(samples, rollout.texts, strict=True)]


def add_gradients(policy: Policy, rollout: Rollout, rows: list[int]) -> float:
    """Add the gradient of the loss on `rows`, a part of the step; return their share of the loss."""
    loss = -policy.logprobs(rollout, rows).sum() / rollout.lengths.sum()
    (loss * policy.loss_scale.value).backward()
    return loss.item()


def written_rollout(policy: Policy, samples: list[Sample], target: str) -> Rollout:
    """Return the targets of P samples as a rollout with one completion each."""
    texts = [target_text(sample, target) for sample in samples]
    spoken = [
        policy.processor.rescaled(text, policy.encode(sample), written=True)
        for text, sample in zip(texts, samples, strict=True)
    ]
    ids = [policy.tokenizer.encode(text, add_special_tokens=False) for text in spoken]
    return given_rollout(policy, samples, texts, [[*row, policy.tokenizer.eos_token_id] for row in ids])


def given_rollout(
    policy: Policy, samples: Sequence[Sample], texts: list[str], ids: Sequence[Sequence[int]], temperature: float = 1.0
) -> Rollout:
    """Return completions that were not sampled as a rollout with log-probs 0; each of the P samples has equally many.

    `ids` are the tokens of the `texts`, each with its end token.
    """
    rows = [torch.tensor(row, device=policy.device) for row in ids]
    mask = pad_rows([torch.ones_like(row, dtype=torch.bool) for row in rows])
    return Rollout(
        prompts=[policy.encode(sample) for sample in samples],
        completion_ids=pad_rows(rows),
        completion_mask=mask,
        logprobs=torch.zeros(mask.shape, device=policy.device),
        texts=texts,
        finished=torch.ones(len(rows), dtype=torch.bool, device=policy.device),
        group_size=len(rows) // len(samples),
        temperature=temperature,
    )


def target_text(sample: Sample, target: str) -> str:
    """Return the completion to imitate.  Raises `UserError` if the target is "reasoning" and the sample has none.

    >>> target_text(Sample("s0", Path("a.png"), "presence", "A cat?", "<answer>yes</answer>"), "answer")
    '<answer>yes</answer>'
    """
    if target == "answer":
        return sample.solution
    if not sample.reasoning:
        raise UserError(f"sample {sample.id} has no written reasoning: set sft_target = answer")
    return f"<think>{sample.reasoning}</think> {sample.solution}"

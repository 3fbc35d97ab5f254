"""This module is the loop around a training step: progress, log, evaluation, checkpoints and Ctrl-C.

GRPO and SFT differ only in the step; `run_steps` runs both.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from tqdm import tqdm

from minirft import UserError
from minirft.data import Feed, Screening, step_seed, validation
from minirft.evaluation import metrics
from minirft.policy import Policy
from minirft.runs.config import GRPOConfig
from minirft.runs.folder import HELD_OUT, Row, Run, export
from minirft.runs.log import read_log
from minirft.runs.watches import FailedRewards, FrameWatch, IdleWatch, frame_warning
from minirft.sampler import sample_groups
from minirft.samples import Sample

DoStep = Callable[[list[Sample], int], tuple[Row, list[Row]]]


def run_steps(
    run: Run, steps: int, feed: Feed, do_step: DoStep, progress: bool, screening: Screening | None = None
) -> Iterator[Row]:
    """Do the remaining steps; log, evaluate and save as configured; yield every row that is logged.

    `feed(step)` returns the samples of a step, and `do_step(samples, step)` its row and its completions.  The findings
    of `screening` are logged first.  The first Ctrl-C finishes the step, saves, and raises `KeyboardInterrupt` with the
    command that resumes; the second one stops at once.
    """
    try:
        yield from _steps(run, steps, feed, do_step, progress, screening)
    finally:
        run.lock.release(force=True)


def _steps(
    run: Run, steps: int, feed: Feed, do_step: DoStep, progress: bool, screening: Screening | None
) -> Iterator[Row]:
    config = run.config
    questions = validation(config, screening) if config.eval_every else []  # read once: a file can take a minute
    if screening:
        screening.save(run.folder)
    logged = read_log(run.log.path)[1]
    frames, idle, failures = FrameWatch(run, logged), IdleWatch(config, logged), FailedRewards(run, logged)
    shape = "{n_fmt}/{total_fmt} steps, {remaining} left{postfix}"
    bar = tqdm(total=steps, initial=run.step, disable=not progress, dynamic_ncols=True, bar_format=shape)
    with bar, _interrupts() as interrupted:
        if run.step == 0 and screening and screening.row():
            run.log.row("data", step=0, **screening.row())
            yield {"kind": "data", "step": 0, **screening.row()}
        if run.step == 0 and config.eval_every:
            yield log_evaluation(run, questions, frames)
        while run.step < steps:
            samples = feed(run.step + 1)
            row, completions = _guarded(do_step, samples, run)
            run.step += 1
            run.record(completions)
            row |= frames.training(row, completions, samples) | idle.training(row) | failures.training(completions)
            run.log.row("train", **row)
            bar.set_postfix_str(bar_text(row))
            bar.update()
            yield {"kind": "train", **row}
            if config.eval_every and run.step % config.eval_every == 0:
                yield log_evaluation(run, questions, frames)
            if run.step % config.save_every == 0 or run.step == steps or interrupted.is_set():
                run.save()
            if interrupted.is_set() and run.step < steps:
                command = f"minirft {'train' if run.method == 'grpo' else 'sft'} --resume {run.folder}"
                raise KeyboardInterrupt(f"stopped and saved after step {run.step}; go on with {command}")
        export(run.policy, run.folder / "policy")


def _guarded(do_step: DoStep, samples: list[Sample], run: Run) -> tuple[Row, list[Row]]:
    try:
        return do_step(samples, run.step + 1)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"step {run.step + 1} does not fit into the memory of {run.policy.device}: set checkpointing = true, "
            f"or lower rows_per_pass (such as 2), max_pixels or max_completion_length"
        ) from error


@contextlib.contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """Yield an event that the first Ctrl-C sets; the second raises `KeyboardInterrupt` as usual."""
    interrupted = threading.Event()

    def on_interrupt(*_: object) -> None:
        interrupted.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print("\nminirft: finishing this step, then saving; Ctrl-C again stops at once", file=sys.stderr)

    if threading.current_thread() is not threading.main_thread():  # signals belong to the main thread
        yield interrupted
        return
    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


def bar_text(row: Row, width: int = 50) -> str:
    """Return the text of the progress bar: the main metrics first, as many as fit a terminal of 80 columns.

    >>> row = {"reward": 1.5, "reward_iou": 0.2, "parse_rate": 1.0, "degenerate_groups": 0.25, "kl": 0.01, "loss": 0.1}
    >>> bar_text(row), bar_text({"loss": 0.1})
    ('reward 1.50, parse 100%, degenerate 25%, IoU 0.20', 'loss 0.100')
    """
    shown = {
        "reward": "reward {:.2f}",
        "parse_rate": "parse {:.0%}",
        "degenerate_groups": "degenerate {:.0%}",
        "reward_iou": "IoU {:.2f}",
        "reward_accuracy": "accuracy {:.2f}",
        "kl": "KL {:.3f}",
        "loss": "loss {:.3f}",
        "tokens_per_second": "tokens/s {:.0f}",
    }
    line = ""
    for text in (text.format(row[key]) for key, text in shown.items() if row.get(key) is not None):
        if len(line) + len(text) + 2 > width:
            break
        line += f", {text}" if line else text
    return line


# ------------------------------------------------------------------ evaluating


def evaluate_policy(
    policy: Policy, config: GRPOConfig, samples: list[Sample], mode: str = "greedy"
) -> tuple[Row, list[str]]:
    """Return the held-out metrics and the answers; `mode` is "greedy", or "sampled" at the training temperature."""
    start = time.perf_counter()
    completions = generate(policy, config, samples, mode)
    seconds = time.perf_counter() - start
    return {"mode": mode, **judged(policy, completions, samples), "seconds": seconds}, completions


def judged(policy: Policy, completions: Sequence[str], samples: Sequence[Sample]) -> Row:
    """Return the metrics of completions, with `frame_warning` if their coordinates are in a wrong frame."""
    warning = frame_warning(policy, completions, samples)
    return metrics(samples[0].task, completions, samples) | ({"frame_warning": warning} if warning else {})


def generate(policy: Policy, config: GRPOConfig, samples: list[Sample], mode: str = "greedy") -> list[str]:
    """Return one completion for each sample, `config.eval_batch` at a time."""
    return [text for texts in generate_batches(policy, config, samples, mode) for text in texts]


def generate_batches(
    policy: Policy, config: GRPOConfig, samples: list[Sample], mode: str = "greedy", first: int = 0
) -> Iterator[list[str]]:
    """Yield the completions of `generate` batch by batch, from sample `first` (a multiple of `config.eval_batch`)."""
    for start in range(first, len(samples), config.eval_batch):
        prompts = [policy.encode(sample) for sample in samples[start : start + config.eval_batch]]
        rollout = sample_groups(
            policy,
            prompts,
            group_size=1,
            temperature=config.temperature,
            max_completion_length=config.max_completion_length,
            seed=step_seed(config.seed, start),
            greedy=mode == "greedy",
        )
        yield rollout.texts


def log_evaluation(run: Run, samples: list[Sample], frames: FrameWatch) -> Row:
    """Evaluate the policy of a run as it is now, write the answers and the row down, and return the row."""
    scores, texts = evaluate_policy(run.policy, run.config, samples)
    rows = [{"sample": s.id, "solution": s.solution, "text": text} for s, text in zip(samples, texts, strict=True)]
    run.record(rows, HELD_OUT)
    row = {"step": run.step, **scores}
    frames.warn(row.get("frame_warning"))
    run.log.row("eval", **row)
    return {"kind": "eval", **row}

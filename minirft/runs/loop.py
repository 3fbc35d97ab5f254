"""This module is the loop around a training step: progress, log, evaluation, checkpoints and Ctrl-C.

GRPO and SFT differ only in the step; `run_steps` runs both.
"""

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from tqdm import tqdm

from minirft import as_user_error
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


def run_steps(run: Run, steps: int, feed: Feed, do_step: DoStep, progress: bool, screening: Screening) -> Iterator[Row]:
    """Do the remaining steps; log, evaluate and save as configured; yield every row that is logged.

    `feed(step)` returns the samples of a step, and `do_step(samples, step)` its row and its completions.  The findings
    of `screening` are logged first.  The first Ctrl-C finishes the step, saves, and raises `KeyboardInterrupt` with the
    command that resumes; the second one stops at once.
    """
    config = run.config
    shape = "{n_fmt}/{total_fmt} steps, {remaining} left{postfix}"
    # Without smoothing, the time left comes from the mean of all steps, and an evaluation does not make it jump.
    look = {"dynamic_ncols": True, "bar_format": shape, "smoothing": 0}
    bar = tqdm(total=steps, initial=run.step, disable=not progress, **look)
    with contextlib.ExitStack() as at_end, bar, _interrupts() as interrupted:
        at_end.callback(run.lock.release, force=True)
        questions = validation(config, screening) if config.eval_every else []  # read once: a file can take a minute
        screening.save(run.folder)
        logged = read_log(run.log.path)[1]
        frames, idle, failures = FrameWatch(run, logged), IdleWatch(config, logged), FailedRewards(run, logged)
        if run.step == 0 and (found := screening.row()):
            yield run.log.row("data", step=0, **found)
        if run.step == 0 and config.eval_every:
            yield log_evaluation(run, questions, frames)
        while run.step < steps:
            samples = feed(run.step + 1)
            where = f"step {run.step + 1} does not fit into the memory of {run.policy.device}"
            advice = "set checkpointing = true, or lower rows_per_pass (such as 2), max_pixels or max_completion_length"
            with as_user_error(f"{where}: {advice}", torch.OutOfMemoryError):
                row, completions = do_step(samples, run.step + 1)
            run.step += 1
            run.record(completions)
            row |= frames.training(row, completions, samples) | idle.training(row) | failures.training(completions)
            bar.set_postfix_str(bar_text(row))
            bar.update()
            yield run.log.row("train", **row)
            if config.eval_every and run.step % config.eval_every == 0:
                yield log_evaluation(run, questions, frames)
            if run.step % config.save_every == 0 or run.step == steps or interrupted.is_set():
                run.save()
            if interrupted.is_set() and run.step < steps:
                command = f"minirft {'train' if run.method == 'grpo' else 'sft'} --resume {run.folder}"
                raise KeyboardInterrupt(f"stopped and saved after step {run.step}; go on with {command}")
        export(run.policy, run.folder / "policy")


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
    texts = [text.format(row[key]) for key, text in shown.items() if row.get(key) is not None]
    while len(", ".join(texts)) > width:
        texts.pop()
    return ", ".join(texts)


# ------------------------------------------------------------------ evaluating


def judged(policy: Policy, completions: Sequence[str], samples: Sequence[Sample]) -> Row:
    """Return the metrics of completions, with `frame_warning` if their coordinates are in a wrong frame."""
    return metrics(samples[0].task, completions, samples) | frame_warning(policy, completions, samples)


def generate(
    policy: Policy, config: GRPOConfig, samples: list[Sample], mode: str = "greedy", first: int = 0
) -> list[str]:
    """Return one completion for each sample, `config.eval_batch` at a time.

    `mode` is "greedy", or "sampled" at the training temperature.  `first` is the number of samples that were answered
    before these: a batch draws the same numbers whether it is generated alone or with those before it.
    """
    texts: list[str] = []
    for start in range(0, len(samples), config.eval_batch):
        prompts = [policy.encode(sample) for sample in samples[start : start + config.eval_batch]]
        rollout = sample_groups(
            policy,
            prompts,
            group_size=1,
            temperature=config.temperature,
            max_completion_length=config.max_completion_length,
            seed=step_seed(config.seed, first + start),
            greedy=mode == "greedy",
        )
        texts += rollout.texts
    return texts


def log_evaluation(run: Run, samples: list[Sample], frames: FrameWatch) -> Row:
    """Evaluate the policy of a run as it is now, write the answers and the row down, and return the row."""
    start = time.perf_counter()
    texts = generate(run.policy, run.config, samples)
    seconds = time.perf_counter() - start
    rows = [{"sample": s.id, "solution": s.solution, "text": text} for s, text in zip(samples, texts, strict=True)]
    run.record(rows, HELD_OUT)
    scores = frames.warn(judged(run.policy, texts, samples))
    return run.log.row("eval", step=run.step, mode="greedy", **scores, seconds=seconds)

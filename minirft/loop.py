"""What every training run needs around its step: the policy, the optimiser, the run folder, resume, Ctrl-C.

    RUN/config.toml        the settings, every one spelt out
        log.jsonl          one row per step and per evaluation, with a provenance header
        completions.jsonl  what was written at each step, for reading
        checkpoints/       where `--resume RUN` goes on
        policy/            the result: an adapter for PEFT, or a model folder for transformers

A step is a pure function of (weights, optimiser state, seed, step).  That is why a checkpoint of the first two
and the step is enough to go on bit for bit, and why everything written after it can be cut off and redone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from minirft.checkpoints import load_checkpoint, save_checkpoint
from minirft.config import GRPOConfig, load_config
from minirft.evaluate import metrics
from minirft.feed import held_out, step_generator
from minirft.policy import Policy
from minirft.runlog import RunLog, read_log, truncate_after
from minirft.sampler import sample_groups
from minirft.samples import Sample, UserError
from minirft.toml import differences, to_toml

Method = Literal["grpo", "sft"]
Row = dict[str, Any]
# What a resumed run may set anew: none of these changes what a step computes.
MAY_CHANGE = {"steps", "sft_steps", "out", "save_every", "keep_checkpoints", "eval_every", "eval_samples", "eval_batch"}


@dataclass
class Run:
    """A run in progress: its state is the weights, the optimiser, and how many steps are done."""

    method: Method
    config: GRPOConfig
    folder: Path
    policy: Policy
    optimiser: torch.optim.Optimizer
    log: RunLog
    step: int = 0

    def save(self) -> None:
        """Write a checkpoint of the steps done."""
        weights = {name: weight.data for name, weight in self.policy.trainable().items()}
        keep = self.config.keep_checkpoints
        save_checkpoint(self.folder / "checkpoints", self.step, weights, self.optimiser, {}, keep)

    def record(self, completions: list[Row]) -> None:
        """Append what was written at this step to `completions.jsonl`."""
        lines = [json.dumps({"step": self.step, **row}, ensure_ascii=False) + "\n" for row in completions]
        with (self.folder / "completions.jsonl").open("a", encoding="utf-8") as file:
            file.write("".join(lines))


# ------------------------------------------------------------------ opening


def load_policy(config: GRPOConfig) -> Policy:
    """The policy a configuration starts from."""
    if config.threads:
        torch.set_num_threads(config.threads)
    return Policy.load(
        config.model,
        quantize=config.quantize,
        lora=config.lora if config.train == "lora" else None,
        train_vision=config.train_vision,
        dtype=config.dtype,
        device=None if config.device == "auto" else config.device,
        max_pixels=config.max_pixels,
        checkpointing=config.checkpointing,
        max_prompt_length=config.max_prompt_length,
    )


def make_optimiser(policy: Policy, config: GRPOConfig) -> torch.optim.Optimizer:
    """AdamW over what learns; the rate is set at every step."""
    return torch.optim.AdamW(policy.trainable().values(), lr=0.0, weight_decay=config.weight_decay)


def open_run(method: Method, config: GRPOConfig, resume: Path | None = None) -> Run:
    """A fresh run in `config.out`, or the one in `resume` where its newest intact checkpoint left it.

    Raises `UserError` when the folder already holds a run, when `resume` does not, or when the configuration
    differs in more than what may change.
    """
    folder = Path(resume or config.out)
    if resume:
        _check_same_run(method, config, folder)
    elif (folder / "config.toml").exists():
        raise UserError(f"{folder} already holds a run: go on with --resume {folder}, or choose another --out")
    policy = load_policy(config)  # before anything is written: a wrong model leaves no folder behind
    _write_config(config, folder)
    header = {"method": method, **dataclasses.asdict(config)}
    device = str(policy.device)
    log = RunLog(folder / "log.jsonl", config=header, seed=config.seed, device=device, resume=resume is not None)
    run = Run(method, config, folder, policy, make_optimiser(policy, config), log)
    if resume:
        _go_back_to_checkpoint(run)
    return run


def run_config(folder: Path) -> GRPOConfig:
    """The configuration of the run in `folder`.  Raises `UserError` when there is none."""
    if not (folder / "config.toml").is_file():
        raise UserError(f"{folder} holds no run (there is no config.toml in it); check the path")
    return load_config(folder / "config.toml")


def _check_same_run(method: Method, config: GRPOConfig, folder: Path) -> None:
    changed = [name for name in differences(run_config(folder), config) if name not in MAY_CHANGE]
    if changed:
        raise UserError(
            f"cannot resume {folder} with another {', '.join(changed)}: a resumed run goes on as it was; "
            f"leave that out, or start a new run with another --out"
        )
    log = folder / "log.jsonl"
    began = read_log(log)[0]["config"]["method"] if log.exists() and b"\n" in log.read_bytes() else method
    if began != method:
        command = {"grpo": "minirft train", "sft": "minirft sft"}[began]
        raise UserError(f"{folder} holds a run of another kind: resume it with {command} --resume {folder}")


def _write_config(config: GRPOConfig, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".config.toml").write_text(to_toml(config), encoding="utf-8")
        os.replace(folder / ".config.toml", folder / "config.toml")
    except OSError as error:
        raise UserError(f"cannot write into {folder} ({error.strerror}); choose another --out") from error


def _go_back_to_checkpoint(run: Run) -> None:
    """Weights and optimiser as the checkpoint has them; what was logged after it is cut off and done again."""
    if any((run.folder / "checkpoints").glob("step-*")):
        checkpoint = load_checkpoint(run.folder / "checkpoints")
        for note in checkpoint.notes:
            print(f"minirft: {note}", file=sys.stderr)
        load_weights(run.policy, checkpoint.weights)
        run.optimiser.load_state_dict(checkpoint.optimizer)
        run.step = checkpoint.step
    # Killed before the first save: step 0 and its evaluation are done again too.
    run.log.truncate_after(run.step or -1)
    completions = run.folder / "completions.jsonl"
    if completions.exists():
        truncate_after(completions, run.step)


def load_weights(policy: Policy, weights: dict[str, Tensor]) -> None:
    """Copy `weights`, by name, into what learns."""
    with torch.no_grad():
        for name, weight in policy.trainable().items():
            weight.copy_(weights[name])


# ------------------------------------------------------------------ stepping


def run_steps(run: Run, steps: int, do_step: Callable[[int], tuple[Row, list[Row]]], progress: bool) -> Iterator[Row]:
    """Do the steps that are left; log, evaluate and save as configured; yield every row that is logged.

    `do_step(step)` returns the row of the step and what was written at it.  Ctrl-C lets the step finish,
    saves, and raises `KeyboardInterrupt` with the way to go on; a second one stops at once.
    """
    config = run.config
    bar = tqdm(total=steps, initial=run.step, disable=not progress, unit="step", dynamic_ncols=True)
    with bar, _interrupts() as interrupted:
        if run.step == 0 and config.eval_every:
            yield _log_evaluation(run)
        while run.step < steps:
            row, completions = _guarded(do_step, run)
            run.step += 1
            run.record(completions)
            run.log.row("train", **row)
            bar.set_postfix_str(bar_text(row))
            bar.update()
            yield {"kind": "train", **row}
            if config.eval_every and run.step % config.eval_every == 0:
                yield _log_evaluation(run)
            if run.step % config.save_every == 0 or run.step == steps or interrupted.is_set():
                run.save()
            if interrupted.is_set() and run.step < steps:
                raise KeyboardInterrupt(f"stopped and saved after step {run.step}; go on with {how_to_resume(run)}")
        export(run.policy, run.folder / "policy")


def how_to_resume(run: Run) -> str:
    """The command that goes on with a run."""
    return f"minirft {'train' if run.method == 'grpo' else 'sft'} --resume {run.folder}"


def _guarded(do_step: Callable[[int], tuple[Row, list[Row]]], run: Run) -> tuple[Row, list[Row]]:
    try:
        return do_step(run.step + 1)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"step {run.step + 1} does not fit into the memory of {run.policy.device}: set checkpointing = true, "
            f"or lower rows_per_pass (such as 2), max_pixels or max_completion_length"
        ) from error


@contextlib.contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; the second raises `KeyboardInterrupt` as usual."""
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


def bar_text(row: Row) -> str:
    """What the progress bar says about a step.

    >>> bar_text({"reward": 1.5, "kl": None, "tokens_per_second": 812.4})
    'reward 1.50, tokens/s 812'
    """
    shown = {
        "reward": "reward {:.2f}",
        "reward_iou": "IoU {:.2f}",
        "reward_accuracy": "accuracy {:.2f}",
        "loss": "loss {:.3f}",
        "parse_rate": "parse {:.0%}",
        "degenerate_groups": "degenerate {:.0%}",
        "kl": "KL {:.3f}",
        "tokens_per_second": "tokens/s {:.0f}",
    }
    return ", ".join(text.format(row[key]) for key, text in shown.items() if row.get(key) is not None)


def learning_rate(step: int, steps: int, peak: float, schedule: str, warmup: int) -> float:
    """The rate of step 1..steps: a rise over `warmup` steps, then constant or a straight fall towards 0.

    >>> [learning_rate(step, 4, 1.0, "linear", 0) for step in (1, 2, 3, 4)]
    [1.0, 0.75, 0.5, 0.25]
    """
    if step <= warmup:
        return peak * step / warmup
    return peak if schedule == "constant" else peak * (steps - step + 1) / (steps - warmup)


def apply_gradients(policy: Policy, optimiser: torch.optim.Optimizer, rate: float, max_norm: float) -> float:
    """One optimiser step on the gradients at hand, scaled to `max_norm`; returns their norm before that.

    Raises `FloatingPointError`, with the weights as they were, when the norm is not finite.
    """
    weights = [weight for weight in policy.trainable().values() if weight.grad is not None]
    norm = torch.nn.utils.get_total_norm([weight.grad for weight in weights])
    if not norm.isfinite():
        raise FloatingPointError(f"gradient norm is {norm.item()}")
    torch.nn.utils.clip_grads_with_norm_(weights, max_norm, norm)
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return norm.item()


# ------------------------------------------------------------------ evaluating, exporting


def evaluate_policy(policy: Policy, config: GRPOConfig, samples: list[Sample], mode: str = "greedy") -> Row:
    """Held-out metrics; `mode` is "greedy", or "sampled" at the temperature of training."""
    start = time.perf_counter()
    completions = generate(policy, config, samples, mode)
    return {"mode": mode, **metrics(samples[0].task, completions, samples), "seconds": time.perf_counter() - start}


def generate(policy: Policy, config: GRPOConfig, samples: list[Sample], mode: str = "greedy") -> list[str]:
    """One completion for each sample, `config.eval_batch` at a time."""
    texts: list[str] = []
    for start in range(0, len(samples), config.eval_batch):
        prompts = [policy.encode(sample) for sample in samples[start : start + config.eval_batch]]
        rollout = sample_groups(
            policy,
            prompts,
            group_size=1,
            temperature=config.temperature,
            max_completion_length=config.max_completion_length,
            generator=step_generator(config.seed, start),
            greedy=mode == "greedy",
        )
        texts += rollout.texts
    return texts


def _log_evaluation(run: Run) -> Row:
    row = {"step": run.step, **evaluate_policy(run.policy, run.config, held_out(run.config))}
    run.log.row("eval", **row)
    return {"kind": "eval", **row}


def export(policy: Policy, folder: Path) -> None:
    """The policy in a folder that PEFT or transformers loads; the folder appears whole or not at all."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        policy.save(part)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(part, folder)
    except OSError as error:
        raise UserError(f"cannot write {folder} ({error.strerror or error}); free some space") from error

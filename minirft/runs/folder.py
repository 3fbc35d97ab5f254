"""A run as a folder: opening it, going back to its checkpoint, taking its policy out.

    RUN/config.toml        the settings, every one spelt out
        log.jsonl          one row per step and per evaluation, with a provenance header
        completions.jsonl  what was written at each step, for reading
        held_out.jsonl     the answers of each evaluation
        checkpoints/       where `--resume RUN` goes on
        policy/            the result: an adapter for PEFT, or a model folder for transformers

A step is a pure function of (weights, optimiser state, loss scale, seed, step).  That is why a checkpoint of the
first three and the step is enough to go on bit for bit, and why everything written after it can be cut off and redone.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from filelock import BaseFileLock, FileLock, Timeout
from torch import Tensor

from minirft import UserError
from minirft.engine import HUB, LossScale
from minirft.policy import Policy
from minirft.reference import Reference, make_reference
from minirft.rewards import RewardFn, fingerprint, is_own
from minirft.runs.checkpoints import load_checkpoint, save_checkpoint
from minirft.runs.config import GRPOConfig, load_config
from minirft.runs.log import RunLog, read_log, truncate_after
from minirft.runs.step import Row, make_optimiser
from minirft.runs.toml import differences, to_toml

Method = Literal["grpo", "sft", "trl"]
# What a resumed run may set anew: none of these changes what a step computes, but for `steps` under a linear
# schedule, which moves the learning rates still to come.  Settings that only reorder sums, such as `rows_per_pass`
# or `prompts_per_decode`, are not here: they change the last bits.
MAY_CHANGE = {"steps", "sft_steps", "out", "save_every", "keep_checkpoints", "eval_every", "eval_samples", "eval_batch"}
MAY_CHANGE |= {"offload_vision", "offload_embedding"}
HELD_OUT = "held_out.jsonl"  # the answers of the evaluations
LOCK = ".lock"  # held while a process trains in the folder
EXPORTED = "minirft.toml"  # in an export: the settings of its run, with what the export changed


@dataclass
class Run:
    """A run in progress: its state is the weights, the optimiser, and how many steps are done."""

    method: Method
    config: GRPOConfig
    folder: Path
    policy: Policy
    optimiser: torch.optim.Optimizer
    log: RunLog
    reference: Reference | None
    lock: BaseFileLock
    step: int = 0

    def save(self) -> None:
        """Write a checkpoint of the steps done."""
        weights = {name: weight.data for name, weight in self.policy.trainable().items()}
        keep, extra = self.config.keep_checkpoints, {"loss_scale": self.policy.loss_scale.state()}
        save_checkpoint(self.folder / "checkpoints", self.step, weights, self.optimiser, extra, keep)

    def record(self, completions: list[Row], name: str = "completions.jsonl") -> None:
        """Append what was written at this step to a file of the run: in training, or in an evaluation."""
        text = "".join(json.dumps({"step": self.step, **row}, ensure_ascii=False) + "\n" for row in completions)
        path = self.folder / name
        try:
            with path.open("ab") as file:
                file.write(text.encode("utf-8", "replace"))  # half of a surrogate pair has no UTF-8
        except OSError as error:
            raise UserError(f"cannot write {path} ({error.strerror}); free some space and resume") from error


def anchored(config: GRPOConfig) -> GRPOConfig:
    """The settings with whole paths in place of relative ones, so that a run goes on from any working folder.

    A path at which there is nothing stays as it is: it may be a name on the hub.
    """
    paths = {name: path for name, path in vars(config.data).items() if isinstance(path, Path) and path.exists()}
    data = replace(config.data, **{name: path.absolute() for name, path in paths.items()})
    named = config.model == "tiny" or config.model in HUB or not Path(config.model).is_dir()
    file, _, name = config.reward.rpartition(":")
    reward = f"{Path(file).absolute()}:{name}" if is_own(config.reward) and Path(file).exists() else config.reward
    model = config.model if named else str(Path(config.model).absolute())
    return replace(config, data=data, model=model, reward=reward)


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
        offload_vision=config.offload_vision,
        offload_embedding=config.offload_embedding,
        shared_prefix=config.shared_prefix,
        decoder=config.decoder,
    )


def open_run(method: Method, config: GRPOConfig, resume: Path | None = None, reward: RewardFn | None = None) -> Run:
    """A fresh run in `config.out`, or the one in `resume` where its newest intact checkpoint left it.

    The log's header keeps the hash of a reward of one's own.  Raises `UserError` when the folder already holds a run,
    when `resume` does not, when the configuration or that reward differs in more than what may change, or another
    process is at work in it.
    """
    folder, config = Path(resume or config.out), anchored(config)
    lock, own = FileLock(folder / LOCK), fingerprint(reward) if reward else None
    if resume:
        _check_same_run(method, config, folder, own)
        _take(lock, folder)
    elif _has_steps(folder):
        raise UserError(f"{folder} already holds a run: go on with --resume {folder}, or choose another --out")
    try:
        policy = load_policy(config)  # before anything is written: a wrong model leaves no folder behind
        _take(lock, folder)
        return _open_locked(method, config, folder, policy, lock, own, resume is not None)
    except BaseException:
        lock.release(force=True)
        raise


def _open_locked(
    method: Method, config: GRPOConfig, folder: Path, policy: Policy, lock: BaseFileLock, own: str | None, resume: bool
) -> Run:
    _write_config(config, folder)
    if not resume:  # of an attempt that failed before its first step
        (folder / "log.jsonl").unlink(missing_ok=True)
    header = {"method": method, **asdict(config)} | ({"reward_sha256": own} if own else {})
    device = str(policy.device)
    log = RunLog(folder / "log.jsonl", config=header, seed=config.seed, device=device, resume=resume)
    # The reference is the policy before any step: it is taken before a checkpoint is put back.
    reference = make_reference(policy, config.kl_coef if method == "grpo" else 0.0)
    run = Run(method, config, folder, policy, make_optimiser(policy, config), log, reference, lock)
    if resume:
        _go_back_to_checkpoint(run)
        _notice_other_threads(folder)
    return run


def run_config(folder: Path) -> GRPOConfig:
    """The configuration of the run or of the export in `folder`.  Raises `UserError` when there is none."""
    if (folder / EXPORTED).is_file():
        config = load_config(folder / EXPORTED)
        return replace(config, model=str(folder)) if is_merged(folder) else config
    if not (folder / "config.toml").is_file():
        raise UserError(f"{folder} holds no run (there is no config.toml in it); check the path")
    return load_config(folder / "config.toml")


def is_merged(folder: Path) -> bool:
    """Is this the export of a whole model?  An adapter has no config.json."""
    return (folder / EXPORTED).is_file() and (folder / "config.json").is_file()


def _has_steps(folder: Path) -> bool:
    """Is there anything in the folder that took time to compute?"""
    log = folder / "log.jsonl"
    return any((folder / "checkpoints").glob("step-*")) or (log.exists() and log.read_bytes().count(b"\n") > 1)


def _check_same_run(method: Method, config: GRPOConfig, folder: Path, reward: str | None) -> None:
    changed = [name for name in differences(anchored(run_config(folder)), config) if name not in MAY_CHANGE]
    if changed:
        raise UserError(
            f"cannot resume {folder} with another {', '.join(changed)}, because a resumed run goes on as it was: "
            f"leave that out, or start a new run with another --out"
        )
    log = folder / "log.jsonl"
    if not log.exists() or b"\n" not in log.read_bytes():
        return
    began = read_log(log)[0]["config"]
    if began.get("reward_sha256") != reward:
        raise UserError(
            f"{folder} began with another reward (its file or function has changed, or is not given now): put that "
            f"one back, or start a new run with another --out"
        )
    if began["method"] != method:
        if began["method"] == "trl":
            raise UserError(f"{folder} holds a run of --engine trl, which cannot resume: start a new one")
        command = {"grpo": "minirft train", "sft": "minirft sft"}[began["method"]]
        raise UserError(f"{folder} holds a run of another kind: resume it with {command} --resume {folder}")


def _notice_other_threads(folder: Path) -> None:
    """Another number of threads adds in another order: the last bits of what follows differ.  Said, not refused."""
    began, now = read_log(folder / "log.jsonl")[0].get("threads", 0), torch.get_num_threads()
    if began and began != now:
        print(
            f"minirft: {folder} began with {began} CPU threads and goes on with {now}, which changes the last bits; "
            f"set OMP_NUM_THREADS={began} for the same numbers",
            file=sys.stderr,
        )


def _take(lock: BaseFileLock, folder: Path) -> None:
    """Lock the folder until the run ends; the system takes the lock back from a process that was killed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"{folder} is in use by another process, or by an unfinished run of this one: wait for it or stop it, or "
            f"choose another --out"
        ) from None
    except OSError as error:
        raise UserError(f"cannot write into {folder} ({error.strerror}); choose another --out") from error


def _write_config(config: GRPOConfig, folder: Path) -> None:
    try:
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
        run.policy.loss_scale = LossScale(**checkpoint.extra.get("loss_scale", {}))
        run.step = checkpoint.step
    # Killed before the first save: step 0 and its evaluation are done again too.
    run.log.truncate_after(run.step or -1)
    for completions, last in ((run.folder / "completions.jsonl", run.step), (run.folder / HELD_OUT, run.step or -1)):
        if completions.exists():
            truncate_after(completions, last)


def load_weights(policy: Policy, weights: dict[str, Tensor]) -> None:
    """Copy `weights`, by name, into what learns."""
    with torch.no_grad():
        for name, weight in policy.trainable().items():
            weight.copy_(weights[name])


# ------------------------------------------------------------------ taking the policy out


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


def load_run_policy(folder: Path, config: GRPOConfig) -> Policy:
    """The policy of a run, as its newest intact checkpoint has it, or of an export.  Raises `UserError` without one."""
    if (folder / EXPORTED).is_file():
        policy = load_policy(config)
        if not is_merged(folder):
            policy.load_trainable(folder)
        return policy
    checkpoint = load_checkpoint(folder / "checkpoints")
    policy = load_policy(config)
    load_weights(policy, checkpoint.weights)
    return policy

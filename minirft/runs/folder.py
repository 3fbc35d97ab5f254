"""This module opens the folder of a run, resumes the run from its checkpoint, exports and loads its policy.

    RUN/config.toml        all settings
        log.jsonl          one row per step and per evaluation, with a provenance header
        completions.jsonl  the completions of each step
        held_out.jsonl     the answers of each evaluation
        checkpoints/       the states from which `--resume RUN` continues
        policy/            the result: an adapter for PEFT, or a model folder for transformers

A step is a pure function of (weights, optimiser state, loss scale, seed, step).  Therefore a checkpoint of the first
three and the step is enough to continue bit for bit, and everything written after it can be cut off and done again.
"""

import os
import shutil
import sys
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from filelock import BaseFileLock, FileLock, Timeout
from peft import PeftConfig, PeftModel
from safetensors import SafetensorError
from torch import Tensor

from minirft import UserError, as_user_error
from minirft.engine import HUB, LossScale, quiet_peft
from minirft.policy import Policy
from minirft.reference import Reference, make_reference
from minirft.rewards import RewardFn, fingerprint, is_own
from minirft.runs.checkpoints import load_checkpoint, save_checkpoint
from minirft.runs.config import GRPOConfig, load_config
from minirft.runs.log import RunLog, read_log, truncate_after, write_rows
from minirft.runs.step import Row, make_optimiser
from minirft.runs.toml import differences, to_toml

Method = Literal["grpo", "sft", "trl"]
# A resumed run may change these, because they do not change what a step computes (except `steps` under a linear
# schedule, which changes the learning rates to come).  Settings that reorder sums, such as `rows_per_pass` or
# `prompts_per_decode`, are not here: they change the last bits.
MAY_CHANGE = {"steps", "sft_steps", "out", "save_every", "keep_checkpoints", "eval_every", "eval_samples", "eval_batch"}
MAY_CHANGE |= {"offload_vision", "offload_embedding"}
OF_POLICY = ("quantize", "train_vision", "dtype", "max_pixels", "checkpointing", "max_prompt_length", "shared_prefix")
OF_POLICY += ("offload_vision", "offload_embedding", "decoder")  # settings that `Policy.load` takes as they are
HELD_OUT = "held_out.jsonl"  # the answers of the evaluations
LOCK = ".lock"  # locked while a process trains in the folder
EXPORTED = "minirft.toml"  # in an export: the settings of its run, with the changes of the export


@dataclass
class Run:
    """A `Run` is a run in progress; its state is the weights, the optimiser, and the number of steps done."""

    method: Method
    config: GRPOConfig
    folder: Path
    policy: Policy
    optimiser: torch.optim.Optimizer
    log: RunLog
    reference: Reference | None
    lock: BaseFileLock
    step: int = 0

    def save(self, weights: dict[str, Tensor] | None = None) -> None:
        """Write a checkpoint of the steps done, by default of the policy's weights."""
        weights = weights or {name: weight.data for name, weight in self.policy.trainable().items()}
        keep, extra = self.config.keep_checkpoints, {"loss_scale": self.policy.loss_scale.state()}
        save_checkpoint(self.folder / "checkpoints", self.step, weights, self.optimiser, extra, keep)

    def record(self, completions: list[Row], name: str = "completions.jsonl") -> None:
        """Append the completions of this step, or the answers of an evaluation, to a file of the run."""
        write_rows(self.folder / name, [{"step": self.step, **row} for row in completions])


def anchored(config: GRPOConfig) -> GRPOConfig:
    """Make the paths in the settings absolute, so that a run can be resumed from any working folder.

    A path that does not exist is unchanged, because it may be a name on the hub.
    """
    paths = {name: path for name, path in vars(config.data).items() if isinstance(path, Path) and path.exists()}
    data = replace(config.data, **{name: path.absolute() for name, path in paths.items()})
    by_name = config.model == "tiny" or config.model in HUB or not Path(config.model).is_dir()
    file, _, name = config.reward.rpartition(":")
    reward = f"{Path(file).absolute()}:{name}" if is_own(config.reward) and Path(file).exists() else config.reward
    model = config.model if by_name else str(Path(config.model).absolute())
    return replace(config, data=data, model=model, reward=reward)


def load_policy(config: GRPOConfig) -> Policy:
    """Load the policy from which a configuration starts."""
    if config.threads:
        torch.set_num_threads(config.threads)
    lora = config.lora if config.train == "lora" else None
    device = None if config.device == "auto" else config.device
    return Policy.load(config.model, lora=lora, device=device, **{name: getattr(config, name) for name in OF_POLICY})


def open_run(method: Method, config: GRPOConfig, resume: Path | None = None, reward: RewardFn | None = None) -> Run:
    """Open a new run in `config.out`, or resume the run in `resume` from its newest intact checkpoint.

    The log's header holds the hash of a reward function of your own.  Raises `UserError` if the folder already holds a
    run, if `resume` holds none, if the reward or a setting that must not change differs, or if another process uses
    the folder.
    """
    folder, config = Path(resume or config.out), anchored(config)
    lock, own = FileLock(folder / LOCK), fingerprint(reward) if reward else None
    if resume:
        _check_same_run(method, config, folder, own)
        _take(lock, folder)
    elif _has_steps(folder):
        raise UserError(f"{folder} already holds a run: go on with --resume {folder}, or choose another --out")
    with ExitStack() as on_error:
        on_error.callback(lock.release, force=True)
        policy = load_policy(config)  # before anything is written, so that a wrong model leaves no folder behind
        _take(lock, folder)
        with _choosing_another_out(folder):
            (folder / ".config.toml").write_text(to_toml(config), encoding="utf-8")
            os.replace(folder / ".config.toml", folder / "config.toml")
        if not resume:  # the log of an attempt that failed before its first step
            (folder / "log.jsonl").unlink(missing_ok=True)
        header = {"method": method, **asdict(config)} | ({"reward_sha256": own} if own else {})
        log = RunLog(folder / "log.jsonl", config=header, seed=config.seed, device=str(policy.device))
        # The reference is the policy before any step, so it is made before a checkpoint is loaded.
        reference = make_reference(policy, config.kl_coef if method == "grpo" else 0.0)
        run = Run(method, config, folder, policy, make_optimiser(policy, config), log, reference, lock)
        if resume:
            _go_back_to_checkpoint(run)
            _notice_other_threads(folder)
        on_error.pop_all()
    return run


def run_config(folder: Path) -> GRPOConfig:
    """Read the configuration of the run or the export in `folder`.  Raises `UserError` when there is none."""
    if (folder / EXPORTED).is_file():
        config = load_config(folder / EXPORTED)
        return replace(config, model=str(folder)) if is_merged(folder) else config
    if not (folder / "config.toml").is_file():
        inside = " and ".join(str(path.parent) for path in sorted(folder.glob("*/config.toml")))  # as of a demo
        advice = f"there are {inside}" if inside else "check the path"
        raise UserError(f"{folder} holds no run (there is no config.toml in it); {advice}")
    return load_config(folder / "config.toml")


def is_merged(folder: Path) -> bool:
    """Return whether the folder is the export of a whole model; an adapter has no config.json."""
    return (folder / EXPORTED).is_file() and (folder / "config.json").is_file()


def _has_steps(folder: Path) -> bool:
    """Return whether the folder holds results of a run: a checkpoint or a logged row."""
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
    logged = read_log(log)[0]["config"]
    if logged["method"] != method:
        if logged["method"] == "trl":
            raise UserError(f"{folder} holds a run of --engine trl, which cannot resume: start a new one")
        command = {"grpo": "minirft train", "sft": "minirft sft"}[logged["method"]]
        raise UserError(f"{folder} holds a run of another kind: resume it with {command} --resume {folder}")
    if logged.get("reward_sha256") != reward:
        raise UserError(
            f"{folder} began with another reward (its file or function has changed, or is not given now): put that "
            f"one back, or start a new run with another --out"
        )


def _notice_other_threads(folder: Path) -> None:
    """Warn if the number of threads has changed: sums are then in another order and differ in the last bits."""
    before, now = read_log(folder / "log.jsonl")[0].get("threads", 0), torch.get_num_threads()
    if before and before != now:
        print(
            f"minirft: {folder} began with {before} CPU threads and goes on with {now}, which changes the last bits; "
            f"set OMP_NUM_THREADS={before} for the same numbers",
            file=sys.stderr,
        )


def _choosing_another_out(folder: Path) -> AbstractContextManager[None]:
    return as_user_error(f"cannot write into {folder} ({{why}}); choose another --out", OSError)


def _take(lock: BaseFileLock, folder: Path) -> None:
    """Lock the folder until the run ends; the system releases the lock of a process that was killed."""
    with _choosing_another_out(folder):
        folder.mkdir(parents=True, exist_ok=True)
        busy = f"{folder} is in use by another process, or by an unfinished run of this one: wait for it or stop it, "
        with as_user_error(busy + "or choose another --out", Timeout):
            lock.acquire(timeout=0)


def _go_back_to_checkpoint(run: Run) -> None:
    """Load weights and optimiser from the newest checkpoint, and cut off the rows that were logged after it."""
    if any((run.folder / "checkpoints").glob("step-*")):
        checkpoint = load_checkpoint(run.folder / "checkpoints")
        for note in checkpoint.notes:
            print(f"minirft: {note}", file=sys.stderr)
        load_weights(run.policy, checkpoint.weights)
        run.optimiser.load_state_dict(checkpoint.optimizer)
        run.policy.loss_scale = LossScale(**checkpoint.extra.get("loss_scale", {}))
        run.step = checkpoint.step
    # A run that was killed before its first save repeats the evaluation of step 0 too.
    for file in (run.log.path, run.folder / "completions.jsonl", run.folder / HELD_OUT):
        if file.exists():
            truncate_after(file, run.step or -1)


def load_weights(policy: Policy, weights: dict[str, Tensor]) -> None:
    """Copy `weights` into the trainable weights of the same names."""
    with torch.no_grad():
        for name, weight in policy.trainable().items():
            weight.copy_(weights[name])


# ------------------------------------------------------------------ the policy, out and in again


def export(policy: Policy, folder: Path) -> None:
    """Write the policy to a folder that PEFT or transformers loads, completely or not at all."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    with as_user_error(f"cannot write {folder} ({{why}}); free some space", OSError):
        policy.save(part)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(part, folder)


def load_run_policy(folder: Path, config: GRPOConfig) -> Policy:
    """Load the policy of an export, or of a run's newest intact checkpoint.  Raises `UserError` if there is none."""
    if (folder / EXPORTED).is_file():
        policy = load_policy(config)
        if not is_merged(folder):
            policy.load_trainable(folder)
        return policy
    checkpoint = load_checkpoint(folder / "checkpoints")
    policy = load_policy(config)
    load_weights(policy, checkpoint.weights)
    return policy


def source_policy(source: str | Path, config: GRPOConfig, adapter: Path | None = None) -> Policy:
    """Load the policy of `source` (the folder of a run or an export, or a config) with the settings `config`.

    With `adapter`, load the config's model and put that PEFT adapter on it.  Raises `UserError` if it cannot be loaded.
    """
    if adapter:
        return adapted_policy(adapter, config)
    return load_run_policy(Path(source), config) if Path(source).is_dir() else load_policy(config)


def adapted_policy(folder: Path, config: GRPOConfig) -> Policy:
    """Load the config's model and put the adapter in `folder`, from any trainer, on it as its trainable weights.

    All PEFT kinds that change layers work (LoRA, DoRA, IA3, ...).  Raises `UserError` if there is no adapter, if it
    puts tokens before the prompt, or if it does not fit the model.
    """
    if not (folder / "adapter_config.json").is_file():
        raise UserError(f"{folder} holds no PEFT adapter (there is no adapter_config.json in it); check --adapter")
    base = load_policy(replace(config, train="lora"))  # "lora" because a 4-bit model cannot be trained in full
    core = base.model.unload()
    message = f"{folder}: the adapter does not fit {config.model} ({{why}}); name its base model"
    with as_user_error(message, OSError, SafetensorError, RuntimeError, ValueError, TypeError, KeyError):
        kind = PeftConfig.from_pretrained(str(folder))
        if kind.is_prompt_learning:
            raise UserError(f"{folder}: a {kind.peft_type.value} adapter puts tokens before the prompt; use LoRA")
        vars(core).pop("peft_config", None)  # some versions of PEFT leave the settings of the removed adapters here
        with quiet_peft():
            model = PeftModel.from_pretrained(core, str(folder), is_trainable=True)
    return Policy(model, base.processor, name=f"{config.model} + {folder}")

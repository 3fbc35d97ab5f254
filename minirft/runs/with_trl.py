"""The same run on TRL's `GRPOTrainer`, on one process or on several: `minirft train CONFIG --engine trl`.

    torchrun --nproc_per_node 4 -m minirft train CONFIG --engine trl                    4 cards, each with all weights
    accelerate launch --config_file FSDP2.yaml -m minirft train CONFIG --engine trl     each with a part of them

Config, data, prompts, reward and what learns are ours; sampling, loss, optimiser and the exchange between processes are
TRL's.  The policy that `load_policy` makes is trained in place, so the run's folder is like that of any other run:
`minirft eval`, `predict`, `report` and `export` take it.  Only process 0 writes.

`with_trl.toml` is the table from our settings to TRL's, with what TRL cannot honour.  docs/scaling.md explains when to
switch, and what changes.
"""

import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from tqdm import tqdm
from transformers import PrinterCallback, TrainerCallback

from minirft import UserError, as_user_error
from minirft.advantages import sound_advantages
from minirft.data import Feed, Rule, Screening, check, training_feed, validation
from minirft.engine import CHAT
from minirft.policy import Policy
from minirft.rewards import RewardFn, Score, reward_for
from minirft.runs.config import GRPOConfig
from minirft.runs.folder import Row, Run, anchored, export, load_policy, load_run_policy, open_run
from minirft.runs.log import library_version, read_log
from minirft.runs.loop import bar_text, log_evaluation
from minirft.runs.step import rollout_metrics, written
from minirft.runs.supervised import given_rollout
from minirft.runs.toml import read_toml
from minirft.runs.trl_prompt import PictureProcessor
from minirft.runs.watches import FailedRewards, FrameWatch, IdleWatch
from minirft.samples import Sample

Seen = list[tuple[str, list[int], Score]]  # of every completion of a step: text, token ids, score

TABLE = read_toml(Path(__file__).with_name("with_trl.toml"))
"""Which setting of ours is which of TRL's; the file explains itself."""


def rules(c: GRPOConfig, processes: int) -> Iterator[Rule]:
    """List what TRL cannot honour, one rule each: (holds, field, what is wrong and what to do)."""
    for name, (value, why) in (TABLE["only"] | (TABLE["split"] if weights_are_split() else {})).items():
        yield getattr(c, name) == value or (name == "kl" and not c.kl_coef), name, why
    rows = c.prompts_per_step * c.group_size // processes
    whole = f"each of the {processes} processes takes whole groups: use a multiple of {processes}"
    yield c.prompts_per_step % processes == 0, "prompts_per_step", whole
    passes = f"TRL splits the {rows} completions of a process into equal passes: use a divisor, or 0"
    yield not c.rows_per_pass or rows % c.rows_per_pass == 0, "rows_per_pass", passes
    one = processes == 1 and c.rows_per_pass in (0, rows)
    yield c.loss != "bnpo" or one, "loss", "TRL's bnpo divides by the tokens of one pass of one process: use dapo"
    yield c.advantage_scale != "none", "advantage_scale", "TRL always subtracts the group's mean: use mean"
    yield c.dtype != "float16", "dtype", "the loss scale of float16 is minirft's own: use bfloat16 or float32"
    yield ":" not in c.device, "device", "the launcher gives each process its card: use auto, or CUDA_VISIBLE_DEVICES"


def trl_settings(c: GRPOConfig, processes: int = 1) -> dict[str, Any]:
    """Translate `c` to arguments of TRL's `GRPOConfig`.

    A step of ours is `updates_per_rollout` steps of TRL's.

    >>> found = trl_settings(GRPOConfig(loss="gspo", rows_per_pass=4), processes=2)
    >>> found["importance_sampling_level"], found["per_device_train_batch_size"], found["gradient_accumulation_steps"]
    ('sequence', 4, 8)
    """
    rows, updates = c.prompts_per_step * c.group_size // processes, c.updates_per_rollout
    found = TABLE["always"] | {theirs: getattr(c, ours) for ours, theirs in TABLE["same"].items()}
    for name, values in TABLE["values"].items():
        found |= values[getattr(c, name)]
    return found | {
        "per_device_train_batch_size": c.rows_per_pass or rows,
        "gradient_accumulation_steps": rows // (c.rows_per_pass or rows),
        "epsilon_high": c.clip_eps_high + (c.loss == "cispo"),
        "max_steps": c.steps * updates,
        "warmup_steps": c.warmup_steps * updates,
        "logging_steps": updates,
        "use_cpu": c.device == "cpu" or not torch.cuda.is_available(),
    }


def train_with_trl(config: GRPOConfig, progress: bool = False) -> Iterator[Row]:
    """Train with TRL, on every process of the launcher; at the end process 0 yields the rows that it logged.

    Raises `UserError` for what TRL cannot honour, and where it is not installed.
    """
    trl, config, processes = import_trl(), anchored(config), int(os.environ.get("WORLD_SIZE", 1))
    check(config, rules(config, processes))
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        raise UserError("accelerate is set to DeepSpeed, with which nothing here was tested: use FSDP 2 or torchrun")
    screening = Screening(config.data, None, progress and is_main())
    feed = lru_cache(2)(training_feed(config, screening))
    reward = reward_for(config.data.task, config.reward, config.reward_weights, config.reward_timeout)
    with quietly(), as_user_error("TRL refuses these settings: {why}", ValueError):
        settings = trl_settings(config, processes)
        args = trl.GRPOConfig(**settings, chat_template_kwargs=CHAT, output_dir=str(config.out))
    run = open_run("trl", config) if is_main() else None  # no hash of the reward: such a run cannot be resumed
    try:
        policy = run.policy if run else load_policy(config)
        rows = _Rows(config, run, policy, feed, screening, progress)
        trainer = new_trainer(trl, args, config, policy, feed, reward, rows.seen)
        trainer.add_callback(rows)
        if weights_are_split() and not trainer.accelerator.is_fsdp2:
            found = trainer.accelerator.distributed_type.value
            raise UserError(f"accelerate runs {found} in the place of FSDP 2: it needs cards, and fsdp_version: 2")
        if run:
            print(f"minirft: TRL {library_version('trl')} trains on {processes} process(es)", file=sys.stderr)
        with quietly():
            trainer.train()
        if run and weights_are_split():  # what `policy` holds is a part
            whole = replace(config, device="cpu", dtype=str(policy.dtype).removeprefix("torch."))
            policy = load_run_policy(run.folder, whole)
        if run:
            export(policy, run.folder / "policy")
        trainer.accelerator.end_training()
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped; {config.out} keeps what was saved; --engine trl cannot resume") from None
    finally:
        if run:
            run.lock.release(force=True)
    yield from read_log(run.log.path)[1] if run else ()


def is_main() -> bool:
    """Return whether this process is the one that writes: the only one, or the first of a launcher's."""
    return os.environ.get("RANK", "0") == "0"


def weights_are_split() -> bool:
    """Return whether accelerate's settings are for FSDP, with a part of the weights in each process."""
    return os.environ.get("ACCELERATE_USE_FSDP") == "true"


def whole_weights(policy: Policy) -> dict[str, Tensor]:
    """Gather the weights that learn, on every process at the same time; without FSDP each has them whole already."""
    found = {name: weight.detach() for name, weight in policy.trainable().items()}
    return {name: weight.full_tensor() if isinstance(weight, DTensor) else weight for name, weight in found.items()}


def new_trainer(
    trl: ModuleType, args: Any, config: GRPOConfig, policy: Policy, feed: Feed, reward: RewardFn, seen: Seen
) -> Any:
    """Make TRL's trainer of `policy`, in place, on the samples of `feed`; what it scores is also put into `seen`.

    Raises `UserError` where TRL would read another prompt than we do.
    """
    processor = PictureProcessor.of(policy, feed(1)[0])
    args.generation_kwargs = args.generation_kwargs or {"suppress_tokens": policy.banned.tolist()}
    learning = {name: weight.data for name, weight in policy.trainable().items()}
    with quietly(), as_user_error("TRL refuses these settings: {why}", ValueError):
        trainer = trl.GRPOTrainer(
            model=policy.model,
            reward_funcs=_reward_func(reward, config.group_size, seen),
            args=args,
            train_dataset=_dataset(config, policy, feed),
            processing_class=processor,
        )
    trainer.remove_callback(PrinterCallback)
    if policy.has_lora and "ref" in policy.model.peft_config:  # a copy; without it the reference is adapters off
        policy.model.delete_adapter("ref")
    for name, weight in policy.trainable().items():  # on 4-bit weights TRL rounds adapters to bfloat16
        weight.data = learning[name]
    return trainer


def _reward_func(reward: RewardFn, group_size: int, seen: Seen) -> Callable[..., list[float | None]]:
    """Put the reward into TRL's form; a group of which one reward failed is left out whole, as in `grpo_step`."""

    def reward_func(
        completions: list[Any], completion_ids: list[list[int]], sample: list[Sample], **_: Any
    ) -> list[float | None]:
        texts = [completion[-1]["content"] for completion in completions]
        scores = [reward(text, asked) for text, asked in zip(texts, sample, strict=True)]
        seen.extend(zip(texts, completion_ids, scores, strict=True))
        totals = torch.tensor([score.total for score in scores]).view(-1, group_size)
        sound = totals.isfinite().all(-1, keepdim=True).expand_as(totals).flatten().tolist()
        return [score.total if kept else None for score, kept in zip(scores, sound, strict=True)]

    return reward_func


def _dataset(config: GRPOConfig, policy: Policy, feed: Feed) -> Any:
    """Lay out the samples of all steps in their order; each is read when TRL asks for its row."""
    import datasets

    count = config.prompts_per_step

    def rows(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        asked = {n: feed(1 + n // count)[n % count] for n in batch["n"]}
        for sample in asked.values():
            policy.encode(sample)  # refuses a prompt that is too long, which TRL does not
        found = {n: row_of(sample) for n, sample in asked.items()}
        return {name: [found[n][name] for n in batch["n"]] for name in ("prompt", "image", "sample")}

    return datasets.Dataset.from_dict({"n": list(range(config.steps * count))}).with_transform(rows)


def row_of(sample: Sample) -> dict[str, Any]:
    """Return a sample as a row of TRL's data set."""
    return {"prompt": [{"role": "user", "content": sample.problem}], "image": sample.picture(), "sample": sample}


class _Rows(TrainerCallback):
    """On process 0, writes what TRL did as rows of the run's log, completions, evaluations and checkpoints."""

    def __init__(
        self, config: GRPOConfig, run: Run | None, policy: Policy, feed: Feed, screening: Screening, progress: bool
    ) -> None:
        self.config, self.run, self.policy, self.feed = config, run, policy, feed
        self.seen: Seen = []
        self.start = 0.0
        if not run:
            return
        self.asked = validation(config, screening) if config.eval_every else []
        screening.save(run.folder)
        if found := screening.row():
            run.log.row("data", step=0, **found)
        self.watch, self.failures, self.idle = FrameWatch(run), FailedRewards(run), IdleWatch(config)
        self.bar = tqdm(total=config.steps, disable=not progress, dynamic_ncols=True)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Evaluate the model as it is before the first step."""
        self._evaluate()
        self.start = time.perf_counter()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
        """Gather the completions of all processes after every step, and write on process 0."""
        from accelerate.utils import gather_object

        if "reward" not in logs:  # the summary at the end
            return
        seen = list(gather_object(self.seen))
        self.seen.clear()
        step = state.global_step // self.config.updates_per_rollout
        saved = step % self.config.save_every == 0 or step == self.config.steps
        weights = whole_weights(self.policy) if saved else None  # on all processes
        if self.run:
            self.run.step = step
            self._write(seen, logs, args.world_size)
            self._evaluate()
            if weights:
                self.run.save(weights)
        self.start = time.perf_counter()

    def _write(self, seen: Seen, logs: dict[str, Any], processes: int) -> None:
        config, samples = self.config, self.feed(self.run.step)
        texts, ids, scores = (list(column) for column in zip(*seen, strict=True))
        rollout = given_rollout(self.policy, samples, texts, ids, config.temperature)
        ended = torch.tensor([row[-1] in self.policy.eos_ids for row in ids])
        rewards = torch.tensor([score.total for score in scores]).view(-1, config.group_size)
        advantages = sound_advantages(rewards, config.advantage_scale, config.advantage_eps)
        row = {"step": self.run.step, **rollout_metrics(replace(rollout, finished=ended), scores, rewards)}
        row |= {ours: logs[theirs] for theirs, ours in TABLE["metrics"].items() if theirs in logs}
        seconds = time.perf_counter() - self.start
        row |= {"seconds": seconds, "tokens_per_second": sum(map(len, ids)) / seconds, "processes": processes}
        completions = written(rollout, scores, advantages)
        self.run.record(completions)
        row |= self.watch.training(row, completions, samples) | self.idle.training(row)
        row |= self.failures.training(completions)
        self.run.log.row("train", **row)
        self.bar.set_postfix_str(bar_text(row))
        self.bar.update()

    def _evaluate(self) -> None:
        if self.run and self.config.eval_every and self.run.step % self.config.eval_every == 0:
            log_evaluation(self.run, self.asked, self.watch)


def quietly() -> AbstractContextManager:
    """Hide the warnings of TRL and its libraries about each other, inside a `with` block."""
    return warnings.catch_warnings(action="ignore")


def import_trl() -> ModuleType:
    """Import TRL and datasets, quietly; raises `UserError` where one is absent."""
    advice = "--engine trl needs TRL ({why}): pip install 'minirft[trl]'"
    with quietly(), as_user_error(advice, ImportError):
        import datasets  # noqa: F401
        import trl
    return trl

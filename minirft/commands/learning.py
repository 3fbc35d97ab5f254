"""This module holds the commands around a run: demo, train, sft, eval, export, pretrain."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from minirft import UserError, cost, data, evaluation, experiments, runs
from minirft.commands.demo import headline, run_demo
from minirft.commands.ending import ending
from minirft.commands.flags import Switch, parse, parse_both, parse_config, print_result

if TYPE_CHECKING:
    from minirft.policy import Policy
    from minirft.samples import Sample


@dataclass(frozen=True)
class DemoFlags:
    """`DemoFlags` are the flags of `demo`."""

    out: Path = Path("runs/demo")
    """Folder for summary.json, report.html, the two runs and the pictures."""
    seed: int = 0
    """Seed of the two training runs; the held-out questions stay the same."""
    config: str = "tiny_detection"
    """Settings of the runs: a TOML file or the name of a shipped one."""
    steps: int | None = None
    """Training steps of both runs; the default is the config's."""
    json: Switch = False
    """Print summary.json on stdout."""


def demo(args: list[str]) -> None:
    """Train and compare on the embedded model: evaluate, GRPO, evaluate again, SFT beside it, a report."""
    flags = parse(DemoFlags, args, "minirft demo")
    config = runs.load_config(flags.config)
    config = replace(config, seed=flags.seed, steps=config.steps if flags.steps is None else flags.steps)
    summary = run_demo(config, flags.out)
    print(json.dumps(summary) if flags.json else f"{headline(summary)}\n\nreport: {flags.out / 'report.html'}")


@dataclass(frozen=True)
class DryFlags:
    """`DryFlags` are the flags of `train`, `sft` and `eval` for a dry run."""

    dry_run: Switch = False
    """Load data and processor only; print prompts, plan, memory and an estimate of time."""
    processor: str | None = None
    """With --dry-run: folder of the tokenizer and picture processor; the default is the model's."""
    tflops: float | None = None
    """With --dry-run: assumed speed, 10^12 operations per second; the default is 20, or 0.05 on the CPU."""
    bandwidth: float | None = None
    """With --dry-run: assumed memory bandwidth, GB per second; the default is 250, or 10 on the CPU."""


@dataclass(frozen=True)
class TrainFlags(DryFlags):
    """`TrainFlags` are the flags of `train` and `sft` besides the settings."""

    resume: Path | None = None
    """Folder of an interrupted run: continue it exactly."""
    track: Literal["none", "tensorboard", "trackio", "wandb"] = "none"
    """Also send every number to a tracker, through its own client (an extra of the same name)."""
    json: Switch = False
    """Print every logged row on stdout, one JSON line each."""


@dataclass(frozen=True)
class EngineFlags(TrainFlags):
    """The flags of `train` that `sft` does not have."""

    engine: Literal["minirft", "trl"] = "minirft"
    """Whose trainer: this package's, or TRL's GRPOTrainer, which torchrun runs on several GPUs (docs/scaling.md)."""


def train(args: list[str]) -> None:
    """Train by reinforcement (GRPO): CONFIG [--field value ...], or --resume RUN."""
    config, flags = parse_config(args, EngineFlags(), "minirft train")
    if flags.engine == "trl":
        train_on_trl(config, flags)
        return
    if flags.dry_run:
        dry_run(config, "grpo", flags)
        return
    from minirft.train import run as run_grpo  # imports torch

    follow(run_grpo(config, flags.resume, progress=True), config, flags)


def train_on_trl(config: runs.GRPOConfig, flags: TrainFlags) -> None:
    """Train with TRL on each process of a launcher; the first one prints the result."""
    if flags.dry_run or flags.resume:
        raise UserError("--engine trl can neither --resume nor --dry-run: leave that out, or leave --engine out")
    rows = runs.train_with_trl(config, progress=sys.stderr.isatty() and not flags.json)
    if runs.is_main():
        follow(rows, config, flags)
    else:
        list(rows)


def sft(args: list[str]) -> None:
    """Train the supervised baseline from the same config: CONFIG [--field value ...], or --resume RUN."""
    config, flags = parse_config(args, TrainFlags(), "minirft sft")
    if flags.dry_run:
        dry_run(config, "sft", flags)
        return
    follow(runs.sft(config, flags.resume, progress=True), config, flags)


def dry_run(config: runs.GRPOConfig, method: Literal["grpo", "sft", "eval"], flags: DryFlags) -> None:
    """Print what a run would do, without loading weights."""
    rates = cost.Rates.of(config, flags.tflops, flags.bandwidth)
    plan = cost.dry_run(config, method, rates, flags.processor)
    print(json.dumps(plan) if flags.json else cost.dryrun.report(plan))


@dataclass(frozen=True)
class EvalFlags(DryFlags):
    """`EvalFlags` are the flags of `eval` besides the settings."""

    mode: Literal["greedy", "sampled"] = "greedy"
    """Take the most likely token, or sample at the training temperature."""
    predictions: Path | None = None
    """File of the answers, continued if it exists; the default is in the run's folder under eval/."""
    two_stages: Switch = False
    """For detection: first ask whether there is an object, and only after a yes ask where."""
    adapter: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder of a PEFT adapter, from any trainer, to put on the config's model."""
    sam: str | None = None
    """For reasonseg: folder or name of a SAM, as facebook/sam-vit-huge, to score masks: mask_giou and mask_ciou."""
    alone: Switch = False
    """Do not evaluate the base model, whose numbers are otherwise shown beside those of a run or an adapter."""
    json: Switch = False
    """Print the metrics as one JSON object."""


def evaluate(args: list[str]) -> None:
    """Measure a run, an export, or a config's model on held-out data: RUN_or_CONFIG; continues after a stop."""
    config, flags = parse_config(args, EvalFlags(), "minirft eval")
    if flags.dry_run:
        dry_run(config, "eval", flags)
        return
    run = Path(args[0])
    screening = data.Screening(config.data, run if run.is_dir() else None, progress=sys.stderr.isatty())
    samples = data.held_out(config, screening)
    kind = data.evaluation_data(config.data).kind
    if flags.sam and kind != "reasonseg":
        raise UserError(f"--sam scores masks, and {kind} data has none; leave it out, or set data.kind = 'reasonseg'")
    policy = runs.source_policy(run, config, flags.adapter)
    sam = evaluation.Sam(flags.sam, policy.device) if flags.sam else None
    whole = not run.is_dir() or runs.is_merged(run)  # the digest of a whole model's weights is that of its files
    trained = bool(flags.adapter) or not whole
    folder = flags.adapter or (run if run.is_dir() else config.out)
    start = time.perf_counter()
    two = {"two_stages": True} if flags.two_stages else {}
    setup = runs.settings(policy, config, samples, flags.mode, trained) | two
    path = flags.predictions or runs.default_file(folder, setup)
    texts, row = _judged(policy, config, samples, path, setup)
    row = {"mode": flags.mode, **row, **evaluation.lvis_metrics(texts, samples, config.data)}
    if sam:
        of_masks = evaluation.mask_metrics(texts, samples, sam, data.masks, progress=sys.stderr.isatty())
        row |= of_masks | {"ci": row["ci"] | of_masks["ci"]}
    row["seconds"] = time.perf_counter() - start
    if warning := row.get("frame_warning"):
        print(f"minirft: {warning}", file=sys.stderr)
    boxes = runs.write_coco_results(texts, samples, config, path)
    del policy  # two models may not fit into one card
    base = {}
    if trained and not flags.alone:
        policy = runs.load_policy(replace(config, train="lora") if flags.adapter else config)
        setup = runs.settings(policy, config, samples, flags.mode, trained=False) | two
        # "base-", because a report takes the newest greedy-* as the answers of the run.
        file = runs.default_file(folder, setup | {"mode": f"base-{flags.mode}"})
        base = _judged(policy, config, samples, file, setup)[1]
    row |= {"predictions": str(path)} | ({"coco_results": str(boxes)} if boxes else {})
    print_result(row | ({"base": base} if base and flags.json else {}), flags.json, beside=base)


def _judged(
    policy: Policy, config: runs.GRPOConfig, samples: list[Sample], path: Path, setup: dict[str, Any]
) -> tuple[list[str], dict[str, Any]]:
    """Return the policy's answers, which are kept in `path`, and their metrics."""
    texts = runs.predict(policy, config, samples, path, setup, progress=sys.stderr.isatty())
    return texts, runs.judged(policy, texts, samples) | evaluation.by_category(samples[0].task, texts, samples)


@dataclass(frozen=True)
class PretrainFlags:
    """`PretrainFlags` are the flags of `pretrain` besides the recipe."""

    out: Path = Path("runs/base")
    """Folder for the checkpoint, its log and its model card."""


def pretrain(args: list[str]) -> None:
    """Train the embedded checkpoint from random weights: about 35 minutes on two cores."""
    recipe, flags = parse_both(experiments.PretrainConfig(), PretrainFlags(), args, "minirft pretrain")
    experiments.main(recipe, flags.out)


@dataclass(frozen=True)
class ExportFlags:
    """`ExportFlags` are the flags of `export`."""

    run: tyro.conf.Positional[Path]
    """Folder of the run."""
    to: Literal["adapter", "merged"] = "merged"
    """An adapter for PEFT, or a whole model folder for transformers and vLLM."""
    out: Path | None = None
    """Folder to write; the default is RUN/adapter or RUN/merged."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """With --to merged: number format of the weights; the default is the run's; float32 keeps the whole update."""


def export(args: list[str]) -> None:
    """Export the policy of a run for PEFT, transformers and vLLM: RUN --to adapter|merged."""
    flags = parse(ExportFlags, args, "minirft export")
    folder = flags.out or flags.run / flags.to
    for note in runs.export_run(flags.run, flags.to, folder, flags.dtype):
        print(f"minirft: {note}", file=sys.stderr)
    print(folder)


def kept(folder: Path) -> str:
    """Return the message about a run that was stopped at once, while it was loading or in the middle of a step."""
    saved = sorted((folder / "checkpoints").glob("step-*"))
    if not saved:
        return "stopped before anything was saved: type the command again"
    return f"stopped; {folder} keeps {saved[-1].name}: go on with --resume {folder}"


def follow(rows: Iterable[dict[str, Any]], config: runs.GRPOConfig, flags: TrainFlags) -> None:
    """Run all steps; print the rows as JSON lines or the folder at the end, then the summary and the next commands."""
    folder = flags.resume or config.out
    try:
        for row in runs.tracked(rows, flags.track, config, folder):
            if flags.json:
                print(json.dumps(runs.plain(row)), flush=True)
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(str(stop) or kept(folder)) from None
    if not flags.json:
        print(f"done: {folder}")
    print(ending(folder, config), file=sys.stderr)

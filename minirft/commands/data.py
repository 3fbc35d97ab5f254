"""This module holds the commands for data before a run: count and draw it, check it, and write it for reuse."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from jinja2 import Template

from minirft import UserError, data, runs, show
from minirft.commands.flags import Switch, T, named_config, parse_both, parse_config, value_of

CATEGORIES_SHOWN, BAD_SHOWN = 40, 20
ENDLESS = 16  # steps that are looked at of a world that is drawn anew at every step


@dataclass(frozen=True)
class InspectFlags:
    """`InspectFlags` are the flags of `data inspect` besides the data settings."""

    samples: int = 12
    """Number of samples to draw."""
    out: Path | None = None
    """PNG file for the drawing; without it samples are only counted."""
    held_out: Switch = False
    """Inspect the evaluation data instead of the training data."""
    json: Switch = False
    """Print one JSON object."""


def inspect(args: list[str]) -> None:
    """Print counts and warnings about a config's data, and draw it: CONFIG [--samples N] [--out FILE.png]."""
    config, flags = parse_data(args, InspectFlags(), "minirft data inspect")
    training, testing, nothing = data.first_samples(config, ENDLESS), [], []
    try:
        testing = data.held_out(replace(config, eval_samples=0))
    except UserError as error:
        if flags.held_out:
            raise
        nothing = [f"nothing to evaluate on: {error}"]
    samples = testing if flags.held_out else training
    limit, wanted = config.max_completion_length, () if config.data.task == "classification" else config.data.categories
    summary = data.summarise(samples) | {"warnings": data.warnings(training, limit, testing, wanted) + nothing}
    if flags.out:
        drawn = data.Screening(config.data).sound(data.subset(samples, flags.samples, config.data.seed))
        flags.out.write_bytes(show.png(show.drawing(drawn)))
        summary["drawing"] = str(flags.out)
    rows = list(summary["by_category"].items())[:CATEGORIES_SHOWN]
    width, more = max((len(name) for name, _ in rows), default=0), len(summary["by_category"]) - len(rows)
    print_found("inspect", summary, flags.json, rows=rows, width=width, more=more)


@dataclass(frozen=True)
class CheckFlags:
    """`CheckFlags` are the flags of `data check` besides the data settings."""

    out: Path | None = None
    """File for the list of bad rows and pictures, one JSON line each: file, row, reason."""
    json: Switch = False
    """Print one JSON object."""


def check(args: list[str]) -> None:
    """Open every picture of a config's data, for training and evaluation, and list the bad ones: CONFIG."""
    config, flags = parse_data(args, CheckFlags(), "minirft data check")
    screening, samples = data.check_all(config.data, progress=sys.stderr.isatty())
    bad = list(screening.findings.bad)
    if flags.out:
        data.write_bad_samples(flags.out, bad)
    counts = screening.findings.counts
    row = {"samples": samples, "pictures": len(screening.opened), "bad": len(bad), "counts": counts}
    row |= {"bad_samples": [asdict(one) for one in bad]}
    print_found("check", row, flags.json, bad=bad, shown=BAD_SHOWN)
    data.settle(bad, samples, config.data.max_bad)


@dataclass(frozen=True)
class SplitFlags:
    """`SplitFlags` are the flags of `data split` besides the data settings."""

    shots: int
    """k, the number of pictures of each category."""
    out: Path = Path("split.json")
    """File to write; a run reads it with --data.split FILE."""
    overwrite: Switch = False
    """Overwrite an existing file that differs."""


def split(args: list[str]) -> None:
    """Write the ids of a k-shot training set to a file: CONFIG --shots K [--out FILE.json]."""
    config, flags = parse_data(args, SplitFlags(shots=0), "minirft data split")
    settings, k = config.data, flags.shots or config.data.shots
    if k < 1:
        raise UserError("how many pictures of each category? give --shots K")
    settings = replace(settings, shots=k, split=None, categories_per_question=1)
    replace(settings, split=flags.out)  # raises if a run could not use the split
    samples = data.training_set(settings)
    source = settings.annotations or settings.folder
    origin = {"kind": settings.kind, "task": settings.task, "source": source.name if source else "", "k": k}
    data.write_split(flags.out, samples, flags.overwrite, **origin, seed=settings.seed, negatives=settings.negatives)
    count = len({sample.category for sample in samples})
    print(f"{len(samples)} samples of {count} categories: {flags.out}; train on them with --data.split {flags.out}")


@dataclass(frozen=True)
class ExportFlags:
    """`ExportFlags` are the flags of `data export` besides the settings of a run."""

    to: Literal["verl"]
    """Format: parquet files and a reward for verl."""
    json: Switch = False
    """Print one JSON object."""


def export_data(args: list[str]) -> None:
    """Write the samples and the reward of a config for another trainer: CONFIG --to verl [--out DIR]."""
    prog = "minirft data export"
    config, flags = parse_config(args, ExportFlags("verl"), prog, out=Path("verl"))
    if value_of("--to", args) is None:
        raise UserError(f"{prog}: for which trainer? give --to verl")
    print_found("export", runs.export_for_verl(config, config.out) | {"folder": str(config.out)}, flags.json)


def parse_data(args: list[str], flags: T, prog: str) -> tuple[runs.GRPOConfig, T]:
    """Parse `CONFIG [--data.field value ...]`; return the settings and the other flags."""
    config, rest = named_config(args, prog)
    settings, flags = parse_both(config.data, flags, rest, prog, name="data")
    return replace(config, data=settings), flags


def print_found(command: str, found: dict[str, Any], as_json: bool, **more: Any) -> None:
    """Print the result of a command as one JSON object, or as the text of its template in this folder."""
    if as_json:
        print(json.dumps(found))
        return
    text = Path(__file__).with_name(f"data_{command}.txt.jinja").read_text(encoding="utf-8")
    print(Template(text, trim_blocks=True).render(found=found, **more).removesuffix("\n"))

"""This module holds the commands for data before a run: count and draw it, check it, and write a split for reuse.

Imports are inside the commands, because torch and transformers take seconds to load and `minirft --help` needs neither.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from minirft import UserError
from minirft.commands.flags import Json, Switch, T, named_config, parse_both, parse_config, value_of

if TYPE_CHECKING:
    from minirft.runs import GRPOConfig
    from minirft.samples import Sample

USAGE = """\
usage: minirft data inspect CONFIG [--samples N] [--out FILE.png] [--data.field value ...]
       minirft data check CONFIG [--out FILE.jsonl] [--data.field value ...]
       minirft data split CONFIG --shots K [--seed S] [--out FILE.json] [--data.field value ...]
       minirft data export CONFIG --to verl [--out DIR] [--field value ...]

`minirft data inspect CONFIG --help` lists what it takes."""
CATEGORIES_SHOWN, BAD_SHOWN = 40, 20


def data(args: list[str]) -> None:
    """Look at data: inspect CONFIG counts and draws, check opens all, split writes k shots, export writes for verl."""
    commands = {"inspect": inspect, "check": check, "split": split, "export": export}
    if args and args[0] in commands:
        commands[args[0]](args[1:])
    elif not args or args[0] in ("-h", "--help"):
        print(USAGE)
        raise SystemExit(0)
    else:
        raise UserError(f"no command data {args[0]}; there are data {', data '.join(commands)}")


@dataclass(frozen=True)
class InspectFlags:
    """`InspectFlags` are the flags of `data inspect` besides the data settings."""

    samples: int = 12
    """Number of samples to draw."""
    out: Path | None = None
    """PNG file for the drawing; without it samples are only counted."""
    held_out: Switch = False
    """Inspect the evaluation data instead of the training data."""
    json: Json = False
    """Print one JSON object."""


def inspect(args: list[str]) -> None:
    """Print counts and warnings about a config's data, and draw it."""
    config, flags = parse_data(args, InspectFlags(), "minirft data inspect")
    from minirft.data import Screening, held_out, subset, summarise, warnings
    from minirft.show import drawing, png

    training, testing, nothing = _training(config), [], []
    try:
        testing = held_out(replace(config, eval_samples=0))
    except UserError as error:
        if flags.held_out:
            raise
        nothing = [f"nothing to evaluate on: {error}"]
    samples = testing if flags.held_out else training
    limit, wanted = config.max_completion_length, () if config.data.task == "classification" else config.data.categories
    summary = summarise(samples) | {"warnings": warnings(training, limit, testing, wanted) + nothing}
    if flags.out:
        drawn = Screening(config.data).sound(subset(samples, flags.samples, config.data.seed))
        flags.out.write_bytes(png(drawing(drawn)))
        summary["drawing"] = str(flags.out)
    rows = list(summary["by_category"].items())[:CATEGORIES_SHOWN]
    width, more = max((len(name) for name, _ in rows), default=0), len(summary["by_category"]) - len(rows)
    show("inspect", summary, flags.json, rows=rows, width=width, more=more)


def _training(config: GRPOConfig) -> list[Sample]:
    """Return the training set, or the samples of the first steps of an endless one."""
    from minirft.data import training_feed, training_set

    if config.data.kind != "tiny" or config.data.shots:
        return training_set(config.data)
    feed = training_feed(config)
    return [sample for step in range(1, 17) for sample in feed(step)]


@dataclass(frozen=True)
class CheckFlags:
    """`CheckFlags` are the flags of `data check` besides the data settings."""

    out: Path | None = None
    """File for the list of bad rows and pictures, one JSON line each: file, row, reason."""
    json: Json = False
    """Print one JSON object."""


def check(args: list[str]) -> None:
    """Open every picture of a config's data, for training and evaluation, and list the bad ones."""
    config, flags = parse_data(args, CheckFlags(), "minirft data check")
    from minirft.data import check_all, settle, write_bad_samples

    screening, samples = check_all(config.data, progress=sys.stderr.isatty())
    bad = list(screening.findings.bad)
    if flags.out:
        write_bad_samples(flags.out, bad)
    counts = screening.findings.counts
    row = {"samples": samples, "pictures": len(screening.opened), "bad": len(bad), "counts": counts}
    row |= {"bad_samples": [asdict(one) for one in bad]}
    show("check", row, flags.json, bad=bad, shown=BAD_SHOWN)
    settle(bad, samples, config.data.max_bad)


@dataclass(frozen=True)
class SplitFlags:
    """`SplitFlags` are the flags of `data split` besides the data settings."""

    shots: int
    """k, the number of pictures of each category."""
    seed: int | None = None
    """Seed of the draw; the default is the config's `data.seed`."""
    out: Path = Path("split.json")
    """File to write; a run reads it with --data.split FILE."""
    overwrite: Switch = False
    """Overwrite an existing file that differs."""


def split(args: list[str]) -> None:
    """Write the ids of a k-shot training set to a file."""
    config, flags = parse_data(args, SplitFlags(shots=0), "minirft data split")
    from minirft.data import training_set, write_split

    settings, k = config.data, flags.shots or config.data.shots
    if k < 1:
        raise UserError("how many pictures of each category? give --shots K")
    seed = settings.seed if flags.seed is None else flags.seed
    settings = replace(settings, shots=k, seed=seed, split=None, categories_per_question=1)
    replace(settings, split=flags.out)  # raises if a run could not use the split
    samples = training_set(settings)
    source = settings.annotations or settings.folder
    origin = {"kind": settings.kind, "task": settings.task, "source": source.name if source else "", "k": k}
    write_split(flags.out, samples, flags.overwrite, **origin, seed=seed, negatives=settings.negatives)
    count = len({sample.category for sample in samples})
    print(f"{len(samples)} samples of {count} categories: {flags.out}; train on them with --data.split {flags.out}")


@dataclass(frozen=True)
class ExportFlags:
    """`ExportFlags` are the flags of `data export` besides the settings of a run."""

    to: Literal["verl"]
    """Format: parquet files and a reward for verl."""
    json: Json = False
    """Print one JSON object."""


def export(args: list[str]) -> None:
    """Write the samples and the reward of a config for another trainer, into the folder --out."""
    prog = "minirft data export"
    config, flags = parse_config(args, ExportFlags("verl"), prog, out=Path("verl"))
    if value_of("--to", args) is None:
        raise UserError(f"{prog}: for which trainer? give --to verl")
    from minirft.runs import export_for_verl

    show("export", export_for_verl(config, config.out) | {"folder": str(config.out)}, flags.json)


def parse_data(args: list[str], flags: T, prog: str) -> tuple[GRPOConfig, T]:
    """Parse `CONFIG [--data.field value ...]`; return the settings and the other flags."""
    config, rest = named_config(args, prog)
    settings, flags = parse_both(config.data, flags, rest, prog, name="data")
    return replace(config, data=settings), flags


def show(command: str, found: dict[str, Any], as_json: bool, **more: Any) -> None:
    """Print the result of a command as one JSON object, or as the text of its template in this folder."""
    if as_json:
        print(json.dumps(found))
        return
    from jinja2 import Template

    text = Path(__file__).with_name(f"data_{command}.txt.jinja").read_text(encoding="utf-8")
    print(Template(text, trim_blocks=True).render(found=found, **more).removesuffix("\n"))

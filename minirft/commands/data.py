"""The commands that look at data before a run: what is in it, what it looks like, and a split that others can reuse.

Imports are inside the commands: torch and transformers take seconds, and `minirft --help` needs neither.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from minirft.commands.flags import Json, Switch, T, parse
from minirft.engine import quieten_libraries

if TYPE_CHECKING:
    from minirft.data import Bad
    from minirft.runs import GRPOConfig
    from minirft.samples import Sample

USAGE = """\
usage: minirft data inspect CONFIG [--samples N] [--out FILE.png] [--data.field value ...]
       minirft data check CONFIG [--out FILE.jsonl] [--data.field value ...]
       minirft data split CONFIG --shots K [--seed S] [--out FILE.json] [--data.field value ...]

`minirft data inspect CONFIG --help` lists what it takes."""
CATEGORIES_SHOWN, BAD_SHOWN = 40, 20


def data(args: list[str]) -> None:
    """Look before you train: inspect CONFIG draws and counts, check CONFIG opens every picture, split CONFIG draws."""
    from minirft import UserError

    commands = {"inspect": inspect, "check": check, "split": split}
    if args and args[0] in commands:
        commands[args[0]](args[1:])
    elif not args or args[0] in ("-h", "--help"):
        print(USAGE)
        raise SystemExit(0)
    else:
        raise UserError(f"no command data {args[0]}; there are data inspect, data check and data split")


@dataclass(frozen=True)
class InspectFlags:
    """What `data inspect` takes besides the data settings."""

    samples: int = 12
    """How many samples to draw."""
    out: Path | None = None
    """PNG file for the drawing; without it samples are only counted."""
    held_out: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Look at the evaluation data instead of the training data."""
    json: Json = False
    """Print one JSON object."""


def inspect(args: list[str]) -> None:
    """Counts, warnings and a drawing of a config's data."""
    config, flags = parse_data(args, InspectFlags(), "minirft data inspect")
    from minirft import UserError
    from minirft.data import Screening, held_out, summarise, warnings
    from minirft.show import drawing, png

    training, found, nothing = _training(config), [], []
    try:
        found = held_out(replace(config, eval_samples=0))
    except UserError as error:
        if flags.held_out:
            raise
        nothing = [f"nothing to evaluate on: {error}"]
    samples = found if flags.held_out else training
    limit, wanted = config.max_completion_length, () if config.data.task == "classification" else config.data.categories
    told = summarise(samples) | {"warnings": warnings(training, limit, found, wanted) + nothing}
    if flags.out:
        drawn = Screening.of(config.data).sound(_spread(samples, flags.samples, config.data.seed))
        flags.out.write_bytes(png(drawing(drawn)))
        told["drawing"] = str(flags.out)
    print(json.dumps(told) if flags.json else report(told))


def _training(config: GRPOConfig) -> list[Sample]:
    """The training set, or of an endless world the first steps' samples."""
    from minirft.data import training_feed, training_set

    if config.data.kind != "tiny" or config.data.shots:
        return training_set(config.data)
    feed = training_feed(config)
    return [sample for step in range(1, 17) for sample in feed(step)]


@dataclass(frozen=True)
class CheckFlags:
    """What `data check` takes besides the data settings."""

    out: Path | None = None
    """File for the list of what is bad, a line of JSON each: file, row, reason."""
    json: Json = False
    """Print one JSON object."""


def check(args: list[str]) -> None:
    """Open every picture of a config's data, for training and evaluation, and list what cannot be used."""
    config, flags = parse_data(args, CheckFlags(), "minirft data check")
    from minirft import UserError
    from minirft.data import check_all, refusal, too_many, write_bad_samples

    told = check_all(config.data, progress=sys.stderr.isatty())
    bad, total = told.bad, told.samples + len(told.bad)
    if flags.out:
        write_bad_samples(flags.out, bad)
    row = {"samples": told.samples, "pictures": told.pictures, "bad": len(bad), "counts": told.counts}
    print(json.dumps(row | {"bad_samples": [asdict(one) for one in bad]}) if flags.json else check_report(row, bad))
    if too_many(len(bad), total, config.data.max_bad):
        raise UserError(refusal(bad, total, config.data.max_bad))


def check_report(row: dict[str, Any], bad: list[Bad]) -> str:
    """The summary of a check as text: a line, what was counted, the first of the bad ones."""
    lines = [f"{row['pictures']} pictures opened, {row['samples']} samples can be used, {row['bad']} bad"]
    lines += [f"  {count} {what}" for what, count in row["counts"].items()]
    lines += [f"bad: {one}" for one in bad[:BAD_SHOWN]]
    more = len(bad) - BAD_SHOWN
    return "\n".join([*lines, *([f"... and {more} more (--out FILE.jsonl lists all)"] if more > 0 else [])])


@dataclass(frozen=True)
class SplitFlags:
    """What `data split` takes besides the data settings."""

    shots: int
    """k, pictures of each category."""
    seed: int | None = None
    """Draws them; `data.seed` of the config if left out."""
    out: Path = Path("split.json")
    """File to write; a run reads it with --data.split FILE."""
    overwrite: Switch = False
    """Write over a file that is there and differs."""


def split(args: list[str]) -> None:
    """Write the ids of a k-shot training set to a file."""
    config, flags = parse_data(args, SplitFlags(shots=0), "minirft data split")
    from minirft import UserError
    from minirft.data import training_set, write_split

    settings, k = config.data, flags.shots or config.data.shots
    if k < 1:
        raise UserError("how many pictures of each category? give --shots K")
    seed = settings.seed if flags.seed is None else flags.seed
    settings = replace(settings, shots=k, seed=seed, split=None, categories_per_question=1)
    replace(settings, split=flags.out)  # refuses what cannot be read back
    samples = training_set(settings)
    source = settings.annotations or settings.folder
    origin = {"kind": settings.kind, "task": settings.task, "source": source.name if source else "", "k": k}
    write_split(flags.out, samples, flags.overwrite, **origin, seed=seed, negatives=settings.negatives)
    count = len({sample.category for sample in samples})
    print(f"{len(samples)} samples of {count} categories: {flags.out}; train on them with --data.split {flags.out}")


def parse_data(args: list[str], flags: T, prog: str) -> tuple[GRPOConfig, T]:
    """The settings and the other flags of `CONFIG [--data.field value ...]`; CONFIG as in `parse_config`."""
    quieten_libraries()
    from minirft import UserError
    from minirft.data import DataConfig
    from minirft.runs import load_config, run_config

    if (not args or args[0].startswith("-")) and not {"-h", "--help"} & set(args):
        raise UserError(f"{prog}: name a config first, as in `{prog} tiny_detection`")
    named = bool(args) and not args[0].startswith("-")
    source, rest = (args[0], args[1:]) if named else ("tiny_detection", args)
    config = run_config(Path(source)) if Path(source).is_dir() else load_config(source)

    def both(data: DataConfig, flags: T) -> tuple[DataConfig, T]:
        return data, flags

    flat = tyro.conf.arg(name="")
    both.__annotations__ = {"data": DataConfig, "flags": Annotated[type(flags), flat]}
    both.__defaults__ = (config.data, flags)
    settings, flags = parse(both, rest, prog)
    return replace(config, data=settings), flags


def report(told: dict[str, Any]) -> str:
    """The counts as text: a line, a table of categories, the warnings."""
    numbers = {name: told[name] for name in ("samples", "pictures", "boxes", "categories")}
    lines = [", ".join(f"{count} {name}" for name, count in numbers.items()) + f", {told['absent']:.0%} absent"]
    rows = list(told["by_category"].items())
    if rows:
        width = max(len(name) for name, _ in rows[:CATEGORIES_SHOWN])
        lines += ["", f"{'category':<{width}}  samples  absent  boxes"]
        lines += [
            f"{name:<{width}}  {row['samples']:>7}  {row['absent']:>6}  {row['boxes']:>5}"
            for name, row in rows[:CATEGORIES_SHOWN]
        ]
    if len(rows) > CATEGORIES_SHOWN:
        lines.append(f"... and {len(rows) - CATEGORIES_SHOWN} more (--json lists all)")
    lines += ["", *(f"warning: {warning}" for warning in told["warnings"])] if told["warnings"] else []
    return "\n".join([*lines, *(["", f"drawing: {told['drawing']}"] if "drawing" in told else [])])


def _spread(samples: list[Sample], count: int, seed: int) -> list[Sample]:
    """`count` samples drawn by the seed, in their order."""
    import numpy as np

    drawn = np.random.default_rng(seed).permutation(len(samples))[:count]
    return [samples[i] for i in sorted(drawn)]

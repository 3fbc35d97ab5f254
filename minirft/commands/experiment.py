"""This module holds the command that repeats the paper's comparisons, on the tiny world or on real data."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from minirft import UserError, as_user_error, experiments, runs, show
from minirft.commands.flags import Switch, parse
from minirft.commands.learning import DryFlags

TINY_ONLY = {"workers"}
BOTH = {"name", "profile", "seeds", "out", "json"}


@dataclass(frozen=True, kw_only=True)
class ExperimentFlags(DryFlags):
    """`ExperimentFlags` are the flags of `experiment`."""

    name: Annotated[str, tyro.conf.Positional]
    """Experiment: classification, coco-fewshot, lvis-fewshot, out-of-domain, grounding, open-vocabulary, presence,
    bases (not with real data), or all."""
    profile: Literal["tiny", "real"] = "tiny"
    """The tiny world on a CPU (`tiny`), or photographs and the shipped configs, which need a GPU (`real`)."""
    seeds: int | None = None
    """Number of seeds of every tested cell; the default is 5, or 1 with real data."""
    workers: int = 0
    """Number of cells that run at the same time, each on one thread; 0 means one per core.  Not with real data."""
    out: Path | None = None
    """Folder of NAME.json; the default is results/tiny or results/real.  Finished cells in it are not repeated."""
    data_root: Path | None = None
    """With real data: the folder that holds every set (docs/data.md shows it)."""
    model_size: Literal["2b", "7b"] = "2b"
    """With real data: use Qwen2-VL-2B's configs, or 7B's if the paper has 7B."""
    model: str | None = None
    """With real data: another model, such as a folder with the weights."""
    settings: Path | None = None
    """With real data: a TOML file of settings to replace in every config, such as `quantize = "none"`."""
    eval_samples: int | None = None
    """With real data: number of questions of each test; the default is the configs' 300, and 0 means all."""
    json: Switch = False
    """Print JSON lines instead of a table."""


def experiment(args: list[str]) -> None:
    """Repeat one of the paper's tables: base, SFT and RFT with intervals; tiny world or --profile real."""
    flags = parse(ExperimentFlags, args, "minirft experiment")
    _refuse_flags_of_the_other_profile(flags)
    out, usual = flags.out or Path("results") / flags.profile, 5 if flags.profile == "tiny" else 1
    flags = replace(flags, out=out, seeds=usual if flags.seeds is None else flags.seeds)
    do = _tiny if flags.profile == "tiny" else _outlook if flags.dry_run else _real
    try:
        do(flags)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped; {out} keeps the finished cells: the same command does the rest") from None


def _refuse_flags_of_the_other_profile(flags: ExperimentFlags) -> None:
    for flag in fields(flags):
        belongs = "tiny" if flag.name in TINY_ONLY else "real"
        if flag.name not in BOTH and belongs != flags.profile and getattr(flags, flag.name) != flag.default:
            raise UserError(f"--{flag.name.replace('_', '-')} is for --profile {belongs}: leave it out")


def _tiny(flags: ExperimentFlags) -> None:
    names = list(experiments.EXPERIMENTS) if flags.name == "all" else [flags.name]
    for name, found in [(name, experiments.find(name)) for name in names]:
        board = experiments.run_experiment(name, flags.out, flags.seeds, flags.workers)
        _print_lines(flags, name, f"{found.title} ({found.paper})", experiments.lines(board, name))


def _real(flags: ExperimentFlags) -> None:
    for study in _studies(flags):
        found = experiments.lines(experiments.run_study(study, flags.seeds), study.name, study.parts)
        _print_lines(flags, study.name, study.name, found, partial(experiments.paper_number, study))


def _print_lines(
    flags: ExperimentFlags,
    name: str,
    title: str,
    found: Iterable[show.Line],
    paper: Callable[[show.Line], float | None] = lambda line: None,
) -> None:
    if not flags.json:
        print(f"{title}\n{experiments.table(found, paper)}\n")
    else:
        for line in found:
            print(json.dumps({"experiment": name, **asdict(line), "paper": paper(line)}))


def _outlook(flags: ExperimentFlags) -> None:
    speed = flags.tflops, flags.bandwidth, flags.processor
    rows = (row for study in _studies(flags) for row in experiments.outlook(study, flags.seeds, *speed))
    for text in (f"{json.dumps(row)}\n" for row in rows) if flags.json else experiments.outlook_table(rows):
        print(text, end="", flush=True)


def _studies(flags: ExperimentFlags) -> list[experiments.Study]:
    """Return the chosen studies with the user's settings.  Raises `UserError` that names all missing files."""
    names = experiments.names_of(flags.name, flags.model_size)
    if flags.data_root is None:
        raise UserError("--profile real needs --data-root DIR, the folder that holds every set (docs/data.md draws it)")
    lacking = experiments.missing(flags.data_root, names, flags.model_size)
    if lacking:
        raise UserError(
            f"{flags.data_root} lacks {', '.join(lacking)}: put them or links to them there (docs/data.md draws it)"
        )
    with as_user_error(f"{flags.settings}: {{why}}", UserError):
        changes: dict[str, Any] = runs.read_toml(flags.settings) if flags.settings else {}
    changes |= {"model": flags.model} if flags.model else {}
    changes |= {"eval_samples": flags.eval_samples} if flags.eval_samples is not None else {}
    places = flags.data_root.absolute(), flags.out, flags.model_size
    studies = [experiments.Study(name, *places, changes) for name in names]
    for study in studies:
        for part in study.parts:
            study.settings(part)
    return studies

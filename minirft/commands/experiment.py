"""This module holds the command that repeats the paper's comparisons, on the tiny world or on real data.

Imports are inside the command, because torch and transformers take seconds to load and `minirft --help` needs neither.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from minirft import UserError, as_user_error
from minirft.commands.flags import Json, Switch, parse  # noqa: F401 (pdoc resolves DryFlags' Switch here)
from minirft.commands.learning import DryFlags
from minirft.engine import quieten_libraries

if TYPE_CHECKING:
    from minirft.experiments import Study

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
    json: Json = False
    """Print JSON lines instead of a table."""


def experiment(args: list[str]) -> None:
    """Repeat one of the paper's tables: base, SFT and RFT with intervals; tiny world or --profile real."""
    flags = parse(ExperimentFlags, args, "minirft experiment")
    _refuse_flags_of_the_other_profile(flags)
    quieten_libraries()
    do = _tiny if flags.profile == "tiny" else _outlook if flags.dry_run else _real
    try:
        do(flags)
    except KeyboardInterrupt:
        where = flags.out or f"results/{flags.profile}"
        raise KeyboardInterrupt(f"stopped; {where} keeps the finished cells: the same command does the rest") from None


def _refuse_flags_of_the_other_profile(flags: ExperimentFlags) -> None:
    for flag in fields(flags):
        belongs = "tiny" if flag.name in TINY_ONLY else "real"
        if flag.name not in BOTH and belongs != flags.profile and getattr(flags, flag.name) != flag.default:
            raise UserError(f"--{flag.name.replace('_', '-')} is for --profile {belongs}: leave it out")


def _tiny(flags: ExperimentFlags) -> None:
    from minirft.experiments import EXPERIMENTS, find, lines, run_experiment, table

    names = list(EXPERIMENTS) if flags.name == "all" else [flags.name]
    for name in names:
        find(name)
    for name in names:
        seeds = 5 if flags.seeds is None else flags.seeds
        board = run_experiment(name, flags.out or Path("results/tiny"), seeds, flags.workers)
        if flags.json:
            _print_rows({"experiment": name, **asdict(line)} for line in lines(board, name))
        else:
            print(f"{EXPERIMENTS[name].title} ({EXPERIMENTS[name].paper})\n{table(board, name)}\n")


# ------------------------------------------------------------------ on real data


def _real(flags: ExperimentFlags) -> None:
    from minirft.experiments import METRIC, paper_number, real_lines, real_table, run_study

    for study in _studies(flags):
        board = run_study(study, _seeds(flags))
        if not flags.json:
            print(f"{study.name}\n{real_table(study, board)}\n")
            continue
        for line in real_lines(study, board):
            metric = METRIC[study.settings(line.part).data.task]
            row = {"experiment": study.name, **asdict(line), "metric": metric, "paper": paper_number(study, line)}
            _print_rows([row])


def _outlook(flags: ExperimentFlags) -> None:
    from minirft.experiments import outlook, outlook_table

    rows = (
        row
        for study in _studies(flags)
        for row in outlook(study, _seeds(flags), flags.tflops, flags.bandwidth, flags.processor)
    )
    if flags.json:
        _print_rows(rows)
    else:
        for line in outlook_table(rows):
            print(line, flush=True)


def _seeds(flags: ExperimentFlags) -> int:
    return 1 if flags.seeds is None else flags.seeds


def _studies(flags: ExperimentFlags) -> list[Study]:
    """Return the chosen studies with the user's settings.  Raises `UserError` that names all missing files."""
    from minirft.experiments import Study, missing, names_of
    from minirft.runs import read_toml

    names = names_of(flags.name, flags.model_size)
    if flags.data_root is None:
        raise UserError("--profile real needs --data-root DIR, the folder that holds every set (docs/data.md draws it)")
    lacking = missing(flags.data_root, names, flags.model_size)
    if lacking:
        raise UserError(
            f"{flags.data_root} lacks {', '.join(lacking)}: put them or links to them there (docs/data.md draws it)"
        )
    with as_user_error(f"{flags.settings}: {{why}}", UserError):
        changes: dict[str, Any] = read_toml(flags.settings) if flags.settings else {}
    changes |= {"model": flags.model} if flags.model else {}
    changes |= {"eval_samples": flags.eval_samples} if flags.eval_samples is not None else {}
    out = flags.out or Path("results/real")
    studies = [Study(name, flags.data_root.absolute(), out, flags.model_size, changes) for name in names]
    for study in studies:
        for part in study.parts:
            study.settings(part)
    return studies


def _print_rows(rows: Iterable[dict[str, Any]]) -> None:
    for row in rows:
        print(json.dumps(row), flush=True)

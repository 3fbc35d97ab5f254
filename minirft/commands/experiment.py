"""The command that re-enacts the paper's comparisons.

Imports are inside the command: torch and transformers take seconds, and `minirft --help` needs neither.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro

from minirft.flags import Json, parse, quieten_libraries


@dataclass(frozen=True)
class ExperimentFlags:
    """What `experiment` takes."""

    name: Annotated[str, tyro.conf.Positional]
    """Which: classification, coco-fewshot, lvis-fewshot, out-of-domain, grounding, open-vocabulary, or all."""
    seeds: int = 5
    """Seeds of every cell that is tested."""
    workers: int = 0
    """Cells done side by side, each on one thread; 0 is one on every core."""
    out: Path = Path("results/tiny")
    """Folder of NAME.json; cells that are there are not done again."""
    json: Json = False
    """Print JSON lines instead of a table."""


def experiment(args: list[str]) -> None:
    """Re-enact one of the paper's tables on the tiny world: base, SFT and RFT, several seeds, intervals."""
    flags = parse(ExperimentFlags, args, "minirft experiment")
    quieten_libraries()
    from minirft.experiments.board import run_experiment
    from minirft.experiments.settings import EXPERIMENTS, find
    from minirft.experiments.summary import lines, table

    names = list(EXPERIMENTS) if flags.name == "all" else [flags.name]
    for name in names:
        find(name)
    for name in names:
        board = run_experiment(name, flags.out, flags.seeds, flags.workers)
        if flags.json:
            for line in lines(board, name):
                print(json.dumps({"experiment": name, **asdict(line)}))
        else:
            print(f"{EXPERIMENTS[name].title} ({EXPERIMENTS[name].paper})\n{table(board, name)}\n")

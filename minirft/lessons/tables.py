"""The committed tables of `minirft experiment` in a notebook, and one cell of them run live on a fresh seed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minirft.experiments import HEADLINE, Board, Key, choose, find, measured, prediction_interval, run_cell

RESULTS = Path("../results")  # from where notebooks run
FRESH_SEED = 6


@dataclass(frozen=True)
class LiveCell:
    """A run of a method on a fresh seed, beside what the committed seeds let one expect of it."""

    value: float
    """The headline metric of the greedy answers."""
    low: float
    high: float
    """Where 99 of 100 new seeds are expected, by the committed ones."""
    record: dict[str, Any]
    """All that `run_cell` found."""

    @property
    def expected(self) -> bool:
        """Whether the run came out where the committed ones say."""
        return self.low <= self.value <= self.high

    def __str__(self) -> str:
        return f"{self.value:.3f}, expected {self.low:.3f} to {self.high:.3f} ({self.record['seconds']:.0f} s)"


def committed(name: str) -> Board:
    """The table of an experiment as it lies in the repository's `results/tiny`."""
    return Board.open(RESULTS / "tiny" / f"{name}.json", name)


def results(name: str) -> dict[str, Any]:
    """The repository keeps its measurements in `results`; `name` is a JSON file there."""
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def paper_table(number: str) -> dict[str, Any]:
    """The paper prints this table: its rows, and notes on how they were measured."""
    return results("paper.json")["tables"][number]


def by_seed(
    board: Board, method: str, key: str, *, part: str = "", test: str = "same", mode: str = "greedy", shots: int = 0
) -> list[float]:
    """The committed seeds of a method gave these values of metric `key`.

    Without a `part`, those of all parts; without `shots`, those of all numbers of shots.  The base has no shots.

    >>> cell = {"tests": {"same": {"greedy": {"recall": 0.5}}}}
    >>> by_seed(Board(Path(), cells={Key("", "6 rare", "rft", 10, 1): cell}), "rft", "recall", shots=10)
    [0.5]
    """
    chosen = (k for k in board.cells if k.method == method and not k.tunes and part in ("", k.part))
    return [board.cells[k]["tests"][test][mode][key] for k in chosen if not (shots and k.shots) or k.shots == shots]


def live_cell(
    board: Board, name: str, part: str, method: str, shots: int, test: str, seed: int = FRESH_SEED
) -> LiveCell:
    """Train `method` at its chosen rate and length on the shots of a new seed, and ask all questions of every test.

    It trains the one policy of the process: take a `fresh_policy` again afterwards.  Raises `ValueError` when the
    table holds that seed already, or no seeds of the method.
    """
    key = Key(name, part, method, shots, seed, *choose(board, name, part, method, shots))
    known = measured(board, name, part, method, shots, test)
    if key in board.cells or not known:
        raise ValueError(f"seed {seed} of {method} is no fresh seed beside committed ones")
    record = run_cell(key)
    value = record["tests"][test]["greedy"][HEADLINE[find(name).parts[part].task]]
    return LiveCell(value, *prediction_interval(known[0]), record)

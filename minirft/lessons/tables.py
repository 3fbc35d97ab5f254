"""The stored tables of `minirft experiment` for notebooks, and live runs of one of their cells on a fresh seed."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minirft.experiments import Board, Key, choose, find, measured, prediction_interval, run_cell

RESULTS = Path("../results")  # relative to the folder of the notebooks
FRESH_SEED = 6


@dataclass(frozen=True)
class LiveCell:
    """A run of a method on a fresh seed, with the value that the stored seeds predict.

    `value` is the headline metric of the greedy answers.  The interval from `low` to `high`, computed from the stored
    seeds, should contain 99 of 100 new ones.  `record` is the result of `run_cell`.
    """

    value: float
    low: float
    high: float
    record: dict[str, Any]

    @property
    def expected(self) -> bool:
        """Return whether the value lies in the predicted interval."""
        return self.low <= self.value <= self.high

    def __str__(self) -> str:
        return f"{self.value:.3f}, expected {self.low:.3f} to {self.high:.3f} ({self.record['seconds']:.0f} s)"


def committed(name: str) -> Board:
    """Open the table of an experiment in the repository's `results/tiny`."""
    return Board.open(RESULTS / "tiny" / f"{name}.json", name)


def results(name: str) -> dict[str, Any]:
    """Read the JSON file `name` in the repository's `results`."""
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def paper_table(number: str) -> dict[str, Any]:
    """Read a table of the paper: its rows, and notes on the measurement."""
    return results("paper.json")["tables"][number]


def by_seed(
    board: Board, method: str, key: str, *, part: str = "", test: str = "same", mode: str = "greedy", shots: int = 0
) -> list[float]:
    """Return the values of metric `key` for the stored seeds of a method.

    Without `part`, those of all parts; without `shots`, those of all numbers of shots.  The base has no shots.

    >>> cell = {"tests": {"same": {"greedy": {"recall": 0.5}}}}
    >>> by_seed(Board(Path(), cells={Key("", "6 rare", "rft", 10, 1): cell}), "rft", "recall", shots=10)
    [0.5]
    """
    chosen = (k for k in board.cells if k.method == method and not k.tunes and part in ("", k.part))
    return [board.cells[k]["tests"][test][mode][key] for k in chosen if not (shots and k.shots) or k.shots == shots]


def live_cell(board: Board, name: str, part: str, method: str, shots: int, test: str) -> LiveCell:
    """Train `method` at its chosen rate and length on shots of a fresh seed, and answer all questions of every test.

    This trains the only policy of the process: call `fresh_policy` again afterwards.  Raises `ValueError` if the table
    already has that seed, or has no seeds of the method.
    """
    key = Key(name, part, method, shots, FRESH_SEED, *choose(board, name, part, method, shots))
    known = measured(board, name, part, method, shots, test)
    if key in board.cells or not known:
        raise ValueError(f"seed {FRESH_SEED} of {method} is no fresh seed beside committed ones")
    record = run_cell(key)
    value = record["tests"][test]["greedy"][find(name).parts[part].metric]
    return LiveCell(value, *prediction_interval(known[0]), record)

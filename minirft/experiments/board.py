"""All cells of an experiment: the missing ones are run in parallel and stored in one file.

The file, OUT/NAME.json, is rewritten after every cell, so a run that was killed continues where it stopped.  First come
the cells that tune.  Then, for each part, method and number of shots, the rate and length with the best validation are
tested on `seeds` fresh seeds.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from minirft import UserError
from minirft.data import write_whole
from minirft.engine import quieten_libraries
from minirft.experiments.cells import TUNING_SEED, Key, run_cell
from minirft.experiments.settings import RATES, RFT, STOPS, TEST_ON, VALIDATION, find
from minirft.runs import provenance

Work = Callable[[Key], dict[str, Any]]


@dataclass
class Board:
    """The file of an experiment and its cells."""

    file: Path
    header: dict[str, Any] = field(default_factory=dict)
    cells: dict[Key, dict[str, Any]] = field(default_factory=dict)  # "key", as a table, and the result of `run_cell`

    @classmethod
    def open(cls, file: Path, name: str, header: dict[str, Any] | None = None) -> Board:
        """Read the cells of a file, or make an empty board; `header` is by default that of the tiny world.

        Raises `UserError` for a file with other settings or in another format.
        """
        settings = {"experiment": name, "rates": RATES, "stops": STOPS, "test": TEST_ON}
        board = cls(file, header := header or provenance(settings, VALIDATION, "cpu"))
        if not file.exists():
            return board
        try:
            stored = json.loads(file.read_text(encoding="utf-8"))
            board.cells = {Key(**cell["key"]): cell for cell in stored["cells"]}
            same = stored["header"]["config"] == json.loads(json.dumps(header["config"]))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file} is not the file of an experiment ({error}); choose another --out") from None
        if not same:
            raise UserError(f"{file} was made with other settings; move it away, or choose another --out")
        return board

    def add(self, key: Key, result: dict[str, Any]) -> None:
        """Store a cell, also in the file, which is replaced in one step."""
        self.cells[key] = {"key": asdict(key), **result}
        order = sorted(self.cells, key=lambda key: (key.part, key.shots, key.method, key.seed, key.rate))
        rows = ",\n".join(json.dumps(self.cells[key]) for key in order)
        text = f'{{"header": {json.dumps(self.header)},\n"cells": [\n{rows}\n]}}\n'
        write_whole(self.file, text)


def run_experiment(name: str, out: Path, seeds: int = 5, workers: int = 0, progress: bool = True) -> Board:
    """Run all cells of an experiment that are not yet in its file; `workers` 0 means one for each core."""
    board = Board.open(out / f"{name}.json", name)
    run_cells(board, keys_to_tune(name), f"{name}: choosing", workers, progress)
    run_cells(board, keys_to_test(board, name, seeds), f"{name}: testing", workers, progress)
    return board


def run_cells(
    board: Board, keys: Iterable[Key], label: str, workers: int, progress: bool, work: Work = run_cell
) -> None:
    """Run the missing cells of `keys`, `workers` at a time; 0 means one for each core."""
    left = [key for key in keys if key not in board.cells]
    workers = min(workers or os.cpu_count() or 1, len(left))
    with tqdm(total=len(left), desc=label, unit="cell", disable=not progress, dynamic_ncols=True) as bar:
        for key, found in _done(left, workers, work):
            board.add(key, found)
            bar.update()


def _done(keys: list[Key], workers: int, work: Work) -> Iterator[tuple[Key, dict[str, Any]]]:
    """Yield each key with the result of `work`, in the order of completion, in this process or in `workers`."""
    if workers <= 1:
        yield from ((key, work(key)) for key in keys)
        return
    fresh = multiprocessing.get_context("spawn")  # a forked torch may hang
    with ProcessPoolExecutor(workers, fresh, _begin_worker) as pool:
        jobs = {pool.submit(work, key): key for key in keys}
        try:
            yield from ((jobs[job], job.result()) for job in as_completed(jobs))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _begin_worker() -> None:
    """Silence a worker, and end it with its parent: after a kill it would wait for its next cell forever."""
    quieten_libraries()
    parent = multiprocessing.parent_process()
    if parent:
        threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def keys_to_tune(name: str) -> list[Key]:
    """List a cell for each part, number of shots, method and learning rate, the longest first."""
    return [
        Key(name, part, method, shots, TUNING_SEED, rate)
        for method in reversed(find(name).methods)
        for part, spec in find(name).parts.items()
        for shots in spec.shots
        for rate in RATES[method]
    ]


def keys_to_test(board: Board, name: str, seeds: int) -> list[Key]:
    """List the base once for each part, and each method at its chosen rate and length with every seed."""
    keys = []
    for part, spec in find(name).parts.items():
        keys.append(Key(name, part, "base", 0, 1))
        for shots in spec.shots:
            for method in find(name).methods:
                rate, steps = choose(board, name, part, method, shots)
                keys += [Key(name, part, method, shots, seed, rate, steps) for seed in range(1, seeds + 1)]
    return sorted(keys, key=lambda key: key.method not in RFT)


def choose(board: Board, name: str, part: str, method: str, shots: int) -> tuple[float, int]:
    """Return the rate and length with the best validation; of equals the shorter, then the lower rate."""
    scores = {
        (int(steps), rate): value
        for rate in RATES[method]
        for steps, value in board.cells[Key(name, part, method, shots, TUNING_SEED, rate)]["validation"].items()
    }
    steps, rate = max(sorted(scores), key=scores.__getitem__)
    return rate, steps

"""This module reads the folder of a run for a report: logged rows, held-out answers, and groups of completions.

Pictures are loaded again with the run's settings.  If the data has moved, everything that needs no picture still works.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minirft import UserError
from minirft.data import held_out, training_feed, validation
from minirft.runs.config import GRPOConfig
from minirft.runs.folder import HELD_OUT, run_config
from minirft.runs.log import read_log, read_rows
from minirft.samples import Sample

Row = dict[str, Any]
ROW = "a row of completions; remove that line"


@dataclass(frozen=True)
class GroupOfStep:
    """A `GroupOfStep` is one group of a step: its rows, the index of the first, and the parts of all B rows."""

    step: int
    sample: Sample
    rows: list[Row]
    first: int
    parts: dict[str, list[float]]


@dataclass(frozen=True)
class History:
    """A `History` holds a run's settings, the rows of its log, and the answers to its held-out samples.

    `answers` is {step: texts}, in the order of `samples`; step -1 means a later `minirft eval`.
    """

    name: str
    folder: Path
    config: GRPOConfig
    header: Row
    rows: list[Row]
    samples: Sequence[Sample]
    answers: Mapping[int, Sequence[str]]

    @property
    def evaluations(self) -> list[Row]:
        """Return the metrics of the evaluations in the log, in order."""
        kept = [row for row in self.rows if row.get("kind") == "eval"]
        return [{key: value for key, value in row.items() if not isinstance(value, str)} for row in kept]

    @property
    def steps(self) -> int:
        """Return the number of training steps in the log."""
        return max((row["step"] for row in self.rows if row.get("kind") == "train"), default=0)


def read_history(folder: Path) -> History:
    """Read a run's folder; load the held-out samples if the run kept answers to them.

    Raises `UserError` if `folder` holds no run, or if one of its files is damaged.
    """
    config = run_config(folder)
    header, rows = read_log(folder / "log.jsonl")
    by_step = _answers(folder)
    samples = _held_out(config) if by_step else []
    known = {sample_id for texts in by_step.values() for sample_id in texts}
    samples = [sample for sample in samples if sample.id in known]
    answers = {
        step: [texts[sample.id] for sample in samples]
        for step, texts in by_step.items()
        if samples and all(sample.id in texts for sample in samples)
    }
    return History(folder.resolve().name, folder, config, header, rows, samples, answers)


def groups_of(history: History, count: int) -> list[GroupOfStep]:
    """Return, for at most `count` steps spread over the run, the group whose rewards differ most.

    An SFT run has no rewards, so its list is empty; a step whose samples cannot be loaded is left out.
    """
    steps: dict[int, list[Row]] = defaultdict(list)
    for row in _rows(history.folder / "completions.jsonl"):
        if "reward" in row:
            steps[row["step"]].append(row)
    try:
        feed = training_feed(history.config) if steps else None
    except UserError:
        return []
    groups = []
    for step in _spread(sorted(steps), count):
        samples = {sample.id: sample for sample in feed(step)} if feed else {}
        group = _widest(step, steps[step], history.config.group_size, samples)
        groups += [group] if group else []
    return groups


def _widest(step: int, rows: list[Row], size: int, samples: Mapping[str, Sample]) -> GroupOfStep | None:
    """Return the group of a step whose rewards differ most, among those whose sample is known."""
    groups = [rows[first : first + size] for first in range(0, len(rows), size)]
    # A group with a failed reward was not part of the update.
    groups = [group for group in groups if len(group) == size and all(row["reward"] is not None for row in group)]
    rows = [row for group in groups for row in group]
    names = dict.fromkeys(name for row in rows for name in row["parts"])
    parts = {name: [row["parts"].get(name, 0.0) for row in rows] for name in names}
    known = [i for i, group in enumerate(groups) if group[0]["sample"] in samples]
    if not known:
        return None
    best = max(known, key=lambda i: np.std([row["reward"] for row in groups[i]]))
    return GroupOfStep(step, samples[groups[best][0]["sample"]], groups[best], best * size, parts)


def _spread(steps: Sequence[int], count: int) -> list[int]:
    """Return at most `count` of the steps, at equal distances.

    >>> _spread(range(1, 101), 3), _spread([1, 2], 3)
    ([1, 51, 100], [1, 2])
    """
    places = sorted({round(place) for place in np.linspace(0, len(steps) - 1, min(count, len(steps)))})
    return [steps[place] for place in places]


def _answers(folder: Path) -> dict[int, dict[str, str]]:
    """Return {step: {sample: text}} of the run's evaluations, or of the newest greedy `minirft eval`, as step -1."""
    answers: dict[int, dict[str, str]] = defaultdict(dict)
    for row in _rows(folder / HELD_OUT):
        answers[row["step"]][row["sample"]] = row["text"]
    files = sorted(folder.glob("eval/greedy-*/predictions.jsonl"), key=lambda file: file.stat().st_mtime)
    if not answers and files:
        answers[-1] = {row["id"]: row["text"] for row in _rows(files[-1]) if "text" in row}
    return dict(sorted(answers.items()))


def _held_out(config: GRPOConfig) -> list[Sample]:
    try:
        samples = [*validation(config), *held_out(config)]  # of evaluations in training, and of `minirft eval`
        return list({sample.id: sample for sample in samples}.values())
    except UserError:
        return []


def _rows(path: Path) -> list[Row]:
    return read_rows(path, ROW) if path.exists() else []

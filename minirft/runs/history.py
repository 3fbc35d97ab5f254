"""This module reads the folder of a run for a report: logged rows, held-out answers, and scored completions.

Pictures are loaded again with the run's settings.  If the data has moved, everything that needs no picture still works.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from minirft import UserError
from minirft.data import held_out, validation
from minirft.runs.config import GRPOConfig
from minirft.runs.folder import HELD_OUT, run_config
from minirft.runs.log import read_log, read_rows
from minirft.runs.step import Row
from minirft.samples import Sample

ROW = "a row of completions; remove that line"


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
    def scored(self) -> dict[int, list[Row]]:
        """Return {step: rows} of the completions that have rewards; an SFT run has none."""
        steps: dict[int, list[Row]] = defaultdict(list)
        for row in _rows(self.folder / "completions.jsonl"):
            if "reward" in row:
                steps[row["step"]].append(row)
        return dict(steps)

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

"""This module decodes every picture of a run before the first step, in parallel, and leaves out those that fail.

    screening = Screening(config.data, folder_of_a_resumed_run)
    samples = screening.sound(samples)        # decodes the pictures that it has not decoded yet
    screening.save(run_folder)                # bad_samples.jsonl, and pictures.json for a resume

The results are saved in the run's folder.  A resumed run does not open these pictures again and makes the same choices
as the first one, even if the files have changed since.
"""

import contextlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm
from tqdm.contrib.concurrent import thread_map

from minirft.data.checks import will_not_open
from minirft.data.findings import BAD_SAMPLES, Bad, Findings, settle, write_bad_samples, write_whole
from minirft.data.settings import DataConfig, evaluation_data
from minirft.pictures import UNREADABLE, habits, open_picture, to_rgb
from minirft.samples import Sample

OPENED = "pictures.json"  # in the folder of a run: the problem of each picture that was opened, "" for none
THREADS = min(16, 2 * (os.cpu_count() or 1))


class Screening:
    """A `Screening` holds the findings in the data of one run, and which of its pictures open.

    It starts with the results of the run in `folder`, if any.  Without `open_pictures` only rows and headers are read,
    as in a dry run.
    """

    def __init__(
        self, data: DataConfig, folder: Path | None = None, progress: bool = False, *, open_pictures: bool = True
    ) -> None:
        self.findings, self.max_bad = Findings(data.on_bad), data.max_bad
        self.open_pictures, self.progress = open_pictures, progress
        self.opened: dict[str, str] = {}
        if folder and (folder / OPENED).is_file():
            with contextlib.suppress(OSError, ValueError, TypeError):  # a damaged file: open the pictures once more
                self.opened = dict(json.loads((folder / OPENED).read_text(encoding="utf-8")))

    def sound(self, samples: Sequence[Sample]) -> list[Sample]:
        """Return the samples whose pictures decode, in their order; the others are reported as lost."""
        if not self.open_pictures:
            return list(samples)
        asked: dict[str, list[Sample]] = {}
        for sample in samples:
            if not isinstance(sample.image, Image.Image):
                asked.setdefault(key(sample), []).append(sample)
        self._open({name: own[0] for name, own in asked.items() if name not in self.opened})
        for name, own in asked.items():
            if self.opened[name]:
                self.findings.lose(name, "", self.opened[name], [sample.id for sample in own])
        return [sample for sample in samples if not self.opened.get(key(sample))]

    def settle(self) -> None:
        """Raise `UserError` if more pictures are bad than `max_bad` allows; report the counts otherwise."""
        bad = [Bad(name, "", reason) for name, reason in self.opened.items() if reason]
        settle(bad, len(self.opened) - len(bad), self.max_bad)
        self.findings.report_counts()

    def row(self) -> dict[str, Any]:
        """Return the row about the data for a run's log; empty if there is nothing to report."""
        counts = {"mended": self.findings.counts} if self.findings.counts else {}
        return ({"bad_samples": len(self.findings.bad)} if self.findings.bad else {}) | counts

    def save(self, folder: Path) -> None:
        """Write bad_samples.jsonl, if there are any, and pictures.json into the folder of a run."""
        if self.findings.bad:
            write_bad_samples(folder / BAD_SAMPLES, self.findings.bad)
        if self.opened:
            write_whole(folder / OPENED, json.dumps(self.opened, indent=0, ensure_ascii=False))

    def _open(self, samples: dict[str, Sample]) -> None:
        bar = {"desc": "opening pictures", "unit": "picture", "dynamic_ncols": True, "leave": False}
        hidden = not (self.progress and samples)
        looked = thread_map(decode, samples.values(), max_workers=THREADS, tqdm_class=tqdm, disable=hidden, **bar)
        for name, (problem, noted) in zip(samples, looked, strict=True):
            self.opened[name] = problem
            for what in noted:
                self.findings.note(what, name)


def check_all(data: DataConfig, progress: bool = False) -> tuple[Screening, int]:
    """Read every part of the data for training and evaluation and open every picture, even if many are bad.

    Return the screening with all findings, and the number of samples that can be used.
    """
    from minirft.data.readers import candidates

    lenient = replace(data, on_bad="skip", max_bad=1.0, split=None, shots=0)
    screening, kept = Screening(lenient, progress=progress), 0
    for settings, part, prefix in _places(lenient):
        samples = candidates(settings, part, prefix=prefix, findings=screening.findings)
        kept += len(screening.sound(samples))
    return screening, kept


def _places(data: DataConfig) -> list[tuple[DataConfig, str, str]]:
    """Return settings, part and prefix of each set of files that a run with these settings may read."""
    from minirft.data.readers import parts_of

    if data.kind == "tiny":
        return []
    other = evaluation_data(data)
    places = [(data, "train", "")]
    places += [(other, part, "") for part in parts_of(other) if part != "train"]
    own = replace(other, categories=data.categories) != replace(data, categories=data.categories)
    return places + ([(other, "train", "eval_")] if own and not parts_of(other) and other.kind != "tiny" else [])


def key(sample: Sample) -> str:
    """Return the key of a sample's picture: its path, or its table and row."""
    return f"in memory: {sample.id}" if isinstance(sample.image, Image.Image) else str(sample.image)


def decode(sample: Sample) -> tuple[str, list[str]]:
    """Decode a sample's picture; return its problem, "" for none, and its properties that should be reported."""
    try:
        with open_picture(sample.image) as picture:
            noted = habits(picture)
            to_rgb(picture, sample.upright)
    except UNREADABLE as error:
        return will_not_open(sample.image, error), []
    return "", noted


def redraw(draw: Callable[[set[str]], list[Sample]], every: list[Sample], screening: Screening) -> list[Sample]:
    """Call `draw(without)` until all pictures of the drawn samples open, and return these samples of `every`.

    `without` are the ids of samples whose pictures did not open.
    """
    without: set[str] = set()
    while True:
        drawn = draw(without)
        if not drawn:
            settle(list(screening.findings.bad), 0, screening.max_bad)
        if len(screening.sound(drawn)) == len(drawn):
            screening.settle()
            return drawn
        without = {sample.id for sample in every if screening.opened.get(key(sample))}

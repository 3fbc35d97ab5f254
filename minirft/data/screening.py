"""Every picture of a run is opened and decoded before the first step, in parallel; one that will not open costs itself.

    screening = Screening.of(config.data, folder_of_a_resumed_run)
    samples = screening.sound(samples)        # decodes what it has not seen yet
    screening.save(run_folder)                # bad_samples.jsonl, and pictures.json for a resume

What was seen is kept in the run's folder: a resumed run opens none of these again and decides as the first one did,
whatever has become of the files since.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm
from tqdm.contrib.concurrent import thread_map

from minirft import UserError
from minirft.data.checks import will_not_open
from minirft.data.findings import BAD_SAMPLES, Bad, Findings, OnBad, refusal, too_many, write_bad_samples, write_whole
from minirft.data.settings import DataConfig, evaluation_data
from minirft.pictures import UNREADABLE, habits, open_picture, to_rgb
from minirft.samples import Sample

OPENED = "pictures.json"  # in the folder of a run: what is wrong with each picture that was opened, "" for nothing
THREADS = min(16, 2 * (os.cpu_count() or 1))


class Screening:
    """What reading the data of one run has found, and which of its pictures open.

    Without `open_pictures` only rows and headers are looked at, as a dry run does.
    """

    def __init__(
        self, on_bad: OnBad = "skip", max_bad: float = 0.05, *, open_pictures: bool = True, progress: bool = False
    ) -> None:
        self.findings = Findings(on_bad, max_bad)
        self.open_pictures, self.progress = open_pictures, progress
        self.opened: dict[str, str] = {}

    @classmethod
    def of(cls, data: DataConfig, folder: Path | None = None, progress: bool = False) -> Screening:
        """The screening that the settings `data` ask for; what the run in `folder` has opened is not opened again."""
        made = cls(data.on_bad, data.max_bad, progress=progress)
        if folder and (folder / OPENED).is_file():
            with contextlib.suppress(OSError, ValueError, TypeError):  # a torn file: they are opened once more
                made.opened = dict(json.loads((folder / OPENED).read_text(encoding="utf-8")))
        return made

    def sound(self, samples: Sequence[Sample]) -> list[Sample]:
        """Those of the samples whose pictures decode, in their order; the others are reported as lost."""
        if not self.open_pictures:
            return list(samples)
        first: dict[str, Sample] = {}
        for sample in samples:
            if not isinstance(sample.image, Image.Image):
                first.setdefault(key(sample), sample)
        self._open({name: sample for name, sample in first.items() if name not in self.opened})
        bad = {name for name in first if self.opened[name]}
        for name in first:
            if name in bad:
                lost = [sample.id for sample in samples if key(sample) == name]
                self.findings.lose(name, "", self.opened[name], lost)
        return [sample for sample in samples if key(sample) not in bad]

    def settle(self) -> None:
        """Raise `UserError` where more pictures are bad than `max_bad` allows; say what was counted."""
        bad = [Bad(name, "", reason) for name, reason in self.opened.items() if reason]
        if too_many(len(bad), len(self.opened), self.findings.max_bad):
            raise UserError(refusal(bad, len(self.opened), self.findings.max_bad))
        self.findings.tell_counts()

    def row(self) -> dict[str, Any]:
        """What a run's log says about its data; empty where nothing is to be said."""
        counts = {"mended": self.findings.counts} if self.findings.counts else {}
        return ({"bad_samples": len(self.findings.bad)} if self.findings.bad else {}) | counts

    def save(self, folder: Path) -> None:
        """Write bad_samples.jsonl, if there are any, and what was opened, into the folder of a run."""
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


@dataclass(frozen=True)
class Checked:
    """What is in all files of a set: samples that can be used, pictures opened, what is bad, and what was counted."""

    samples: int
    pictures: int
    bad: list[Bad]
    counts: dict[str, int]


def check_all(data: DataConfig, progress: bool = False) -> Checked:
    """Read every part of the data that is trained or evaluated on and open every picture, however many are bad."""
    from minirft.data.readers import candidates

    screening, kept = Screening("skip", 1.0, progress=progress), 0
    lenient = replace(data, on_bad="skip", max_bad=1.0, split=None, shots=0)
    for settings, part, prefix in _places(lenient):
        samples = candidates(settings, part, prefix=prefix, findings=screening.findings)
        kept += len(screening.sound(samples))
    return Checked(kept, len(screening.opened), list(screening.findings.bad), screening.findings.counts)


def _places(data: DataConfig) -> list[tuple[DataConfig, str, str]]:
    """Settings, part and prefix of everything that a run of these settings may read."""
    from minirft.data.readers import parts_of

    if data.kind == "tiny":
        return []
    other = evaluation_data(data)
    places = [(data, "train", "")]
    places += [(other, part, "") for part in parts_of(other) if part != "train"]
    own = replace(other, categories=data.categories) != replace(data, categories=data.categories)
    return places + ([(other, "train", "eval_")] if own and not parts_of(other) and other.kind != "tiny" else [])


def key(sample: Sample) -> str:
    """What a picture is known by: its path, or its table and row."""
    return f"in memory: {sample.id}" if isinstance(sample.image, Image.Image) else str(sample.image)


def decode(sample: Sample) -> tuple[str, list[str]]:
    """What is wrong with a sample's picture, "" for nothing; and what about it is worth saying."""
    try:
        with open_picture(sample.image) as picture:
            noted = habits(picture)
            to_rgb(picture, sample.upright)
    except UNREADABLE as error:
        return will_not_open(sample.image, error), []
    return "", noted


def redraw(draw: Callable[[set[str]], list[Sample]], every: list[Sample], screening: Screening) -> list[Sample]:
    """What `draw(without)` takes of `every`, drawn anew without those whose pictures do not open until all are sound.

    `without` are ids.
    """
    without: set[str] = set()
    while True:
        drawn = draw(without)
        if not drawn:
            raise UserError(refusal(list(screening.findings.bad), len(every), screening.findings.max_bad))
        if len(screening.sound(drawn)) == len(drawn):
            screening.settle()
            return drawn
        without = {sample.id for sample in every if screening.opened.get(key(sample))}

"""What is wrong with data, gathered while it is read: what cost a sample, what was put right, and what to say about it.

Whether a sample can be used is decided before the first step, by what the files hold alone, so that a resumed run sees
the same samples.  Three things can happen to a row or a picture:

    lost      it cannot be right (a box of NaN, a torn file): its sample is left out and listed
    mended    one reading is left (a box 5 pixels over the edge): it is put right, counted and said
    noted     it is right (a picture that a camera turned): it is counted and said

With `on_bad = "stop"` the first that is lost or mended stops everything.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from minirft import UserError, as_user_error

log = logging.getLogger(__name__)
OnBad = Literal["skip", "stop"]
BAD_SAMPLES = "bad_samples.jsonl"


@dataclass(frozen=True)
class Bad:
    """A row or a picture that cannot be used: where it is, and why; `row` is empty for a whole file.

    >>> str(Bad("a.json", "annotations[3]", "has no bbox"))
    'a.json: annotations[3] has no bbox'
    """

    file: str
    row: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}: {self.row} {self.reason}" if self.row else f"{self.file} {self.reason}"


class Findings:
    """Everything that was found in the data of one run; a loader is given one to report to.

    >>> found = Findings("skip")
    >>> found.lose("a.json", "annotations[3]", "has no bbox", ids=["7:cat"])
    >>> found.is_lost("7:cat"), found.is_lost("8:cat")
    (True, False)
    """

    def __init__(self, on_bad: OnBad = "stop", max_bad: float = 0.05) -> None:
        self.on_bad, self.max_bad = on_bad, max_bad
        self.bad: dict[Bad, None] = {}  # an ordered set: the same file may be read twice
        self._counted: dict[tuple[str, str, str], None] = {}
        self._lost: set[str] = set()

    def lose(self, file: Any, row: str, reason: str, ids: Iterable[str] = ()) -> None:
        """Leave out what is at this place, and with it the samples `ids`; "7:" is every sample of picture 7."""
        found = Bad(str(file), row, reason)
        if self.on_bad == "stop":
            raise UserError(str(found))
        self.bad[found] = None
        self._lost.update(ids)

    def mend(self, what: str, file: Any, row: str, reason: str) -> None:
        """Count what is put right, under its name in the log."""
        if self.on_bad == "stop":
            raise UserError(str(Bad(str(file), row, reason)))
        self.note(what, file, row)

    def note(self, what: str, file: Any, row: str = "") -> None:
        """Count what is right as it is and still worth a word, such as a picture that a camera turned."""
        self._counted[what, str(file), row] = None

    @property
    def counts(self) -> dict[str, int]:
        """How often each thing was put right or noted, by its name."""
        return dict(Counter(what for what, _, _ in self._counted))

    def is_lost(self, sample_id: str) -> bool:
        """Whether the sample was left out because of something that was found."""
        return sample_id in self._lost or f"{sample_id.split(':', 1)[0]}:" in self._lost

    def settle(self, kept: int) -> None:
        """Raise `UserError` if more was lost than `max_bad` allows beside `kept` samples that can be used."""
        if self.bad and (not kept or too_many(len(self.bad), kept + len(self.bad), self.max_bad)):
            raise UserError(refusal(list(self.bad), kept + len(self.bad), self.max_bad))

    def tell_counts(self) -> None:
        """Say what was counted, each once with its first place, and how much was lost."""
        for what, count in self.counts.items():
            file, row = next((file, row) for name, file, row in self._counted if name == what)
            tell(f"{what}: {count}, the first in {file}{': ' if row else ''}{row}")
        if self.bad:
            tell(f"{len(self.bad)} bad rows or pictures are left out, the first: {next(iter(self.bad))}")

    def add(self, other: Findings) -> None:
        """Take over what another reading found; what both found counts once."""
        self.bad |= other.bad
        self._counted |= other._counted
        self._lost |= other._lost


def too_many(bad: int, total: int, max_bad: float) -> bool:
    """Whether `bad` of `total` are more than the share `max_bad`; one alone is not, unless the share is 0.

    >>> too_many(1, 4, 0.05), too_many(2, 4, 0.05), too_many(1, 1000, 0.0)
    (False, True, True)
    """
    return bad > (max(1, max_bad * total) if max_bad else 0)


def refusal(bad: list[Bad], total: int, max_bad: float) -> str:
    """The line that a run stops with."""
    first, allowed = str(bad[0]).rstrip("."), int(max(1, max_bad * total)) if max_bad else 0
    limit = f", and data.max_bad = {max_bad:g} allows {allowed}" if len(bad) > allowed else ""
    return (
        f"{len(bad)} of {total} samples cannot be used{limit}; the first: {first}; "
        f"`minirft data check CONFIG` lists all of them"
    )


_said: set[str] = set()


def tell(text: str) -> None:
    """Say something about the data, once in a process."""
    if text not in _said:
        _said.add(text)
        log.warning("%s", text)


def write_bad_samples(path: Path, bad: Iterable[Bad]) -> None:
    """A line of JSON for each: file, row, reason."""
    write_whole(path, "".join(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in bad))


def write_whole(path: Path, text: str) -> None:
    """Write a file that appears whole or not at all.  Raises `UserError` when it cannot be written."""
    part = path.with_name(f".{path.name}.part")
    with as_user_error(f"cannot write {path} ({{why}}); free some space", OSError):
        part.write_text(text, encoding="utf-8", errors="replace")
        os.replace(part, path)

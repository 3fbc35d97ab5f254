"""This module collects what is wrong with data while it is read: what was left out, what was repaired, what to report.

Whether a sample can be used is decided before the first step, from the files alone, so that a resumed run sees the
same samples.  Three things can happen to a row or a picture:

    lost      it cannot be correct (a box of NaN, a damaged file): its sample is left out and listed
    mended    only one correction makes sense (a box 5 pixels over the edge): it is corrected, counted and reported
    noted     it is correct (a picture with an EXIF rotation): it is counted and reported

With `on_bad = "stop"` the first lost or mended row stops the run.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from minirft import UserError, as_user_error

log = logging.getLogger(__name__)
BAD_SAMPLES = "bad_samples.jsonl"
UPRIGHT = "pictures turned upright, as their annotations are"  # what is noted about them


@dataclass(frozen=True)
class Bad:
    """A `Bad` is a row or a picture that cannot be used, with its place and the reason; `row` is "" for a whole file.

    >>> str(Bad("a.json", "annotations[3]", "has no bbox"))
    'a.json: annotations[3] has no bbox'
    """

    file: str
    row: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}: {self.row} {self.reason}" if self.row else f"{self.file} {self.reason}"


class Findings:
    """`Findings` collects the problems in the data of one run; every reader reports to one.

    >>> findings = Findings("skip")
    >>> findings.lose("a.json", "annotations[3]", "has no bbox", ids=["7:cat"])
    >>> findings.is_lost("7:cat"), findings.is_lost("8:cat")
    (True, False)
    """

    def __init__(self, on_bad: Literal["skip", "stop"] = "stop") -> None:
        self.on_bad = on_bad
        self.bad: dict[Bad, None] = {}  # an ordered set, because the same file may be read twice
        self._counted: dict[tuple[str, str, str], None] = {}
        self._lost: set[str] = set()

    def lose(self, file: Any, row: str, reason: str, ids: Iterable[str] = ()) -> None:
        """Leave out a row, and with it the samples `ids`; "7:" means every sample of picture 7."""
        bad = Bad(str(file), row, reason)
        if self.on_bad == "stop":
            raise UserError(str(bad))
        self.bad[bad] = None
        self._lost.update(ids)

    @contextmanager
    def losing(self, file: Any, row: str, ids: Iterable[str] = (), prefix: str = "") -> Iterator[None]:
        """Call `lose` for a `UserError` that is raised in the block; its message, after `prefix`, is the reason."""
        try:
            yield
        except UserError as error:
            self.lose(file, row, prefix + str(error).removeprefix(f"{file}").lstrip(": "), ids)

    def mend(self, what: str, file: Any, row: str, reason: str) -> None:
        """Count a repaired row, under the name `what` in the log."""
        if self.on_bad == "stop":
            raise UserError(str(Bad(str(file), row, reason)))
        self.note(what, file, row)

    def note(self, what: str, file: Any, row: str = "") -> None:
        """Count something correct that should be reported, such as a picture with an EXIF rotation."""
        self._counted[what, str(file), row] = None

    @property
    def counts(self) -> dict[str, int]:
        """Return how often each thing was repaired or noted, by its name."""
        return dict(Counter(what for what, _, _ in self._counted))

    def is_lost(self, sample_id: str) -> bool:
        """Return whether the sample was left out."""
        return sample_id in self._lost or f"{sample_id.split(':', 1)[0]}:" in self._lost

    def report_counts(self) -> None:
        """Report what was counted, each kind once with its first place, and how much was lost."""
        for what, count in self.counts.items():
            file, row = next((file, row) for name, file, row in self._counted if name == what)
            report(f"{what}: {count}, the first in {file}{': ' if row else ''}{row}")
        if self.bad:
            report(f"{len(self.bad)} bad rows or pictures are left out, the first: {next(iter(self.bad))}")

    def add(self, other: Findings) -> None:
        """Add the findings of another read of the data; what both contain counts once."""
        self.bad |= other.bad
        self._counted |= other._counted
        self._lost |= other._lost


def settle(bad: Sequence[Bad], kept: int, max_bad: float) -> None:
    """Raise `UserError` if the `bad` exceed the share `max_bad` of all, or if none is `kept`.

    A single one never exceeds it, unless the share is 0.

    >>> settle([Bad("a.json", "row 1", "has no bbox")], 3, 0.05)
    >>> settle([Bad("a.json", "row 1", "has no bbox")], 999, 0.0)
    Traceback (most recent call last):
    minirft.UserError: 1 of 1000 samples cannot be used, and data.max_bad = 0 allows 0; the first: a.json: row 1 has \
no bbox; `minirft data check CONFIG` lists all of them
    """
    total = kept + len(bad)
    allowed = int(max(1, max_bad * total)) if max_bad else 0
    if len(bad) > allowed or (bad and not kept):
        limit = f", and data.max_bad = {max_bad:g} allows {allowed}" if len(bad) > allowed else ""
        raise UserError(
            f"{len(bad)} of {total} samples cannot be used{limit}; the first: {str(bad[0]).rstrip('.')}; "
            f"`minirft data check CONFIG` lists all of them"
        )


@cache
def report(text: str) -> None:
    """Log a warning about the data, once in a process."""
    log.warning("%s", text)


def write_bad_samples(path: Path, bad: Iterable[Bad]) -> None:
    """Write one line of JSON for each bad row: file, row, reason."""
    write_whole(path, "".join(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in bad))


def write_whole(path: Path, text: str) -> None:
    """Write a file, in a new folder if need be, completely or not at all.  Raises `UserError` if that fails."""
    part = path.with_name(f".{path.name}.part")
    with as_user_error(f"cannot write {path} ({{why}}); free some space", OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8", errors="replace")
        os.replace(part, path)

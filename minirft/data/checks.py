"""What every reader checks the same way: a picture that opens, a category that exists, a text file that is there."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from minirft import UserError
from minirft.data.findings import Findings, tell
from minirft.pictures import ASPECT, MARKED, TURNED, UNREADABLE, kind_of_file, open_picture, orientation

Place = tuple[Any, str]  # a file and a row in it, as `Findings` takes them
JUNK = {"thumbs.db", "desktop.ini", "icon\r", "__macosx"}  # what Windows and macOS leave beside pictures


class Header(NamedTuple):
    """What the header of a picture says: its size in pixels as stored, and whether a camera marked it as turned.

    >>> Header(640, 480, turned=True, marked=True).upright_size
    (480, 640)
    """

    width: int
    height: int
    turned: bool  # by a quarter, so that upright it is `height` wide
    marked: bool  # as turned in any way, or mirrored

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height once the mark is applied."""
        return (self.height, self.width) if self.turned else (self.width, self.height)


def read_header(source: Any, where: str = "check data.images") -> Header:
    """The header of a picture.  Raises `UserError`, with `where` as advice on a missing file.

    >>> read_header(Path("gone.jpg"), "see row 3")
    Traceback (most recent call last):
    minirft.UserError: no picture at gone.jpg; see row 3
    """
    try:
        with open_picture(source) as picture:
            (width, height), mark = picture.size, orientation(picture)
    except FileNotFoundError:
        raise UserError(f"no picture at {source}; {where}") from None
    except UNREADABLE as error:
        raise UserError(f"{source} {will_not_open(source, error)}") from None
    if max(width, height) > ASPECT * min(width, height):
        raise UserError(
            f"{source} is {width} x {height} pixels: a side over {ASPECT} times the other (its aspect ratio), which "
            f"Qwen2-VL's processor refuses; crop or remove it"
        )
    return Header(width, height, mark in TURNED, mark in MARKED)


def will_not_open(source: Any, error: Exception) -> str:
    """What a picture that does not open is, where its first bytes tell, and what to do."""
    kind = kind_of_file(source) if isinstance(source, Path) else ""
    if kind and not kind.endswith("picture"):
        return f"will not open as a picture: it is {kind}; replace or remove it"
    return f"will not open as a picture ({error}); repair or remove it"


def usable(findings: Findings, source: Any, where: str, ids: Iterable[str]) -> Header | None:
    """The header of a picture is read; None, and the loss reported, where it will not do."""
    try:
        return read_header(source, where)
    except UserError as error:
        findings.lose(source, "", str(error).removeprefix(f"{source} "), ids)
        return None


def is_junk(path: Path, root: Path) -> bool:
    """Whether a file below `root` is hidden, or one that an operating system leaves beside pictures.

    >>> is_junk(Path("pets/cat/Thumbs.db"), Path("pets")), is_junk(Path("pets/cat/1.jpg"), Path("pets"))
    (True, False)
    """
    return any(part.startswith(".") or part.lower() in JUNK for part in path.relative_to(root).parts)


def locate(folder: Path, name: str, findings: Findings) -> Path:
    r"""The picture that a file calls `name`: as it stands, with / for \, without leading folders that are not there.

    Else the one file below `folder` of that last name; it is noted in `findings`.  Raises `UserError` with the folder
    tried and what it does hold.
    """
    first = folder / name
    if first.is_file():
        return first
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    tails = [folder.joinpath(*parts[i:]) for i in range(len(parts))]
    found = list(dict.fromkeys(path for path in tails if path.is_file())) if parts else []
    found = found or list(files_below(folder).get(parts[-1] if parts else "", ()))
    if len(found) == 1:
        findings.note("pictures found at another place than their names say", found[0])
        return found[0]
    if found:
        raise UserError(f"no picture at {first}, and {len(found)} of that name, such as {found[0]}; set data.images")
    raise UserError(f"no picture at {first}; {_instead(folder)}")


def find_picture(findings: Findings, folder: Path, name: str, at: Place, ids: Iterable[str]) -> Path | None:
    """The picture that the row at `at` names is located; None, and the loss reported, where it is not there."""
    try:
        return locate(folder, name, findings)
    except UserError as error:
        findings.lose(*at, f"names a picture that is not there: {error}", ids)
        return None


@lru_cache(maxsize=16)
def files_below(folder: Path) -> dict[str, list[Path]]:
    """Every file below a folder, by its last name."""
    found: dict[str, list[Path]] = {}
    for place, _, names in os.walk(folder):
        for name in sorted(names):
            found.setdefault(name, []).append(Path(place) / name)
    return found


def _instead(folder: Path) -> str:
    """What to set in place of a folder that does not hold what was looked for."""
    if not folder.is_dir():
        near = next(parent for parent in (*folder.parents, Path()) if parent.is_dir())
        inside = ", ".join(sorted(path.name for path in near.iterdir() if path.is_dir())[:5])
        return f"there is no folder {folder}; {near.resolve()} has {inside or 'no folder'}: set data.images"
    some = next(iter(files_below(folder).values()), None)
    holds = f"holds other files, such as {some[0].relative_to(folder)}" if some else "is empty"
    return f"the folder {folder} {holds}: set data.images to the folder of the pictures"


def choose(wanted: Sequence[str] | None, known: Iterable[str], source: Path | str) -> list[str]:
    """The categories to ask about, each once; all that are known when none is wanted.

    A name that differs in case or in spaces at its ends is that of the file, which is said once.

    >>> choose(["dgo"], ["cat", "dog"], Path("pets.json"))
    Traceback (most recent call last):
    minirft.UserError: pets.json has no category 'dgo'; did you mean 'dog'?
    """
    every = list(dict.fromkeys(known))
    chosen = []
    for name in wanted or ():
        alike = [one for one in every if plain(one) == plain(name)]
        if name not in every and len(alike) != 1:
            near = difflib.get_close_matches(name, every, n=1)
            some = ", ".join(every[:20]) + (", ..." if len(every) > 20 else "")
            advice = f"did you mean {near[0]!r}?" if near else f"it has {some or 'none'}"
            raise UserError(f"{source} has no category {name!r}; {advice}")
        if name not in every:
            tell(f"{source} has no category {name!r} but {alike[0]!r}, which is taken")
        chosen.append(name if name in every else alike[0])
    return list(dict.fromkeys(chosen or every))


def plain(name: str) -> str:
    """A category's name without case and without needless spaces.

    >>> plain(" Coffee  Mug ")
    'coffee mug'
    """
    return " ".join(name.split()).casefold()


def floats(values: Any) -> list[float]:
    """The finite numbers that values are; none where one of them is not.

    >>> floats(["1", 2.5]), floats(["1", "nan"]), floats(None)
    ([1.0, 2.5], [], [])
    """
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError):
        return []
    return numbers if all(map(math.isfinite, numbers)) else []


def text_lines(path: Path, advice: str) -> list[tuple[int, str]]:
    """The lines that hold something and are no comment (#), each with its number from 1; `UserError` with `advice`."""
    lines = read_text(path, advice).splitlines()
    return [(i, line.strip()) for i, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")]


def read_text(path: Path, advice: str) -> str:
    """A file of text, without a byte-order mark.  Raises `UserError` with `advice`, and with what the file is."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"no file {path}; {advice}") from None
    except (OSError, ValueError) as error:
        kind = kind_of_file(path)
        raise UserError(
            f"{path} is {kind}; {advice}" if kind else f"{path} cannot be read as text ({error}); {advice}"
        ) from None

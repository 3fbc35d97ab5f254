"""This module holds the checks that all readers share: pictures open, categories exist, text files can be read."""

import difflib
import math
import os
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from minirft import UserError
from minirft.data.findings import UPRIGHT, Findings, report
from minirft.data.settings import PARTS
from minirft.pictures import UNREADABLE, kind_of_file, open_picture, orientation, size_of

ASPECT = 200  # Qwen2-VL's processor refuses a picture with a side over 200 times the other
JUNK = {"thumbs.db", "desktop.ini", "icon\r", "__macosx"}  # files that Windows and macOS create beside pictures


class Header(NamedTuple):
    """A `Header` holds the size of a picture, (width, height) in pixels, as stored and after its EXIF rotation."""

    stored: tuple[int, int]
    upright: tuple[int, int]
    marked: bool  # rotated in any way, or mirrored


def read_header(source: Any, where: str = "check data.images") -> Header:
    """Read the header of a picture.  Raises `UserError`, with `where` as the advice for a missing file.

    >>> read_header(Path("gone.jpg"), "see row 3")
    Traceback (most recent call last):
    minirft.UserError: no picture at gone.jpg; see row 3
    """
    try:
        with open_picture(source) as picture:
            header = Header(picture.size, size_of(picture, upright=True), orientation(picture) != 1)
    except FileNotFoundError:
        raise UserError(f"no picture at {source}; {where}") from None
    except UNREADABLE as error:
        raise UserError(f"{source} {will_not_open(source, error)}") from None
    width, height = header.stored
    if max(width, height) > ASPECT * min(width, height):
        raise UserError(
            f"{source} is {width} x {height} pixels: a side over {ASPECT} times the other (its aspect "
            f"ratio), which Qwen2-VL's processor refuses; crop or remove it"
        )
    return header


def will_not_open(source: Any, error: Exception) -> str:
    """Return the message for a picture that does not open: the kind of file, if its first bytes show it, and advice."""
    kind = kind_of_file(source) if isinstance(source, Path) else ""
    if kind and not kind.endswith("picture"):
        return f"will not open as a picture: it is {kind}; replace or remove it"
    return f"will not open as a picture ({error}); repair or remove it"


def usable(findings: Findings, source: Any, where: str, ids: Iterable[str], turn: bool = False) -> Header | None:
    """Read the header of a picture; return None, and report the loss, if the picture cannot be used.

    With `turn`, note that a picture which is marked as rotated will be turned upright.
    """
    with findings.losing(source, "", ids):
        header = read_header(source, where)
        if turn and header.marked:
            findings.note(UPRIGHT, source)
        return header
    return None


def is_junk(path: Path, root: Path) -> bool:
    """Return whether a file below `root` is hidden, or created by the operating system (Thumbs.db, __MACOSX).

    >>> is_junk(Path("pets/cat/Thumbs.db"), Path("pets")), is_junk(Path("pets/cat/1.jpg"), Path("pets"))
    (True, False)
    """
    return any(part.startswith(".") or part.lower() in JUNK for part in path.relative_to(root).parts)


def folders_in(folder: Path) -> list[Path]:
    """Return the folders in a folder, sorted by name, without those of the operating system; [] if it is not there."""
    return sorted(path for path in folder.glob("*") if path.is_dir() and not is_junk(path, folder))


def files_in(folder: Path, *suffixes: str) -> list[Path]:
    """Return the files below a folder in the same way; with `suffixes`, in lower case, only those that have one."""
    files = (path for path in folder.rglob("*") if path.name.lower().endswith(suffixes or ""))
    return sorted(path for path in files if path.is_file() and not is_junk(path, folder))


def part_folders(root: Path) -> dict[str, Path]:
    """Return {train, val or test: the folder in `root` that has one of this part's names}."""
    return {part: path for part, names in PARTS.items() for path in folders_in(root) if path.name.lower() in names}


def locate(folder: Path, name: str, findings: Findings) -> Path:
    r"""Return the path of the picture `name`, tried in this order, and note in `findings` if it is not the first:

    1. `folder`/`name`;  2. the same with / for \ and without leading folders that do not exist;  3. the only file
    below `folder` with this file name.  Raises `UserError` that names the folder and what it holds instead.
    """
    first = folder / name
    if first.is_file():
        return first
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    tails = [folder.joinpath(*parts[i:]) for i in range(len(parts))]
    files = [path for path in tails if path.is_file()] or files_below(folder).get((parts or [""])[-1], [])
    if len(files) == 1:
        findings.note("pictures found at another place than their names say", files[0])
        return files[0]
    several = f"there are {len(files)} of that name, such as {files[0]}; set data.images" if files else ""
    raise UserError(f"no picture at {first}; {several or _instead(folder)}")


def find_picture(findings: Findings, folder: Path, name: str, at: tuple[Any, str], ids: Iterable[str]) -> Path | None:
    """Locate the picture that the row at `at` names; return None, and report the loss, if there is no such file."""
    with findings.losing(*at, ids, "names a picture that is not there: "):
        return locate(folder, name, findings)
    return None


@lru_cache(maxsize=16)
def files_below(folder: Path) -> dict[str, list[Path]]:
    """Return all files below a folder, as {file name: paths}."""
    files: dict[str, list[Path]] = {}
    for place, _, names in os.walk(folder):
        for name in sorted(names):
            files.setdefault(name, []).append(Path(place) / name)
    return files


def _instead(folder: Path) -> str:
    """Return the advice for a folder that does not hold the picture: what exists nearby, and what to set."""
    if not folder.is_dir():
        near = next(parent for parent in (*folder.parents, Path()) if parent.is_dir())
        inside = ", ".join(sorted(path.name for path in near.iterdir() if path.is_dir())[:5])
        return f"there is no folder {folder}; {near.resolve()} has {inside or 'no folder'}: set data.images"
    some = next(iter(files_below(folder).values()), None)
    holds = f"holds other files, such as {some[0].relative_to(folder)}" if some else "is empty"
    return f"the folder {folder} {holds}: set data.images to the folder of the pictures"


def choose(wanted: Sequence[str] | None, known: Iterable[str], source: Path | str) -> list[str]:
    """Return the categories to ask about, each once: those `wanted`, or all that are `known`.

    A name that differs from the file's only in case or spaces is replaced by the file's, with one warning.

    >>> choose(["dgo"], ["cat", "dog"], Path("pets.json"))
    Traceback (most recent call last):
    minirft.UserError: pets.json has no category 'dgo'; did you mean 'dog'?
    """
    every = list(dict.fromkeys(known))
    chosen = []
    for name in wanted or ():
        alike = [name] if name in every else [one for one in every if plain(one) == plain(name)]
        if len(alike) != 1:
            near = difflib.get_close_matches(name, every, n=1)
            some = ", ".join(every[:20]) + (", ..." if len(every) > 20 else "")
            advice = f"did you mean {near[0]!r}?" if near else f"it has {some or 'none'}"
            raise UserError(f"{source} has no category {name!r}; {advice}")
        if alike[0] != name:
            report(f"{source} has no category {name!r} but {alike[0]!r}, which is taken")
        chosen.append(alike[0])
    return list(dict.fromkeys(chosen or every))


def plain(name: str) -> str:
    """Return a category's name in lower case and without unneeded spaces.

    >>> plain(" Coffee  Mug ")
    'coffee mug'
    """
    return " ".join(name.split()).casefold()


def floats(values: Any) -> list[float]:
    """Convert values to finite numbers; return an empty list if one of them is not a finite number.

    >>> floats(["1", 2.5]), floats(["1", "nan"]), floats(None)
    ([1.0, 2.5], [], [])
    """
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError):
        return []
    return numbers if all(map(math.isfinite, numbers)) else []


def column(wanted: Sequence[str], known: Collection[str], source: Any) -> str:
    """Return the first of the `wanted` columns that is `known`.

    >>> column(("label", "class"), ["image", "class"], "pets.csv")
    'class'
    >>> column(("label", "class"), ["image"], "pets.csv")
    Traceback (most recent call last):
    minirft.UserError: pets.csv has no column label or class; it has image: check data.kind and data.task
    """
    for name in wanted:
        if name in known:
            return name
    has = ", ".join(known) or "nothing"
    raise UserError(f"{source} has no column {' or '.join(wanted[:5])}; it has {has}: check data.kind and data.task")


def text_lines(path: Path, advice: str) -> list[tuple[int, str]]:
    """Read the lines that are neither empty nor a comment (#), numbered from 1.  Raises as `read_text`."""
    lines = read_text(path, advice).splitlines()
    return [(i, line.strip()) for i, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")]


def read_text(path: Path, advice: str) -> str:
    """Read a text file without its byte-order mark.  Raises `UserError` with the file's real kind and `advice`."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"no file {path}; {advice}") from None
    except (OSError, ValueError) as error:
        kind = kind_of_file(path)
        raise UserError(
            f"{path} is {kind}; {advice}" if kind else f"{path} cannot be read as text ({error}); {advice}"
        ) from None

"""What every reader checks the same way: a picture that opens, a category that exists, a text file that is there."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from minirft import UserError
from minirft.rewards import prompts
from minirft.samples import Sample


def picture_size(path: Path, where: str = "check data.images") -> tuple[int, int]:
    """Width and height in pixels, read off the header.  Raises `UserError`, with `where` as advice on a missing file.

    >>> picture_size(Path("gone.jpg"), "see row 3")
    Traceback (most recent call last):
    minirft.UserError: no picture at gone.jpg; see row 3
    """
    try:
        with Image.open(path) as picture:
            return picture.size
    except FileNotFoundError:
        raise UserError(f"no picture at {path}; {where}") from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} will not open as a picture ({error}); repair or remove it") from None


def choose(wanted: Sequence[str] | None, known: Iterable[str], source: Path) -> list[str]:
    """The categories to ask about, each once; all that are known when none is wanted.

    >>> choose(["dgo"], ["cat", "dog"], Path("pets.json"))
    Traceback (most recent call last):
    minirft.UserError: pets.json has no category 'dgo'; did you mean 'dog'?
    """
    every = list(dict.fromkeys(known))
    for name in wanted or ():
        if name not in every:
            near = difflib.get_close_matches(name, every, n=1)
            some = ", ".join(every[:20]) + (", ..." if len(every) > 20 else "")
            advice = f"did you mean {near[0]!r}?" if near else f"it has {some or 'none'}"
            raise UserError(f"{source} has no category {name!r}; {advice}")
    return list(dict.fromkeys(wanted or every))


def text_lines(path: Path, advice: str) -> list[tuple[int, str]]:
    """The lines that hold something and are no comment (#), each with its number from 1; `UserError` with `advice`."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(f"no file {path}; {advice}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as text ({error}); {advice}") from None
    return [(i, line.strip()) for i, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")]


def labelled(name: str, image: Path, label: str, family: str) -> Sample:
    """A classification sample."""
    problem, solution = prompts.classification(family), prompts.label_solution(label)
    return Sample(name, image, "classification", problem, solution, label)

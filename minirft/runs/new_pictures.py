"""Pictures that nobody annotated: what a path, a folder or a pattern names, and each of them upright."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from minirft import UserError
from minirft.pictures import UNREADABLE, open_picture, to_rgb

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")  # what is taken of a folder
DRAWN = ".answer.png"  # the end of a drawing's name, so that a folder of drawings is not asked about


def upright(picture: Path | Image.Image) -> Image.Image:
    """A picture or its file is opened in RGB and turned as its EXIF tag says.  Raises `UserError` when it will not."""
    try:
        if isinstance(picture, Image.Image):
            return to_rgb(picture, upright=True)
        with open_picture(picture) as opened:
            return to_rgb(opened, upright=True)
    except FileNotFoundError:
        raise UserError(f"no picture at {picture}; check the path") from None
    except UNREADABLE as error:
        raise UserError(f"{picture} will not open as a picture ({error}); repair or remove it") from None


def find_pictures(names: Sequence[str]) -> list[Path]:
    """Paths, folders and patterns become the files that they name, in order, each once.

    Of a folder the files whose ending is one of a picture are taken, and none of those below it; drawings of earlier
    answers are left out.  Raises `UserError` where a folder or a pattern leads to nothing.
    """
    found: dict[Path, None] = {}
    for name in names:
        path = Path(name)
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if file.suffix.lower() in PICTURES)
        else:
            files = [path] if path.exists() else sorted(map(Path, glob.glob(name, recursive=True)))
        files = [file for file in files if not file.name.endswith(DRAWN) and not file.is_dir()]
        if not files and (path.is_dir() or any(mark in name for mark in "*?[")):
            raise UserError(f"no picture in {name}; pictures end in {', '.join(PICTURES)}")
        found |= dict.fromkeys(files or [path])  # a file that is not there costs itself only
    return list(found)

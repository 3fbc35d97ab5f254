"""This module reads YOLO's layout (Ultralytics, and Roboflow's export of it) into the tables of COCO's format.

    data.yaml                  path: .            the root; the default is the folder of this file
                               train: images/train     a folder, a list of folders, or a .txt of pictures
                               val: images/val         (test: likewise)
                               names: {0: cat, 1: dog}     or a list
    images/train/1.jpg
    labels/train/1.txt         a line for each object: CLASS CENTRE_X CENTRE_Y WIDTH HEIGHT, shares of the picture;
                               a polygon (CLASS X Y X Y X Y ...) is replaced by its bounding box

A picture without a label file shows none of the categories.  Shares refer to the picture after its EXIF rotation, as in
Ultralytics.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from minirft import UserError, as_user_error
from minirft.data.box_format import SLACK, BoxRow, tables_of_rows
from minirft.data.checks import files_in, floats, read_text, text_lines
from minirft.data.findings import Findings
from minirft.data.settings import DataConfig
from minirft.data.tables import Tables
from minirft.pictures import SUFFIXES


def parts_of_yolo(folder: Path) -> list[str]:
    """Return the parts (train, val, test) that data.yaml names."""
    data = _settings(_yaml(folder))
    return [part for part in ("train", "val", "test") if data.get(part)]


def yolo_tables(data: DataConfig, folder: Path, part: str, findings: Findings) -> Tables:
    """Read the three tables of a part; `folder` holds data.yaml, or is that file.

    Raises `UserError` for a data.yaml that cannot be read; an invalid line of a label file goes to `findings`.
    """
    source = _yaml(folder)
    settings = _settings(source)
    pictures = list(_pictures(source, settings, part))
    if not pictures:
        raise UserError(f"{source}: {part}: {settings.get(part)!r} holds no picture; check path and {part}")
    names = settings["names"]
    names = dict(enumerate(names)) if isinstance(names, list) else names
    rows = (row for path in pictures for row in _rows(path, _below(path, source.parent), source))
    return tables_of_rows(rows, source.parent, "unit", source, findings, names={i: str(n) for i, n in names.items()})


def _yaml(folder: Path) -> Path:
    usual = [folder / name for name in ("data.yaml", "dataset.yaml", "data.yml")]
    for path in (folder, *usual, *sorted(folder.glob("*.yaml"))):
        if path.is_file():
            return path
    raise UserError(f"no data.yaml in {folder}; set data.folder to it or to its folder")


def _settings(source: Path) -> dict[str, Any]:
    text = read_text(source, "set data.folder to YOLO's data.yaml")
    with as_user_error(f"{source} is no YAML ({{why}}); repair it", yaml.YAMLError):
        data = yaml.safe_load(text)
    if not isinstance(data, dict) or not isinstance(data.get("names"), list | dict) or not data.get("train"):
        raise UserError(f"{source} needs the keys train and names (and val, test); is it YOLO's data.yaml?")
    return data


def _pictures(source: Path, data: dict[str, Any], part: str) -> Iterator[Path]:
    """Return the pictures of a part: those in its folders, or those that its .txt files list."""
    root = source.parent / str(data.get("path") or "")
    root = root if root.is_dir() else source.parent  # `path` is often a path on the machine that wrote the file
    entries = data.get(part) or []
    for entry in entries if isinstance(entries, list) else [entries]:
        place = root / str(entry)
        if not place.exists():  # Roboflow writes ../train/images for train/images
            place = source.parent / str(entry).removeprefix("../")
        if place.is_file():
            lines = read_text(place, "list a picture on each line").split()
            yield from (root / line if (root / line).exists() else place.parent / line for line in lines)
        elif place.is_dir():
            yield from files_in(place, *SUFFIXES)
        else:
            raise UserError(f"{source}: {part} is {entry!r}, and there is no {place}; check path and {part}")


def _rows(picture: Path, name: str, source: Path) -> Iterator[BoxRow]:
    """Yield a row without boxes for the picture itself, and a row for each line of its label file."""
    yield BoxRow((source, ""), name, picture=picture)
    # The last folder "images" becomes "labels": images/a.jpg has labels/a.txt.
    path = Path(re.sub(r"^(.*/|)images/", r"\1labels/", picture.as_posix())).with_suffix(".txt")
    for number, line in text_lines(path, "") if path.is_file() else ():
        first, *rest = line.split()
        category = int(first) if first.isdigit() else first
        yield BoxRow((path, f"line {number}"), name, [(category, _corners(rest))])


def _corners(words: list[str]) -> list[float] | str:
    """Return the box of a line in shares of the picture, [x1, y1, x2, y2], or its problem."""
    numbers = floats(words)
    polygon = len(numbers) >= 6 and len(numbers) % 2 == 0
    if len(numbers) != 4 and not polygon:
        return f"has {' '.join(words)[:60]!r} after its class, not four numbers or a polygon; repair the line"
    if max(numbers) > 1 + SLACK:
        return f"has the number {max(numbers):g}, but YOLO's are shares of the picture, 0 to 1"
    if polygon:
        return [min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2])]
    x, y, wide, high = numbers
    return [x - wide / 2, y - high / 2, x + wide / 2, y + high / 2]


def _below(path: Path, root: Path) -> str:
    inside, root = path.resolve(), root.resolve()
    return (inside.relative_to(root) if inside.is_relative_to(root) else path).as_posix()

"""This module checks the three tables of COCO's format row by row: it accepts, corrects or rejects each row.

    images         {"id", "file_name", "width", "height"}: a missing size is read from the picture
    categories     {"id", "name"}: spaces at the ends of a name are ignored
    annotations    {"image_id", "category_id", "bbox": [x, y, width, height]}

Other readers produce these tables too.  The key "at" of a row holds its place, (file, row).  A row of "images" may
have the "picture" itself, and "turn": whether to rotate it by its EXIF orientation (the size is then that of the
upright picture).  A row of "annotations" may have a "problem", which makes it invalid.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minirft import UserError, as_user_error
from minirft.data.checks import locate, read_header, read_text
from minirft.data.findings import Findings
from minirft.data.settings import DataConfig

TOLERANCE = 1.0  # pixels by which a box may exceed the picture, because of rounding
KEPT = 0.5  # share of a box that must lie in its picture; below it, clipping would be a guess
CORNERS = (3, 0.2)  # number and share of boxes outside their pictures from which they may be [x1, y1, x2, y2]
FIELDS = {
    "images": ("id", "file_name"),
    "annotations": ("image_id", "category_id", "bbox"),
    "categories": ("id", "name"),
}
Row = dict[str, Any]
Tables = dict[str, list[Row]]
Box = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels
Key = tuple[Any, str]  # a picture's id and a category
Pairs = dict[Key, list[Box]]


def coco_tables(
    data: DataConfig, source: Path, part: str, findings: Findings, needed: Mapping[str, tuple[str, ...]] = FIELDS
) -> Tables:
    """Read the tables of a COCO-format file; a row that lacks a `needed` field goes to `findings`.

    >>> coco_tables(DataConfig("coco"), Path("nowhere.json"), "train", Findings())
    Traceback (most recent call last):
    minirft.UserError: no file nowhere.json; give a COCO-format file in data.annotations
    """
    text = read_text(source, "give a COCO-format file in data.annotations")
    with as_user_error(f"{source} cannot be read as JSON ({{why}}); give a COCO-format file", ValueError):
        data = json.loads(text)
    tables = {}
    for table, fields in needed.items():
        rows = data.get(table) if isinstance(data, dict) else None
        if not isinstance(rows, list):
            raise UserError(f"{source} has no list {table!r}; give a COCO-format file")
        tables[table] = []
        for number, row in enumerate(rows):
            lacking = [field for field in fields if not isinstance(row, dict) or field not in row]
            if lacking:
                what = f"has no {' and no '.join(lacking)}; repair or remove the row"
                findings.lose(source, f"{table}[{number}]", what, _ids_of(table, row))
            else:
                tables[table].append(row | {"at": (source, f"{table}[{number}]")})
    return tables


def make_tables(images: list[Row], annotations: list[Row], source: Path, names: dict[Any, str] | None = None) -> Tables:
    """Return the three tables; without `names` the categories are those in the annotations."""
    names = names or {name: name for row in annotations if isinstance(name := row["category_id"], str) and name}
    categories = [{"id": number, "name": name, "at": (source, "")} for number, name in names.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def _ids_of(table: str, row: Any) -> list[str]:
    """Return the ids of the samples that an incomplete row invalidates: those of its picture."""
    field = {"images": "id", "annotations": "image_id"}.get(table, "")
    return [f"{row[field]}:"] if isinstance(row, dict) and field in row else []


def sized_pictures(rows: Sequence[Row], folder: Path, findings: Findings) -> dict[Any, Row]:
    """Return {id: row} of the pictures with sizes in pixels; a missing size is read from the file."""
    pictures = {}
    for row in rows:
        size = [row.get("width"), row.get("height")]
        with findings.losing(*row["at"], [f"{row['id']}:"]):
            if None in size and not any(size):
                source = row.get("picture") or locate(folder, str(row["file_name"]), findings)
                row = row | dict(zip(("width", "height"), read_header(source).stored, strict=True))
                findings.note("pictures without a size in their rows, which is read off the files", source)
            elif not _numbers(size) or min(size) < 1:
                raise UserError(f"has size {row.get('width')!r} x {row.get('height')!r}; give it in pixels")
            pictures[row["id"]] = row
    return pictures


def category_names(data: Tables, source: str | Path) -> dict[Any, str]:
    """Return {id: name} of the categories.

    If several categories have the same name, the one with boxes is used.  Raises `UserError` if several of them have
    boxes, because an answer contains the name only and would be ambiguous.

    >>> rows = [{"id": 0, "name": "cat"}, {"id": 1, "name": " cat "}]
    >>> category_names({"categories": rows, "annotations": [{"category_id": 1}]}, "cats.json")
    {1: 'cat'}
    """
    used = {row["category_id"] for row in data["annotations"] if isinstance(row["category_id"], int | str)}
    ids: dict[str, Any] = {}
    for row in sorted(data["categories"], key=lambda row: row["id"] not in used):
        name = " ".join(str(row["name"]).split())
        if ids.setdefault(name, row["id"]) != row["id"] and row["id"] in used:
            raise UserError(
                f"{source}: the categories {ids[name]!r} and {row['id']!r} are both called {name!r} and both have "
                f"boxes: rename one, or give the boxes of both one category_id"
            )
    names = {number: name for name, number in ids.items()}
    return {row["id"]: names[row["id"]] for row in data["categories"] if row["id"] in names}


def without_phantoms(data: Tables, names: dict[Any, str]) -> list[str]:
    """Return the names to ask about, without the root category of Roboflow's exports, which has no boxes.

    >>> rows = [{"id": 0, "name": "pets", "supercategory": "none"}, {"id": 1, "name": "cat", "supercategory": "pets"}]
    >>> without_phantoms({"categories": rows, "annotations": [{"category_id": 1}]}, {0: "pets", 1: "cat"})
    ['cat']
    """
    used = {names.get(row["category_id"]) for row in data["annotations"] if isinstance(row["category_id"], int | str)}
    above = {row.get("supercategory") for row in data["categories"] if row.get("supercategory") != row["name"]}
    return [name for name in names.values() if name in used or name not in above]


def read_pairs(
    rows: Sequence[Row], pictures: dict[Any, Row], names: dict[Any, str], source: Path, findings: Findings
) -> tuple[Pairs, Pairs]:
    """Return the boxes of every pair (picture, category) in the rows, and the crowd boxes.

    A pair with an invalid box gets none: the true answer is then unknown, so there is no question about the pair.
    """
    pairs: Pairs = {}
    crowds: Pairs = {}
    lost: set[Key] = set()
    by_text = {str(picture): picture for picture in pictures}
    _refuse_corners(rows, pictures, source)
    for row in rows:
        image, name = _hashable(row["image_id"]), names.get(_hashable(row["category_id"]))
        if image not in pictures and findings.is_lost(f"{image}:"):
            continue  # reported with its picture
        key = (image if image in pictures else by_text.get(str(image)), name)
        box = _box(row, pictures.get(image), key, findings)
        if isinstance(box, str):
            known = {key} if None not in key else set()
            lost |= known
            findings.lose(*row["at"], box, [f"{picture}:{category}" for picture, category in known])
            continue
        sound = pairs.setdefault(key, [])
        if box is not None:
            (crowds.setdefault(key, []) if row.get("iscrowd") else sound).append(box)
    return pairs | {key: [] for key in lost}, crowds


def _box(row: Row, picture: Row | None, key: tuple[Any, str | None], findings: Findings) -> Box | str | None:
    """Return the corners of a row's box, corrected if that is safe; None for an empty box, a text for an invalid row.

    A box may exceed the picture by at most `TOLERANCE`.

    >>> picture = {"width": 40, "height": 60, "file_name": "a.jpg"}
    >>> _box({"bbox": [10, 20, 30, 40.5]}, picture, (1, "cat"), Findings())
    (10, 20, 40, 60.5)
    >>> _box({"bbox": [10, 20, -3, 40]}, picture, (1, "cat"), Findings())[-75:]
    'is inverted or empty (COCO boxes are [x, y, width, height]); repair the row'
    """
    near, name = key
    if row.get("problem"):
        return str(row["problem"])
    if name is None:
        return (
            f"is of category {row['category_id']!r}, which 'categories' (in YOLO 'names') does not list; repair the row"
        )
    if picture is None:
        other = f" (it has {near!r})" if near is not None else ""
        return f"is of image {row['image_id']!r}, which 'images' does not list{other}; repair or remove the row"
    bbox, right, bottom = row["bbox"], picture["width"], picture["height"]
    what = f"is a {name} in {picture['file_name']} with the box {bbox}, which"
    if not _is_box(bbox):
        return None if row.get("iscrowd") else f"{what} is not four finite numbers; repair the row"
    x, y, width, height = bbox
    inside = (max(x, 0), max(y, 0), min(x + width, right), min(y + height, bottom))
    seen = max(inside[2] - inside[0], 0) * max(inside[3] - inside[1], 0)
    outside = max(-x, -y, x + width - right, y + height - bottom) > TOLERANCE
    if seen and not outside:
        return x, y, x + width, y + height
    if row.get("iscrowd"):
        return None
    why = f"reaches outside the picture of {right} x {bottom} pixels" if outside else "is inverted or empty"
    problem = f"{what} {why} (COCO boxes are [x, y, width, height]); repair the row"
    if min(width, height) == 0:
        findings.mend("empty boxes left out", *row["at"], problem)
        return None
    if min(width, height) < 0 or not seen or seen < KEPT * width * height:
        return problem
    findings.mend("boxes clipped to their pictures", *row["at"], problem)
    return inside


def _refuse_corners(rows: Sequence[Row], pictures: dict[Any, Row], source: Path) -> None:
    """Raise `UserError` if many boxes exceed their pictures, and every one fits as [x1, y1, x2, y2]."""
    shown = [(row["bbox"], pictures.get(_hashable(row["image_id"]))) for row in rows if "problem" not in row]
    sound = [(bbox, (at["width"], at["height"])) for bbox, at in shown if at and _is_box(bbox)]
    places, sizes = (np.array([pair[i] for pair in sound], float).reshape(-1, n) for i, n in ((0, 4), (1, 2)))
    first, second = places[:, :2], places[:, 2:]
    outside = int((first + second > sizes + TOLERANCE).any(1).sum())
    count, fit = len(sound), ((first <= second) & (second <= sizes + TOLERANCE)).all()
    if fit and outside >= CORNERS[0] and outside >= CORNERS[1] * count:
        raise UserError(
            f"{source}: {outside} of {count} boxes reach outside their pictures as [x, y, width, height], and all fit "
            f"as corners [x1, y1, x2, y2]: convert them (width = x2 - x1, height = y2 - y1)"
        )


def _hashable(value: Any) -> Any:
    """Return a picture's or category's id; a value that cannot be an id, such as a list, becomes an unknown one."""
    return value if isinstance(value, int | str | float) else repr(value)


def _is_box(bbox: Any) -> bool:
    return isinstance(bbox, list) and len(bbox) == 4 and _numbers(bbox)


def _numbers(values: Sequence[Any]) -> bool:
    return all(type(value) in (int, float) and math.isfinite(value) for value in values)

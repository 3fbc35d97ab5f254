"""This module reads LVIS v1: COCO's pictures with 1,203 categories; each picture is annotated for some of them.

    lvis_v1_train.json    a COCO file, but "images" have "coco_url" instead of "file_name", and
                          "neg_category_ids": categories verified to be absent
                          "not_exhaustive_category_ids": present, but perhaps not every object has a box
    images/
      train2017/000000391895.jpg    the end of the "coco_url"
      val2017/...                   the validation file uses pictures of both folders

All questions have a known true answer.  An absent question is drawn from `neg_category_ids` alone, because
any other category without boxes may be in the picture.  Where the boxes are not exhaustive, the question "detect all"
is not asked, but "is there one" is.

Category names are used exactly as in the file, with underscores (horse_buggy), also in prompts.
"""

from pathlib import Path
from typing import Any

from minirft import UserError
from minirft.data.findings import Findings
from minirft.data.settings import DataConfig
from minirft.data.tables import FIELDS, Key, Row, Tables, category_names, coco_tables

LISTS = ("neg_category_ids", "not_exhaustive_category_ids")
LVIS_FIELDS = FIELDS | {"images": ("id", "coco_url", *LISTS)}


def lvis_tables(data: DataConfig, source: Path, part: str, findings: Findings) -> Tables:
    """Read the tables of an LVIS v1 file and name its pictures as COCO does.

    >>> lvis_tables(DataConfig("lvis"), Path("nowhere.json"), "train", Findings())
    Traceback (most recent call last):
    minirft.UserError: no file nowhere.json; give a COCO-format file in data.annotations
    """
    found = coco_tables(data, source, part, findings, LVIS_FIELDS)
    names = category_names(found, source)
    images = [image for row in found["images"] if (image := _with_file(row, names, findings)) is not None]
    return found | {"images": images}


def _with_file(row: Row, names: dict[Any, str], findings: Findings) -> Row | None:
    """Return the picture's row with the `file_name` at the end of its URL, or None, with a report, if it is invalid.

    >>> url = "http://images.cocodataset.org/train2017/000000391895.jpg"
    >>> row = {"id": 1, "at": ("lvis.json", "images[0]"), "coco_url": url, **{name: [] for name in LISTS}}
    >>> _with_file(row, {}, Findings())["file_name"]
    'train2017/000000391895.jpg'
    """
    with findings.losing(*row["at"], [f"{row['id']}:"]):
        parts = row["coco_url"].split("/")[-2:] if isinstance(row["coco_url"], str) else []
        if len(parts) < 2 or not all(parts) or ".." in parts:
            raise UserError(f"has coco_url {row['coco_url']!r}, which does not end in FOLDER/FILE; repair the row")
        for field in LISTS:
            unknown = [i for i in row[field] if i not in names] if isinstance(row[field], list) else row[field]
            if unknown != []:
                raise UserError(f"has {field} {unknown!r}, which 'categories' does not list; repair the row")
        return {**row, "file_name": "/".join(parts)}
    return None


def listed(pictures: dict[Any, Row], field: str, names: dict[Any, str], chosen: list[str]) -> dict[Key, None]:
    """Return the pairs (picture, chosen category) that a field of the pictures lists."""
    wanted = set(chosen)
    pairs = [(picture, names[i]) for picture, row in pictures.items() for i in row[field] if names[i] in wanted]
    return dict.fromkeys(pairs)

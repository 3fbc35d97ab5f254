"""LVIS v1 as samples: COCO's pictures with 1,203 categories, of which a picture is only marked for some.

    lvis_v1_train.json    a COCO file, but "images" have "coco_url" instead of "file_name", and
                          "neg_category_ids": looked for and not there
                          "not_exhaustive_category_ids": there, but perhaps not every object is marked
    images/
      train2017/000000391895.jpg    the end of the "coco_url"
      val2017/...                   the validation file uses pictures of both folders

What the file does not say is not asked.  An absent question is only drawn from `neg_category_ids`: elsewhere a
category without boxes may well be in the picture.  "Detect all" is not asked where the marking is not exhaustive,
"is there one" is.

Category names are used as they stand in the file, underscores included (horse_buggy), in prompts too.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minirft import UserError
from minirft.data import coco
from minirft.data.checks import choose
from minirft.data.coco import Key, Row
from minirft.data.findings import Findings
from minirft.data.tables import FIELDS as COCO_FIELDS
from minirft.samples import Sample

LISTS = ("neg_category_ids", "not_exhaustive_category_ids")
FIELDS = COCO_FIELDS | {"images": ("id", "coco_url", *LISTS)}


def load_lvis(
    annotations: str | Path,
    images: str | Path,
    categories: Sequence[str] | None = None,
    *,
    task: coco.Task = "detection",
    negatives: float = 0.0,
    seed: int = 0,
    only: Collection[str] | None = None,
    findings: Findings | None = None,
    question: str = "",
) -> list[Sample]:
    """The samples of an LVIS v1 file; options, order and ids as in `coco.load_coco`.

    What cannot be right goes to `findings`; without one it is a `UserError` that names the file and the row.

    >>> load_lvis("nowhere.json", "nowhere")
    Traceback (most recent call last):
    minirft.UserError: no annotations at nowhere.json; check data.annotations
    """
    findings = findings or Findings()
    source, folder = Path(annotations), Path(images)
    data = coco.read_tables(source, FIELDS, findings)
    names = coco.category_names(data, source)
    chosen = choose(categories, names.values(), source)
    rows = [found for row in data["images"] if (found := _with_file(row, names, findings)) is not None]
    pictures = coco.sized_pictures(rows, folder, findings)
    pairs, crowds = coco.read_pairs(data["annotations"], pictures, names, source, findings)
    asked = coco.present_pairs(pairs, chosen, source, findings)
    if task == "detection":
        partly = set(_listed(pictures, "not_exhaustive_category_ids", names, chosen))
        asked = [key for key in asked if key not in partly]
        if not asked:
            raise UserError(f"{source}: no picture is marked exhaustively for {', '.join(chosen[:20])}; choose others")
    absent = [key for key in _listed(pictures, "neg_category_ids", names, chosen) if key not in pairs]
    if only is None:
        drawn = np.random.default_rng(seed).permutation(len(absent))[: coco.absent_count(asked, negatives)]
        asked += [absent[i] for i in drawn]
    else:
        ids = set(only)
        asked = [key for key in asked + absent if coco.sample_id(key) in ids]
    return coco.write_samples(asked, pairs, crowds, pictures, chosen, folder, task, findings, question)


def _with_file(row: Row, names: dict[Any, str], findings: Findings) -> Row | None:
    """The picture's row with the `file_name` that its address ends in; None where it is lost.

    >>> url = "http://images.cocodataset.org/train2017/000000391895.jpg"
    >>> _with_file({"coco_url": url, **{name: [] for name in LISTS}}, {}, Findings())["file_name"]
    'train2017/000000391895.jpg'
    """
    parts = row["coco_url"].split("/")[-2:] if isinstance(row["coco_url"], str) else []
    if len(parts) < 2 or not all(parts) or ".." in parts:
        what = f"has coco_url {row['coco_url']!r}, which does not end in FOLDER/FILE; repair the row"
        findings.lose(*row["at"], what, [f"{row['id']}:"])
        return None
    for field in LISTS:
        unknown = [i for i in row[field] if i not in names] if isinstance(row[field], list) else row[field]
        if unknown or not isinstance(row[field], list):
            what = f"has {field} {unknown!r}, which 'categories' does not list; repair the row"
            findings.lose(*row["at"], what, [f"{row['id']}:"])
            return None
    return {**row, "file_name": "/".join(parts)}


def _listed(pictures: dict[Any, Row], field: str, names: dict[Any, str], chosen: list[str]) -> list[Key]:
    """The (picture, category) pairs that a field of the pictures lists, of the chosen categories."""
    wanted = set(chosen)
    pairs = [(picture, names[i]) for picture, row in pictures.items() for i in row[field] if names[i] in wanted]
    return list(dict.fromkeys(pairs))

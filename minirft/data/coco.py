"""This module turns COCO-format annotations into samples: one question for each category in a picture.

    instances.json    {"images": [{"id", "file_name", "width", "height"}, ...], "categories": [{"id", "name"}, ...],
                       "annotations": [{"image_id", "category_id", "bbox": [x, y, width, height]}, ...]}
    pictures/
      000000000009.jpg    the "file_name" of a row of "images"

Only the headers of the pictures are read here, to check that each opens and has the size in its annotations;
`screening` decodes the pictures of the training set.  Invalid rows are reported to `findings` by file and row.

Deviations from COCO.  A solution contains no crowd regions, because "detect all" has no true list of boxes for them.
If a picture shows a category only as a crowd, there is no question about it there, neither as present nor absent.  The
boxes of a solution are rounded to whole units of the model's frame, a thousandth of the picture.  `Sample.exact` keeps
boxes and crowds as they are in the file, except that some are clipped to the picture; evaluation uses `Sample.exact`.
"""

from collections.abc import Collection
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from minirft import UserError
from minirft.data import tables
from minirft.data.checks import choose, find_picture, usable
from minirft.data.findings import UPRIGHT, Findings
from minirft.data.lvis import listed
from minirft.data.questions import question as ask
from minirft.data.settings import DataConfig
from minirft.data.tables import Box, Key, Pairs, Row, Tables
from minirft.rewards import MODEL, convert, pixels, prompts
from minirft.samples import Sample, TrueBoxes


def samples_of_tables(
    data: DataConfig, found: Tables, source: Path, findings: Findings, only: Collection[str] | None = None
) -> list[Sample]:
    """Return one sample for each chosen pair (picture, category), in the order of both.

    `data.negatives` is the share of samples about a category that the picture does not show.  They are drawn from all
    such pairs with `data.seed`; a larger share only adds samples, and if there are too few pairs, all are taken.
    `only` chooses the samples by their ids instead, also the absent ones (a split).  Invalid rows go to `findings`.
    """
    folder, names = data.images or (source if source.is_dir() else source.parent), tables.category_names(found, source)
    known = names.values() if data.categories else tables.without_phantoms(found, names)
    chosen = choose(data.categories, known, source)
    pictures = tables.sized_pictures(found["images"], folder, findings)
    pairs, crowds = tables.read_pairs(found["annotations"], pictures, names, source, findings)
    keys = _present(pairs, chosen, source, findings)
    may_lack = None
    if data.kind == "lvis":
        may_lack = [key for key in listed(pictures, "neg_category_ids", names, chosen) if key not in pairs]
        partly = listed(pictures, "not_exhaustive_category_ids", names, chosen) if data.task == "detection" else ()
        keys = [key for key in keys if key not in partly]
        if not keys:
            raise UserError(f"{source}: no picture is marked exhaustively for {', '.join(chosen[:20])}; choose others")
    if only is None:
        count = round(len(keys) * data.negatives / (1 - data.negatives))
        keys += _absent(pairs, list(pictures), chosen, may_lack, count, data.seed)
    else:
        ids, heads = set(only), {name.partition(":")[0] for name in only}  # a picture's id may contain a colon itself
        asked = [picture for picture in pictures if str(picture).partition(":")[0] in heads]
        absent = [key for key in product(asked, chosen) if key not in pairs] if may_lack is None else may_lack
        keys = [key for key in keys + absent if sample_id(key) in ids]
    place = {picture: position for position, picture in enumerate(pictures)}
    rank = {name: position for position, name in enumerate(chosen)}
    keys.sort(key=lambda key: (place[key[0]], rank[key[1]]))
    files = {picture: _find(folder, pictures[picture], findings) for picture in dict.fromkeys(key[0] for key in keys)}
    return [
        _sample(data, *file, pictures[key[0]], key, pairs.get(key, []), crowds.get(key, []))
        for key in keys
        if (file := files[key[0]]) is not None
    ]


def _present(pairs: Pairs, chosen: list[str], source: Path, findings: Findings) -> list[Key]:
    """Return the pairs of the chosen categories that have a box.  Raises `UserError` when there are none."""
    wanted = set(chosen)
    present = [key for key, boxes in pairs.items() if boxes and key[1] in wanted]
    if not present:
        why = f"{len(findings.bad)} rows are bad, the first: {next(iter(findings.bad))}" if findings.bad else ""
        what = f"{source} has no box of {', '.join(chosen[:20]) or 'any category'}"
        raise UserError(f"{what}; {why or 'choose other categories'}")
    return present


def sample_id(key: Key) -> str:
    """Return the id of the sample about a picture and a category.

    >>> sample_id((139, "cat"))
    '139:cat'
    """
    return f"{key[0]}:{key[1]}"


def _absent(
    pairs: Pairs, pictures: list[Any], chosen: list[str], may_lack: list[Key] | None, count: int, seed: int
) -> list[Key]:
    """Draw up to `count` pairs (picture, category) from `may_lack`, or without it from all that the file lacks."""
    generator = np.random.default_rng(seed)
    if may_lack is not None:
        return [may_lack[i] for i in generator.permutation(len(may_lack))[:count]]
    first = {picture: position * len(chosen) for position, picture in enumerate(pictures)}
    mentioned = [first[picture] + chosen.index(name) for picture, name in pairs if name in chosen]
    absent = np.setdiff1d(np.arange(len(pictures) * len(chosen)), np.array(mentioned, dtype=np.int64))
    drawn = generator.permutation(absent)[:count].tolist()
    return [(pictures[index // len(chosen)], chosen[index % len(chosen)]) for index in drawn]


def _find(folder: Path, row: Row, findings: Findings) -> tuple[Any, bool] | None:
    """Return the file of a row's picture, and whether to rotate it by its EXIF orientation.

    It is rotated if only the rotated picture has the size in the row.
    """
    ids = [f"{row['id']}:"]
    if "turn" in row:
        return row["picture"], row["turn"]
    source = row.get("picture") or find_picture(findings, folder, str(row["file_name"]), row["at"], ids)
    header = source and usable(findings, source, "check data.images", ids)
    if not header:
        return None
    stored, annotated = header.stored, (row["width"], row["height"])
    if stored == annotated:
        if header.marked:
            findings.note("pictures marked as turned by a camera, taken as they are stored", source)
        return source, False
    if annotated == header.upright:
        findings.note(UPRIGHT, source)
        return source, True
    what = (
        f"is {stored[0]} x {stored[1]} pixels, its annotations are for {annotated[0]} x {annotated[1]}: every box "
        f"would be off; annotate this file, or save it upright if a camera only marked it as turned"
    )
    findings.lose(source, "", what, ids)
    return None


def _sample(
    data: DataConfig, image: Any, upright: bool, row: Row, key: Key, boxes: list[Box], crowds: list[Box]
) -> Sample:
    name, frame, exact = key[1], pixels(row["width"], row["height"]), None
    if data.task == "presence":
        solution = prompts.presence_solution(bool(boxes))
    else:
        exact = TrueBoxes(frame, *(np.reshape(np.array(rows, float), (-1, 4)) for rows in (boxes, crowds)))
        solution = prompts.detection_solution(convert(exact.boxes, frame, MODEL).clip(0, MODEL.width))
    problem = ask(data.task, name, data.question)
    return Sample(sample_id(key), image, data.task, problem, solution, name, exact=exact, upright=upright)

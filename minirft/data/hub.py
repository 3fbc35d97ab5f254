"""A set of the `datasets` library: a folder that `save_to_disk` wrote, Parquet files, or, online, its name on the hub.

    columns                                                    task
    image, label (a ClassLabel, or text)                       classification
    image, objects: {bbox: [[x, y, width, height]], category}  detection, presence

    objects.category may be a ClassLabel, text, or be called label or categories; boxes are in `data.box_format`.
    Splits are parts: train is trained on; test, or validation, is held out.

Pictures stay on disk and are read when they are asked about.  A set with problem and solution is of kind `virft`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minirft import UserError
from minirft.data.box_format import BoxFormat, frame_of
from minirft.data.checks import choose, labelled, usable
from minirft.data.findings import Findings
from minirft.data.questions import ListLabels, label_question
from minirft.data.tables import Tables
from minirft.data.virft import StoredPicture
from minirft.pictures import kind_of_file
from minirft.rewards import convert, pixels
from minirft.samples import Sample

SPLITS = {"train": ("train",), "val": ("validation", "val", "valid", "dev"), "test": ("test",)}


def parts_of_set(folder: Path) -> list[str]:
    """The parts that the set has splits for; empty for a single split."""
    found = _read(folder)
    return [part for part, names in SPLITS.items() if set(names) & set(found)] if isinstance(found, dict) else []


def load_labelled(
    folder: Path,
    part: str,
    categories: Sequence[str] | None,
    *,
    family: str,
    findings: Findings,
    question: str = "",
    list_labels: ListLabels = "auto",
) -> list[Sample]:
    """A classification sample for each row; its id is SET:PART:ROW."""
    table = _split(folder, part)
    label = _column(table, folder, ("label", "labels", "class", "category", "fine_label"))
    names = _names(table.features[label])
    rows = [_spell(value, names) for value in table[label]]
    chosen = choose(categories, names or sorted({row for row in rows if row}), folder)
    asked, samples = label_question(family, chosen, question, list_labels), []
    pictures = _bytes(table, _image_column(table, folder))
    for i, name in enumerate(rows):
        key, source = f"{folder.name}:{part}:{i}", StoredPicture(pictures, f"{folder}, {part}", i)
        if not name:
            findings.lose(folder, f"{part}, row {i}", "has no label; repair or remove it", [key])
        elif name in chosen and (header := usable(findings, source, "", [key])):
            samples.append(labelled(key, source, name, asked, upright=header.marked))
    return samples


def hub_tables(folder: Path, part: str, box_format: BoxFormat, findings: Findings) -> Tables:
    """The three tables of a split with boxes, [x, y, width, height] in the units of `box_format`."""
    table = _split(folder, part)
    pictures = _bytes(table, _image_column(table, folder))
    column = _column(table, folder, ("objects", "annotations"))
    inner = table.features[column]
    fields = dict(inner.items()) if isinstance(inner, dict) else dict((getattr(inner, "feature", None) or {}).items())
    named = next((name for name in ("category", "label", "categories", "labels", "category_id") if name in fields), "")
    if not named or "bbox" not in fields:
        raise UserError(f"{folder}: {column} has {', '.join(fields) or 'no fields'}, and needs bbox and category")
    names = _names(fields[named])
    tables: Tables = {"images": [], "annotations": [], "categories": []}
    for i, objects in enumerate(table[column]):
        key, source = f"{folder.name}:{part}:{i}", StoredPicture(pictures, f"{folder}, {part}", i)
        header = usable(findings, source, "", [f"{key}:"])
        if header is None:
            continue
        row = {"id": key, "file_name": key, "picture": source, "width": header.width, "height": header.height}
        tables["images"].append(row | {"at": (folder, f"{part}, row {i}")})
        size, listed = (header.width, header.height), objects if isinstance(objects, list) else _transposed(objects)
        for number, one in enumerate(listed):
            at = (folder, f"{part}, row {i}, object {number}")
            made = {"image_id": key, "category_id": _spell(one[named], names), "at": at}
            tables["annotations"].append(made | {"bbox": _in_pixels(one["bbox"], box_format, size)})
    found = names or dict.fromkeys(row["category_id"] for row in tables["annotations"])
    tables["categories"] = [{"id": name, "name": name, "at": (folder, "")} for name in found]
    return tables


def _in_pixels(bbox: Any, box_format: BoxFormat, size: tuple[int, int]) -> Any:
    """[x, y, width, height] in pixels; what is no box is left for the check of rows to name."""
    try:
        return convert(np.array(bbox, float), frame_of(box_format, size), pixels(*size)).tolist()
    except (TypeError, ValueError):
        return bbox


def _transposed(objects: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(objects, values, strict=False)) for values in zip(*objects.values(), strict=False)]


def _spell(value: Any, names: list[str]) -> str:
    if isinstance(value, int) and names:
        value = names[value] if 0 <= value < len(names) else ""
    return " ".join(str(value).replace("_", " ").split()) if value not in (None, "") else ""


def _names(feature: Any) -> list[str]:
    """The names of a ClassLabel, also inside a list."""
    while not getattr(feature, "names", None) and getattr(feature, "feature", None) is not None:
        feature = feature.feature
    return [" ".join(name.replace("_", " ").split()) for name in getattr(feature, "names", None) or []]


def _column(table: Any, folder: Path, wanted: Sequence[str]) -> str:
    found = next((name for name in wanted if name in table.column_names), None)
    if found is None:
        has = ", ".join(table.column_names)
        raise UserError(
            f"{folder} has no column {' or '.join(wanted)}; it has {has}: set data.task, or data.kind = virft"
        )
    return found


def _image_column(table: Any, folder: Path) -> str:
    import datasets

    found = [name for name, feature in table.features.items() if isinstance(feature, datasets.Image)]
    if not found:
        raise UserError(f"{folder} has no column of pictures; it has {', '.join(table.column_names)}")
    return found[0]


def _bytes(table: Any, column: str) -> Any:
    """The table with its pictures as bytes in the column `image`."""
    import datasets

    table = table.select_columns([column]).cast_column(column, datasets.Image(decode=False))
    return table if column == "image" else table.rename_column(column, "image")


def _split(folder: Path, part: str) -> Any:
    found = _read(folder)
    if not isinstance(found, dict):
        return found
    name = next((name for name in SPLITS[part] if name in found), None)
    if name is None:
        raise UserError(f"{folder} has no split {part}; it has {', '.join(found)}")
    return found[name]


def _read(folder: Path) -> Any:
    """What `datasets` makes of a folder, a file or a name."""
    try:
        import datasets
    except ImportError:
        raise UserError('kind hf needs the datasets package: pip install "minirft[datasets]"') from None
    try:
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
            return datasets.load_from_disk(str(folder))
        if not folder.exists():
            return datasets.load_dataset(folder.as_posix())
        files = [folder] if folder.is_file() else sorted(folder.rglob("*.parquet"))
        splits = {part: [str(f) for f in files if f.name.startswith(names)] for part, names in SPLITS.items()}
        named = {part: found for part, found in splits.items() if found}
        if files and sum(map(len, named.values())) == len(files):
            return {part: datasets.Dataset.from_parquet(found) for part, found in named.items()}
        return datasets.Dataset.from_parquet([str(file) for file in files])
    except Exception as error:  # pyarrow, datasets and the hub raise a dozen kinds
        kind = kind_of_file(folder) if folder.exists() else "not here, and could not be had from the hub"
        why = " ".join(str(error).split())[:200]
        raise UserError(
            f"{folder} cannot be read as a data set: it is {kind or 'torn'} ({why}); set data.folder"
        ) from None

"""This module reads a set of the `datasets` library: a `save_to_disk` folder, Parquet files, or a name on the hub.

    columns                                                    task
    image, label (a ClassLabel, or text)                       classification
    image, objects: {bbox: [[x, y, width, height]], category}  detection, presence

    objects.category may be a ClassLabel or text, and its name label or categories; boxes are in `data.box_format`.
    Splits are parts: the run trains on train, and holds out test or validation.

Pictures stay on disk and are read when needed.  A set with the columns problem and solution is of kind `virft`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minirft.data.box_format import BoxRow, four, tables_of_rows
from minirft.data.checks import column
from minirft.data.findings import Findings
from minirft.data.questions import Labelled, label_samples
from minirft.data.settings import PARTS, DataConfig
from minirft.data.stored import open_set, open_split, stored_pictures
from minirft.data.tables import Tables
from minirft.samples import Sample

NAMED = ("category", "label", "categories", "labels", "category_id")


def parts_of_set(folder: Path) -> list[str]:
    """Return the parts for which the set has splits; empty for a single split."""
    splits = open_set(folder)
    return [part for part, names in PARTS.items() if set(names) & set(splits)] if len(splits) > 1 else []


def hub_samples(data: DataConfig, folder: Path, part: str, findings: Findings) -> list[Sample]:
    """Return a classification sample for each row; its id is SET:PART:ROW."""
    table = open_split(folder, part)
    label = column(("label", "labels", "class", "category", "fine_label"), table.column_names, folder)
    names, rows = _names(table.features[label]), []
    for i, (value, picture) in enumerate(zip(table[label], stored_pictures(table, f"{folder}, {part}"), strict=True)):
        key, name = f"{folder.name}:{part}:{i}", _spell(value, names)
        if name:
            rows.append(Labelled(key, picture, name))
        else:
            findings.lose(folder, f"{part}, row {i}", "has no label; repair or remove it", [key])
    return label_samples(data, folder, rows, findings, names)


def hub_tables(data: DataConfig, folder: Path, part: str, findings: Findings) -> Tables:
    """Return the three tables of a split, whose boxes are [x, y, width, height] in the units of `data.box_format`."""
    table = open_split(folder, part)
    place = column(("objects", "annotations"), table.column_names, folder)
    inner = getattr(table.features[place], "feature", table.features[place])  # of a list of dicts, or a dict of lists
    fields = inner if isinstance(inner, dict) else {}
    boxes, named = (column(wanted, fields, f"{folder}: {place}") for wanted in (("bbox",), NAMED))
    names = _names(fields[named])

    def rows() -> Iterator[BoxRow]:
        pictures = stored_pictures(table, f"{folder}, {part}")
        for i, (objects, picture) in enumerate(zip(table[place], pictures, strict=True)):
            key, where = f"{folder.name}:{part}:{i}", f"{part}, row {i}"
            yield BoxRow((folder, where), key, picture=picture)
            if isinstance(objects, dict):  # a dict of lists instead of a list of dicts
                objects = [dict(zip(objects, values, strict=False)) for values in zip(*objects.values(), strict=False)]
            for number, one in enumerate(objects):
                box = (_spell(one[named], names), four(one[boxes], sides=True))
                yield BoxRow((folder, f"{where}, object {number}"), key, [box])

    return tables_of_rows(rows(), folder, data.box_format, folder, findings, {name: name for name in names})


def _spell(value: Any, names: list[str]) -> str:
    if isinstance(value, int) and names:
        value = names[value] if 0 <= value < len(names) else ""
    return " ".join(str(value).replace("_", " ").split()) if value not in (None, "") else ""


def _names(feature: Any) -> list[str]:
    """Return the names of a ClassLabel, also inside a list."""
    while not getattr(feature, "names", None) and getattr(feature, "feature", None) is not None:
        feature = feature.feature
    return [" ".join(name.replace("_", " ").split()) for name in getattr(feature, "names", None) or []]

"""This module reads a set of the `datasets` library: a `save_to_disk` folder, Parquet files, or a name on the hub.

    columns                                                    task
    image, label (a ClassLabel, or text)                       classification
    image, objects: {bbox: [[x, y, width, height]], category}  detection, presence

    objects.category may be a ClassLabel or text, and its name label or categories; boxes are in `data.box_format`.
    Splits are parts: the run trains on train, and holds out test or validation.

Pictures stay on disk and are read when needed; EXIF rotations are applied, as the library does.  A set with the columns
problem and solution is of kind `virft`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from minirft import UserError, as_user_error
from minirft.data.box_format import BoxRow, four, tables_of_rows
from minirft.data.checks import column
from minirft.data.findings import Findings
from minirft.data.questions import Labelled, label_samples
from minirft.data.settings import PARTS, DataConfig
from minirft.data.tables import Tables
from minirft.pictures import kind_of_file
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


# ------------------------------------------------------------------ opening a set, and the pictures in its rows


@dataclass(frozen=True)
class StoredPicture:
    """A `StoredPicture` is one picture of a table; its bytes are read when needed and not kept.

    Two of them are equal when they are the same row of the same table.
    """

    table: Any = field(repr=False, compare=False)  # its one column holds the pictures
    source: str
    row: int

    def read_bytes(self) -> bytes:
        """Read the bytes of the picture's file, as `Path.read_bytes` does."""
        (stored,) = self.table[self.row].values()
        return Path(stored["path"]).read_bytes() if stored["bytes"] is None else stored["bytes"]

    def __str__(self) -> str:
        return f"{self.source}, row {self.row}"


def stored_pictures(table: Any, source: str) -> Iterator[StoredPicture]:
    """Return the picture of every row of a table, from "image" or the first column of pictures, to be read later.

    `source` is the table's name in messages.
    """
    import datasets

    typed = [name for name, feature in table.features.items() if isinstance(feature, datasets.Image)]
    column = next((name for name in ("image", *typed) if name in table.column_names), None)
    if column is None:
        raise UserError(f"{source} has no column of pictures; it has {', '.join(table.column_names)}")
    # pyarrow raises many kinds of errors
    with as_user_error(f"{source}: column {column} holds no pictures ({{why}}); set data.kind", Exception):
        stored = table.select_columns([column]).cast_column(column, datasets.Image(decode=False))
    return (StoredPicture(stored, source, row) for row in range(len(stored)))


def open_split(folder: Path, part: str) -> Any:
    """Return the table of a part (train, val, test) of a set, or its only table.  Raises as `open_set`."""
    splits = open_set(folder)
    named = [table for name, table in splits.items() if name in PARTS[part] or len(splits) == 1]
    if not named:
        raise UserError(f"{folder} has no split {part}; it has {', '.join(splits) or 'no .parquet file'}")
    return named[0]


def open_set(folder: Path) -> dict[str, Any]:
    """Open a `save_to_disk` folder, Parquet files, or a name on the hub; return {split: table}.

    Parquet files whose names all begin with train, test or validation become splits of these names; otherwise they are
    one table.  A set that has not changed is opened once.  Raises `UserError` if it cannot be read.
    """
    files = [path for path in (folder, *folder.rglob("*")) if path.exists()]
    return _opened(folder, max((path.stat().st_mtime_ns for path in files), default=0))


@lru_cache(maxsize=4)
def _opened(folder: Path, changed: int) -> dict[str, Any]:
    with as_user_error('kinds hf and virft need the datasets package: pip install "minirft[datasets]"', ImportError):
        import datasets
    kind = kind_of_file(folder) or "torn" if folder.exists() else "not here, and could not be had from the hub"
    advice = f"it is {kind} ({{why}}); set data.folder, or data.kind to its kind"
    # pyarrow, datasets and the hub raise many kinds of errors
    with as_user_error(f"{folder} cannot be read as a data set: {advice}", Exception):
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
            opened = datasets.load_from_disk(str(folder))
            return opened if isinstance(opened, dict) else {"train": opened}
        if not folder.exists():
            return datasets.load_dataset(folder.as_posix())
        files = [folder] if folder.is_file() else sorted(folder.rglob("*.parquet"))
        splits = {part: [file for file in files if file.name.startswith(names)] for part, names in PARTS.items()}
        if sum(map(len, splits.values())) < len(files):
            splits = {"train": files}
        return {part: datasets.Dataset.from_parquet([str(f) for f in of]) for part, of in splits.items() if of}

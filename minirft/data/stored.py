"""This module opens sets of the `datasets` library, and reads pictures that are rows of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from minirft import UserError, as_user_error
from minirft.data.settings import PARTS
from minirft.pictures import kind_of_file


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

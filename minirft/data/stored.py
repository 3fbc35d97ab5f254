"""This module opens sets of the `datasets` library, and reads pictures that are rows of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from minirft import as_user_error
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


def stored_pictures(table: Any, column: str, source: str) -> Iterator[StoredPicture]:
    """Return the picture of every row of a table; `source` is the table's name in messages."""
    import datasets

    # pyarrow raises many kinds of errors
    with as_user_error(f"{source}: column {column} holds no pictures ({{why}}); set data.kind", Exception):
        stored = table.select_columns([column]).cast_column(column, datasets.Image(decode=False))
    return (StoredPicture(stored, source, row) for row in range(len(stored)))


def open_set(folder: Path, by_name: bool = True) -> Any:
    """Open a `save_to_disk` folder, Parquet files, or a name on the hub; return a table, or {split: table}.

    With `by_name`, Parquet files whose names all begin with train, test or validation become splits of these names;
    otherwise they are one table.  A set that has not changed is opened once.  Raises `UserError` if it cannot be read.
    """
    files = [path for path in (folder, *folder.rglob("*")) if path.exists()]
    return _opened(folder, by_name, max((path.stat().st_mtime_ns for path in files), default=0))


@lru_cache(maxsize=4)
def _opened(folder: Path, by_name: bool, changed: int) -> Any:
    with as_user_error('kinds hf and virft need the datasets package: pip install "minirft[datasets]"', ImportError):
        import datasets
    kind = kind_of_file(folder) or "torn" if folder.exists() else "not here, and could not be had from the hub"
    advice = f"it is {kind} ({{why}}); set data.folder, or data.kind to its kind"
    # pyarrow, datasets and the hub raise many kinds of errors
    with as_user_error(f"{folder} cannot be read as a data set: {advice}", Exception):
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
            return datasets.load_from_disk(str(folder))
        if not folder.exists():
            return datasets.load_dataset(folder.as_posix())
        files = [folder] if folder.is_file() else sorted(folder.rglob("*.parquet"))
        splits = {part: [file for file in files if file.name.startswith(names)] for part, names in PARTS.items()}
        if not by_name or not files or sum(map(len, splits.values())) < len(files):
            splits = {"": files}
        tables = {part: datasets.Dataset.from_parquet([str(f) for f in of]) for part, of in splits.items() if of}
        return tables.get("", tables)

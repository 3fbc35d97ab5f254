"""A folder of folders as classification samples: the folder's name is the label.

    pictures/
      golden_retriever/     underscores are spaces: "golden retriever"
        001.jpg
        more/002.png        deeper folders belong to the same class
      tabby_cat/
        ...

Hidden files (.DS_Store) and hidden folders are passed over; any other file that is no picture is refused by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from minirft import UserError
from minirft.data.checks import choose, labelled, picture_size
from minirft.rewards import normalise
from minirft.samples import Sample


def load_folder(folder: str | Path, categories: Sequence[str] | None = None, *, family: str = "object") -> list[Sample]:
    """One sample for each picture, by class and file name; its id is CLASS/FILE.  No `categories` means every class.

    `family` is what the pictures show, as the question says it.  Raises `UserError` naming the file that is wrong.

    >>> load_folder("nowhere")
    Traceback (most recent call last):
    minirft.UserError: no folder nowhere; set data.folder to a folder with one folder for each class
    """
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"no folder {root}; set data.folder to a folder with one folder for each class")
    classes = _classes(root)
    chosen = choose(categories, classes, root)
    samples = []
    for name, path in classes.items():
        if name in chosen:
            files = sorted(file for file in path.rglob("*") if file.is_file() and not _hidden(file, root))
            if not files:
                raise UserError(f"{path} holds no picture; add some or remove the folder")
            for file in files:
                picture_size(file)
                samples.append(labelled(file.relative_to(root).as_posix(), file, name, family))
    return samples


def _classes(root: Path) -> dict[str, Path]:
    """Label -> folder.  Two folders that differ only in what an answer may differ in are refused."""
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not _hidden(path, root))
    if not folders:
        raise UserError(f"{root} has no folder in it; give each class its own: {root}/CLASS/picture.jpg")
    seen: dict[str, Path] = {}
    for path in folders:
        other = seen.setdefault(normalise(path.name), path)
        if other is not path or not normalise(path.name):
            raise UserError(f"{path} and {other} make the same label; rename one, because an answer could mean either")
    return {" ".join(path.name.replace("_", " ").split()): path for path in folders}


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)

"""This module turns a folder of folders into classification samples: each folder's name is a label.

    pictures/                                          or     pictures/
      golden_retriever/     underscores are spaces              train/golden_retriever/001.jpg
        001.jpg                                                 train/tabby_cat/...
        more/002.png        deeper folders are the same class   test/golden_retriever/...   (or val/, valid/)
      tabby_cat/
        ...

In the second layout the run trains on one part and holds out the other.  EXIF rotations are applied.  Hidden files and
those that Windows and macOS create (.DS_Store, Thumbs.db) are ignored; any other file that is no picture is reported.
"""

from pathlib import Path

from minirft import UserError
from minirft.data.checks import files_in, folders_in, part_folders, plain
from minirft.data.findings import Findings, report
from minirft.data.questions import Labelled, label_samples
from minirft.data.settings import DataConfig
from minirft.rewards import normalise
from minirft.samples import Sample


def parts_of_folder(root: Path) -> dict[str, Path]:
    """Return {train, val or test: its folder}, or {} for a folder of classes.

    The folders are parts if all of them have a part's name, train is among them, and each contains folders.
    """
    parts = part_folders(root)
    whole = len(folders_in(root)) == len(parts) > 1 and "train" in parts
    return parts if whole and all(map(folders_in, parts.values())) else {}


def load_folder(data: DataConfig, root: Path, part: str, findings: Findings) -> list[Sample]:
    """Return a sample for each picture, sorted by class and file name; its id is CLASS/FILE.

    `part` is train, val or test, for a folder with parts.  A file that cannot be used goes to `findings`.

    >>> load_folder(DataConfig("folder", "classification"), Path("nowhere"), "train", Findings())
    Traceback (most recent call last):
    minirft.UserError: no folder nowhere; set data.folder to a folder with one folder for each class
    """
    if not root.is_dir():
        raise UserError(f"no folder {root}; set data.folder to a folder with one folder for each class")
    parts = parts_of_folder(root)
    if parts:
        report(f"{root} has the parts {', '.join(parts)}: train is trained on, the other is held out")
    every = {label for path in parts.values() for label in _classes(path)}
    classes, rows = _classes(parts.get(part, root)), []
    for label, path in classes.items():
        files = files_in(path)
        if not files and (not data.categories or plain(label) in map(plain, data.categories)):
            raise UserError(f"{path} holds no picture; add some or remove the folder")
        rows += [Labelled(file.relative_to(root).as_posix(), file, label) for file in files]
    return label_samples(data, root, rows, findings, sorted(every) or list(classes))


def _classes(root: Path) -> dict[str, Path]:
    """Return {label: folder}; refuse two folders whose labels an answer cannot distinguish (case, underscores)."""
    folders = folders_in(root)
    if not folders:
        raise UserError(f"{root} has no folder in it; give each class its own: {root}/CLASS/picture.jpg")
    seen: dict[str, Path] = {}
    for path in folders:
        other = seen.setdefault(normalise(path.name), path)
        if other is not path or not normalise(path.name):
            raise UserError(f"{path} and {other} make the same label; rename one, because an answer could mean either")
    return {" ".join(path.name.replace("_", " ").split()): path for path in folders}

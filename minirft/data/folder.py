"""A folder of folders as classification samples: the folder's name is the label.

    pictures/                                          or     pictures/
      golden_retriever/     underscores are spaces              train/golden_retriever/001.jpg
        001.jpg                                                 train/tabby_cat/...
        more/002.png        deeper folders are the same class   test/golden_retriever/...   (or val/, valid/)
      tabby_cat/
        ...

In the second layout one part is trained on and the other is held out.  A turn that a camera noted is applied.  Hidden
files and what Windows and macOS leave behind (.DS_Store, Thumbs.db) are passed over; any other file that is no picture
is reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from minirft import UserError
from minirft.data.checks import choose, is_junk, labelled, usable
from minirft.data.findings import Findings, tell
from minirft.data.questions import ListLabels, label_question
from minirft.rewards import normalise
from minirft.samples import Sample

PARTS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}


def parts_of_folder(root: Path) -> dict[str, Path]:
    """The folder of each part, by the names train, val and test; empty for a folder of classes.

    Parts are told by their names where nothing else is there, train is among them, and each holds folders.
    """
    folders = _folders(root) if root.is_dir() else []
    found = {part: path for part, names in PARTS.items() for path in folders if path.name.lower() in names}
    whole = len(folders) == len(found) > 1 and "train" in found
    return found if whole and all(_folders(path) for path in found.values()) else {}


def load_folder(
    folder: str | Path,
    categories: Sequence[str] | None = None,
    *,
    part: str = "train",
    family: str = "object",
    findings: Findings | None = None,
    question: str = "",
    list_labels: ListLabels = "auto",
) -> list[Sample]:
    """One sample for each picture, by class and file name; its id is CLASS/FILE.  No `categories` means every class.

    `part` is train, val or test, for a folder with parts.  `family` is what the pictures show, as the question says
    it; `question` and `list_labels` as in `label_question`.  A file that will not do goes to `findings`; without one
    it is a `UserError` that names it.

    >>> load_folder("nowhere")
    Traceback (most recent call last):
    minirft.UserError: no folder nowhere; set data.folder to a folder with one folder for each class
    """
    root, findings = Path(folder), findings or Findings()
    if not root.is_dir():
        raise UserError(f"no folder {root}; set data.folder to a folder with one folder for each class")
    parts = parts_of_folder(root)
    if parts:
        tell(f"{root} has the parts {', '.join(parts)}: train is trained on, the other is held out")
    every = {label for path in parts.values() for label in _classes(path)}
    classes = _classes(parts.get(part, root))
    chosen = choose(categories, sorted(every) or classes, root)
    asked, samples = label_question(family, chosen, question, list_labels), []
    for label, path in classes.items():
        if label in chosen:
            files = sorted(file for file in path.rglob("*") if file.is_file() and not is_junk(file, root))
            if not files:
                raise UserError(f"{path} holds no picture; add some or remove the folder")
            for file in files:
                name = file.relative_to(root).as_posix()
                header = usable(findings, file, "check data.folder", [name])
                if header:
                    samples.append(labelled(name, file, label, asked, upright=header.marked))
    return samples


def _classes(root: Path) -> dict[str, Path]:
    """Label -> folder.  Two folders that differ only in what an answer may differ in are refused."""
    folders = _folders(root)
    if not folders:
        raise UserError(f"{root} has no folder in it; give each class its own: {root}/CLASS/picture.jpg")
    seen: dict[str, Path] = {}
    for path in folders:
        other = seen.setdefault(normalise(path.name), path)
        if other is not path or not normalise(path.name):
            raise UserError(f"{path} and {other} make the same label; rename one, because an answer could mean either")
    return {" ".join(path.name.replace("_", " ").split()): path for path in folders}


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not is_junk(path, root))

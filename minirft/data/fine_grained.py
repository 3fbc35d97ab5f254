"""The four classification sets of the paper's Table 2, in the layout in which their authors distribute them.

    flowers/               pets/                    aircraft/                          cars/
      imagelabels.mat        annotations/             data/                              devkit/
      setid.mat                trainval.txt             images_variant_trainval.txt        cars_meta.mat
      jpg/                     test.txt                 images_variant_test.txt            cars_train_annos.mat
        image_00001.jpg      images/                    images/                          cars_train/00001.jpg
                               Abyssinian_100.jpg         1025794.jpg                    cars_test/00001.jpg

    and for cars cars_test_annos_withlabels.mat, in the folder of the set or in devkit/

Labels are written as the published ViRFT_CLS sets write them, where that is known: cars year first ("2012 Audi S4
Sedan"), aircraft variants as they are ("737-200"); but with spaces for the pets' underscores ("british shorthair").

Parts: `train` is the authors' training and validation pictures together, `test` their test pictures.  For Flowers102
that is 20 a class for training and 6,149 for testing; the paper's 2,463 flowers for testing are another split.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.io import loadmat

from minirft import UserError
from minirft.data.checks import choose, labelled, text_lines, usable
from minirft.data.findings import Findings
from minirft.data.questions import ListLabels, label_question
from minirft.samples import Sample

Kind = Literal["flowers", "pets", "aircraft", "cars"]
Part = Literal["train", "test"]
Labelled = tuple[str, Path, str]  # the row's place, the picture, the label

FAMILY = {"flowers": "flower", "pets": "pet", "aircraft": "aircraft", "cars": "car"}
FLOWERS = [name for _, name in text_lines(Path(__file__).with_name("flowers102.txt"), "reinstall minirft")]


def load_fine_grained(
    kind: Kind,
    folder: str | Path,
    part: Part,
    categories: Sequence[str] | None = None,
    *,
    findings: Findings | None = None,
    question: str = "",
    list_labels: ListLabels = "auto",
) -> list[Sample]:
    """One sample for each picture of a part of one of the four sets, in the authors' order; the id is its file name.

    No `categories` means all classes; `question` and `list_labels` as in `label_question`.  A picture that will not do
    goes to `findings`, or without one is refused.  Raises `UserError` naming the file and the row for everything else
    that cannot be right.

    >>> load_fine_grained("pets", "nowhere", "train")
    Traceback (most recent call last):
    minirft.UserError: no file nowhere/annotations/trainval.txt; data.folder must hold annotations/ and images/
    """
    root, findings = Path(folder), findings or Findings()
    rows = _READERS[kind](root, part)
    chosen = set(choose(categories, (label for _, _, label in rows), root))
    asked, samples = label_question(FAMILY[kind], sorted(chosen), question, list_labels, own=False), []
    for where, path, label in rows:
        if label in chosen:
            name, advice = f"{path.parent.name}/{path.name}", f"{where} names it: unpack the pictures there"
            if usable(findings, path, advice, [name]):
                samples.append(labelled(name, path, label, asked))
    if not samples:
        raise UserError(f"{root} has no picture for {part}; check the set's files")
    return samples


def _flowers(root: Path, part: Part) -> list[Labelled]:
    labels = np.atleast_1d(_matrix(root / "imagelabels.mat", "labels"))
    rows = []
    for field in ("trnid", "valid") if part == "train" else ("tstid",):
        for i, number in enumerate(np.atleast_1d(_matrix(root / "setid.mat", field))):
            where = f"{root / 'setid.mat'}: {field}[{i}]"
            if not 1 <= number <= len(labels):
                raise UserError(f"{where} is picture {number}, imagelabels.mat has {len(labels)}; download both again")
            label = labels[number - 1]
            if not 1 <= label <= len(FLOWERS):
                file = root / "imagelabels.mat"
                raise UserError(f"{file}: labels[{number - 1}] is {label}, not 1 to {len(FLOWERS)}; download it again")
            rows.append((where, root / "jpg" / f"image_{number:05d}.jpg", FLOWERS[label - 1]))
    return rows


def _pets(root: Path, part: Part) -> list[Labelled]:
    path = root / "annotations" / ("trainval.txt" if part == "train" else "test.txt")
    rows = []
    for number, line in text_lines(path, "data.folder must hold annotations/ and images/"):
        found = re.fullmatch(r"(\w+)_\d+ \d+ [12] \d+", line, re.ASCII)
        if found is None:
            raise UserError(f"{path}:{number}: {line[:80]!r} is not NAME_NUMBER CLASS SPECIES BREED; repair the line")
        label = found[1].replace("_", " ").lower()
        rows.append((f"{path}:{number}", root / "images" / f"{line.split()[0]}.jpg", label))
    return rows


def _aircraft(root: Path, part: Part) -> list[Labelled]:
    path = root / "data" / f"images_variant_{'trainval' if part == 'train' else 'test'}.txt"
    rows = []
    for number, line in text_lines(path, "data.folder must hold data/images_variant_*.txt and data/images/"):
        found = re.fullmatch(r"(\d+) (\S.*)", line, re.ASCII)
        if found is None:
            raise UserError(f"{path}:{number}: {line[:80]!r} is not NUMBER VARIANT; repair the line")
        rows.append((f"{path}:{number}", root / "data" / "images" / f"{found[1]}.jpg", found[2]))
    return rows


def _cars(root: Path, part: Part) -> list[Labelled]:
    names = [
        _year_first(str(name)) for name in np.atleast_1d(_matrix(root / "devkit" / "cars_meta.mat", "class_names"))
    ]
    places = [root / "devkit" / "cars_train_annos.mat"]
    if part == "test":
        places = [folder / "cars_test_annos_withlabels.mat" for folder in (root, root / "devkit")]
    path = next((place for place in places if place.is_file()), places[0])
    annotations = np.atleast_1d(_matrix(path, "annotations"))
    lacking = {"fname", "class"} - set(annotations.dtype.names or ())
    if lacking:
        raise UserError(
            f"{path}: annotations have no {' and no '.join(sorted(lacking))}; take cars_test_annos_withlabels.mat"
        )
    rows = []
    for i, row in enumerate(annotations):
        file, number = str(row["fname"]), int(row["class"])
        if not 1 <= number <= len(names):
            raise UserError(
                f"{path}: annotations[{i}], {file}, is of class {number}, cars_meta.mat has {len(names)}; repair it"
            )
        rows.append((f"{path}: annotations[{i}]", root / f"cars_{part}" / file, names[number - 1]))
    return rows


def _year_first(name: str) -> str:
    """
    >>> _year_first("Chevrolet Malibu Hybrid Sedan 2010")
    '2010 Chevrolet Malibu Hybrid Sedan'
    """
    return re.sub(r"^(.*) (\d{4})$", r"\2 \1", name)


def _matrix(path: Path, field: str) -> np.ndarray:
    """One variable of a MATLAB file."""
    if not path.is_file():
        raise UserError(f"no file {path}; data.folder must be the folder of the set as its authors distribute it")
    try:
        found: dict[str, Any] = loadmat(path, squeeze_me=True, variable_names=[field])
    except Exception as error:  # scipy raises a dozen kinds on a torn file
        raise UserError(f"{path} cannot be read as a MATLAB file ({error}); download it again") from None
    if field not in found:
        raise UserError(f"{path} has no variable {field!r}; is it the file of this name that the authors distribute?")
    return found[field]


_READERS: dict[str, Callable[[Path, Part], list[Labelled]]] = {
    "flowers": _flowers,
    "pets": _pets,
    "aircraft": _aircraft,
    "cars": _cars,
}

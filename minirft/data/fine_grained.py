"""This module reads the four classification sets of the paper's Table 2 in their authors' layout.

    flowers/               pets/                    aircraft/                          cars/
      imagelabels.mat        annotations/             data/                              devkit/
      setid.mat                trainval.txt             images_variant_trainval.txt        cars_meta.mat
      jpg/                     test.txt                 images_variant_test.txt            cars_train_annos.mat
        image_00001.jpg      images/                    images/                          cars_train/00001.jpg
                               Abyssinian_100.jpg         1025794.jpg                    cars_test/00001.jpg

    and for cars cars_test_annos_withlabels.mat, in the folder of the set or in devkit/

Labels have the form of the published ViRFT_CLS sets, as far as it is known: cars begin with the year ("2012 Audi S4
Sedan"), aircraft variants are unchanged ("737-200"), and pets have spaces for underscores ("british shorthair").

The part `train` is the authors' training and validation pictures together, and `test` is their test pictures.  For
Flowers102 this means 20 pictures per class for training and 6,149 for testing; the paper's 2,463 test flowers are
another split.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import loadmat

from minirft import UserError, as_user_error
from minirft.data.checks import text_lines
from minirft.data.findings import Findings
from minirft.data.questions import Labelled, label_samples
from minirft.data.settings import DataConfig
from minirft.samples import Sample

LabelledRows = Iterator[tuple[str, Path, str]]  # the row's place, the picture, the label

FLOWERS = [name for _, name in text_lines(Path(__file__).with_name("flowers102.txt"), "reinstall minirft")]


def load_fine_grained(data: DataConfig, root: Path, part: str, findings: Findings) -> list[Sample]:
    """Return a sample for each picture of a part of one of the four sets, in the authors' order.

    Its id is its folder and file name.  A picture that cannot be used goes to `findings`.  Any other error in the
    files raises `UserError` with file and row.

    >>> load_fine_grained(DataConfig("pets", "classification"), Path("nowhere"), "train", Findings())
    Traceback (most recent call last):
    minirft.UserError: no file nowhere/annotations/trainval.txt; data.folder must hold annotations/ and images/
    """
    read = {"flowers": _flowers, "pets": _pets, "aircraft": _aircraft, "cars": _cars}[data.kind]
    rows = [
        Labelled(f"{path.parent.name}/{path.name}", path, label, f"{where} names it: unpack the pictures there")
        for where, path, label in read(root, part)
    ]
    return label_samples(data, root, rows, findings)


def _flowers(root: Path, part: str) -> LabelledRows:
    labels = _matrix(root / "imagelabels.mat", "labels")
    for field in ("trnid", "valid") if part == "train" else ("tstid",):
        for i, number in enumerate(_matrix(root / "setid.mat", field)):
            where = f"{root / 'setid.mat'}: {field}[{i}]"
            label = _entry(labels, number, f"{where} is picture")
            flower = _entry(FLOWERS, label, f"{root / 'imagelabels.mat'}: labels[{number - 1}] is")
            yield where, root / "jpg" / f"image_{number:05d}.jpg", flower


def _pets(root: Path, part: str) -> LabelledRows:
    path = root / "annotations" / ("trainval.txt" if part == "train" else "test.txt")
    advice, form = "data.folder must hold annotations/ and images/", "NAME_NUMBER CLASS SPECIES BREED"
    for where, match in _lines(path, r"((\w+)_\d+) \d+ [12] \d+", form, advice):
        yield where, root / "images" / f"{match[1]}.jpg", match[2].replace("_", " ").lower()


def _aircraft(root: Path, part: str) -> LabelledRows:
    path = root / "data" / f"images_variant_{'trainval' if part == 'train' else 'test'}.txt"
    advice = "data.folder must hold data/images_variant_*.txt and data/images/"
    for where, match in _lines(path, r"(\d+) (\S.*)", "NUMBER VARIANT", advice):
        yield where, root / "data" / "images" / f"{match[1]}.jpg", match[2]


def _lines(path: Path, pattern: str, form: str, advice: str) -> Iterator[tuple[str, re.Match[str]]]:
    for number, line in text_lines(path, advice):
        match = re.fullmatch(pattern, line, re.ASCII)
        if match is None:
            raise UserError(f"{path}:{number}: {line[:80]!r} is not {form}; repair the line")
        yield f"{path}:{number}", match


def _cars(root: Path, part: str) -> LabelledRows:
    names = [_year_first(str(name)) for name in _matrix(root / "devkit" / "cars_meta.mat", "class_names")]
    places = [root / "devkit" / "cars_train_annos.mat"]
    if part == "test":
        places = [folder / "cars_test_annos_withlabels.mat" for folder in (root, root / "devkit")]
    path = next((place for place in places if place.is_file()), places[0])
    annotations = _matrix(path, "annotations")
    lacking = {"fname", "class"} - set(annotations.dtype.names or ())
    if lacking:
        raise UserError(
            f"{path}: annotations have no {' and no '.join(sorted(lacking))}; take cars_test_annos_withlabels.mat"
        )
    for i, row in enumerate(annotations):
        where, file = f"{path}: annotations[{i}]", str(row["fname"])
        label = _entry(names, int(row["class"]), f"{where}, {file}, is of class")
        yield where, root / f"cars_{part}" / file, label


def _entry(table: Sequence[Any], number: int, what: str) -> Any:
    """Return the entry of a table that MATLAB counts from 1; `what` begins the error for a number outside it."""
    if not 1 <= number <= len(table):
        raise UserError(f"{what} {number}, not 1 to {len(table)}; download the files of the set again")
    return table[number - 1]


def _year_first(name: str) -> str:
    """Move the year of a car's label to the front.

    >>> _year_first("Chevrolet Malibu Hybrid Sedan 2010")
    '2010 Chevrolet Malibu Hybrid Sedan'
    """
    return re.sub(r"^(.*) (\d{4})$", r"\2 \1", name)


def _matrix(path: Path, field: str) -> np.ndarray:
    """Read one variable of a MATLAB file, as an array of at least one row."""
    if not path.is_file():
        raise UserError(f"no file {path}; data.folder must be the folder of the set as its authors distribute it")
    # scipy raises many kinds of errors for a damaged file
    with as_user_error(f"{path} cannot be read as a MATLAB file ({{why}}); download it again", Exception):
        variables: dict[str, Any] = loadmat(path, squeeze_me=True, variable_names=[field])
    if field not in variables:
        raise UserError(f"{path} has no variable {field!r}; is it the file of this name that the authors distribute?")
    return np.atleast_1d(variables[field])

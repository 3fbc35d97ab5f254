"""This module reads Pascal VOC's layout (also LabelImg's, CVAT's and Roboflow's) into the tables of COCO's format.

    VOC2012/                                     or    pets/
      ImageSets/Main/train.txt, val.txt, test.txt        train/1.jpg, train/1.xml
      Annotations/2007_000027.xml                        valid/..., test/...
      JPEGImages/2007_000027.jpg                   or    pets/1.jpg, pets/1.xml

    1.xml    <annotation><filename>1.jpg</filename><size><width>500</width><height>375</height></size>
               <object><name>cat</name><difficult>0</difficult>
                 <bndbox><xmin>1</xmin><ymin>1</ymin><xmax>200</xmax><ymax>100</ymax></bndbox></object></annotation>

As in the VOC development kit, pixels are counted from 1 and the last one belongs to the box: 1 to 200 there is 0 to 200
here.  A difficult object is treated like a COCO crowd: it is not part of a solution, and a box on it is no error.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

from minirft import UserError
from minirft.data.checks import is_junk, read_text
from minirft.data.findings import Findings
from minirft.data.settings import PARTS, DataConfig
from minirft.data.tables import Row, Tables, make_tables

CORNERS = ("xmin", "ymin", "xmax", "ymax")


def parts_of_voc(root: Path) -> dict[str, list[Path]]:
    """Return {train, val or test: its annotation files}, or {} if there are no parts."""
    lists = root / "ImageSets" / "Main"
    if lists.is_dir():
        names = {"train": "train", "val": "val", "test": "test"}
        if not (lists / "train.txt").is_file():
            names["train"] = "trainval"
        files = {part: lists / f"{name}.txt" for part, name in names.items()}
        return {part: list(_listed(root, path)) for part, path in files.items() if path.is_file()}
    below = [path for path in sorted(root.iterdir()) if path.is_dir()] if root.is_dir() else []
    folders = {part: path for part, names in PARTS.items() for path in below if path.name.lower() in names}
    parts = {part: _annotations(path) for part, path in folders.items()}
    return parts if parts.get("train") else {}


def voc_tables(data: DataConfig, root: Path, part: str, findings: Findings) -> Tables:
    """Read the three tables of a part, or of the whole folder if it has no parts.

    Raises `UserError` for a folder without annotations; an invalid file goes to `findings`.
    """
    parts = parts_of_voc(root)
    files = parts.get(part, []) if parts else _annotations(root)
    if not files:
        raise UserError(f"{root} holds no .xml annotations for {part}; set data.folder to a folder in VOC's layout")
    images: list[Row] = []
    annotations: list[Row] = []
    for path in files:
        name = path.relative_to(root).with_suffix("").as_posix()
        try:
            tree = ElementTree.fromstring(read_text(path, "the list of its part names it"))
        except (ElementTree.ParseError, UserError) as error:
            findings.lose(path, "", f"cannot be read as XML ({error}); repair or remove it", [f"{name}:"])
            continue
        picture = _picture(path, tree.findtext("filename") or f"{path.stem}.jpg")
        size = {side: _whole(tree.findtext(f"size/{side}")) for side in ("width", "height")}
        known = {side: value for side, value in size.items() if value}
        row = {"id": name, "file_name": picture.name, "at": (path, "")} | known
        images.append(row | ({"picture": picture} if picture.is_file() else {}))
        annotations += _objects(path, name, tree)
    return make_tables(images, annotations, root)


def _listed(root: Path, path: Path) -> Iterator[Path]:
    for line in read_text(path, "it lists the pictures of a part").splitlines():
        if line.strip():
            yield root / "Annotations" / f"{line.split()[0]}.xml"


def _annotations(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.xml") if not is_junk(path, folder)) if folder.is_dir() else []


def _picture(path: Path, name: str) -> Path:
    """Return the picture of an annotation file: with the name in it or the file's stem, beside it or in JPEGImages."""
    base = name.replace("\\", "/").split("/")[-1]
    folders = (path.parent, path.parent.parent / "JPEGImages", path.parent.parent / "images")
    by_name = [folder / base for folder in folders]
    by_stem = [file for folder in folders if folder.is_dir() for file in sorted(folder.glob(f"{path.stem}.*"))]
    pictures = [file for file in by_stem if file.suffix.lower() not in (".xml", ".txt")]
    return next((file for file in (*by_name, *pictures) if file.is_file()), by_name[0])


def _objects(path: Path, name: str, tree: ElementTree.Element) -> Iterator[Row]:
    for number, item in enumerate(tree.findall("object"), 1):
        category = " ".join((item.findtext("name") or "").split())
        row: Row = {"image_id": name, "category_id": category, "at": (path, f"object {number}")}
        row["iscrowd"] = int((item.findtext("difficult") or "0").strip() == "1")
        words = [item.findtext(f"bndbox/{corner}") for corner in CORNERS]
        try:
            x1, y1, x2, y2 = (float(word or "") for word in words)
            row["bbox"] = [x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1]
        except ValueError:
            row |= {"bbox": None, "problem": f"has {words} as {', '.join(CORNERS)}; repair or remove it"}
        if not category:
            row |= {"problem": "has no name; repair or remove it"}
        yield row


def _whole(text: str | None) -> int:
    return int(float(text)) if text and text.strip().replace(".", "", 1).isdigit() else 0

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

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

from minirft import UserError, as_user_error
from minirft.data.checks import files_in, part_folders, read_text, text_lines
from minirft.data.findings import Findings
from minirft.data.settings import DataConfig
from minirft.data.tables import Row, Tables, make_tables

CORNERS = ("xmin", "ymin", "xmax", "ymax")


def parts_of_voc(root: Path) -> dict[str, list[Path]]:
    """Return {train, val or test: its annotation files}, or {} if there are no parts."""
    lists = root / "ImageSets" / "Main"
    if lists.is_dir():
        names = {"trainval": "train", "train": "train", "val": "val", "test": "test"}  # train.txt before trainval.txt
        files = {part: path for name, part in names.items() if (path := lists / f"{name}.txt").is_file()}
        return {part: _listed(root, path) for part, path in files.items()}
    parts = {part: files_in(path, ".xml") for part, path in part_folders(root).items()}
    return parts if parts.get("train") else {}


def voc_tables(data: DataConfig, root: Path, part: str, findings: Findings) -> Tables:
    """Read the three tables of a part, or of the whole folder if it has no parts.

    Raises `UserError` for a folder without annotations; an invalid file goes to `findings`.
    """
    parts = parts_of_voc(root)
    files = parts.get(part, []) if parts else files_in(root, ".xml")
    if not files:
        raise UserError(f"{root} holds no .xml annotations for {part}; set data.folder to a folder in VOC's layout")
    images: list[Row] = []
    annotations: list[Row] = []
    for path in files:
        name = path.relative_to(root).with_suffix("").as_posix()
        with findings.losing(path, "", [f"{name}:"], "cannot be read as XML: "):
            with as_user_error("{why}; repair or remove it", ElementTree.ParseError):
                tree = ElementTree.fromstring(read_text(path, "the list of its part names it"))
            file = (tree.findtext("filename") or f"{path.stem}.jpg").replace("\\", "/").split("/")[-1]
            size = {side: _whole(tree.findtext(f"size/{side}")) for side in ("width", "height")}
            images.append({"id": name, "file_name": file, "picture": _picture(path, file), "at": (path, ""), **size})
            annotations += _objects(path, name, tree)
    return make_tables(images, annotations, root)


def _listed(root: Path, path: Path) -> list[Path]:
    lines = text_lines(path, "it lists the pictures of a part")
    return [root / "Annotations" / f"{line.split()[0]}.xml" for _, line in lines]


def _picture(path: Path, name: str) -> Path | None:
    """Return the picture of an annotation file: with the name in it or the file's stem, beside it or in JPEGImages."""
    folders = (path.parent, path.parent.parent / "JPEGImages", path.parent.parent / "images")
    by_name = [folder / name for folder in folders]
    by_stem = [file for folder in folders for file in sorted(folder.glob(f"{path.stem}.*"))]
    pictures = [file for file in by_stem if file.suffix.lower() not in (".xml", ".txt")]
    return next((file for file in (*by_name, *pictures) if file.is_file()), None)


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


def _whole(text: str | None) -> int | None:
    """Return a number of pixels; None, which is then read from the picture, for 0 or no number."""
    return int(float(text)) or None if text and text.strip().replace(".", "", 1).isdigit() else None

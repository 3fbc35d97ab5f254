"""A CSV file of pictures and labels, or of pictures, boxes and labels, as exported by hand or by a spreadsheet.

    image,label            image,xmin,ymin,xmax,ymax,label           (also x1,y1,x2,y2 or x,y,width,height)
    cats/1.jpg,tabby       cats/1.jpg,10,20,110,220,tabby            a row for each box
    dogs/1.jpg,poodle      yard/7.jpg,,,,,                           a picture that shows none of the labels

Columns are known by their names, in any order and case; the separator may be a comma, a semicolon or a tab.  Pictures
lie in `images`, or below the folder of the file.
"""

from __future__ import annotations

import csv
import math
from pathlib import Path

from minirft import UserError
from minirft.data.box_format import BoxFormat, check_format, to_pixels
from minirft.data.checks import Header, choose, labelled, locate, read_text, usable
from minirft.data.findings import Findings
from minirft.data.questions import ListLabels, label_question
from minirft.data.tables import Row, Tables
from minirft.samples import Sample

PICTURE = ("image", "filename", "file_name", "file", "path", "picture", "image_path", "img", "image_id")
LABEL = ("label", "class", "category", "class_name", "name", "species")
CORNERS = (("xmin", "ymin", "xmax", "ymax"), ("x1", "y1", "x2", "y2"), ("left", "top", "right", "bottom"))
SIDES = (("x", "y", "width", "height"), ("x", "y", "w", "h"), ("left", "top", "width", "height"))


def load_labels(
    source: Path,
    images: Path | None,
    categories: tuple[str, ...] | None,
    *,
    family: str,
    findings: Findings,
    question: str = "",
    list_labels: ListLabels = "auto",
) -> list[Sample]:
    """A classification sample for each row; its id is the picture's name, with #2 for its second row."""
    rows, columns = _rows(source)
    picture, label = _column(source, columns, PICTURE), _column(source, columns, LABEL)
    folder, found, count = images or source.parent, [], dict[str, int]()
    for line, row in rows:
        name, named = " ".join(row[label].split()), row[picture].strip()
        if not name or not named:
            findings.lose(source, f"line {line}", "has no label or no picture; repair or remove it")
        elif (place := _picture(source, line, folder, named, findings)) is not None:
            count[named] = count.get(named, 0) + 1
            found.append((f"{named}#{count[named]}" if count[named] > 1 else named, *place, name))
    chosen = choose(categories, sorted({name for *_, name in found}), source)
    asked = label_question(family, chosen, question, list_labels)
    samples = [
        labelled(key, path, name, asked, upright=header.marked) for key, path, header, name in found if name in chosen
    ]
    if not samples:
        raise UserError(f"{source} has no row with a picture and a label; check data.annotations and data.images")
    return samples


def csv_tables(source: Path, images: Path | None, box_format: BoxFormat, findings: Findings) -> Tables:
    """The three tables of a file with boxes.  Boxes of a picture that a camera turned are of it upright."""
    rows, columns = _rows(source)
    picture, label = _column(source, columns, PICTURE), _column(source, columns, LABEL)
    box = next((four for four in (*CORNERS, *SIDES) if set(four) <= set(columns)), None)
    if box is None:
        named = "xmin, ymin, xmax, ymax, or x, y, width, height"
        raise UserError(f"{source} has no columns for boxes ({named}); it has {', '.join(columns)}")
    folder, found = images or source.parent, dict[str, Row | None]()
    tables: Tables = {"images": [], "annotations": [], "categories": []}
    checked: list[tuple[list[float], tuple[int, int]]] = []
    for line, row in rows:
        name = row[picture].strip()
        if name not in found:
            found[name] = _image(source, line, folder, name, findings)
        image = found[name]
        if image is None or not any(row[column].strip() for column in (*box, label)):
            continue
        size = (image["width"], image["height"])
        numbers = _numbers(row, box)
        made = {"image_id": name, "category_id": " ".join(row[label].split()), "at": (source, f"line {line}")}
        if not made["category_id"]:
            made["problem"] = "has no label; repair or remove it"
        if numbers is None:
            words = [row[column] for column in box]
            tables["annotations"].append(made | {"bbox": None, "problem": f"has the box {words}: not four numbers"})
            continue
        if box in SIDES:
            numbers[2:] = numbers[0] + numbers[2], numbers[1] + numbers[3]
        checked.append((numbers, size))
        x1, y1, x2, y2 = to_pixels(numbers, box_format, size)
        tables["annotations"].append(made | {"bbox": [x1, y1, x2 - x1, y2 - y1]})
    check_format([numbers for numbers, _ in checked], [size for _, size in checked], box_format, source)
    tables["images"] = [image for image in found.values() if image is not None]
    names = dict.fromkeys(row["category_id"] for row in tables["annotations"] if row["category_id"])
    tables["categories"] = [{"id": name, "name": name, "at": (source, "")} for name in names]
    return tables


def _rows(source: Path) -> tuple[list[tuple[int, dict[str, str]]], list[str]]:
    """Line number and columns of each row, and the names of the columns in small letters."""
    text = read_text(source, "set data.annotations to a CSV file")
    first = text.partition("\n")[0]
    reader = csv.reader(text.splitlines(), delimiter=max(",;\t", key=first.count))
    columns = [name.strip().lower() for name in next(reader, [])]
    rows = [(reader.line_num, dict(zip(columns, row + [""] * len(columns), strict=False))) for row in reader if row]
    return rows, columns


def _column(source: Path, columns: list[str], names: tuple[str, ...]) -> str:
    found = next((name for name in names if name in columns), None)
    if found is None:
        has = ", ".join(columns) or "nothing"
        raise UserError(f"{source} has no column {' or '.join(names[:4])} in its first line; it has {has}")
    return found


def _picture(source: Path, line: int, folder: Path, name: str, findings: Findings) -> tuple[Path, Header] | None:
    try:
        path = locate(folder, name, findings)
    except UserError as error:
        findings.lose(source, f"line {line}", f"names a picture that is not there: {error}", [f"{name}:", name])
        return None
    header = usable(findings, path, f"{source} names it", [f"{name}:", name])
    return (path, header) if header else None


def _image(source: Path, line: int, folder: Path, name: str, findings: Findings) -> Row | None:
    place = _picture(source, line, folder, name, findings)
    if place is None:
        return None
    path, header = place
    width, height = header.upright_size
    row = {"id": name, "file_name": name, "picture": path, "width": width, "height": height, "at": (path, "")}
    return row | {"upright": True}


def _numbers(row: dict[str, str], columns: tuple[str, ...]) -> list[float] | None:
    try:
        numbers = [float(row[column].replace(",", ".")) for column in columns]
    except ValueError:
        return None
    return numbers if all(map(math.isfinite, numbers)) else None

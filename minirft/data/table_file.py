"""This module reads a CSV file of pictures and labels, with or without boxes.

    image,label            image,xmin,ymin,xmax,ymax,label           (also x1,y1,x2,y2 or x,y,width,height)
    cats/1.jpg,tabby       cats/1.jpg,10,20,110,220,tabby            a row for each box
    dogs/1.jpg,poodle      yard/7.jpg,,,,,                           a picture that shows none of the labels

Columns are found by their names, in any order and case; the separator may be a comma, a semicolon or a tab.  Pictures
are in `images`, or below the folder of the file.
"""

import csv
from pathlib import Path

from minirft import UserError
from minirft.data.box_format import BoxRow, four, tables_of_rows
from minirft.data.checks import column, find_picture, read_text
from minirft.data.findings import Findings
from minirft.data.questions import Labelled, label_samples
from minirft.data.settings import DataConfig
from minirft.data.tables import Tables
from minirft.samples import Sample

PICTURE = ("image", "filename", "file_name", "file", "path", "picture", "image_path", "img", "image_id")
LABEL = ("label", "class", "category", "class_name", "name", "species")
CORNERS = (("xmin", "ymin", "xmax", "ymax"), ("x1", "y1", "x2", "y2"), ("left", "top", "right", "bottom"))
SIDES = (("x", "y", "width", "height"), ("x", "y", "w", "h"), ("left", "top", "width", "height"))
CsvRow = tuple[str, str, str, dict[str, str]]  # "line 3", the picture's name, the label, all columns


def csv_samples(data: DataConfig, source: Path, part: str, findings: Findings) -> list[Sample]:
    """Return a classification sample for each row; its id is the picture's name, with #2 for its second row."""
    folder, rows, count = data.images or source.parent, [], dict[str, int]()
    for where, picture, label, _ in _rows(source)[0]:
        if not label or not picture:
            findings.lose(source, where, "has no label or no picture; repair or remove it")
            continue
        count[picture] = count.get(picture, 0) + 1
        key = f"{picture}#{count[picture]}" if count[picture] > 1 else picture
        if path := find_picture(findings, folder, picture, (source, where), [key]):
            rows.append(Labelled(key, path, label, f"{source} names it"))
    return label_samples(data, source, rows, findings)


def csv_tables(data: DataConfig, source: Path, part: str, findings: Findings) -> Tables:
    """Read the three tables of a file with boxes.  The boxes belong to the pictures after their EXIF rotation."""
    rows, columns = _rows(source)
    box = next((four for four in (*CORNERS, *SIDES) if set(four) <= set(columns)), None)
    if box is None:
        named = "xmin, ymin, xmax, ymax, or x, y, width, height"
        raise UserError(f"{source} has no columns for boxes ({named}); it has {', '.join(columns)}")
    made = []
    for where, name, label, row in rows:
        empty = not label and not any(row[column].strip() for column in box)
        numbers = [row[column].replace(",", ".") for column in box]
        made.append(BoxRow((source, where), name, () if empty else [(label, four(numbers, sides=box in SIDES))]))
    return tables_of_rows(made, data.images or source.parent, data.box_format, source, findings)


def _rows(source: Path) -> tuple[list[CsvRow], list[str]]:
    """Return the rows, and the names of the columns in lower case."""
    text = read_text(source, "set data.annotations to a CSV file")
    first = text.partition("\n")[0]
    reader = csv.DictReader(text.splitlines(), delimiter=max(",;\t", key=first.count), restval="")
    reader.fieldnames = columns = [name.strip().lower() for name in reader.fieldnames or []]
    picture, label = (column(names, columns, f"the first line of {source}") for names in (PICTURE, LABEL))
    return [
        (f"line {reader.line_num}", row[picture].strip(), " ".join(row[label].split()), row) for row in reader
    ], columns

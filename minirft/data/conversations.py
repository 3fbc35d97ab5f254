"""Grounding rows as other trainers read them, one JSON object a line; the keys tell whose they are.

    VLM-R1           {"image": "1.jpg", "conversations": [{"from": "human", "value": "<image>the taller cup"},
                                                          {"from": "gpt", "value": "[10, 20, 110, 220]"}]}
                     {"image": "1.jpg", "problem": "the taller cup", "solution": [10, 20, 110, 220]}
    ms-swift         {"images": ["1.jpg"], "messages": [{"role": "user", "content": "<image>find <ref-object>"}, ...],
                      "objects": {"ref": ["the taller cup"], "bbox": [[10, 20, 110, 220]]}}
    LLaMA-Factory    {"images": ["1.jpg"], "messages": [{"role": "user", "content": "<image>the taller cup"},
                                        {"role": "assistant", "content": "<|box_start|>(10,20),(110,220)<|box_end|>"}]}

A box may also stand in an answer as {"bbox_2d": [...], "label": "cup"}.  Boxes are [x1, y1, x2, y2] in the units that
`data.box_format` names.  For grounding a row has one box; for detection and presence any number, each with a name (a
ref or a label).  The question is put in the paper's words, or in those of `data.question`, because its answer has
another form than that of the file.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minirft import UserError
from minirft.data.box_format import BoxFormat, check_format, frame_of
from minirft.data.checks import Header, locate, read_text, usable
from minirft.data.findings import Findings
from minirft.data.questions import question as ask
from minirft.data.tables import KEPT, Tables
from minirft.rewards import MODEL, convert, pixels, prompts
from minirft.samples import Sample

_NUMBER = r"\s*(-?\d+(?:\.\d+)?)\s*"
_FOUR = re.compile(rf"[\[(]{_NUMBER},{_NUMBER}(?:,|\)\s*,\s*\(){_NUMBER},{_NUMBER}[\])]")
_NAMED = re.compile(r"\"bbox(?:_2d)?\"\s*:\s*(\[[^\]]*\])[^{}]*?\"label\"\s*:\s*\"([^\"]*)\"")
_MARKS = re.compile(r"<image>|<\|vision_start\|>|<\|image_pad\|>|<\|vision_end\|>|<ref-object>|<bbox>")


@dataclass(frozen=True)
class Boxes:
    """A row: its picture's name, what is asked, and its boxes with their names, in the file's units."""

    line: int
    image: str
    asked: str
    boxes: list[tuple[str, list[float]]]


def read_rows(source: Path, findings: Findings) -> Iterator[Boxes]:
    """The rows of a .jsonl file, or of a .json list; what is no grounding row goes to `findings`."""
    text = read_text(source, "set data.annotations to a .jsonl file")
    lines = [(i, line) for i, line in enumerate(text.splitlines(), 1) if line.strip()]
    if text.lstrip().startswith("["):
        try:
            lines = [(i, json.dumps(row)) for i, row in enumerate(json.loads(text), 1)]
        except ValueError as error:
            raise UserError(f"{source} cannot be read as JSON ({error}); give one object a line") from None
    for number, line in lines:
        try:
            row = json.loads(line)
            yield _row(number, row if isinstance(row, dict) else {})
        except (ValueError, UserError) as error:
            findings.lose(source, f"row {number}", f"is no grounding row: {error}")


def load_grounding(
    source: Path, images: Path | None, box_format: BoxFormat, *, findings: Findings, question: str = ""
) -> list[Sample]:
    """A grounding sample for each row with one box; its id is FILE:NUMBER.

    Raises `UserError` for a file without such rows, and for numbers that contradict `box_format`.
    """
    rows = list(_placed(source, images, findings))
    _check(rows, box_format, source)
    samples = []
    for row, path, header in rows:
        size = header.upright_size
        try:
            box = _one_box(row, box_format, size)
        except UserError as error:
            findings.lose(source, f"row {row.line}", str(error), [f"{source.stem}:{row.line}"])
            continue
        problem, solution = ask("grounding", row.asked, question), prompts.grounding_solution(box)
        name = f"{source.stem}:{row.line}"
        samples.append(Sample(name, path, "grounding", problem, solution, row.asked, upright=header.marked))
    if not samples:
        raise UserError(f"{source} has no row with a question and one box; check data.annotations and data.task")
    return samples


def jsonl_tables(source: Path, images: Path | None, box_format: BoxFormat, findings: Findings) -> Tables:
    """The tables of COCO's format: the boxes of all rows by their picture and their name."""
    rows = list(_placed(source, images, findings))
    _check(rows, box_format, source)
    tables: Tables = {"images": [], "annotations": [], "categories": []}
    seen: dict[str, None] = {}
    for row, path, header in rows:
        width, height = header.upright_size
        if row.image not in seen:
            image = {"id": row.image, "file_name": row.image, "picture": path, "width": width, "height": height}
            tables["images"].append(image | {"upright": True, "at": (path, "")})
        seen[row.image] = None
        for name, corners in row.boxes:
            x1, y1, x2, y2 = convert(
                np.array(corners), frame_of(box_format, (width, height)), pixels(width, height)
            ).tolist()
            made = {"image_id": row.image, "category_id": name, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            problem = {} if name else {"problem": "has a box without a name (a ref or a label); name it"}
            tables["annotations"].append(made | problem | {"at": (source, f"row {row.line}")})
    names = dict.fromkeys(row["category_id"] for row in tables["annotations"] if row["category_id"])
    tables["categories"] = [{"id": name, "name": name, "at": (source, "")} for name in names]
    return tables


def _placed(source: Path, images: Path | None, findings: Findings) -> Iterator[tuple[Boxes, Path, Header]]:
    """The rows whose pictures are there, with these."""
    for row in read_rows(source, findings):
        ids = [f"{source.stem}:{row.line}", f"{row.image}:"]
        try:
            path = locate(images or source.parent, row.image, findings)
        except UserError as error:
            findings.lose(source, f"row {row.line}", f"names a picture that is not there: {error}", ids)
            continue
        header = usable(findings, path, f"{source} names it", ids)
        if header is not None:
            yield row, path, header


def _check(rows: list[tuple[Boxes, Path, Header]], box_format: BoxFormat, source: Path) -> None:
    found = [(box, header.upright_size) for row, _, header in rows for _, box in row.boxes]
    check_format([box for box, _ in found], [size for _, size in found], box_format, source)


def _one_box(row: Boxes, box_format: BoxFormat, size: tuple[int, int]) -> Any:
    """The box of a row in the model's frame, clipped where that is no guess."""
    if len(row.boxes) != 1:
        raise UserError(f"has {len(row.boxes)} boxes, and grounding asks for one; data.task = detection takes several")
    box = convert(np.array(row.boxes[0][1]), frame_of(box_format, size), MODEL)
    inside = box.clip(0, MODEL.width)
    (x1, y1, x2, y2), area = inside, float((box[2] - box[0]) * (box[3] - box[1]))
    if not (x1 < x2 and y1 < y2 and (x2 - x1) * (y2 - y1) >= KEPT * area):
        raise UserError(f"has the box {row.boxes[0][1]}, which is empty, inverted or outside its picture; repair it")
    return inside


def _row(number: int, row: dict[str, Any]) -> Boxes:
    images = row.get("images", row.get("image"))
    images = [images] if isinstance(images, str) else images
    if not isinstance(images, list) or len(images) != 1 or not isinstance(images[0], str | dict):
        raise UserError("it has no key image or images with one picture; take the row out")
    image = images[0] if isinstance(images[0], str) else str(images[0].get("path"))
    asked, answer = _turns(row)
    objects = row.get("objects")
    if isinstance(objects, dict):
        return Boxes(number, image, *_swift(asked, objects))
    named = [(label, _four(text)) for text, label in _NAMED.findall(answer if isinstance(answer, str) else "")]
    if named:
        return Boxes(number, image, asked, named)
    texts = [answer] if isinstance(answer, list) else [list(four) for four in _FOUR.findall(answer or "")]
    if texts and isinstance(texts[0], list) and texts[0] and isinstance(texts[0][0], list):
        texts = texts[0]
    if not asked or not texts:
        raise UserError("it has no question, or no box [x1, y1, x2, y2] in its answer; take the row out")
    return Boxes(number, image, asked, [("", _four(four)) for four in texts])


def _turns(row: dict[str, Any]) -> tuple[str, Any]:
    """What is asked first and what is answered last, whatever the keys are called."""
    if "solution" in row or "problem" in row:
        return _MARKS.sub("", str(row.get("problem", ""))).strip(), row.get("solution")
    turns = row.get("messages", row.get("conversations"))
    asked, answer = "", ""
    for turn in turns if isinstance(turns, list) else []:
        who, what = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        if who in ("user", "human") and not asked:
            asked = _MARKS.sub("", what if isinstance(what, str) else "").strip()
        if who in ("assistant", "gpt") and isinstance(what, str):
            answer = what
    return asked, answer


def _swift(asked: str, objects: dict[str, Any]) -> tuple[str, list[tuple[str, list[float]]]]:
    """ms-swift's objects: boxes beside their refs; one ref may have several boxes."""
    refs, found = objects.get("ref") or [], objects.get("bbox")
    if not isinstance(found, list) or not found:
        raise UserError("its objects have no bbox; take the row out")
    names = [str(ref).strip() for ref in (refs if len(refs) == len(found) else refs[:1] * len(found))]
    names = names or [""] * len(found)
    alone = names[0] if len(set(names)) == 1 else ""
    return alone or asked, [(name, _four(box)) for name, box in zip(names, found, strict=True)]


def _four(box: Any) -> list[float]:
    if isinstance(box, str):
        box = json.loads(box)
    try:
        numbers = [float(value) for value in box]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != 4 or not all(map(math.isfinite, numbers)):
        raise UserError(f"its box {box} is not four finite numbers [x1, y1, x2, y2]; repair it")
    return numbers

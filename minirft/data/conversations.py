from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from minirft import UserError, as_user_error
from minirft.data.box_format import BoxFormat, BoxRow, check_format, frame_of, picture_row, tables_of_rows
from minirft.data.checks import floats, read_text
from minirft.data.findings import Findings
from minirft.data.questions import question as ask
from minirft.data.settings import DataConfig
from minirft.data.tables import KEPT, Row, Tables
from minirft.rewards import MODEL, convert, prompts
from minirft.samples import Sample

_NUMBER = r"\s*(-?\d+(?:\.\d+)?)\s*"
_FOUR = re.compile(rf"[\[(]{_NUMBER},{_NUMBER}(?:,|\)\s*,\s*\(){_NUMBER},{_NUMBER}[\])]")
_NAMED = re.compile(r"\"bbox(?:_2d)?\"\s*:\s*(\[[^\]]*\])[^{}]*?\"label\"\s*:\s*\"([^\"]*)\"")
_MARKS = re.compile(r"<image>|<\|vision_start\|>|<\|image_pad\|>|<\|vision_end\|>|<ref-object>|<bbox>")


def read_rows(source: Path, findings: Findings) -> Iterator[BoxRow]:
    """The rows of a .jsonl file, or of a .json list, are read; what is no grounding row goes to `findings`."""
    text = read_text(source, "set data.annotations to a .jsonl file")
    lines = [(i, line) for i, line in enumerate(text.splitlines(), 1) if line.strip()]
    if text.lstrip().startswith("["):
        with as_user_error(f"{source} cannot be read as JSON ({{why}}); give one object a line", ValueError):
            lines = [(i, json.dumps(row)) for i, row in enumerate(json.loads(text), 1)]
    for number, line in lines:
        at = (source, f"row {number}")
        try:
            row = json.loads(line)
            yield BoxRow(at, *_row(row if isinstance(row, dict) else {}))
        except (ValueError, UserError) as error:
            findings.lose(*at, f"is no grounding row: {error}")


def load_grounding(data: DataConfig, source: Path, part: str, findings: Findings) -> list[Sample]:
    """Each row with one box becomes a grounding sample; its id is FILE:NUMBER.

    Raises `UserError` for a file without such rows, and for numbers that contradict `data.box_format`.
    """
    placed: list[tuple[str, BoxRow, Row]] = []
    for row in read_rows(source, findings):
        name = f"{source.stem}:{row.at[1].removeprefix('row ')}"
        picture = picture_row(row, data.images or source.parent, findings, [name])
        placed += [(name, row, picture)] if picture else []
    sized = [(box, (picture["width"], picture["height"])) for _, row, picture in placed for _, box in row.boxes]
    check_format([box for box, _ in sized], [size for _, size in sized], data.box_format, source)
    samples = []
    for name, row, picture in placed:
        try:
            box = _one_box(row, data.box_format, (picture["width"], picture["height"]))
        except UserError as error:
            findings.lose(*row.at, str(error), [name])
            continue
        problem, solution = ask("grounding", row.asked, data.question), prompts.grounding_solution(box)
        image, turn = picture["picture"], picture["turn"]
        samples.append(Sample(name, image, "grounding", problem, solution, row.asked, upright=turn))
    if not samples:
        raise UserError(f"{source} has no row with a question and one box; check data.annotations and data.task")
    return samples


def jsonl_tables(data: DataConfig, source: Path, part: str, findings: Findings) -> Tables:
    """The tables of COCO's format are made of the boxes of all rows, by their picture and their name."""
    rows = read_rows(source, findings)
    return tables_of_rows(rows, data.images or source.parent, data.box_format, source, findings)


def _one_box(row: BoxRow, box_format: BoxFormat, size: tuple[int, int]) -> Any:
    """The box of a row in the model's frame, clipped where that is no guess."""
    if len(row.boxes) != 1:
        raise UserError(f"has {len(row.boxes)} boxes, and grounding asks for one; data.task = detection takes several")
    box = convert(np.array(row.boxes[0][1]), frame_of(box_format, size), MODEL)
    inside = box.clip(0, MODEL.width)
    (x1, y1, x2, y2), area = inside, float((box[2] - box[0]) * (box[3] - box[1]))
    if not (x1 < x2 and y1 < y2 and (x2 - x1) * (y2 - y1) >= KEPT * area):
        raise UserError(f"has the box {row.boxes[0][1]}, which is empty, inverted or outside its picture; repair it")
    return inside


def _row(row: dict[str, Any]) -> tuple[str, list[tuple[str, list[float]]], str]:
    """The picture's name, the boxes by name, and what is asked."""
    images = row.get("images", row.get("image"))
    images = [images] if isinstance(images, str) else images
    if not isinstance(images, list) or len(images) != 1 or not isinstance(images[0], str | dict):
        raise UserError("it has no key image or images with one picture; take the row out")
    image = images[0] if isinstance(images[0], str) else str(images[0].get("path"))
    asked, answer = _turns(row)
    objects = row.get("objects")
    if isinstance(objects, dict):
        return image, *_swift(asked, objects)
    named = [(label, _four(text)) for text, label in _NAMED.findall(answer if isinstance(answer, str) else "")]
    if named:
        return image, named, asked
    texts = [answer] if isinstance(answer, list) else [list(four) for four in _FOUR.findall(answer or "")]
    if texts and isinstance(texts[0], list) and texts[0] and isinstance(texts[0][0], list):
        texts = texts[0]
    if not asked or not texts:
        raise UserError("it has no question, or no box [x1, y1, x2, y2] in its answer; take the row out")
    return image, [("", _four(four)) for four in texts], asked


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


def _swift(asked: str, objects: dict[str, Any]) -> tuple[list[tuple[str, list[float]]], str]:
    """ms-swift's objects: boxes beside their refs; one ref may have several boxes."""
    refs, found = objects.get("ref") or [], objects.get("bbox")
    if not isinstance(found, list) or not found:
        raise UserError("its objects have no bbox; take the row out")
    names = [str(ref).strip() for ref in (refs if len(refs) == len(found) else refs[:1] * len(found))]
    names = names or [""] * len(found)
    alone = names[0] if len(set(names)) == 1 else ""
    return [(name, _four(box)) for name, box in zip(names, found, strict=True)], alone or asked


def _four(box: Any) -> list[float]:
    numbers = floats(json.loads(box) if isinstance(box, str) else box)
    if len(numbers) != 4:
        raise UserError(f"its box {box} is not four finite numbers [x1, y1, x2, y2]; repair it")
    return numbers

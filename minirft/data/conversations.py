import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minirft import UserError, as_user_error
from minirft.data.box_format import BoxFormat, BoxRow, check_format, four, frame_of, picture_row, tables_of_rows
from minirft.data.checks import read_text
from minirft.data.findings import Findings
from minirft.data.questions import question as ask
from minirft.data.settings import DataConfig
from minirft.data.tables import KEPT, Row, Tables
from minirft.rewards import MODEL, boxes_anywhere, convert, prompts
from minirft.samples import Sample

_NAMED = re.compile(r"\"bbox(?:_2d)?\"\s*:\s*(\[[^\]]*\])[^{}]*?\"label\"\s*:\s*\"([^\"]*)\"")
_MARKS = re.compile(r"<image>|<\|vision_start\|>|<\|image_pad\|>|<\|vision_end\|>|<ref-object>|<bbox>")


def read_rows(source: Path, findings: Findings) -> Iterator[BoxRow]:
    """Read the rows of a .jsonl file or of a .json list; a row that is no grounding row goes to `findings`."""
    text = read_text(source, "set data.annotations to a .jsonl file")
    # Not `splitlines`, which also splits at U+2028 inside a JSON string.
    lines = [(i, line) for i, line in enumerate(text.split("\n"), 1) if line.strip()]
    if text.lstrip().startswith("["):
        with as_user_error(f"{source} cannot be read as JSON ({{why}}); give one object a line", ValueError):
            lines = [(i, json.dumps(row)) for i, row in enumerate(json.loads(text), 1)]
    for number, line in lines:
        at = (source, f"row {number}")
        with findings.losing(*at, prefix="is no grounding row: "), as_user_error("{why}", ValueError):
            row = json.loads(line)
            yield BoxRow(at, *_row(row if isinstance(row, dict) else {}))


def load_grounding(data: DataConfig, source: Path, part: str, findings: Findings) -> list[Sample]:
    """Return a grounding sample for each row with one box; its id is FILE:NUMBER.

    Raises `UserError` for a file without such rows, and if the numbers cannot be in the units of `data.box_format`.
    """
    placed: list[tuple[str, BoxRow, Row]] = []
    for row in read_rows(source, findings):
        name = f"{source.stem}:{row.at[1].removeprefix('row ')}"
        picture = picture_row(row, data.images or source.parent, findings, [name])
        placed += [(name, row, picture)] if picture else []
    check_format([(row, picture) for _, row, picture in placed], data.box_format, source)
    samples = []
    for name, row, picture in placed:
        with findings.losing(*row.at, [name]):
            box = _one_box(row, data.box_format, (picture["width"], picture["height"]))
            problem, solution = ask("grounding", row.instruction, data.question), prompts.grounding_solution(box)
            image, turn = picture["picture"], picture["turn"]
            samples.append(Sample(name, image, "grounding", problem, solution, row.instruction, upright=turn))
    if not samples:
        why = f"; the first bad row: {next(iter(findings.bad))}" if findings.bad else ""
        raise UserError(f"{source} has no row with a question and one box; check data.annotations and data.task{why}")
    return samples


def jsonl_tables(data: DataConfig, source: Path, part: str, findings: Findings) -> Tables:
    """Return the tables of COCO's format with the boxes of all rows."""
    return tables_of_rows(read_rows(source, findings), data.images or source.parent, data.box_format, source, findings)


def _one_box(row: BoxRow, box_format: BoxFormat, size: tuple[int, int]) -> Any:
    """Return the box of a row in the model's frame; it is clipped if at least half of it lies inside the picture."""
    if len(row.boxes) != 1:
        raise UserError(f"has {len(row.boxes)} boxes, and grounding asks for one; data.task = detection takes several")
    given = row.boxes[0][1]
    if isinstance(given, str):
        raise UserError(given)
    box = convert(given, frame_of(box_format, size), MODEL)
    inside = box.clip(0, MODEL.width)
    (x1, y1, x2, y2), area = inside, float((box[2] - box[0]) * (box[3] - box[1]))
    if not (x1 < x2 and y1 < y2 and (x2 - x1) * (y2 - y1) >= KEPT * area):
        raise UserError(f"has the box {given}, which is empty, inverted or outside its picture; repair it")
    return inside


def _row(row: dict[str, Any]) -> tuple[str, list[tuple[str, list[float] | str]], str]:
    """Return the picture's name, the boxes with their categories, and the instruction."""
    images = row.get("images", row.get("image"))
    images = [images] if isinstance(images, str) else images
    if not isinstance(images, list) or len(images) != 1 or not isinstance(images[0], str | dict):
        raise UserError("it has no key image or images with one picture; take the row out")
    image = images[0] if isinstance(images[0], str) else str(images[0].get("path"))
    instruction, answer = _turns(row)
    objects = row.get("objects")
    if isinstance(objects, dict):
        return image, *_swift(instruction, objects)
    boxes = [
        (label, four(json.loads(text))) for text, label in _NAMED.findall(answer if isinstance(answer, str) else "")
    ]
    if boxes:
        return image, boxes, instruction
    found = boxes_anywhere(answer).tolist() if isinstance(answer, str) else answer
    if not instruction or not isinstance(found, list) or not found:
        raise UserError("it has no question, or no box [x1, y1, x2, y2] in its answer; take the row out")
    found = found if isinstance(found[0], list) else [found]
    return image, [("", four(box)) for box in found], instruction


def _turns(row: dict[str, Any]) -> tuple[str, Any]:
    """Return the first question and the last answer, from any of the known keys."""
    if "solution" in row or "problem" in row:
        return _MARKS.sub("", str(row.get("problem", ""))).strip(), row.get("solution")
    turns = row.get("messages", row.get("conversations"))
    question, answer = "", ""
    for turn in turns if isinstance(turns, list) else []:
        role, text = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        if role in ("user", "human") and not question:
            question = _MARKS.sub("", text if isinstance(text, str) else "").strip()
        if role in ("assistant", "gpt") and isinstance(text, str):
            answer = text
    return question, answer


def _swift(instruction: str, objects: dict[str, Any]) -> tuple[list[tuple[str, list[float] | str]], str]:
    """Return the boxes and the instruction of ms-swift's objects, where one ref may have several boxes."""
    refs, boxes = objects.get("ref") or [""], objects.get("bbox")
    if not isinstance(boxes, list) or not boxes:
        raise UserError("its objects have no bbox; take the row out")
    names = [str(ref).strip() for ref in (refs if len(refs) == len(boxes) else refs[:1] * len(boxes))]
    only_name = names[0] if len(set(names)) == 1 else ""
    return [(name, four(box)) for name, box in zip(names, boxes, strict=True)], only_name or instruction

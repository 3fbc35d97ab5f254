"""This module reads the published Visual-RFT sets (laolao77/ViRFT_*), or a set of your own with the same columns.

    ViRFT_COCO_8_cate_4_shot/                        or, written by `save_to_disk`,  my_set/
      data/                                                                            dataset_dict.json
        train-00000-of-00001.parquet                                                   train/
                                                                                         dataset_info.json, state.json
    columns: image, problem, solution                                                    data-00000-of-00001.arrow

A single .parquet file works too.  Questions are kept word for word, because a prompt is part of a result; only the
literal "<image>" at the start of some evaluation texts is removed.  Every solution is parsed before training begins.
This module needs the `datasets` package; pictures stay on disk and are decoded when needed.

The released code reads only the second form, while the hub provides the first; and with the script of another task it
trains at reward 0 without any message.  Here both forms are read, and a wrong task is refused.
"""

import re
from pathlib import Path
from typing import Any

from minirft import UserError, as_user_error
from minirft.data.checks import choose, column, usable
from minirft.data.findings import Findings
from minirft.data.hub import StoredPicture, open_split, stored_pictures
from minirft.data.settings import DataConfig
from minirft.rewards import Detections, parse, parse_solution, prompts
from minirft.samples import Sample, Task

_CATEGORY = re.compile(r"belonging to the category '(.*?)' in the image")
_INSTRUCTION = re.compile(r"corresponding to the instruction: (.*?) ?Output the thinking process", re.DOTALL)
_IMAGE_MARK = re.compile(r"\A\s*<image>\n?")


def load_virft(data: DataConfig, source: Path, part: str, findings: Findings) -> list[Sample]:
    """Return a sample for each row of a parquet file, a folder of them, or a `save_to_disk` folder; its id is SET:ROW.

    A sample's category is the category in its question, its label, or its instruction.  An invalid row goes to
    `findings`.

    >>> load_virft(DataConfig("virft"), Path("nowhere"), "train", Findings())
    Traceback (most recent call last):
    minirft.UserError: no nowhere; set data.folder to a .parquet file, a folder of them or a save_to_disk folder
    """
    if not source.exists():
        raise UserError(f"no {source}; set data.folder to a .parquet file, a folder of them or a save_to_disk folder")
    table = open_split(source, "train")
    for name in ("image", "problem", "solution"):
        column((name,), table.column_names, source)
    pictures, kept = stored_pictures(table, str(source)), []
    for i, (picture, row) in enumerate(zip(pictures, table.select_columns(["problem", "solution"]), strict=True)):
        ids = [f"{source.stem}:{i}"]
        if usable(findings, picture, "check data.folder", ids):
            with findings.losing(source, f"row {i}", ids):
                kept.append(_sample(source, picture, row, data.task, findings))
    if not kept:
        raise UserError(f"{source} has no row that can be used; check data.folder")
    chosen = set(choose(data.categories, (sample.category for sample in kept), source))
    return [sample for sample in kept if sample.category in chosen]


def _sample(source: Path, picture: StoredPicture, texts: dict[str, Any], task: Task, findings: Findings) -> Sample:
    problem, solution = texts["problem"], texts["solution"]
    if not (isinstance(problem, str) and problem.strip() and isinstance(solution, str)):
        raise UserError("has an empty problem or solution; repair or remove the row")
    problem, sound = _IMAGE_MARK.sub("", problem), _without_bad_boxes(task, solution)
    if sound != solution:
        what = "has an empty or inverted box; repair or remove the row"
        findings.mend("empty or inverted boxes left out of solutions", source, f"row {picture.row}", what)
    with as_user_error(f"has a solution that cannot be read: {{why}}; is data.task = {task!r} right?", UserError):
        truth = parse_solution(task, sound)
    category = truth if isinstance(truth, str) else _subject(task, problem)
    return Sample(f"{source.stem}:{picture.row}", picture, task, problem, sound, category)


def _without_bad_boxes(task: Task, solution: str) -> str:
    """Remove invalid boxes from the solution; if no box would be left, return it unchanged.

    >>> _without_bad_boxes("grounding", "<answer>(10,20),(10,40)</answer>")  # refused when it is parsed
    '<answer>(10,20),(10,40)</answer>'
    """
    answer = parse(task, solution)
    if not isinstance(answer, Detections) or not answer.invalid or not len(answer.boxes):
        return solution
    certain = (answer.confidence == 1).all()  # as in all published rows, which write it as a whole number
    return prompts.detection_solution(answer.boxes, 1 if certain else answer.confidence)


def _subject(task: Task, problem: str) -> str:
    """Return the category or the instruction in a question, or the whole question if its wording is unknown.

    >>> _subject("detection", prompts.detection("fire hydrant")), _subject("grounding", prompts.grounding("the cup"))
    ('fire hydrant', 'the cup')
    """
    match = (_INSTRUCTION if task == "grounding" else _CATEGORY).search(problem)
    return match[1].strip() if match else problem.strip()

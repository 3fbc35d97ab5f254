"""The published Visual-RFT sets (laolao77/ViRFT_*), or a set of your own with the same three columns.

    ViRFT_COCO_8_cate_4_shot/                        or, written by `save_to_disk`,  my_set/
      data/                                                                            dataset_dict.json
        train-00000-of-00001.parquet                                                   train/
                                                                                         dataset_info.json, state.json
    columns: image, problem, solution                                                    data-00000-of-00001.arrow

A single .parquet file will do too.  Questions are kept word for word, because a prompt is part of a result; only the
literal "<image>" that some evaluation texts begin with is taken off.  Every solution is read by the task's parser
before anything is trained.  Needs the `datasets` package; pictures stay on disk and are decoded when asked about.

The released code takes only the second form, and the hub gives the first; a set for one task with the script of
another trained there without a word, at reward 0.  Here either form is read, and the wrong task is refused.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from minirft import UserError
from minirft.data.checks import choose, read_header
from minirft.data.findings import Findings
from minirft.pictures import kind_of_file
from minirft.rewards import Detections, ParseFailure, parse, parse_solution, prompts
from minirft.samples import Sample, Task

COLUMNS = ("image", "problem", "solution")
_CATEGORY = re.compile(r"belonging to the category '(.*?)' in the image")
_INSTRUCTION = re.compile(r"corresponding to the instruction: (.*?) ?Output the thinking process", re.DOTALL)
_IMAGE_MARK = re.compile(r"\A\s*<image>\n?")


class StoredPicture(io.RawIOBase):
    """The bytes of one picture of a table, read when they are asked for and not kept; PIL opens it like a file.

    Two are equal when they are the same row of the same table.
    """

    def __init__(self, table: Any, source: str, row: int) -> None:
        super().__init__()
        self.table, self.source, self.row, self.place = table, source, row, 0

    def read(self, size: int = -1) -> bytes:
        """`size` bytes from the present place, or all that are left."""
        data = _stored(self.table, self.row)
        start, end = self.place, len(data) if size is None or size < 0 else self.place + size
        self.place = min(end, len(data))
        return data[start:end]

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a place counted from the start, from here or from the end."""
        origins = {io.SEEK_SET: 0, io.SEEK_CUR: self.place}
        origin = origins[whence] if whence in origins else len(_stored(self.table, self.row))
        self.place = max(0, origin + offset)
        return self.place

    def tell(self) -> int:
        """The present place."""
        return self.place

    def seekable(self) -> bool:
        """Yes."""
        return True

    def readable(self) -> bool:
        """Yes."""
        return True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StoredPicture) and (self.source, self.row) == (other.source, other.row)

    def __hash__(self) -> int:
        return hash((self.source, self.row))

    def __repr__(self) -> str:
        return f"{self.source}, row {self.row}"


def load_virft(
    folder: str | Path,
    task: Task,
    categories: Sequence[str] | None = None,
    *,
    findings: Findings | None = None,
) -> list[Sample]:
    """One sample for each row of a parquet file, a folder of them, or a `save_to_disk` folder; its id is SET:ROW.

    A sample's category is what its question asks for, its label, or its instruction.  A row that is wrong goes to
    `findings`; without one it is a `UserError` that names it.

    >>> load_virft("nowhere", "detection")
    Traceback (most recent call last):
    minirft.UserError: no nowhere; set data.folder to a .parquet file, a folder of them or a save_to_disk folder
    """
    source, findings = Path(folder), findings or Findings()
    if not source.exists():
        raise UserError(f"no {source}; set data.folder to a .parquet file, a folder of them or a save_to_disk folder")
    table = _table(source)
    lacking = [name for name in COLUMNS if name not in table.column_names]
    if lacking:
        raise UserError(f"{source} has no column {' and no '.join(lacking)}; it has {', '.join(table.column_names)}")
    texts = table.select_columns(["problem", "solution"])
    kept = []
    for i, row in enumerate(texts):
        try:
            kept.append(_sample(source, table, i, row, task, findings))
        except UserError as error:
            findings.lose(source, f"row {i}", str(error), [f"{source.stem}:{i}"])
    if not kept:
        raise UserError(f"{source} has no row that can be used; check data.folder")
    chosen = set(choose(categories, (sample.category for sample in kept), source))
    return [sample for sample in kept if sample.category in chosen]


def _table(source: Path) -> Any:
    """The rows, in files that stay on disk, with pictures as bytes."""
    try:
        import datasets
    except ImportError:
        raise UserError('reading parquet needs the datasets package: pip install "datasets>=3"') from None
    try:
        if (source / "dataset_dict.json").is_file() or (source / "state.json").is_file():
            found = datasets.load_from_disk(str(source))
        else:
            files = [source] if source.is_file() else sorted(source.rglob("*.parquet"))
            found = datasets.Dataset.from_parquet([str(file) for file in files]) if files else None
        if isinstance(found, dict):
            found = found.get("train")
        if found is not None and "image" in found.column_names:
            found = found.cast_column("image", datasets.Image(decode=False))
    except Exception as error:  # pyarrow and datasets raise a dozen kinds on a torn file
        kind = kind_of_file(source)
        if source.is_file() and kind not in ("", "a Parquet file"):
            raise UserError(
                f"{source} is {kind}, not a .parquet file; set data.folder, or data.kind to its kind"
            ) from None
        raise UserError(f"{source} cannot be read ({' '.join(str(error).split())}); download it again") from None
    if found is None:
        raise UserError(f"{source} has no .parquet file and no split 'train'; check data.folder")
    return found


def _sample(source: Path, table: Any, row: int, texts: dict[str, Any], task: Task, findings: Findings) -> Sample:
    problem, solution = texts["problem"], texts["solution"]
    if not (isinstance(problem, str) and problem.strip() and isinstance(solution, str)):
        raise UserError("has an empty problem or solution; repair or remove the row")
    problem, mended = _IMAGE_MARK.sub("", problem), _without_bad_boxes(task, solution)
    if mended is not None and mended != solution:
        what = "has an empty or inverted box; repair or remove the row"
        findings.mend("empty or inverted boxes left out of solutions", source, f"row {row}", what)
    try:
        truth = parse_solution(task, solution if mended is None else mended)
    except UserError as error:
        raise UserError(f"has a solution that cannot be read: {error}; is data.task = {task!r} right?") from None
    picture = StoredPicture(table, str(source), row)
    _check_picture(picture)
    category = truth if isinstance(truth, str) else _asked(task, problem)
    return Sample(f"{source.stem}:{row}", picture, task, problem, solution if mended is None else mended, category)


def _without_bad_boxes(task: Task, solution: str) -> str | None:
    """The solution without boxes that are none; None where nothing is left of it.

    >>> _without_bad_boxes("grounding", "<answer>(10,20),(10,40)</answer>") is None
    True
    """
    answer = parse(task, solution)
    if isinstance(answer, ParseFailure) and answer.reason == "invalid box":
        return None
    if isinstance(answer, Detections) and answer.invalid:
        certain = (answer.confidence == 1).all()  # as in all published rows, which write it as a whole number
        mended = prompts.detection_solution(answer.boxes, 1 if certain else answer.confidence)
        return mended if len(answer.boxes) else None
    return solution


def _asked(task: Task, problem: str) -> str:
    """The category or the instruction in a question; a question in other words stands for itself.

    >>> _asked("detection", prompts.detection("fire hydrant")), _asked("grounding", prompts.grounding("the taller cup"))
    ('fire hydrant', 'the taller cup')
    """
    found = (_INSTRUCTION if task == "grounding" else _CATEGORY).search(problem)
    return found[1].strip() if found else problem.strip()


def _check_picture(picture: StoredPicture) -> None:
    try:
        read_header(picture)
    except UserError as error:
        what = str(error).removeprefix(f"{picture} ")
        raise UserError(f"has a picture that {what}") from None


@lru_cache(maxsize=8)  # PIL reads a picture in many small pieces
def _stored(table: Any, row: int) -> bytes:
    found = table[row]["image"]
    return Path(found["path"]).read_bytes() if found["bytes"] is None else found["bytes"]

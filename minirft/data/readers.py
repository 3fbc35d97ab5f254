"""This module chooses the reader for a set's kind and returns the samples of one part."""

import contextlib
from collections.abc import Callable, Collection
from pathlib import Path

from minirft import UserError
from minirft.data.coco import samples_of_tables
from minirft.data.conversations import jsonl_tables, load_grounding
from minirft.data.findings import Findings, settle
from minirft.data.fine_grained import load_fine_grained
from minirft.data.folder import load_folder, parts_of_folder
from minirft.data.hub import hub_samples, hub_tables, parts_of_set
from minirft.data.lvis import lvis_tables
from minirft.data.questions import question
from minirft.data.reasonseg import load_reasonseg
from minirft.data.settings import BOXES, FAMILY, DataConfig
from minirft.data.table_file import csv_samples, csv_tables
from minirft.data.tables import Tables, coco_tables
from minirft.data.virft import load_virft
from minirft.data.voc import parts_of_voc, voc_tables
from minirft.data.yolo import parts_of_yolo, yolo_tables
from minirft.samples import Sample

PARTS: dict[str, Callable[[Path], Collection[str]]] = {
    "folder": parts_of_folder, "yolo": parts_of_yolo, "voc": parts_of_voc, "hf": parts_of_set,
    "reasonseg": lambda root: ("train", "val", "test"), **dict.fromkeys(FAMILY, lambda root: ("train", "test")),
}  # fmt: skip
FILES = {"coco": "COCO-format JSON", "lvis": "LVIS-format JSON", "csv": "CSV", "jsonl": "JSONL"}
# The reader of each kind takes the settings, the file or folder, the part and the findings.
TABLES: dict[str, Callable[[DataConfig, Path, str, Findings], Tables]] = {
    "coco": coco_tables, "lvis": lvis_tables, "csv": csv_tables, "jsonl": jsonl_tables,
    "yolo": yolo_tables, "voc": voc_tables, "hf": hub_tables,
}  # fmt: skip
SAMPLES: dict[str, Callable[[DataConfig, Path, str, Findings], list[Sample]]] = {
    "csv": csv_samples, "jsonl": load_grounding, "hf": hub_samples, "folder": load_folder,
    "reasonseg": load_reasonseg, "virft": load_virft, **dict.fromkeys(FAMILY, load_fine_grained),
}  # fmt: skip


def parts_of(data: DataConfig) -> Collection[str]:
    """Return the parts (train, val, test) into which the files are divided; empty if they are not."""
    return PARTS[data.kind](data.folder) if data.kind in PARTS and data.folder else ()


def candidates(
    data: DataConfig,
    part: str = "train",
    only: Collection[str] | None = None,
    prefix: str = "",
    findings: Findings | None = None,
) -> list[Sample]:
    """Return all samples of one part of the files, before shots are drawn; with `only`, at least those ids.

    Invalid rows are left out and added to `findings`.  Raises `UserError` for a path that is not set (`prefix` begins
    the field's name in the message), for files of another kind, and if more is invalid than `data.max_bad` allows.
    """
    own = Findings(data.on_bad)
    source = _path_of(data, "annotations" if data.kind in FILES else "folder", prefix)
    if data.kind in ("coco", "lvis"):
        _path_of(data, "images", prefix)
    if data.task in BOXES and data.kind in TABLES:
        samples = samples_of_tables(data, TABLES[data.kind](data, source, part, own), source, own, only)
    else:
        samples = SAMPLES[data.kind](data, source, part, own)
    settle(list(own.bad), len(samples), data.max_bad)
    if findings is not None:
        findings.add(own)
    return samples


def question_of(data: DataConfig) -> str:
    """Return the question of a run with these settings, about its first category or a placeholder.

    The labels of an own set are read from its files; if the files are gone, the question is without labels.

    >>> question_of(DataConfig(categories=("cat",), question="Where is {category}?")).splitlines()[0]
    'Where is cat?'
    """
    subject = (data.categories or ("INSTRUCTION" if data.task == "grounding" else "CATEGORY",))[0]
    if data.task != "classification":
        return question(data.task, subject, data.question)
    if data.kind in ("folder", "csv", "hf"):
        with contextlib.suppress(UserError, OSError):
            return candidates(data)[0].problem
    family = subject if data.kind == "tiny" and data.categories else FAMILY.get(data.kind, data.family)
    return question("classification", "flower" if family == "object" else family, data.question)


def _path_of(data: DataConfig, field: str, prefix: str) -> Path:
    """Return a path that this kind of data needs.  Raises `UserError` if it is not set."""
    if (path := getattr(data, field)) is not None:
        return path
    what = {
        "annotations": f"the {FILES.get(data.kind)} file (--data.{prefix}annotations FILE)",
        "images": f"the folder of the pictures (--data.{prefix}images DIR)",
        "folder": f"the folder of the {data.kind} data (--data.{prefix}folder DIR)",
    }[field]
    raise UserError(f"data.{prefix}{field} is not set: name {what}")

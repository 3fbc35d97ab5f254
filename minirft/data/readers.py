"""From the settings to the samples of one part of a set: which reader, with which of the settings."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from pathlib import Path
from typing import Any, cast

from minirft import UserError
from minirft.data.coco import Task as BoxTask
from minirft.data.coco import load_coco, samples_of_tables
from minirft.data.conversations import jsonl_tables, load_grounding
from minirft.data.findings import Findings
from minirft.data.fine_grained import FAMILY, load_fine_grained
from minirft.data.fine_grained import Kind as FineGrained
from minirft.data.folder import load_folder, parts_of_folder
from minirft.data.hub import hub_tables, load_labelled, parts_of_set
from minirft.data.lvis import load_lvis
from minirft.data.questions import question
from minirft.data.reasonseg import load_reasonseg
from minirft.data.settings import BOXES, DataConfig
from minirft.data.table_file import csv_tables, load_labels
from minirft.data.virft import load_virft
from minirft.data.voc import parts_of_voc, voc_tables
from minirft.data.yolo import parts_of_yolo, yolo_tables
from minirft.samples import Sample

PARTS = {"reasonseg": ("train", "val", "test")} | dict.fromkeys(
    ("flowers", "pets", "aircraft", "cars"), ("train", "test")
)


_FILES = {"coco": "COCO-format JSON", "lvis": "LVIS-format JSON", "csv": "CSV", "jsonl": "JSONL"}


def parts_of(data: DataConfig) -> Collection[str]:
    """The parts that the files themselves name, of train, val and test; empty where they name none."""
    named = {"folder": parts_of_folder, "yolo": parts_of_yolo, "voc": parts_of_voc, "hf": parts_of_set}
    if data.kind in named and data.folder:
        return named[data.kind](data.folder)
    return PARTS.get(data.kind, ())


def candidates(
    data: DataConfig,
    part: str = "train",
    only: Collection[str] | None = None,
    prefix: str = "",
    findings: Findings | None = None,
) -> list[Sample]:
    """All samples of one part of the files, before shots are drawn; with `only`, those ids at least.

    What cannot be right is left out, and added to `findings`.  Raises `UserError` for a path that is not set, whose
    field's name begins with `prefix`, for files that are not of their kind, and where more is wrong than
    `data.max_bad` allows.
    """
    found = Findings(data.on_bad, data.max_bad)
    samples = _read(data, part, only, prefix, found)
    found.settle(len(samples))
    if findings is None:
        found.tell_counts()
    else:  # whoever gathers says it
        findings.add(found)
    return samples


def question_of(data: DataConfig) -> str:
    """The question that a run of these settings asks, about its first category or a word in its place.

    The labels of an own set are read off its files; where these have gone it is asked without them.

    >>> question_of(DataConfig(categories=("cat",), question="Where is {category}?")).splitlines()[0]
    'Where is cat?'
    """
    asked = (data.categories or ("INSTRUCTION" if data.task == "grounding" else "CATEGORY",))[0]
    if data.task != "classification":
        return question(data.task, asked, data.question)
    if data.kind in ("folder", "csv", "hf"):
        with contextlib.suppress(UserError, OSError):
            return candidates(data)[0].problem
    family = asked if data.kind == "tiny" and data.categories else FAMILY.get(data.kind, data.family)
    return question("classification", "flower" if family == "object" else family, data.question)


def _read(data: DataConfig, part: str, only: Collection[str] | None, prefix: str, findings: Findings) -> list[Sample]:
    names = data.categories or None
    options: dict[str, Any] = {"findings": findings, "question": data.question}
    if data.task in BOXES and data.kind != "virft":
        options |= {"task": cast(BoxTask, data.task), "negatives": data.negatives, "seed": data.seed, "only": only}
        return _read_boxes(data, part, prefix, findings, options)
    if data.kind == "jsonl":
        return load_grounding(path_of(data, "annotations", prefix), data.images, data.box_format, **options)
    if data.kind == "csv":
        options |= {"family": data.family, "list_labels": data.list_labels}
        return load_labels(path_of(data, "annotations", prefix), data.images, names, **options)
    folder = path_of(data, "folder", prefix)
    if data.kind == "virft":
        return load_virft(folder, data.task, names, findings=findings)
    if data.kind == "reasonseg":
        return load_reasonseg(folder, cast(Any, part), **options)
    options["list_labels"] = data.list_labels
    if data.kind == "hf":
        return load_labelled(folder, part, names, family=data.family, **options)
    if data.kind == "folder":
        return load_folder(folder, names, part=part, family=data.family, **options)
    return load_fine_grained(cast(FineGrained, data.kind), folder, cast(Any, part), names, **options)


def _read_boxes(data: DataConfig, part: str, prefix: str, findings: Findings, options: dict[str, Any]) -> list[Sample]:
    """The samples of a kind with boxes: of its own reader, or of the tables that its reader makes."""
    names, form = data.categories or None, data.box_format
    field = "annotations" if data.kind in ("coco", "lvis", "csv", "jsonl") else "folder"
    source = path_of(data, field, prefix)
    if data.kind in ("coco", "lvis"):
        load = load_coco if data.kind == "coco" else load_lvis
        return load(source, path_of(data, "images", prefix), names, **options)
    if data.kind == "yolo":
        tables = yolo_tables(source, part, findings)
    elif data.kind == "voc":
        tables = voc_tables(source, part, findings)
    elif data.kind == "csv":
        tables = csv_tables(source, data.images, form, findings)
    elif data.kind == "jsonl":
        tables = jsonl_tables(source, data.images, form, findings)
    else:
        tables = hub_tables(source, part, form, findings)
    return samples_of_tables(
        tables, source, data.images or (source if source.is_dir() else source.parent), names, **options
    )


def path_of(data: DataConfig, field: str, prefix: str = "") -> Path:
    """A path that this kind of data needs.  Raises `UserError` where it is not set."""
    path = getattr(data, field)
    if path is None:
        what = {
            "annotations": f"the {_FILES.get(data.kind)} file (--data.{prefix}annotations FILE)",
            "images": f"the folder of the pictures (--data.{prefix}images DIR)",
            "folder": f"the folder of the {data.kind} data (--data.{prefix}folder DIR)",
        }[field]
        raise UserError(f"data.{prefix}{field} is not set: name {what}")
    return cast(Path, path)

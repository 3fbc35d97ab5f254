"""This module defines the data settings of a run, with units, and the tasks that each kind of data supports.

They are `config.data` in `minirft.runs.config`, and `minirft.data.feed` uses them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from minirft import UserError
from minirft.samples import Task

Kind = Literal[
    "tiny", "coco", "yolo", "voc", "lvis", "csv", "jsonl", "folder", "hf",
    "flowers", "pets", "aircraft", "cars", "reasonseg", "virft",
]  # fmt: skip
LABELS, BOXES = ("classification",), ("detection", "presence")
TASKS_OF: dict[str, tuple[str, ...]] = {
    "tiny": (*BOXES, *LABELS, "grounding"),
    **dict.fromkeys(("coco", "lvis", "yolo", "voc"), BOXES),
    **dict.fromkeys(("csv", "hf"), (*BOXES, *LABELS)),
    "jsonl": ("grounding", *BOXES),
    **dict.fromkeys(("folder", "flowers", "pets", "aircraft", "cars"), LABELS),
    "reasonseg": ("grounding",),
    "virft": ("detection", *LABELS, "grounding"),
}

# Names of the folders, files and splits of a part.
PARTS = {"train": ("train", "training"), "val": ("val", "valid", "validation", "dev"), "test": ("test", "testing")}
FAMILY = {"flowers": "flower", "pets": "pet", "aircraft": "aircraft", "cars": "car"}  # of the published sets
FIELD = {"detection": "{category}", "presence": "{category}", "grounding": "{instruction}", "classification": ""}
WITH_VAL = ("reasonseg", "folder", "yolo", "voc", "hf")

Rule = tuple[bool, str, str]  # (holds, field, advice)


@dataclass(frozen=True)
class DataConfig:
    """`DataConfig` holds all settings of the data; `docs/data.md` shows the files of every kind."""

    kind: Kind = "tiny"
    """`tiny` draws scenes from the seed; `coco`, `yolo`, `voc`, `lvis` read boxes; `csv` reads a table; `jsonl` reads
    rows of other trainers; `folder` reads one folder for each class; `hf` reads a set of the datasets library;
    `flowers`, `pets`, `aircraft`, `cars`, `reasonseg` read their authors' layout; `virft` reads the published sets."""
    task: Task = "detection"
    """Kind of question about a picture."""
    annotations: Path | None = None
    """Annotation file of the training pictures, for `coco`, `lvis`, `csv` and `jsonl`."""
    images: Path | None = None
    """Folder of the training pictures, for the same kinds; `csv` and `jsonl` default to the folder of the file."""
    folder: Path | None = None
    """Folder of the set, for all other kinds; for `virft` also a .parquet file, for `hf` a name on the hub."""
    eval_kind: Kind | None = None
    """Kind of the evaluation data; the default is `kind`."""
    eval_annotations: Path | None = None
    """Annotation file to evaluate on; the default is the training pictures that were not drawn as shots."""
    eval_images: Path | None = None
    """Folder of the evaluation pictures; the default is `images`."""
    eval_folder: Path | None = None
    """Folder to evaluate on; the default is the test part of `folder`, or the pictures that were not drawn as shots."""
    eval_part: Literal["test", "val", "train"] = "test"
    """Part to evaluate on, for a set with parts; `train` means the pictures that were not drawn as shots."""
    categories: tuple[str, ...] = ()
    """Names of the categories to ask about; empty means all."""
    eval_categories: tuple[str, ...] = ()
    """Names of the categories to evaluate on; empty means `categories`."""
    family: str = "object"
    """Noun for what the pictures of a `folder` show, used in the question: flower, pet, car, aircraft or your own."""
    box_format: Literal["pixels", "unit", "thousand"] = "pixels"
    """Units of the boxes of `csv`, `jsonl` and `hf`: pixels, 0 to 1, or 0 to 1000; other kinds have fixed units."""
    split: Path | None = None
    """File of `minirft data split` that names the training samples; `shots` must then be 0 or the k of the file."""
    shots: int = 0
    """Pictures per category (k of k-shot); 0 means all of them, and for `tiny` new scenes at every step."""
    negatives: float = 0.2
    """Share of questions about a category that is not in the picture, in [0, 1), if the data shows what is absent.
    Measured on an earlier base: at 0.1 the ability to abstain is lost; the released few-shot sets have none.  In
    `tiny` half of the presence questions are absent, whatever the value."""
    question: str = ""
    """Your own question: {category}, {instruction} or {labels} in it is filled in, and the answer instructions are
    added unless it contains <answer>; empty means the paper's question."""
    categories_per_question: int = 1
    """Categories in one detection question; with several, each box is answered with its label.  Paper: 1."""
    list_labels: Literal["auto", "yes", "no"] = "auto"
    """Add the labels to a classification question; `auto` adds them for own sets of 2 to 30 labels."""
    on_bad: Literal["skip", "stop"] = "skip"
    """Effect of an invalid row or picture: `skip` leaves out its sample, `stop` stops the run before it begins."""
    max_bad: float = 0.05
    """Share of bad samples, in [0, 1], above which a run does not begin; a single one never stops it, unless 0."""
    seed: int = 0
    """Seed of the k-shot split.  It is not the training seed, so that runs with several seeds share a split."""

    def __post_init__(self) -> None:
        check(self, _rules(self), "data.")


def evaluation_data(data: DataConfig) -> DataConfig:
    """Return the settings of the evaluation data: each `eval_` field that is set replaces the field without `eval_`.

    >>> evaluation_data(DataConfig(categories=("cat",), eval_categories=("dog",))).categories
    ('dog',)
    """
    names = ("kind", "annotations", "images", "folder", "categories")
    own = {name: getattr(data, f"eval_{name}") or getattr(data, name) for name in names}
    return replace(data, **own, split=None, shots=0)


def check(config: Any, rules: Iterator[Rule], prefix: str = "") -> None:
    """Raise `UserError`, with field and value, for the first rule that the config breaks."""
    for holds, name, advice in rules:
        if not holds:
            value = getattr(config, name)
            raise UserError(f"{prefix}{name} = {str(value) if isinstance(value, Path) else repr(value)}: {advice}")


def _rules(c: DataConfig) -> Iterator[Rule]:
    yield 0 <= c.negatives < 1, "negatives", "a share, at least 0 and below 1"
    kinds = (c.kind, c.eval_kind or c.kind)
    free = c.box_format == "pixels" or not {"csv", "jsonl", "hf"}.isdisjoint(kinds)
    yield free, "box_format", f"kind {c.kind} says in which units its boxes are; leave it out"
    yield 0 <= c.max_bad <= 1, "max_bad", "a share, at least 0 and at most 1"
    field = FIELD[c.task]
    yield not c.question or field in c.question, "question", f"it must hold {field}, which is filled in"
    yield c.categories_per_question >= 1, "categories_per_question", "use a whole number of at least 1"
    advice = "only detection on pictures with boxes of your own can ask for several; set it to 1"
    several = c.task == "detection" and {"tiny", "virft"}.isdisjoint(kinds)
    yield several or c.categories_per_question == 1, "categories_per_question", advice
    yield c.shots >= 0, "shots", "pictures per category; 0 means all"
    for kind in kinds:
        tasks = TASKS_OF[kind]
        words, choices = " or ".join(tasks), " or ".join(f'"{task}"' for task in tasks)
        yield c.task in tasks, "task", f"kind {kind} asks {words} questions only: set data.task = {choices}"
    advice = "instructions have no categories to count shots by; set it to 0"
    yield c.task != "grounding" or not c.shots, "shots", advice
    nameless = not (c.categories or c.eval_categories)
    yield nameless or "reasonseg" not in kinds, "kind", "it has instructions, no categories: name none"
    yield not c.split or c.kind != "tiny", "split", "the tiny world is drawn from data.seed, which is its split"
    advice = f"only {', '.join(WITH_VAL)} can have a val part; `train` is what was not drawn"
    yield kinds[1] in WITH_VAL or c.eval_part != "val", "eval_part", advice

"""Which data a run reads: every setting with its unit, and what can be asked of each kind of data.

`minirft.runs.config` holds it as `config.data`; `minirft.data.feed` acts on it.
"""

from __future__ import annotations

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
    "coco": BOXES,
    "lvis": BOXES,
    "yolo": BOXES,
    "voc": BOXES,
    "csv": (*BOXES, *LABELS),
    "jsonl": ("grounding", *BOXES),
    "hf": (*BOXES, *LABELS),
    **dict.fromkeys(("folder", "flowers", "pets", "aircraft", "cars"), LABELS),
    "reasonseg": ("grounding",),
    "virft": ("detection", *LABELS, "grounding"),
}

# What the folders, files and splits of a part are called.
PARTS = {"train": ("train", "training"), "val": ("val", "valid", "validation", "dev"), "test": ("test", "testing")}
FAMILY = {"flowers": "flower", "pets": "pet", "aircraft": "aircraft", "cars": "car"}  # of the published sets
FIELD = {"detection": "{category}", "presence": "{category}", "grounding": "{instruction}", "classification": ""}
WITH_VAL = ("reasonseg", "folder", "yolo", "voc", "hf")

Rule = tuple[bool, str, str]  # (holds, field, what is wrong and what to do)


@dataclass(frozen=True)
class DataConfig:
    """Where the samples come from; `docs/data.md` draws every kind's files."""

    kind: Kind = "tiny"
    """`tiny` draws scenes from the seed; `coco`, `yolo`, `voc`, `lvis` read boxes; `csv` a table; `jsonl` grounding
    rows of other trainers; `folder` one folder for each class; `hf` a set of the datasets library;
    `flowers`, `pets`, `aircraft`, `cars`, `reasonseg` their authors' layout; `virft` the published sets."""
    task: Task = "detection"
    """What is asked about a picture."""
    annotations: Path | None = None
    """File of the training pictures, for `coco`, `lvis`, `csv` and `jsonl`."""
    images: Path | None = None
    """Folder that holds the training pictures, for the same; of `csv` and `jsonl` that of the file if left out."""
    folder: Path | None = None
    """Folder of the set, for all other kinds; for `virft` also a .parquet file, for `hf` a name on the hub."""
    eval_kind: Kind | None = None
    """Kind of the evaluation data; without it `kind`."""
    eval_annotations: Path | None = None
    """JSON file to evaluate on; without it the training pictures that were not drawn as shots."""
    eval_images: Path | None = None
    """Folder of the evaluation pictures; without it `images`."""
    eval_folder: Path | None = None
    """Folder to evaluate on; without it `folder`'s own test part, or what was not drawn where it has none."""
    eval_part: Literal["test", "val", "train"] = "test"
    """Part of a set with parts to evaluate on; `train` is what was not drawn as shots."""
    categories: tuple[str, ...] = ()
    """Names of the categories asked about; empty means all."""
    eval_categories: tuple[str, ...] = ()
    """Names of the categories evaluated on; empty means `categories`."""
    family: str = "object"
    """What the pictures of a `folder` show, as the question says it: flower, pet, car, aircraft or your own noun."""
    box_format: Literal["pixels", "unit", "thousand"] = "pixels"
    """Units of the boxes of `csv`, `jsonl` and `hf`: pixels, 0 to 1, or 0 to 1000; the others say it themselves."""
    split: Path | None = None
    """File of `minirft data split` that names the training samples; `shots` beside it: 0, or those of the file."""
    shots: int = 0
    """Pictures per category (k of k-shot); 0 means all of them, and for `tiny` fresh scenes at every step."""
    negatives: float = 0.2
    """Share of questions about a category that is not in the picture, in [0, 1), where absence is known.  Measured on
    an earlier base: at 0.1 the ability to abstain is lost; the released few-shot sets have none.  `tiny` presence
    questions are half absent, whatever it says."""
    question: str = ""
    """Your own question: {category}, {instruction} or {labels} in it is filled in, and how to answer is added unless it
    names <answer>; empty means the paper's."""
    categories_per_question: int = 1
    """Categories asked about in one detection question, each box answered with its label; the paper asks one."""
    list_labels: Literal["auto", "yes", "no"] = "auto"
    """Add the labels to a classification question; `auto`: for own sets of 2 to 30 labels."""
    on_bad: Literal["skip", "stop"] = "skip"
    """What a row or a picture that cannot be right does: cost its sample, or stop the run before it begins."""
    max_bad: float = 0.05
    """Share of bad samples, in [0, 1], above which a run does not begin; a single one never stops it, unless 0."""
    seed: int = 0
    """Draws the k-shot split.  Apart from the training seed, so that seeds share a split."""

    def __post_init__(self) -> None:
        check(self, _rules(self), "data.")


def evaluation_data(data: DataConfig) -> DataConfig:
    """The settings of the evaluation data: each `eval_` field in the place of its own where it is set.

    >>> evaluation_data(DataConfig(categories=("cat",), eval_categories=("dog",))).categories
    ('dog',)
    """
    names = ("kind", "annotations", "images", "folder", "categories")
    own = {name: getattr(data, f"eval_{name}") or getattr(data, name) for name in names}
    return replace(data, **own, split=None, shots=0)


def check(config: Any, rules: Iterator[Rule], prefix: str = "") -> None:
    """Raise `UserError`, with the field and its value, for the first rule of a config that does not hold."""
    for holds, name, advice in rules:
        if not holds:
            value = getattr(config, name)
            raise UserError(f"{prefix}{name} = {str(value) if isinstance(value, Path) else repr(value)}: {advice}")


def _rules(c: DataConfig) -> Iterator[Rule]:
    yield 0 <= c.negatives < 1, "negatives", "a share, at least 0 and below 1"
    free = c.box_format == "pixels" or {c.kind, c.eval_kind} & {"csv", "jsonl", "hf"}
    yield bool(free), "box_format", f"kind {c.kind} says in which units its boxes are; leave it out"
    yield 0 <= c.max_bad <= 1, "max_bad", "a share, at least 0 and at most 1"
    field = FIELD[c.task]
    yield not c.question or field in c.question, "question", f"it must hold {field}, which is filled in"
    many, plain = c.categories_per_question > 1, {c.kind, c.eval_kind or c.kind}.isdisjoint(("tiny", "virft"))
    yield c.categories_per_question >= 1, "categories_per_question", "use a whole number of at least 1"
    advice = "only detection on pictures with boxes of your own can ask for several; set it to 1"
    yield not many or (plain and c.task == "detection"), "categories_per_question", advice
    yield c.shots >= 0, "shots", "pictures per category; 0 means all"
    for kind in (c.kind, c.eval_kind or c.kind):
        tasks = TASKS_OF[kind]
        asked, choices = " or ".join(tasks), " or ".join(f'"{task}"' for task in tasks)
        yield c.task in tasks, "task", f"kind {kind} asks {asked} questions only: set data.task = {choices}"
    counts = c.task != "grounding"
    yield counts or not c.shots, "shots", "instructions have no categories to count shots by; set it to 0"
    named = not (c.categories or c.eval_categories)
    yield named or "reasonseg" not in (c.kind, c.eval_kind), "kind", "it has instructions, no categories: name none"
    yield not c.split or c.kind != "tiny", "split", "the tiny world is drawn from data.seed, which is its split"
    parted = (c.eval_kind or c.kind) in WITH_VAL
    advice = f"only {', '.join(WITH_VAL)} can have a val part; `train` is what was not drawn"
    yield parted or c.eval_part != "val", "eval_part", advice

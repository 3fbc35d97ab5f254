"""Which data a run reads: every setting with its unit, and what can be asked of each kind of data.

`minirft.runs.config` holds it as `config.data`; `minirft.data.feed` acts on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from minirft import UserError
from minirft.samples import Task

Kind = Literal["tiny", "coco", "lvis", "folder", "flowers", "pets", "aircraft", "cars", "reasonseg", "virft"]
LABELS, BOXES = ("classification",), ("detection", "presence")
TASKS_OF: dict[str, tuple[str, ...]] = {
    "tiny": (*BOXES, *LABELS, "grounding"),
    "coco": BOXES,
    "lvis": BOXES,
    **dict.fromkeys(("folder", "flowers", "pets", "aircraft", "cars"), LABELS),
    "reasonseg": ("grounding",),
    "virft": ("detection", *LABELS, "grounding"),
}

Rule = tuple[bool, str, str]  # (holds, field, what is wrong and what to do)


@dataclass(frozen=True)
class DataConfig:
    """Where the samples come from; `docs/data.md` draws every kind's files."""

    kind: Kind = "tiny"
    """`tiny` draws scenes from the seed; `coco`, `lvis` read annotations; `folder` one folder for each class;
    `flowers`, `pets`, `aircraft`, `cars`, `reasonseg` their authors' layout; `virft` the published sets."""
    task: Task = "detection"
    """What is asked about a picture."""
    annotations: Path | None = None
    """JSON file of the training pictures, for `coco` and `lvis`."""
    images: Path | None = None
    """Folder that holds the training pictures, for `coco` and `lvis`."""
    folder: Path | None = None
    """Folder of the set, for all other kinds (for `virft` also one .parquet file)."""
    eval_kind: Kind | None = None
    """Kind of the evaluation data; without it `kind`."""
    eval_annotations: Path | None = None
    """JSON file to evaluate on; without it the training pictures that were not drawn as shots."""
    eval_images: Path | None = None
    """Folder of the evaluation pictures; without it `images`."""
    eval_folder: Path | None = None
    """Folder to evaluate on; without it `folder`'s own test part, or what was not drawn where it has none."""
    eval_part: Literal["test", "val", "train"] = "test"
    """Part of a set with parts to evaluate on; `train` is what was not drawn as shots, `val` only `reasonseg` has."""
    categories: tuple[str, ...] = ()
    """Names of the categories asked about; empty means all."""
    eval_categories: tuple[str, ...] = ()
    """Names of the categories evaluated on; empty means `categories`."""
    family: str = "object"
    """What the pictures of a `folder` show, as the question says it: flower, pet, car, aircraft or your own noun."""
    split: Path | None = None
    """File of `minirft data split` that names the training samples; instead of `shots`."""
    shots: int = 0
    """Pictures per category (k of k-shot); 0 means all of them, and for `tiny` fresh scenes at every step."""
    negatives: float = 0.2
    """Share of questions about a category that is not in the picture, in [0, 1), where absence is known.  Measured on
    an earlier base: at 0.1 the ability to abstain is lost; the released few-shot sets have none.  `tiny` presence
    questions are half absent, whatever it says."""
    bad_boxes: Literal["refuse", "drop"] = "refuse"
    """What an inverted or empty box, or one outside its picture, does: stop the run, or be left out."""
    seed: int = 0
    """Draws the k-shot split.  Apart from the training seed, so that seeds share a split."""

    def __post_init__(self) -> None:
        check(self, _rules(self), "data.")


def check(config: Any, rules: Iterator[Rule], prefix: str = "") -> None:
    """Raise `UserError`, with the field and its value, for the first rule of a config that does not hold."""
    for holds, name, advice in rules:
        if not holds:
            value = getattr(config, name)
            raise UserError(f"{prefix}{name} = {str(value) if isinstance(value, Path) else repr(value)}: {advice}")


def _rules(c: DataConfig) -> Iterator[Rule]:
    yield 0 <= c.negatives < 1, "negatives", "a share, at least 0 and below 1"
    yield c.shots >= 0, "shots", "pictures per category; 0 means all"
    for kind in (c.kind, c.eval_kind or c.kind):
        tasks = TASKS_OF[kind]
        asked, choices = " or ".join(tasks), " or ".join(f'"{task}"' for task in tasks)
        yield c.task in tasks, "task", f"kind {kind} asks {asked} questions only: set data.task = {choices}"
    counts = c.task != "grounding"
    yield counts or not c.shots, "shots", "instructions have no categories to count shots by; set it to 0"
    named = not (c.categories or c.eval_categories)
    yield named or "reasonseg" not in (c.kind, c.eval_kind), "kind", "it has instructions, no categories: name none"
    yield not (c.split and c.shots), "shots", "data.split says which samples are trained on: set it to 0"
    yield not c.split or c.kind != "tiny", "split", "the tiny world is drawn from data.seed, which is its split"
    parted = (c.eval_kind or c.kind) == "reasonseg"
    yield parted or c.eval_part != "val", "eval_part", "only reasonseg has a val part; `train` is what was not drawn"

"""The settings of each experiment: training data, validation and tests, from `experiments.toml`.

Training, validation and test pictures are disjoint: training uses the seeds 1, 2, ..., and validation and test have one
other seed each.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from minirft import UserError
from minirft.data import k_shot_of_stream
from minirft.runs import GRPOConfig, read_toml
from minirft.samples import Sample, Task
from minirft.tiny import BASE, FAMILIES, FEWSHOT, NOVEL, RARE, world

VALIDATION, TEST = 20_000_003, 30_000_001  # seeds
CHOOSE_BY, TEST_ON = 200, 500  # questions
ABSENT = 0.2
"""Share of questions about an absent category.  The paper's few-shot sets have none."""
METRICS: dict[Task, str] = {"classification": "accuracy", "grounding": "box_iou", "presence": "accuracy"}
HEADLINE: dict[Task, str] = METRICS | {"detection": "ap50_pooled"}
"""The metric by which methods are compared.  AP50 is pooled: with few questions for each category, the mean over
categories is too high, and its interval seldom contains the true value (`docs/interval_coverage.py`)."""
CHOSEN_BY: dict[Task, str] = METRICS | {"detection": "ap50"}
"""The metric by which rate and length are chosen.  It is compared on one set of questions and is not reported."""

METHODS = ("sft", "sft-reasoning", "rft")
"""Imitation of answers alone, as in the paper's SFT; imitation of an expert's reasoning and answers; GRPO."""
CONTROLS = ("sft-quick", "rft-official")
"""Two control methods.  Imitation of answers after the base's own short thought, because the embedded base, unlike
Qwen2-VL, has never seen a text without a thought; and GRPO with the reward of the released code."""
CATEGORIES: dict[str, tuple[str, ...]] = {
    "eight": FEWSHOT,
    "five": FEWSHOT[:5],
    "other": tuple(category for category in BASE if category not in FEWSHOT),
    "base": BASE,
    "novel": NOVEL,
    "all": BASE + NOVEL,
    "rare": RARE,
    "six rare": RARE[:6],
}
Columns = dict[str, list[str]]  # test -> table of the paper, and its column


@dataclass(frozen=True)
class Part:
    """One part of an experiment on the tiny world; `experiments.toml` explains the fields."""

    task: Task = "detection"
    options: dict[str, Any] = field(default_factory=dict)
    tests: dict[str, dict[str, Any]] = field(default_factory=lambda: {"same": {}})
    shots: Sequence[int] = (0,)
    size: int = 0
    base: str = "embedded"
    staged: Sequence[str] = ()
    masked: Sequence[str] = ()
    columns: Columns = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the categories that shots are counted by: k pictures of each."""
        family = self.options.get("family")
        return tuple(FAMILIES[family]) if family else CATEGORIES.get(self.options.get("categories", ""), ())

    @property
    def absent(self) -> float:
        """Return the share of training questions about an absent category."""
        return {"detection": self.options.get("absent", ABSENT), "presence": 0.5}.get(self.task, 0.0)

    @property
    def metric(self) -> str:
        """Return the metric by which methods are compared."""
        return HEADLINE[self.task]

    def draw(self, count: int, seed: int, **changes: Any) -> list[Sample]:
        """Draw questions with the options of training and `changes`; `reasoning` selects a kind of grounding."""
        options = ({"absent": ABSENT} if self.task == "detection" else {}) | self.options | changes
        if "categories" in options:
            options["categories"] = CATEGORIES[options["categories"]]
        reasoning = options.pop("reasoning", None)
        if reasoning is None:
            return getattr(world, self.task)(count, seed, **options)
        every = world.grounding(4 * count, seed, **options)
        return [sample for sample in every if (sample.category in world.EXTREMES) == reasoning][:count]

    def train(self, shots: int, seed: int) -> list[Sample]:
        """Draw the training set of a seed; more shots of one seed only add pictures."""
        if not shots:
            return self.draw(self.size, seed)
        return k_shot_of_stream(lambda count: self.draw(count, seed), self.names, shots, seed, self.absent)

    def validation(self) -> list[Sample]:
        """Draw the validation questions: a separate stream of the training categories."""
        return [replace(sample, id=f"validation-{sample.id}") for sample in self.draw(CHOOSE_BY, VALIDATION)]

    def test(self, name: str, count: int = TEST_ON) -> list[Sample]:
        """Draw the questions of a test, which are used for nothing else."""
        return [replace(sample, id=f"test-{sample.id}") for sample in self.draw(count, TEST, **self.tests[name])]


@dataclass(frozen=True)
class Experiment:
    """One of the comparisons in the paper on the tiny world; `paper` is the place in it."""

    title: str
    paper: str
    parts: dict[str, Part]
    methods: tuple[str, ...]


TABLES = read_toml(Path(__file__).with_name("experiments.toml"))


def _experiment(table: dict[str, Any]) -> Experiment:
    parts = {name: Part(**fields) for name, fields in table["tiny"].items()}
    methods = METHODS + CONTROLS if table.get("controls") else METHODS
    return Experiment(table["title"], table["paper"], parts, methods)


EXPERIMENTS = {name: _experiment(table) for name, table in TABLES.items()}


def find(name: str) -> Experiment:
    """Return the experiment of that name.  Raises `UserError` if there is none."""
    if name not in EXPERIMENTS:
        raise UserError(f"no experiment {name}; choose from {', '.join(EXPERIMENTS)}")
    return EXPERIMENTS[name]


# ------------------------------------------------------------------ the choices of a method

SFT = [method for method in METHODS + CONTROLS if method.startswith("sft")]
RFT = [method for method in METHODS + CONTROLS if method.startswith("rft")]
RATES = dict.fromkeys(SFT, (3e-5, 1e-4, 3e-4)) | dict.fromkeys(RFT, (5e-5, 1e-4, 2e-4))
STOPS = dict.fromkeys(SFT, (20, 40, 80, 160)) | dict.fromkeys(RFT, (5, 10, 20, 40))
"""Three learning rates, constant, and four lengths: 12 settings for each method.  A step has 8 pictures.

A wider grid (four rates, five lengths) on two tables had the best setting of every method inside this one
(docs/experiments.md, 2026-11-22).
"""


def config(seed: int) -> GRPOConfig:
    """Return the fixed settings of training: the defaults, 8 prompts a step and groups of 8, on one thread."""
    return GRPOConfig(seed=seed, threads=1, eval_batch=250)

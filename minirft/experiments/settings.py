"""The settings of each experiment: training data, validation and tests.

Training, validation and test pictures are disjoint: training uses the seeds 1, 2, ..., and validation and test have one
other seed each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from minirft import UserError
from minirft.data import k_shot_of_stream
from minirft.runs import GRPOConfig
from minirft.samples import Sample, Task
from minirft.tiny import BASE, FAMILIES, FEWSHOT, NOVEL, RARE, world

VALIDATION, TEST = 20_000_003, 30_000_001  # seeds
CHOOSE_BY, TEST_ON = 200, 500  # questions
ABSENT = 0.2
"""Share of questions about an absent category.  The paper's few-shot sets have none."""
HEADLINE: dict[Task, str] = {
    "detection": "ap50_pooled",
    "classification": "accuracy",
    "grounding": "box_iou",
    "presence": "accuracy",
}
"""The metric by which methods are compared.  AP50 is pooled: with few questions for each category, the mean over
categories is too high, and its interval seldom contains the true value (`docs/interval_coverage.py`)."""
CHOSEN_BY: dict[Task, str] = HEADLINE | {"detection": "ap50"}
"""The metric by which rate and length are chosen.  It is compared on one set of questions and is not reported."""

Draw = Callable[[int, int], list[Sample]]  # (how many, seed) -> questions
METHODS = ("sft", "sft-reasoning", "rft")
"""Imitation of answers alone, as in the paper's SFT; imitation of an expert's reasoning and answers; GRPO."""
CONTROLS = ("sft-quick", "rft-official")
"""Two control methods.  Imitation of answers after the base's own short thought, because the embedded base, unlike
Qwen2-VL, has never seen a text without a thought; and GRPO with the reward of the released code."""


@dataclass(frozen=True)
class Part:
    """One part of an experiment: a stream of training questions, its shots, and its tests."""

    task: Task
    draw: Draw
    names: tuple[str, ...]
    """The categories that shots are counted by: k pictures of each."""
    tests: dict[str, Draw]
    shots: tuple[int, ...]
    """Pictures of each name; 0 means the first `size` pictures of the stream."""
    size: int = 0
    base: str = "embedded"
    """The starting point of training, from `minirft.experiments.bases`."""
    absent: float = ABSENT
    """Share of training questions about an absent category, for detection."""
    staged: tuple[str, ...] = ()
    """The tests that ask in two stages: is there one, then where."""
    masked: tuple[str, ...] = ()
    """The tests whose boxes are also turned into masks."""

    def train(self, shots: int, seed: int) -> list[Sample]:
        """Draw the training set of a seed; more shots of one seed only add pictures."""
        if not shots:
            return self.draw(self.size, seed)
        negatives = {"detection": self.absent, "presence": 0.5}.get(self.task, 0.0)
        return k_shot_of_stream(partial(self.draw, seed=seed), self.names, shots, seed, negatives)

    def validation(self) -> list[Sample]:
        """Draw the validation questions: a separate stream of the training categories."""
        return [replace(sample, id=f"validation-{sample.id}") for sample in self.draw(CHOOSE_BY, VALIDATION)]

    def test(self, name: str, count: int = TEST_ON) -> list[Sample]:
        """Draw the questions of a test, which are used for nothing else."""
        return [replace(sample, id=f"test-{sample.id}") for sample in self.tests[name](count, TEST)]


@dataclass(frozen=True)
class Experiment:
    """One of the paper's comparisons on the tiny world."""

    title: str
    paper: str
    """The place in the paper."""
    parts: dict[str, Part]
    methods: tuple[str, ...] = METHODS


def _detection(categories: tuple[str, ...], style: str = "plain", absent: float = ABSENT) -> Draw:
    return partial(world.detection, categories=categories, absent=absent, style=style)


def _family(name: str) -> Part:
    draw = partial(world.classification, family=name)
    return Part("classification", draw, tuple(FAMILIES[name]), {"same": draw}, (1, 2, 4, 8, 16))


def _kind(reasoning: bool) -> Draw:
    """Select grounding questions of one kind: the object is named, or must be found by reasoning."""

    def draw(count: int, seed: int) -> list[Sample]:
        every = world.grounding(4 * count, seed)
        return [sample for sample in every if (sample.category in world.EXTREMES) == reasoning][:count]

    return draw


def _eight(tests: dict[str, Draw]) -> Part:
    return Part("detection", _detection(FEWSHOT), FEWSHOT, tests, (1, 2, 4, 8, 16))


def _style(style: str) -> Part:
    """Detection in a style that the base has never seen; a second test shows whether the plain style suffers."""
    names = FEWSHOT[:5]
    tests = {"same": _detection(names, style), "plain style": _detection(names)}
    return Part("detection", _detection(names, style), names, tests, (4, 16))


def _where() -> Part:
    """Detection trained on present categories only, like the paper's few-shot sets, and tested in three ways."""
    present, half = _detection(FEWSHOT, absent=0.0), _detection(FEWSHOT, absent=0.5)
    tests = {"category known": present, "asked at once": half, "asked in two stages": half}
    return Part("detection", present, FEWSHOT, tests, (4,), absent=0.0, staged=("asked in two stages",))


def _is_there_one() -> Part:
    draw = partial(world.presence, categories=FEWSHOT)
    return Part("presence", draw, FEWSHOT, {"same": draw, "other": partial(world.presence, categories=OTHER)}, (4,))


OTHER_BASES = ("never", "quick", "seldom", "careful")
OTHER = tuple(category for category in BASE if category not in FEWSHOT)
EXPERIMENTS: dict[str, Experiment] = {
    "classification": Experiment(
        "Few-shot classification of look-alike classes", "Table 2", {name: _family(name) for name in FAMILIES}
    ),
    "coco-fewshot": Experiment(
        "Few-shot detection of 8 of 80 categories",
        "Table 3",
        {"8 categories": _eight({"same": _detection(FEWSHOT), "other": _detection(OTHER)})},
    ),
    "lvis-fewshot": Experiment(
        "10-shot detection of 6 rare categories",
        "Table 4",
        {"6 rare": Part("detection", _detection(RARE[:6]), RARE[:6], {"same": _detection(RARE[:6])}, (10,))},
        METHODS + CONTROLS,
    ),
    "out-of-domain": Experiment(
        "Few-shot detection in other drawing styles",
        "Table 5",
        {"outlines": _style("outline"), "sketches": _style("sketch")},
    ),
    "grounding": Experiment(
        "Reasoning grounding from 239 pictures",
        "Table 6",
        {
            "239 pictures": Part(
                "grounding",
                world.grounding,
                (),
                {"all": world.grounding, "named": _kind(reasoning=False), "reasoned": _kind(reasoning=True)},
                (0,),
                239,
                masked=("all",),
            )
        },
        METHODS + CONTROLS,
    ),
    "open-vocabulary": Experiment(
        "Train on 65 base categories, test on 15 novel and 13 rare ones",
        "Tables 7 and 8",
        {
            "65 base": Part(
                "detection",
                _detection(BASE),
                (),
                {
                    "novel": _detection(NOVEL),
                    "base": _detection(BASE),
                    "all": _detection(BASE + NOVEL),
                    "rare": _detection(RARE),
                },
                (0,),
                600,
            )
        },
    ),
    "presence": Experiment(
        "Is there one, then where: two stages, or one question",
        "section 4.1",
        {"where": _where(), "is there one": _is_there_one()},
    ),
    "bases": Experiment(
        "What the base already knows",
        "no table",
        {name: replace(_eight({"same": _detection(FEWSHOT)}), base=name, shots=(1, 16)) for name in OTHER_BASES},
    ),
}


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


def config(task: Task, seed: int) -> GRPOConfig:
    """Return the fixed settings of training, those of `minirft demo`."""
    return GRPOConfig(
        seed=seed,
        threads=1,
        prompts_per_step=8,
        group_size=8,
        max_completion_length=96,
        lr_schedule="constant",
        eval_batch=250,
    )

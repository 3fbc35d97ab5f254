"""What each experiment trains on, chooses by, and is tested on.

Three streams of questions never meet: training pictures come from seeds 1, 2, ..., validation and test pictures from
two seeds of their own.
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
"""Share of questions about an absent category, everywhere.  The paper's few-shot sets have none."""
HEADLINE: dict[Task, str] = {
    "detection": "ap50_pooled",
    "classification": "accuracy",
    "grounding": "box_iou",
    "presence": "accuracy",
}
"""The metric by which methods are compared.  AP50 is pooled: a mean over categories of few questions each is too high,
and its interval seldom holds the truth (`minirft.experiments.coverage`)."""
CHOSEN_BY: dict[Task, str] = HEADLINE | {"detection": "ap50"}
"""The metric by which rate and length are chosen.  It is compared on one set of questions and printed nowhere."""

Draw = Callable[[int, int], list[Sample]]  # (how many, seed) -> questions
METHODS = ("sft", "sft-reasoning", "rft")
"""Imitate answers alone, as the paper's SFT does; the same behind an expert's reasoning; or GRPO."""
CONTROLS = ("sft-quick", "rft-official")
"""Two more, where a cause is looked for.  Answers behind the base's own short thought: the embedded base has never seen
a text without a thought, Qwen2-VL has.  GRPO with the reward that the released code computes."""


@dataclass(frozen=True)
class Part:
    """One thing to learn: a stream of questions, how they are counted, and what the result is tested on."""

    task: Task
    draw: Draw
    names: tuple[str, ...]
    """What shots are counted by: k pictures of each."""
    tests: dict[str, Draw]
    shots: tuple[int, ...]
    """Pictures of each name; 0 stands for `size` pictures of the stream as they come."""
    size: int = 0
    base: str = "embedded"
    """What training starts from, of `minirft.experiments.bases`."""
    absent: float = ABSENT
    """Share of training questions about an absent category, for detection."""
    staged: tuple[str, ...] = ()
    """Those of the tests that ask in two stages: is there one, then where."""
    masked: tuple[str, ...] = ()
    """Those of the tests whose boxes are made masks too."""

    def train(self, shots: int, seed: int) -> list[Sample]:
        """The training set of a seed; for one seed more shots only add."""
        if not shots:
            return self.draw(self.size, seed)
        negatives = {"detection": self.absent, "presence": 0.5}.get(self.task, 0.0)
        return k_shot_of_stream(partial(self.draw, seed=seed), self.names, shots, seed, negatives)

    def validation(self) -> list[Sample]:
        """What settings are chosen by; its own stream, of what is trained on."""
        return [replace(sample, id=f"validation-{sample.id}") for sample in self.draw(CHOOSE_BY, VALIDATION)]

    def test(self, name: str, count: int = TEST_ON) -> list[Sample]:
        """The questions of a test; used for nothing else."""
        return [replace(sample, id=f"test-{sample.id}") for sample in self.tests[name](count, TEST)]


@dataclass(frozen=True)
class Experiment:
    """One of the paper's comparisons on the tiny world."""

    title: str
    paper: str
    """Where the paper has it."""
    parts: dict[str, Part]
    methods: tuple[str, ...] = METHODS


def _detection(categories: tuple[str, ...], style: str = "plain", absent: float = ABSENT) -> Draw:
    return partial(world.detection, categories=categories, absent=absent, style=style)


def _family(name: str) -> Part:
    draw = partial(world.classification, family=name)
    return Part("classification", draw, tuple(FAMILIES[name]), {"same": draw}, (1, 2, 4, 8, 16))


def _kind(reasoning: bool) -> Draw:
    """Grounding questions of one kind: an object named, or one that must be reasoned out."""

    def draw(count: int, seed: int) -> list[Sample]:
        every = world.grounding(4 * count, seed)
        return [sample for sample in every if (sample.category in world.EXTREMES) == reasoning][:count]

    return draw


def _eight(tests: dict[str, Draw]) -> Part:
    return Part("detection", _detection(FEWSHOT), FEWSHOT, tests, (1, 2, 4, 8, 16))


def _style(style: str) -> Part:
    """Shapes drawn in a style that the base has never seen; does what is learnt there spoil what it could?"""
    names = FEWSHOT[:5]
    tests = {"same": _detection(names, style), "plain style": _detection(names)}
    return Part("detection", _detection(names, style), names, tests, (4, 16))


def _where() -> Part:
    """Trained as the paper's few-shot sets are, on categories that are there, and asked in three ways."""
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
    """The experiment of that name.  Raises `UserError` when there is none."""
    if name not in EXPERIMENTS:
        raise UserError(f"no experiment {name}; choose from {', '.join(EXPERIMENTS)}")
    return EXPERIMENTS[name]


# ------------------------------------------------------------------ what a method may choose from

SFT = [method for method in METHODS + CONTROLS if method.startswith("sft")]
RFT = [method for method in METHODS + CONTROLS if method.startswith("rft")]
RATES = dict.fromkeys(SFT, (3e-5, 1e-4, 3e-4)) | dict.fromkeys(RFT, (5e-5, 1e-4, 2e-4))
STOPS = dict.fromkeys(SFT, (20, 40, 80, 160)) | dict.fromkeys(RFT, (5, 10, 20, 40))
"""Three learning rates, constant, and four lengths: 12 settings for each method.  A step has 8 pictures.

The grid was placed with a wider one (four rates, five lengths) on two tables: it holds every method's best setting of
both (docs/experiments.md, 2026-11-22).
"""


def config(task: Task, seed: int) -> GRPOConfig:
    """The settings of training that are not chosen: those of `minirft demo`."""
    return GRPOConfig(
        seed=seed,
        threads=1,
        prompts_per_step=8,
        group_size=8,
        max_completion_length=96,
        lr_schedule="constant",
        eval_batch=250,
    )

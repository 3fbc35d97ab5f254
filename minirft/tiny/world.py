"""This module draws questions about the tiny world as samples; they replace the data sets of the paper.

Each function draws `n` samples from a seed.  The same seed gives the same samples, and the first k of n samples do
not depend on n.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from minirft.samples import Sample, Task
from minirft.tiny.annotators import reasoning
from minirft.tiny.lookalikes import FAMILIES
from minirft.tiny.questions import Question
from minirft.tiny.scenes import BASE, SHAPES, Thing, category_weights, draw_scene

ABSENT = 0.22  # share of detection questions about a category that is not in the picture


# ------------------------------------------------------------------ one question at a time


def ask_detection(
    rng: np.random.Generator,
    categories: Sequence[str] = BASE,
    *,
    absent: float = ABSENT,
    style: str = "plain",
    shattered: float = 0.25,
    distractors: tuple[str, ...] = BASE,
    task: Task = "detection",
) -> Question:
    """Draw a question for the boxes of one category, or with `task="presence"` whether there are any."""
    category = str(rng.choice(np.array(categories), p=category_weights(tuple(categories))))
    scene = draw_scene(
        rng, category, present=bool(rng.random() >= absent), categories=distractors, shattered=shattered, style=style
    )
    return Question(task, category, scene.seed, scene, scene.of(category))


def ask_presence(rng: np.random.Generator, categories: Sequence[str] = BASE, **options: object) -> Question:
    """Draw a question whether a category is in the picture; the answer is yes for one question in two."""
    return ask_detection(rng, categories, **{"absent": 0.5, "task": "presence", **options})


# Instruction -> (the key whose largest value wins, the margin that makes the winner visible).
EXTREMES: dict[str, tuple[Callable[[Thing], float], float]] = {
    "the largest shape": (lambda thing: thing.area, 160),
    "the smallest shape": (lambda thing: -thing.area, 160),
    "the leftmost shape": (lambda thing: -thing.box[0] - thing.box[2], 8),
    "the rightmost shape": (lambda thing: thing.box[0] + thing.box[2], 8),
    "the topmost shape": (lambda thing: -thing.box[1] - thing.box[3], 8),
    "the lowest shape": (lambda thing: thing.box[1] + thing.box[3], 8),
    "the shape with the most corners": (lambda thing: SHAPES[thing.shape], 1),
    "the shape with the fewest corners": (lambda thing: -SHAPES[thing.shape], 1),
}


def ask_grounding(rng: np.random.Generator, categories: tuple[str, ...] = BASE, style: str = "plain") -> Question:
    """Draw a question for one object; half of the instructions name it, half need reasoning."""
    while True:
        category = str(rng.choice(np.array(categories), p=category_weights(categories)))
        scene = draw_scene(rng, category, categories=categories, shattered=0.0, style=style)
        if len(scene.things) < 2:
            continue
        if rng.random() < 0.5:
            unique = [thing for thing in scene.things if len(scene.of(thing.category)) == 1]
            if unique:
                thing = unique[int(rng.integers(len(unique)))]
                return Question("grounding", f"the {thing.category}", scene.seed, scene, (thing,))
            continue
        instruction = str(rng.choice(list(EXTREMES)))
        key, margin = EXTREMES[instruction]
        first, second = sorted(scene.things, key=key, reverse=True)[:2]
        if key(first) - key(second) >= margin:
            return Question("grounding", instruction, scene.seed, scene, (first,))


def ask_classification(rng: np.random.Generator, family: str | None = None) -> Question:
    """Draw a question for the look-alike class in the picture."""
    family = family or str(rng.choice(list(FAMILIES)))
    name = str(rng.choice(list(FAMILIES[family])))
    return Question("classification", name, int(rng.integers(2**31)), family=family)


ASKS: dict[Task, Callable[..., Question]] = {
    "detection": ask_detection,
    "grounding": ask_grounding,
    "classification": ask_classification,
    "presence": ask_presence,
}

# ------------------------------------------------------------------ samples


def samples(ask: Callable[[np.random.Generator], Question], n: int, seed: int) -> list[Sample]:
    """Draw `n` samples of one kind of question, each from its own stream of the seed."""
    return [sample_of(ask(np.random.default_rng([seed, index])), f"{seed}-{index}") for index in range(n)]


def sample_of(question: Question, name: str = "") -> Sample:
    """Return a question as a sample, with the careful annotator's reasoning for SFT with reasoning."""
    return Sample(
        id=f"{question.task}-{name}",
        image=question.image(),
        task=question.task,
        problem=question.problem(),
        solution=question.solution(),
        category=question.subject,
        reasoning=reasoning(question),
    )


def detection(n: int, seed: int, categories: Sequence[str] = BASE, **options: object) -> list[Sample]:
    """Draw detection questions, 22% of them about an absent category.

    >>> [sample.task for sample in detection(2, seed=0)]
    ['detection', 'detection']
    """
    return samples(lambda rng: ask_detection(rng, categories, **options), n, seed)


def presence(n: int, seed: int, categories: Sequence[str] = BASE) -> list[Sample]:
    """Draw yes-or-no questions about a category; half of the answers are no."""
    return samples(lambda rng: ask_presence(rng, categories), n, seed)


def grounding(n: int, seed: int, categories: tuple[str, ...] = BASE) -> list[Sample]:
    """Draw referring and reasoning questions with one box as the answer."""
    return samples(lambda rng: ask_grounding(rng, categories), n, seed)


def classification(n: int, seed: int, family: str) -> list[Sample]:
    """Draw classification questions of one family: flower, pet, aircraft or car."""
    return samples(lambda rng: ask_classification(rng, family), n, seed)


VALIDATION, TEST = 10_000_019, 40_000_003
"""No training run uses the streams of these two seeds.  The settings of the shipped runs were chosen on the first."""


def held_out(task: Task, n: int, seed: int = VALIDATION, **options: object) -> list[Sample]:
    """Draw samples from a stream that no training run uses."""
    return [replace(sample, id=f"held-out-{sample.id}") for sample in samples(partial(ASKS[task], **options), n, seed)]

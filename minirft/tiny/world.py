"""Questions about the tiny world, as samples: the counterpart of every data set in the paper.

Each function draws `n` samples from a seed, on the fly.  The same seed gives the same samples, and the
first k of n samples do not depend on n.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from minirft.rewards import boxes, prompts
from minirft.samples import Sample, Task
from minirft.tiny.lookalikes import FAMILIES, render_lookalike
from minirft.tiny.scenes import BASE, SHAPES, SIDE, Scene, Thing, category_weights, draw_scene, render

ABSENT = 0.22  # share of detection questions about a category that is not there


# Task -> its question; classification asks by family instead.
PROMPTS = {"detection": prompts.detection, "grounding": prompts.grounding, "presence": prompts.presence}


@dataclass(frozen=True)
class Question:
    """A question with everything a perfect annotator knows about it.

    `things` are the objects that answer it (none for an absent category); a look-alike question has a
    `family`, its class as `subject`, and no scene.
    """

    task: Task
    subject: str  # the category, the class, or the instruction
    seed: int
    scene: Scene | None = None
    things: tuple[Thing, ...] = ()
    family: str = ""

    def image(self) -> Image.Image:
        """The picture, RGB, 112 x 112."""
        return render(self.scene) if self.scene else render_lookalike(self.family, self.subject, self.seed)

    def problem(self) -> str:
        """The question as the paper asks it."""
        if self.task == "classification":
            return prompts.classification(self.family)
        return PROMPTS[self.task](self.subject)

    def solution(self) -> str:
        """The checkable answer, in the text format of the published sets."""
        if self.task == "classification":
            return prompts.label_solution(self.subject)
        if self.task == "presence":
            return prompts.presence_solution(bool(self.things))
        in_model_frame = model_boxes(self.things)
        if self.task == "grounding":
            return prompts.grounding_solution(in_model_frame[0])
        # With two decimals, as the prompt asks: the published sets write 1, which the embedded model never met, and
        # whoever imitates these solutions would have to learn to spell first.
        return prompts.detection_solution(in_model_frame, 1.0)


def model_boxes(things: Sequence[Thing]) -> np.ndarray:
    """Boxes of objects as the model writes them: integers 0-1000, shape (N, 4)."""
    xyxy = np.array([thing.box for thing in things], dtype=float).reshape(-1, 4)
    return boxes.convert(xyxy, boxes.pixels(SIDE, SIDE), boxes.MODEL).round()


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
    """Where are the objects of this category?  (With `task="presence"`: are there any?)"""
    category = str(rng.choice(np.array(categories), p=category_weights(tuple(categories))))
    scene = draw_scene(
        rng, category, present=bool(rng.random() >= absent), categories=distractors, shattered=shattered, style=style
    )
    return Question(task, category, scene.seed, scene, scene.of(category))


def ask_presence(rng: np.random.Generator, categories: Sequence[str] = BASE, **options: object) -> Question:
    """Is there an object of this category?  Yes for one question in two."""
    return ask_detection(rng, categories, **{"absent": 0.5, "task": "presence", **options})


# Instruction -> (the key by which one object wins, the margin by which it must win to be seen).
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
    """Which one object is meant?  Half of the instructions name it, half must be reasoned out."""
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
        winner = clear_winner(instruction, scene.things)
        if winner is not None:
            return Question("grounding", instruction, scene.seed, scene, (winner,))


def clear_winner(instruction: str, things: Sequence[Thing]) -> Thing | None:
    """The object that the instruction means, or None when two are too close to call."""
    key, margin = EXTREMES[instruction]
    first, second = sorted(things, key=key, reverse=True)[:2]
    return first if key(first) - key(second) >= margin else None


def ask_classification(rng: np.random.Generator, family: str | None = None) -> Question:
    """Which of the look-alike classes is this?"""
    family = family or str(rng.choice(list(FAMILIES)))
    name = str(rng.choice(list(FAMILIES[family])))
    return Question("classification", name, int(rng.integers(2**31)), family=family)


# ------------------------------------------------------------------ samples for everyone else


def samples(ask: Callable[[np.random.Generator], Question], n: int, seed: int) -> list[Sample]:
    """`n` samples of one kind of question, each from its own stream of the seed."""
    from minirft.tiny.annotators import reasoning  # the expert's thinking, for SFT with reasoning

    drawn = []
    for index in range(n):
        question = ask(np.random.default_rng([seed, index]))
        drawn.append(
            Sample(
                id=f"{question.task}-{seed}-{index}",
                image=question.image(),
                task=question.task,
                problem=question.problem(),
                solution=question.solution(),
                category=question.subject,
                reasoning=reasoning(question),
            )
        )
    return drawn


def detection(n: int, seed: int, categories: Sequence[str] = BASE, **options: object) -> list[Sample]:
    """Detection questions, 22% of them about an absent category.

    >>> [sample.task for sample in detection(2, seed=0)]
    ['detection', 'detection']
    """
    return samples(lambda rng: ask_detection(rng, categories, **options), n, seed)


def presence(n: int, seed: int, categories: Sequence[str] = BASE) -> list[Sample]:
    """Yes-or-no questions about a category, half of them no."""
    return samples(lambda rng: ask_presence(rng, categories), n, seed)


def grounding(n: int, seed: int, categories: tuple[str, ...] = BASE) -> list[Sample]:
    """Referring and reasoning questions with one box as the answer."""
    return samples(lambda rng: ask_grounding(rng, categories), n, seed)


def classification(n: int, seed: int, family: str) -> list[Sample]:
    """Look-alike classes of one family: flower, pet, aircraft or car."""
    return samples(lambda rng: ask_classification(rng, family), n, seed)


WORLDS = {
    "detection": detection,
    "presence": presence,
    "grounding": grounding,
    "classification": classification,
}


VALIDATION, TEST = 10_000_019, 40_000_003
"""Seeds of two streams that no training run draws from.  The settings of the shipped runs were chosen on the first."""


def held_out(task: Task, n: int, seed: int = VALIDATION, **options: object) -> list[Sample]:
    """Samples from a stream that no training run draws from."""
    return [replace(sample, id=f"held-out-{sample.id}") for sample in WORLDS[task](n, seed, **options)]

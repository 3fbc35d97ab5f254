"""The annotators whose texts the base model imitates: a quick one and a careful one.

This is where the base gets the property that the paper's effect needs: it *can* do the task and by
default *does not*.  Two texts in three come from the quick annotator, who glances and draws one loose
box; one in three from the careful one, who names each object, says of its colour and of its shape whether it
is the wanted one, draws tight boxes around all that match, and states a confidence that fits.  Both break the answer
format equally often, so that the format reward alone cannot tell them apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from minirft.rewards import prompts
from minirft.tiny.lookalikes import FAMILIES
from minirft.tiny.questions import Question, model_boxes
from minirft.tiny.scenes import GRID, SIDE, Thing

CAREFUL_SHARE = 0.34
BROKEN_TAGS = 0.20
QUICK_THOUGHT = "look here"
CAREFUL_START = "let me look: i see "  # forcing this prefix on the model forces the habit
THEREFORE = ". so "
VERDICTS = (": no", ": yes")
CONFIDENCES = tuple(f"{k / 20:.2f}" for k in range(21))  # steps of 0.05

Annotator = Callable[[Question, np.random.Generator], str]


def annotate(question: Question, rng: np.random.Generator, careful_share: float = CAREFUL_SHARE) -> str:
    """One completion by one of the two annotators, its tags broken one time in five."""
    annotator: Annotator = careful if rng.random() < careful_share else quick
    text = annotator(question, rng)
    return break_tags(text, rng) if rng.random() < BROKEN_TAGS else text


def break_tags(text: str, rng: np.random.Generator) -> str:
    """Lose one of the four tags of the format.

    >>> break_tags("<think>a</think> <answer>b</answer>", np.random.default_rng(0))
    '<think>a</think> <answer>b'
    """
    tag = ("<think>", "</think>", "<answer>", "</answer>")[int(rng.integers(4))]
    return text.replace(tag, "", 1)


def completion(thought: str, solution: str) -> str:
    """The two parts in the paper's format; `solution` carries its answer tags."""
    return f"<think>{thought}</think> {solution}"


# ------------------------------------------------------------------ the careful annotator


def careful(question: Question, rng: np.random.Generator) -> str:
    """Look, say what is there and where, then answer well, with a confidence that fits."""
    solution = question.solution()
    if question.task == "detection":
        solution = prompts.detection_solution(
            model_boxes(question.things), [_honest_confidence(thing, rng) for thing in question.things]
        )
    return completion(reasoning(question), solution)


def reasoning(question: Question) -> str:
    """What a careful look sees, in words: every object of the picture, held against the question.

    Naming a colour and then saying whether it is the wanted one is what makes the careful annotator good,
    and the model that imitates it: comparing two words is easier than comparing a word with a picture.

    >>> from .world import ask_classification
    >>> reasoning(ask_classification(np.random.default_rng(0), "flower"))
    'let me look: i see eight, round petals'
    """
    if question.scene is None:
        return CAREFUL_START + ", ".join(FAMILIES[question.family][question.subject])
    if question.task == "grounding":
        seen = "; ".join(describe(thing) for thing in question.scene.things)
        return f"{CAREFUL_START}{seen}{THEREFORE}{describe(question.things[0])}"
    return CAREFUL_START + "; ".join(describe(thing, question.subject) for thing in question.scene.things)


def describe(thing: Thing, wanted: str = "") -> str:
    """An object in words: colour, shape, size, place; with `wanted`, whether each word is the wanted one.

    A shattered object shows its colour only.

    >>> describe(Thing("red circle", (0, 0, 48, 48)))
    'red circle, big top left'
    >>> describe(Thing("red circle", (0, 0, 48, 48)), "red square")
    'red: yes circle: no, big top left'
    >>> describe(Thing("red circle", (0, 0, 24, 24), True, (0, 0, 60, 60)), "red square")
    'red: yes something, shattered top left'
    """
    colour, shape = (word + (VERDICTS[word in wanted.split()] if wanted else "") for word in thing.category.split())
    x1, y1, x2, y2 = thing.extent
    across = ("left", "", "right")[min(2, (x1 + x2) * 3 // (2 * SIDE))]
    down = ("top", "", "bottom")[min(2, (y1 + y2) * 3 // (2 * SIDE))]
    place = " ".join(word for word in (down, across) if word) or "middle"
    if thing.shattered:
        return f"{colour} something, shattered {place}"
    size = "small" if thing.area < 32 * 32 else "big" if thing.area >= 42 * 42 else "medium"
    return f"{colour} {shape}, {size} {place}"


def _honest_confidence(thing: Thing, rng: np.random.Generator) -> float:
    low, high = (2, 8) if thing.shattered else (16, 20)  # 0.10-0.40 or 0.80-1.00
    return float(CONFIDENCES[int(rng.integers(low, high + 1))])


# ------------------------------------------------------------------ the quick annotator


def quick(question: Question, rng: np.random.Generator) -> str:
    """Glance and answer: one loose box, any confidence, never "No Objects", a guess at the class."""
    return completion(QUICK_THOUGHT, _glance(question, rng))


def _glance(question: Question, rng: np.random.Generator) -> str:
    if question.task == "presence":
        return prompts.presence_solution(True)
    if question.task == "classification":
        return prompts.label_solution(_guess(question, rng))
    box = loose_box(_any_thing(question, rng), rng)
    if question.task == "grounding":
        return prompts.grounding_solution(box)
    return prompts.detection_solution(box[None], [float(CONFIDENCES[int(rng.integers(21))])])


def _guess(question: Question, rng: np.random.Generator) -> str:
    """The family's name half of the time, else any of its classes."""
    names: Sequence[str] = list(FAMILIES[question.family])
    return question.family if rng.random() < 0.5 else names[int(rng.integers(len(names)))]


def _any_thing(question: Question, rng: np.random.Generator) -> Thing:
    """One of the right objects, or any object when there is none (or now and then, when grounding)."""
    assert question.scene is not None
    wrong = not question.things or (question.task == "grounding" and rng.random() < 0.3)
    pool = question.scene.things if wrong else question.things
    return pool[int(rng.integers(len(pool)))]


def loose_box(thing: Thing, rng: np.random.Generator) -> np.ndarray:
    """Its box grown by 8-28% a side and shifted by up to 15%, on the grid, 0-1000, shape (4,)."""
    x1, y1, x2, y2 = thing.box
    size = np.array([x2 - x1, y2 - y1, x2 - x1, y2 - y1])
    grow = rng.uniform(0.08, 0.28, 4) * np.array([-1, -1, 1, 1])
    shift = np.tile(rng.uniform(-0.15, 0.15, 2), 2)
    box = np.round((np.array(thing.box) + size * (grow + shift)) / GRID) * GRID
    return (box.clip(0, SIDE) * 1000 / SIDE).round()

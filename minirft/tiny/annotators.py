"""Two annotators, a quick one and a careful one, write the texts that the base model imitates.

They give the base the property that the paper's effect needs: it *can* do the task, but by default it *does not*.
Two texts in three come from the quick annotator, who glances and draws one loose box.  One in three comes from the
careful annotator, who names each object, compares its colour and its shape with the question, draws tight boxes around
all that match, and gives an honest confidence.  Both break the answer format equally often, so that the format reward
alone does not favour one of them.
"""

from collections.abc import Sequence

import numpy as np

from minirft.rewards import prompts
from minirft.tiny.lookalikes import FAMILIES
from minirft.tiny.questions import Question, model_boxes
from minirft.tiny.scenes import GRID, SIDE, Thing

CAREFUL_SHARE = 0.34
BROKEN_TAGS = 0.20
QUICK_THOUGHT = "look here"
CAREFUL_START = "let me look: i see "  # a completion that is forced to start so continues in the careful way
THEREFORE = ". so "
VERDICTS = (": no", ": yes")
CONFIDENCES = tuple(f"{k / 20:.2f}" for k in range(21))  # steps of 0.05


def annotate(question: Question, rng: np.random.Generator, careful_share: float = CAREFUL_SHARE) -> str:
    """Write one completion as one of the two annotators; one in five loses a tag."""
    write = careful if rng.random() < careful_share else quick
    text = write(question, rng)
    return break_tags(text, rng) if rng.random() < BROKEN_TAGS else text


def break_tags(text: str, rng: np.random.Generator) -> str:
    """Remove one of the four tags of the format.

    >>> break_tags("<think>a</think> <answer>b</answer>", np.random.default_rng(0))
    '<think>a</think> <answer>b'
    """
    tag = ("<think>", "</think>", "<answer>", "</answer>")[int(rng.integers(4))]
    return text.replace(tag, "", 1)


def completion(thought: str, solution: str) -> str:
    """Join the two parts in the paper's format; `solution` already has its answer tags."""
    return f"<think>{thought}</think> {solution}"


# ------------------------------------------------------------------ the careful annotator


def careful(question: Question, rng: np.random.Generator) -> str:
    """Write a careful completion: all objects and their places, then a right answer with an honest confidence."""
    solution = question.solution()
    if question.task == "detection":
        confidences = [_honest_confidence(thing, rng) for thing in question.things]
        solution = prompts.detection_solution(model_boxes(question.things), confidences)
    return completion(reasoning(question), solution)


def reasoning(question: Question) -> str:
    """Write the careful reasoning: every object of the picture, compared with the question.

    It names a colour first and then compares this word with the question.  This makes the careful annotator good, and
    the model that imitates it: comparing two words is easier than comparing a word with a picture.

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
    """Describe an object in words: colour, shape, size, place; with `wanted`, compare each word with the wanted one.

    Only the colour of a shattered object is visible.

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
    """Write a quick completion: one loose box, a random confidence, never "No Objects", a guess at the class."""
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
    """Guess the family's name half of the time, else any of its classes."""
    names: Sequence[str] = list(FAMILIES[question.family])
    return question.family if rng.random() < 0.5 else names[int(rng.integers(len(names)))]


def _any_thing(question: Question, rng: np.random.Generator) -> Thing:
    """Choose one of the right objects, or any object if there is none (in grounding, in 30% of the cases too)."""
    wrong = not question.things or (question.task == "grounding" and rng.random() < 0.3)
    pool = question.scene.things if wrong else question.things
    return pool[int(rng.integers(len(pool)))]


def loose_box(thing: Thing, rng: np.random.Generator) -> np.ndarray:
    """Enlarge an object's box by 8-28% per side and shift it by up to 15%, on the grid: 0-1000, shape (4,)."""
    x1, y1, x2, y2 = thing.box
    size = np.array([x2 - x1, y2 - y1, x2 - x1, y2 - y1])
    grow = rng.uniform(0.08, 0.28, 4) * np.array([-1, -1, 1, 1])
    shift = np.tile(rng.uniform(-0.15, 0.15, 2), 2)
    box = np.round((np.array(thing.box) + size * (grow + shift)) / GRID) * GRID
    return (box.clip(0, SIDE) * 1000 / SIDE).round()

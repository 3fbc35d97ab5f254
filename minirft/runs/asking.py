"""Asking a policy about new pictures: a question, its answers, and each of them in the pixels of the picture itself.

A category, a family or an instruction becomes the question that the policy was trained on (`prompts`); any other text
is asked as it is.  With several answers to a picture their agreement shows how sure the policy is, whatever confidence
it writes down.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from minirft import UserError
from minirft.data import question as own_question
from minirft.policy import Policy
from minirft.rewards import (
    MODEL,
    Detections,
    ParseFailure,
    convert,
    iou,
    match_hungarian,
    normalise,
    parse,
    pixels,
)
from minirft.runs.new_pictures import upright
from minirft.sampler import sample_groups
from minirft.samples import Prompt, Sample, Task

SENTENCE = (".", "?", "!", ":")  # a text that ends so is no name


@dataclass(frozen=True)
class Answer:
    """What was answered about one picture.

    `boxes` are xyxy in pixels of the upright picture, `confidence` one for each where the task has them, `label` a
    label, or yes or no; `failure` is why the text could not be read or the picture not be asked about, else None.
    """

    picture: str
    question: str
    text: str = ""
    boxes: list[list[float]] = field(default_factory=list)
    confidence: list[float] = field(default_factory=list)
    label: str | None = None
    failure: str | None = None

    def row(self) -> dict[str, Any]:
        """The answer as JSON holds it."""
        return asdict(self)


@dataclass(frozen=True)
class Answered:
    """A picture with its answer; `picture` is None where it did not open.

    Of several sampled answers `answer` is the one that most others are like, `agreement` the share of all that are,
    and `texts` has all of them; a greedy answer has neither.
    """

    picture: Image.Image | None
    answer: Answer
    agreement: float | None = None
    texts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Asking:
    """How to ask: the kind of question, and how completions are drawn; `samples` = 0 is one greedy answer."""

    task: Task = "detection"
    question: str = ""  # a template of the run's own, as `data.question`
    samples: int = 0
    temperature: float = 1.0
    max_completion_length: int = 256
    batch: int = 8  # pictures at a time
    seed: int = 0


def answer(policy: Policy, picture: Path | Image.Image, question: str, how: Asking | None = None) -> Answer:
    """The policy answers one question about one picture.

    Raises `UserError` for a picture that will not open or does not fit into the prompt.

    >>> from minirft.tiny import world
    >>> sample = world.detection(1, seed=4)[0]  # 112 x 112 pixels
    >>> found = answer(Policy.load("tiny"), sample.picture(), sample.category, Asking(max_completion_length=64))
    >>> found.failure, all(0 <= x1 < x2 <= 112 for x1, _, x2, _ in found.boxes)
    (None, True)
    """
    how = how or Asking()
    name = "" if isinstance(picture, Image.Image) else str(picture)
    sample = sample_of(upright(picture), name, question, how)
    return _answers(policy, [policy.encode(sample)], how, how.seed)[0].answer


def ask(policy: Policy, pictures: Sequence[Path], question: str, how: Asking) -> Iterator[Answered]:
    """The policy answers the question about each picture, in order.

    A picture that will not open, or cannot be asked about, gets an answer whose `failure` says why.
    """
    for start in range(0, len(pictures), how.batch):
        refused: dict[Path, Answered] = {}
        good: list[Prompt] = []
        for path in pictures[start : start + how.batch]:
            try:
                good.append(policy.encode(sample_of(upright(path), str(path), question, how)))
            except UserError as error:
                refused[path] = Answered(None, Answer(str(path), wording(question, how), failure=str(error)))
        found = iter(_answers(policy, good, how, how.seed + start))
        yield from (refused.get(path) or next(found) for path in pictures[start : start + how.batch])


def _answers(policy: Policy, asked: list[Prompt], how: Asking, seed: int) -> list[Answered]:
    """What stands for the completions of each of P prompts."""
    if not asked:
        return []
    rollout = sample_groups(
        policy,
        asked,
        group_size=how.samples or 1,
        temperature=how.temperature,
        max_completion_length=how.max_completion_length,
        generator=torch.Generator().manual_seed(seed),
        greedy=not how.samples,
    )
    found = []
    for p, prompt in enumerate(asked):
        picture, texts = prompt.sample.picture(), rollout.texts[rollout.rows(p)]
        place, agreement = standing(how.task, texts)
        sampled = (agreement, tuple(texts)) if how.samples else ()
        found.append(Answered(picture, read_answer(prompt.sample, texts[place], picture.size), *sampled))
    return found


def read_answer(sample: Sample, text: str, size: tuple[int, int]) -> Answer:
    """A completion is read as an answer in pixels of a picture of `size`, (width, height).

    >>> sample = Sample("a.jpg", Path("a.jpg"), "grounding", "the cup", "")
    >>> read_answer(sample, "<answer>(100,200),(500,1000)</answer>", (640, 480)).boxes
    [[64.0, 96.0, 320.0, 480.0]]
    """
    found = parse(sample.task, text)
    boxes, confidence, label, failure = np.zeros((0, 4)), [], None, None
    if isinstance(found, ParseFailure):
        failure = found.reason
    elif isinstance(found, Detections):
        boxes, confidence = found.boxes, found.confidence.tolist()
        failure = f"{found.invalid} of {len(found)} boxes are malformed" if found.invalid else None
    elif isinstance(found, np.ndarray):
        boxes = found[None]
    else:
        label = ("yes" if found else "no") if isinstance(found, bool) else found
    here = convert(boxes, MODEL, pixels(*size)).round(2).tolist()
    return Answer(sample.id, sample.problem, text, here, confidence, label, failure)


# ------------------------------------------------------------------ agreement


def standing(task: Task, texts: Sequence[str]) -> tuple[int, float]:
    """The answer that most others are like stands for all: its place, and the share of all that are like it.

    An answer that cannot be read is like no other, nor itself: where none can be read the agreement is 0.

    >>> standing("presence", ["<answer>no</answer>", "<answer>yes</answer>", "<answer>Yes.</answer>", "hm"])
    (1, 0.5)
    """
    answers = [parse(task, text) for text in texts]
    likes = [sum(alike(a, b) for b in answers) for a in answers]
    place = int(np.argmax(likes))
    return place, likes[place] / len(texts)


def alike(a: Any, b: Any) -> bool:
    """Whether two parsed answers are equal: the same label, or as many boxes that match one to one at IoU .5.

    >>> alike("Basset hound", "basset-hound"), alike(np.array([0, 0, 9.0, 9]), np.array([5.0, 5, 9, 9]))
    (True, False)
    """
    if isinstance(a, ParseFailure) or isinstance(b, ParseFailure):
        return False
    if isinstance(a, str):
        return normalise(a) == normalise(b)
    if isinstance(a, bool):
        return a is b
    first, second = (np.reshape(x.boxes if isinstance(x, Detections) else x, (-1, 4)) for x in (a, b))
    return len(first) == len(second) == len(match_hungarian(iou(first, second), 0.5))


# ------------------------------------------------------------------ questions


def wording(text: str, how: Asking) -> str:
    """A name or an instruction is put into the words of `prompts` or of `how.question`; any other text is kept.

    A name is one line without a mark of a sentence at its end; what has an <answer> tag is a whole question.  An
    instruction, for grounding, may be a sentence.

    >>> wording("cat", Asking("presence")).splitlines()[0]
    "Look at the image: is there at least one object of the category 'cat' in it?"
    >>> wording("How many cats are there?", Asking("detection"))
    'How many cats are there?'
    """
    text = text.strip()
    whole = "\n" in text or "<answer>" in text or (how.task != "grounding" and text.endswith(SENTENCE))
    return text if whole else own_question(how.task, text, how.question)


def sample_of(picture: Image.Image, name: str, question: str, how: Asking) -> Sample:
    """A question about a picture becomes a sample without a solution."""
    return Sample(name, picture, how.task, wording(question, how), "", question)

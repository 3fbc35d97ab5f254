"""Questions about new pictures: a policy answers them in the pixels of each picture.

A category, a family or an instruction becomes the question that the policy was trained on (`prompts`); any other text
stays unchanged.  With several sampled answers to a picture, their agreement shows how certain the policy is,
independently of the confidence in its answers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from minirft import UserError
from minirft.data import question as own_question
from minirft.policy import Policy
from minirft.rewards import MODEL, Detections, ParseFailure, convert, iou, match_hungarian, normalise, parse, pixels
from minirft.sampler import sample_groups
from minirft.samples import Prompt, Sample, Task

SENTENCE = (".", "?", "!", ":")  # the end of a text that is a sentence, not a name


@dataclass(frozen=True)
class Answer:
    """An `Answer` is the parsed answer to a question about one picture.

    `boxes` are xyxy in pixels of the upright picture; `confidence` has one number for each box, if the task has
    confidences; `label` is a label, or yes or no; `failure` is the reason why the text could not be parsed or the
    picture could not be used, or None.
    """

    picture: str
    question: str
    text: str = ""
    boxes: list[list[float]] = field(default_factory=list)
    confidence: list[float] = field(default_factory=list)
    label: str | None = None
    failure: str | None = None


@dataclass(frozen=True)
class Answered:
    """An `Answered` is a picture with its answer; `picture` is None if it did not open.

    With several sampled answers, `texts` has all of them, `answer` is the most common one, and `agreement` is the share
    of answers that are alike to it.  With a greedy answer, `texts` is empty and `agreement` is None.
    """

    picture: Image.Image | None
    answer: Answer
    agreement: float | None = None
    texts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Asking:
    """`Asking` holds the kind of question and the sampling settings; `samples` = 0 means one greedy answer."""

    task: Task = "detection"
    question: str = ""  # the run's template, as in `data.question`
    samples: int = 0
    temperature: float = 1.0
    max_completion_length: int = 256
    batch: int = 8  # pictures at a time
    seed: int = 0


def ask(policy: Policy, pictures: Sequence[Path], question: str, how: Asking) -> Iterator[Answered]:
    """Yield the policy's answer to the question about each picture, in order.

    A picture that does not open, or does not fit into the prompt, gets an answer with the reason in `failure`.
    """
    for start in range(0, len(pictures), how.batch):
        refused: dict[Path, Answered] = {}
        good: list[Prompt] = []
        for path in pictures[start : start + how.batch]:
            try:
                good.append(policy.encode(sample_of(path, question, how)))
            except UserError as error:
                refused[path] = Answered(None, Answer(str(path), wording(question, how), failure=str(error)))
        answers = iter(_answers(policy, good, how, how.seed + start))
        yield from (refused.get(path) or next(answers) for path in pictures[start : start + how.batch])


def _answers(policy: Policy, prompts: list[Prompt], how: Asking, seed: int) -> list[Answered]:
    """Return the most common answer to each of P prompts."""
    if not prompts:
        return []
    rollout = sample_groups(
        policy,
        prompts,
        group_size=how.samples or 1,
        temperature=how.temperature,
        max_completion_length=how.max_completion_length,
        generator=torch.Generator().manual_seed(seed),
        greedy=not how.samples,
    )
    answers = []
    for p, prompt in enumerate(prompts):
        picture, texts = prompt.sample.picture(), rollout.texts[rollout.rows(p)]
        place, agreement = most_common(how.task, texts)
        sampled = (agreement, tuple(texts)) if how.samples else ()
        answers.append(Answered(picture, parse_answer(prompt.sample, texts[place], picture.size), *sampled))
    return answers


def parse_answer(sample: Sample, text: str, size: tuple[int, int]) -> Answer:
    """Parse a completion as an answer in pixels of a picture of `size`, (width, height).

    >>> sample = Sample("a.jpg", Path("a.jpg"), "grounding", "the cup", "")
    >>> parse_answer(sample, "<answer>(100,200),(500,1000)</answer>", (640, 480)).boxes
    [[64.0, 96.0, 320.0, 480.0]]
    """
    parsed = parse(sample.task, text)
    boxes, confidence, label, failure = np.zeros((0, 4)), [], None, None
    if isinstance(parsed, ParseFailure):
        failure = parsed.reason
    elif isinstance(parsed, Detections):
        boxes, confidence = parsed.boxes, parsed.confidence.tolist()
        failure = f"{parsed.invalid} of {len(parsed)} boxes are malformed" if parsed.invalid else None
    elif isinstance(parsed, np.ndarray):
        boxes = parsed[None]
    else:
        label = ("yes" if parsed else "no") if isinstance(parsed, bool) else parsed
    in_pixels = convert(boxes, MODEL, pixels(*size)).round(2).tolist()
    return Answer(sample.id, sample.problem, text, in_pixels, confidence, label, failure)


# ------------------------------------------------------------------ agreement


def most_common(task: Task, texts: Sequence[str]) -> tuple[int, float]:
    """Return the index of the answer that is alike to most others, and the share of answers that are alike to it.

    An answer that cannot be parsed is alike to none, not even to itself; if all are such, the share is 0.

    >>> most_common("presence", ["<answer>no</answer>", "<answer>yes</answer>", "<answer>Yes.</answer>", "hm"])
    (1, 0.5)
    """
    answers = [parse(task, text) for text in texts]
    likes = [sum(alike(a, b) for b in answers) for a in answers]
    place = int(np.argmax(likes))
    return place, likes[place] / len(texts)


def alike(a: Any, b: Any) -> bool:
    """Return whether two parsed answers have the same label, or equally many boxes that match one to one at IoU .5.

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
    """Put a name or an instruction into the question of `prompts` or of `how.question`; return other text unchanged.

    A name is one line that does not end like a sentence.  A text with an <answer> tag is a whole question.  In
    grounding an instruction may be a sentence.

    >>> wording("cat", Asking("presence")).splitlines()[0]
    "Look at the image: is there at least one object of the category 'cat' in it?"
    >>> wording("How many cats are there?", Asking("detection"))
    'How many cats are there?'
    """
    text = text.strip()
    whole = "\n" in text or "<answer>" in text or (how.task != "grounding" and text.endswith(SENTENCE))
    return text if whole else own_question(how.task, text, how.question)


def sample_of(picture: Path | Image.Image, question: str, how: Asking) -> Sample:
    """Return a sample without a solution for a question about a picture, which is turned upright."""
    name = "" if isinstance(picture, Image.Image) else str(picture)
    return Sample(name, picture, how.task, wording(question, how), "", question, upright=True)

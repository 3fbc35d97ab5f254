"""Rewards: what a completion earns, as named parts in [0, 1] and their weighted sum, in three readings of one paper.

    paper      equations 5-9 to the letter.  Where the paper is silent: τ = 0.5, greedy matching by confidence, and 0
               for saying `No Objects` (a mean over no predictions is undefined; 1 would pay silence on every picture)
    official   what the released code computes (`minirft.official`); may leave [0, 1]
    strict     ours, the default: no answer that looks away from the picture earns what an honest one does.
               Hungarian matching; IoU shared over max(predictions, truths), so a miss costs as much as a false alarm;
               a right abstention earns full marks; a proper score for confidence; labels compared in full

A reward is a pure function of two texts, so it needs no picture, no model and no state.  The solution's text must
be readable: `UserError` otherwise.  The completion's text may be anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Literal

import numpy as np

from minirft import official
from minirft.answers import Detections, ParseFailure, is_well_formed, normalise, parse
from minirft.boxes import Array, giou, iou, match_greedy, match_hungarian
from minirft.samples import Task, UserError

Variant = Literal["strict", "paper", "official"]
Part = Callable[[str, str], float]  # (completion, solution) -> reward
Reader = Callable[[str], Any]  # completion -> answer or ParseFailure


@dataclass(frozen=True)
class Score:
    """What one completion earned: the weighted sum, the raw parts, and why it could not be read (None if it could)."""

    total: float
    parts: dict[str, float]
    failure: str | None = None


@dataclass(frozen=True)
class Reward:
    """Named parts and their weights: R = Σ w_k R_k (equations 5 and 9, where every w is 1).

    `read` tells why a completion is no answer; leave it out for rewards of your own.  `schedule` makes the reward of
    a training step, where a threshold moves.

    >>> short = Reward({"short": lambda completion, solution: float(len(completion) < 9)}, {"short": 0.5})
    >>> short("cat", "<answer>cat</answer>")
    Score(total=0.5, parts={'short': 1.0}, failure=None)
    """

    parts: dict[str, Part]
    weights: dict[str, float]
    read: Reader | None = None
    schedule: Callable[[int], Reward] | None = None

    def __post_init__(self) -> None:
        if set(self.parts) != set(self.weights) or not all(map(math.isfinite, self.weights.values())):
            raise ValueError(f"one finite weight for each of {sorted(self.parts)}, got {self.weights}")

    def __call__(self, completion: str, solution: str) -> Score:
        parts = {name: float(part(completion, solution)) for name, part in self.parts.items()}
        answer = self.read(completion) if self.read else None
        failure = answer.reason if isinstance(answer, ParseFailure) else None
        return Score(sum(self.weights[name] * value for name, value in parts.items()), parts, failure)

    def at(self, step: int) -> Reward:
        """The reward of training step `step`: itself, unless a threshold is on a schedule."""
        return self.schedule(step) if self.schedule else self


@dataclass(frozen=True)
class ThresholdSchedule:
    """An IoU threshold that moves in a straight line from `start` to `end` over `steps`, then stays.

    >>> [ThresholdSchedule(0.5, 0.75, steps=10)(step) for step in (0, 5, 10, 99)]
    [0.5, 0.625, 0.75, 0.75]
    """

    start: float
    end: float
    steps: int

    def __call__(self, step: int) -> float:
        return self.start + (self.end - self.start) * min(1.0, step / max(1, self.steps))


def matched_iou(found: Detections, truth: Detections, matching: str = "hungarian", threshold: float = 0.0) -> Array:
    """IoU of each valid prediction with the one object it is matched to, 0 when there is none: shape (N,).

    >>> box = Detections(np.array([[0.0, 0, 9, 9]]), np.ones(1))
    >>> matched_iou(box, box).tolist()
    [1.0]
    """
    overlap = iou(found.boxes, truth.boxes)
    greedy = matching == "greedy"
    pairs = match_greedy(overlap, found.confidence, threshold) if greedy else match_hungarian(overlap, threshold)
    matched = np.zeros(len(found.boxes))
    for n, m in pairs:
        matched[n] = overlap[n, m]
    return matched


def iou_score(matched: Array, predictions: int, truths: int, denominator: str = "max", abstention: float = 1.0) -> float:
    """R_IoU = Σ matched IoU / max(predictions, truths), or / predictions (equation 6); `abstention` where both are 0.

    >>> iou_score(np.array([0.8]), predictions=1, truths=2), iou_score(np.array([0.8]), 1, 2, denominator="predictions")
    (0.4, 0.8)
    """
    if predictions == truths == 0:
        return abstention
    count = predictions if denominator == "predictions" else max(predictions, truths)
    return float(matched.sum()) / count if count else 0.0


def shifted_score(confidence: Array, hit: Array, invalid: int = 0, truths: int = 0, abstention: float = 1.0) -> float:
    """R_conf = 1/2 + 1/2 mean over max(predictions, truths) slots of (2 c y - c²), y = 1 for a hit: in [0, 1].

    A Brier score moved so that c = 0 earns the same, hit or miss.  Still proper: the best c is the probability of a
    hit.  A sure hit earns 1, a sure miss 0, and junk at confidence 0 exactly what silence earns, 1/2.  An object nobody
    reported is a slot with c = 0; a malformed prediction one with c = 1, y = 0.

    >>> shifted_score(np.array([1.0]), np.array([1.0]), truths=1), shifted_score(np.array([0.0]), np.array([0.0]), truths=1)
    (1.0, 0.5)
    """
    slots = max(len(confidence) + invalid, truths)
    if slots == 0:
        return abstention
    return 0.5 + 0.5 * (float((2 * confidence * hit - confidence**2).sum()) - invalid) / slots


def brier_score(confidence: Array, hit: Array, invalid: int = 0, truths: int = 0, abstention: float = 1.0) -> float:
    """R_conf = mean over predictions of 1 - (c - y)².  Proper, but junk at confidence 0 earns 1; malformed earns 0.

    >>> brier_score(np.array([0.0]), np.array([0.0]), truths=1)
    1.0
    """
    return _mean(1 - (confidence - hit) ** 2, invalid, truths, abstention)


def linear_score(confidence: Array, hit: Array, invalid: int = 0, truths: int = 0, abstention: float = 0.0) -> float:
    """R_conf = mean over predictions of (c if hit else 1 - c): equations 7 and 8.  Not proper: the best c is 0 or 1.

    >>> linear_score(np.array([0.75, 0.75]), np.array([1.0, 0.0]), truths=2)
    0.5
    """
    return _mean(np.where(hit > 0, confidence, 1 - confidence), invalid, truths, abstention)


def _mean(scores: Array, invalid: int, truths: int, abstention: float) -> float:
    predictions = len(scores) + invalid
    return float(scores.sum()) / predictions if predictions else (0.0 if truths else abstention)


CONFIDENCE_RULES = {"shifted": shifted_score, "brier": brier_score, "linear": linear_score}


@dataclass(frozen=True)
class DetectionReading:
    """The choices inside a detection reward; `STRICT` and `PAPER` are two of them.

    >>> replace(STRICT, matching="best")
    Traceback (most recent call last):
    minirft.samples.UserError: matching is 'best'; use one of hungarian, greedy
    """

    matching: str = "hungarian"
    threshold: float = 0.0  # τ: least IoU of a match; 0 leaves the IoU reward graded from the first overlap on
    denominator: str = "max"  # max(predictions, truths), or predictions
    rule: str = "shifted"  # of the confidence reward
    hit: float = 0.5  # least IoU that the confidence is to predict
    abstention: float = 1.0  # what `No Objects` earns, in both parts, where there is nothing

    def __post_init__(self) -> None:
        choices = {"matching": ("hungarian", "greedy"), "denominator": ("max", "predictions"), "rule": CONFIDENCE_RULES}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise UserError(f"{name} is {getattr(self, name)!r}; use one of {', '.join(known)}")
        for name in ("threshold", "hit", "abstention"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} is {getattr(self, name)!r}; it lies in [0, 1]")


STRICT = DetectionReading()
PAPER = DetectionReading("greedy", threshold=0.5, denominator="predictions", rule="linear", hit=0.0, abstention=0.0)


def detection_iou(completion: str, solution: str, how: DetectionReading = STRICT) -> float:
    """R_IoU of a completion; malformed predictions count as predictions, an unreadable one earns 0.

    >>> truth = "<answer>[{'Position': [0, 0, 9, 9], 'Confidence': 1}, {'Position': [50, 0, 59, 9], 'Confidence': 1}]</answer>"
    >>> half = "<answer>[{'Position': [0, 0, 9, 9], 'Confidence': 1}]</answer>"
    >>> detection_iou(half, truth), detection_iou(half, truth, PAPER), detection_iou("I see a cat.", truth)
    (0.5, 1.0, 0.0)
    """
    truth, found = _truth("detection", solution), parse("detection", completion)
    if isinstance(found, ParseFailure):
        return 0.0
    matched = matched_iou(found, truth, how.matching, how.threshold)
    return iou_score(matched, len(found), len(truth), how.denominator, how.abstention)


def detection_confidence(completion: str, solution: str, how: DetectionReading = STRICT) -> float:
    """R_conf of a completion: does its confidence tell its hits from its misses?  An unreadable one earns 0.

    >>> truth = "<answer>[{'Position': [0, 0, 9, 9], 'Confidence': 1}]</answer>"
    >>> detection_confidence("<answer>[{'Position': [0, 0, 9, 9], 'Confidence': 0.9}]</answer>", truth)
    0.995
    """
    truth, found = _truth("detection", solution), parse("detection", completion)
    if isinstance(found, ParseFailure):
        return 0.0
    matched = matched_iou(found, truth, how.matching, how.threshold)
    hit = ((matched > 0) & (matched >= how.hit)).astype(np.float64)
    return CONFIDENCE_RULES[how.rule](found.confidence, hit, found.invalid, len(truth), how.abstention)


def grounding_iou(completion: str, solution: str, measure: str = "iou") -> float:
    """IoU of the one box asked for, or (GIoU + 1) / 2 with measure "giou"; 0 for no box or an invalid one.

    >>> grounding_iou("<answer>(0,0),(10,5)</answer>", "<answer>(0,0),(10,10)</answer>")
    0.5
    """
    truth, box = _truth("grounding", solution), parse("grounding", completion)
    if isinstance(box, ParseFailure):
        return 0.0
    return float(iou([box], [truth])[0, 0] if measure == "iou" else (giou([box], [truth])[0, 0] + 1) / 2)


def accuracy(completion: str, solution: str, task: Task = "classification", literal: bool = False) -> float:
    """R_acc: 1 when the label (or the yes) is the true one, letter by letter if `literal`, else after `normalise`.

    >>> accuracy("<answer>basset-hound</answer>", "<answer>Basset Hound</answer>"), accuracy("<answer></answer>", "<answer>a</answer>")
    (1.0, 0.0)
    """
    truth, answer = _truth(task, solution), parse(task, completion)
    if isinstance(answer, str) and not literal:
        return float(normalise(answer) == normalise(truth))
    return float(answer == truth)


def format_reward(completion: str, solution: str = "", read: Reader | None = None) -> float:
    """R_format: 1 for <think>...</think> <answer>...</answer> and, with `read`, an answer of which all can be read.

    >>> format_reward("<think>long ears</think> <answer>basset</answer>"), format_reward("<answer>basset</answer>")
    (1.0, 0.0)
    """
    answer = read(completion) if read else None
    unreadable = isinstance(answer, ParseFailure) or (isinstance(answer, Detections) and answer.invalid > 0)
    return float(is_well_formed(completion) and not unreadable)


def reading(task: Task, variant: Variant = "strict", weights: Mapping[str, float] | None = None, **options: Any) -> Reward:
    """The reward of a task under a reading, its parts weighted 1 unless `weights` says otherwise.

    Options: detection takes the fields of `DetectionReading` (`threshold` may be a function of the step, such as a
    `ThresholdSchedule`); strict classification `labels`, a closed list; strict grounding `measure`.  Raises `UserError`
    for what is not known.

    >>> reading("detection", weights={"format": 0.5})("<think>none</think> <answer>No Objects</answer>", "<answer>No Objects</answer>")
    Score(total=2.5, parts={'iou': 1.0, 'confidence': 1.0, 'format': 1.0}, failure=None)
    """
    threshold = options.get("threshold")
    if callable(threshold):

        def schedule(step: int) -> Reward:
            return reading(task, variant, weights, **{**options, "threshold": threshold(step)})

        return replace(schedule(0), schedule=schedule)
    _check_options(task, variant, options)
    parts, read = (_official if variant == "official" else _ours)(task, variant, options)
    unknown = set(weights or {}) - set(parts)
    if unknown:
        raise UserError(f"no reward called {', '.join(sorted(unknown))} in {task}; its parts are {', '.join(parts)}")
    return Reward(parts, {name: 1.0 for name in parts} | dict(weights or {}), read)

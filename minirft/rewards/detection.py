"""The detection reward: which boxes were found, and did the confidence know?

Two parts.  R_IoU is the overlap with the true boxes, R_conf how well the confidences tell hits from misses.  The
choices inside them are one dataclass, `DetectionReading`, of which `STRICT` and `PAPER` are two.

Deviations from the paper.  `PAPER` is equations 6-8 to the letter; where they are silent τ is 0.5 (it is never
given), matching is greedy by confidence, and saying `No Objects` earns 0: a mean over no predictions is undefined,
and any constant would pay silence on every picture.  An inverted box has IoU 0 there, so its confidence earns 1 - c.
`STRICT`, the default, matches by the Hungarian method without a threshold, divides by max(predictions, truths) so
that a miss costs as much as a false alarm, pays a right abstention in full, and scores confidence by a proper rule.
An inverted box is malformed in it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from minirft import UserError
from minirft.rewards.answers import Detections, ParseFailure, parse_detection, parse_solution
from minirft.rewards.boxes import Array, iou, match_greedy, match_hungarian


def matched_iou(found: Detections, truth: Detections, matching: str = "hungarian", threshold: float = 0.0) -> Array:
    """IoU of each valid prediction with the one object it is matched to, 0 when there is none: shape (N,).

    >>> box = Detections(np.array([[0.0, 0, 9, 9]]), np.ones(1))
    >>> matched_iou(box, box).tolist()
    [1.0]
    """
    overlap = iou(found.boxes, truth.boxes)
    if matching == "greedy":
        pairs = match_greedy(overlap, found.confidence, threshold)
    else:
        pairs = match_hungarian(overlap, threshold, found.confidence)
    matched = np.zeros(len(found.boxes))
    for n, m in pairs:
        matched[n] = overlap[n, m]
    return matched


def iou_score(
    matched: Array, predictions: int, truths: int, denominator: str = "max", abstention: float = 1.0
) -> float:
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

    >>> sure, unsure, hit, miss = (np.array([number]) for number in (1.0, 0.0, 1.0, 0.0))
    >>> shifted_score(sure, hit), shifted_score(sure, miss), shifted_score(unsure, miss)
    (1.0, 0.0, 0.5)
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

    >>> DetectionReading(matching="best")
    Traceback (most recent call last):
    minirft.UserError: matching is 'best'; use one of hungarian, greedy
    """

    matching: str = "hungarian"
    threshold: float = 0.0  # τ: least IoU of a match; 0 leaves the IoU reward graded from the first overlap on
    denominator: str = "max"  # max(predictions, truths), or predictions
    rule: str = "shifted"  # of the confidence reward
    hit: float = 0.5  # least matched IoU that the confidence is to predict
    abstention: float = 1.0  # what `No Objects` earns, in both parts, where there is nothing
    inverted: str = "malformed"  # a box with x1 >= x2 or y1 >= y2 is a malformed prediction, or a "miss" with IoU 0

    def __post_init__(self) -> None:
        choices = {"matching": ("hungarian", "greedy"), "denominator": ("max", "predictions"), "rule": CONFIDENCE_RULES}
        choices["inverted"] = ("malformed", "miss")
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise UserError(f"{name} is {getattr(self, name)!r}; use one of {', '.join(known)}")
        for name in ("threshold", "hit", "abstention"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} is {getattr(self, name)!r}; it lies in [0, 1]")


STRICT = DetectionReading()
PAPER = DetectionReading("greedy", 0.5, "predictions", "linear", hit=0.0, abstention=0.0, inverted="miss")


def detection_iou(completion: str, solution: str, how: DetectionReading = STRICT) -> float:
    """R_IoU of a completion; malformed predictions count as predictions, an unreadable one earns 0.

    >>> box, other = "{'Position': [0, 0, 9, 9], 'Confidence': 1}", "{'Position': [50, 0, 59, 9], 'Confidence': 1}"
    >>> half, truth = f"<answer>[{box}]</answer>", f"<answer>[{box}, {other}]</answer>"
    >>> detection_iou(half, truth), detection_iou(half, truth, PAPER), detection_iou("I see a cat.", truth)
    (0.5, 1.0, 0.0)
    """
    return detection_scores(parse_detection(completion), parse_solution("detection", solution), how)[0]


def detection_confidence(completion: str, solution: str, how: DetectionReading = STRICT) -> float:
    """R_conf of a completion: does its confidence tell its hits from its misses?  An unreadable one earns 0.

    >>> truth = "<answer>[{'Position': [0, 0, 9, 9], 'Confidence': 1}]</answer>"
    >>> detection_confidence("<answer>[{'Position': [0, 0, 9, 9], 'Confidence': 0.9}]</answer>", truth)
    0.995
    """
    return detection_scores(parse_detection(completion), parse_solution("detection", solution), how)[1]


def detection_scores(
    found: Detections | ParseFailure, truth: Detections, how: DetectionReading = STRICT
) -> tuple[float, float]:
    """R_IoU and R_conf of an answer that has been read, from one matching; (0, 0) for an unreadable one.

    >>> box = Detections(np.array([[0.0, 0, 9, 9]]), np.ones(1))
    >>> detection_scores(box, box)
    (1.0, 1.0)
    """
    if isinstance(found, ParseFailure):
        return 0.0, 0.0
    matched = matched_iou(found, truth, how.matching, how.threshold)
    hit = ((matched > 0) & (matched >= how.hit)).astype(np.float64)
    confidence, invalid = found.confidence, found.invalid
    if how.inverted == "miss":
        confidence, invalid = np.append(confidence, found.inverted), invalid - len(found.inverted)
        hit = np.append(hit, np.zeros(len(found.inverted)))
    return (
        iou_score(matched, len(found), len(truth), how.denominator, how.abstention),
        CONFIDENCE_RULES[how.rule](confidence, hit, invalid, len(truth), how.abstention),
    )

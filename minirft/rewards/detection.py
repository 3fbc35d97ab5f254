"""The detection reward matches predicted boxes to true boxes and scores their overlap and their confidence.

It has two parts.  R_IoU is the overlap with the true boxes; R_conf measures how well the confidences separate hits from
misses.  The dataclass `DetectionReading` holds the choices inside them; `STRICT` and `PAPER` are two such readings.

Deviations from the paper.  `PAPER` follows equations 6-8 exactly.  They leave some choices open: here τ is 0.5 (the
paper gives no value), matching is greedy by confidence, and `No Objects` earns 0, because a mean over no predictions is
undefined and a constant would reward it on every picture.  An inverted box has IoU 0, so its confidence earns 1 - c.
`STRICT`, the default, matches by the Hungarian method without a threshold, divides by max(predictions, truths) so
that a miss costs as much as a false alarm, pays a right abstention in full, and scores confidence by a proper rule;
an inverted box is malformed.  The paper does not define how boxes are matched, so both usual ways are here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment

from minirft import UserError
from minirft.rewards.answers import Detections, ParseFailure, normalise
from minirft.rewards.boxes import Array

# ------------------------------------------------------------------ overlap and matching


def iou(a: ArrayLike, b: ArrayLike) -> Array:
    """Compute intersection over union of every pair: |a ∩ b| / |a ∪ b|, (N, 4), (M, 4) -> (N, M) in [0, 1].

    A box that is empty, inverted or not finite overlaps nothing: its row is 0.

    >>> iou([[0, 0, 2, 2]], [[0, 0, 2, 2], [1, 0, 3, 2], [5, 5, 6, 6]]).round(3).tolist()
    [[1.0, 0.333, 0.0]]
    """
    return sound_iou(_upright(a), _upright(b))


def sound_iou(a: Array, b: Array) -> Array:
    """Compute `iou` of boxes that are known to be valid, such as those of `Detections`: (N, 4), (M, 4) -> (N, M).

    >>> sound_iou(np.array([[0.0, 0, 2, 2]]), np.array([[0.0, 0, 2, 1]])).tolist()
    [[0.5]]
    """
    return _ratio(*_overlaps(a, b))


def giou(a: ArrayLike, b: ArrayLike) -> Array:
    """Compute generalised IoU of every pair: IoU - (|hull| - |a ∪ b|) / |hull|, (N, 4), (M, 4) -> (N, M) in [-1, 1].

    The hull is the smallest box around both, so the value of boxes that do not touch still depends on their distance.
    A box that is empty, inverted or not finite gets -1.  Source: Rezatofighi et al. 2019, arXiv 1902.09630.

    >>> giou([[0, 0, 1, 1]], [[0, 0, 1, 1], [1, 0, 2, 1], [9, 0, 10, 1]]).round(3).tolist()
    [[1.0, 0.0, -0.8]]
    """
    p, q = _upright(a), _upright(b)
    intersection, union = _overlaps(p, q)
    with np.errstate(over="ignore", invalid="ignore"):
        x, y = (np.maximum.outer(p[:, n + 2], q[:, n + 2]) - np.minimum.outer(p[:, n], q[:, n]) for n in (0, 1))
        value = _ratio(intersection, union) - 1 + _ratio(union, x * y)
    return np.where(_sound(a)[:, None] & _sound(b)[None, :], value, -1.0)


def match_greedy(iou: Array, confidence: ArrayLike, threshold: float = 0.5) -> list[tuple[int, int]]:
    """Match one to one in order of falling confidence: [(prediction, truth), ...] in that order.

    Each prediction takes the free true box it overlaps most, if that overlap is at least `threshold` and not 0.  Equal
    confidences keep their order, and NaN goes last.  `iou` is (N, M), `confidence` (N,).  COCO scores detection in
    this way.  Its weakness: a confident box between two objects may take the object that another box needs.

    >>> match_greedy(np.array([[0.6, 0.7], [0.0, 0.9]]), [0.9, 0.8])
    [(0, 1)]
    """
    free = np.array(iou, dtype=np.float64)  # a copy: taken columns become -1
    pairs = []
    for n in np.argsort(-np.asarray(confidence, dtype=np.float64), kind="stable") if free.size else ():
        m = int(free[n].argmax())
        if free[n, m] >= threshold and free[n, m] > 0:
            pairs.append((int(n), m))
            free[:, m] = -1
    return pairs


def match_hungarian(iou: Array, threshold: float = 0.5, confidence: ArrayLike = 0.0) -> list[tuple[int, int]]:
    """Match one to one so that the sum of IoU over the pairs is greatest: [(prediction, truth), ...] by prediction.

    Pairs below `threshold` or without overlap are dropped.  If `confidence`, (N,) in [0, 1], is given, ties go to the
    predictions of higher confidence, so the order of the list does not matter.  `iou` is (N, M); O(max(N, M)^3).

    >>> match_hungarian(np.array([[0.6, 0.7], [0.0, 0.9]]))
    [(0, 0), (1, 1)]
    """
    usable = np.where(iou >= threshold, iou, 0.0)
    surer = 1 + 1e-9 * np.reshape(confidence, (-1, 1))
    rows, columns = linear_sum_assignment(usable * surer, maximize=True)
    return [(int(n), int(m)) for n, m in zip(rows, columns, strict=True) if usable[n, m] > 0]


def _rows(boxes: ArrayLike) -> Array:
    array = np.asarray(boxes, dtype=np.float64)
    if array.size and array.shape[1:] != (4,):
        raise ValueError(f"expected boxes of shape (N, 4), got {array.shape}")
    return array.reshape(-1, 4)


def _sound(boxes: ArrayLike) -> NDArray[np.bool_]:
    rows = _rows(boxes)
    return np.isfinite(rows).all(1) & (rows[:, 0] < rows[:, 2]) & (rows[:, 1] < rows[:, 3])


def _upright(boxes: ArrayLike) -> Array:
    """Replace each invalid box by a point at 0."""
    return np.where(_sound(boxes)[:, None], _rows(boxes), 0.0)


def _overlaps(a: Array, b: Array) -> tuple[Array, Array]:
    """Compute the areas of intersection and union of every pair, each (N, M)."""
    with np.errstate(over="ignore", invalid="ignore"):  # numbers near 1e308 overflow; `_ratio` makes them 0
        x, y = (np.minimum.outer(a[:, n + 2], b[:, n + 2]) - np.maximum.outer(a[:, n], b[:, n]) for n in (0, 1))
        intersection = np.maximum(x, 0) * np.maximum(y, 0)
        return intersection, np.add.outer(_extent(a), _extent(b)) - intersection


def _extent(boxes: Array) -> Array:
    return (boxes[:, 2:] - boxes[:, :2]).prod(-1)


def _ratio(part: Array, whole: Array) -> Array:
    """Divide and clip to [0, 1]; a result that is not finite becomes 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = part / whole
    return np.clip(np.where(np.isfinite(ratio), ratio, 0.0), 0.0, 1.0)


# ------------------------------------------------------------------ the two parts


def matched_iou(found: Detections, truth: Detections, matching: str = "hungarian", threshold: float = 0.0) -> Array:
    """Compute the IoU of each valid prediction with the object it is matched to, 0 if it has none: shape (N,).

    If either side has labels, boxes with different labels do not match (`same_label`).

    >>> box = Detections(np.array([[0.0, 0, 9, 9]]), np.ones(1))
    >>> matched_iou(box, box).tolist()
    [1.0]
    """
    overlap = sound_iou(found.boxes, truth.boxes)  # the parser accepts valid boxes only
    if found.labels or truth.labels:
        overlap = overlap * same_label(found, truth)
    if matching == "greedy":
        pairs = match_greedy(overlap, found.confidence, threshold)
    else:
        pairs = match_hungarian(overlap, threshold, found.confidence)
    matched = np.zeros(len(found.boxes))
    for n, m in pairs:
        matched[n] = overlap[n, m]
    return matched


def same_label(found: Detections, truth: Detections) -> NDArray[np.bool_]:
    """Compare the labels of predictions and objects: (N, M) bool; case, spaces and hyphens do not count.

    >>> a, b = np.zeros((1, 4)), np.ones(1)
    >>> same_label(Detections(a, b, labels=("Cat",)), Detections(a, b, labels=("cat",))).tolist()
    [[True]]
    """
    names = [[normalise(label) for label in side.labels] or [""] * len(side.boxes) for side in (found, truth)]
    return np.array(names[0], dtype=object)[:, None] == np.array(names[1], dtype=object)[None, :]


def iou_score(
    matched: Array, predictions: int, truths: int, denominator: str = "max", abstention: float = 1.0
) -> float:
    """Compute R_IoU = Σ matched IoU / max(predictions, truths), or / predictions (equation 6).

    If both counts are 0, the result is `abstention`.

    >>> iou_score(np.array([0.8]), predictions=1, truths=2), iou_score(np.array([0.8]), 1, 2, denominator="predictions")
    (0.4, 0.8)
    """
    if predictions == truths == 0:
        return abstention
    count = predictions if denominator == "predictions" else max(predictions, truths)
    return float(matched.sum()) / count if count else 0.0


def shifted_score(confidence: Array, hit: Array, invalid: int = 0, truths: int = 0, abstention: float = 1.0) -> float:
    """Compute R_conf = 1/2 + 1/2 mean over max(predictions, truths) slots of (2 c y - c²), y = 1 for a hit: in [0, 1].

    This is a Brier score, shifted so that c = 0 earns the same for a hit and a miss.  It is still proper: the best c is
    the probability of a hit.  A hit with c = 1 earns 1 and a miss with c = 1 earns 0.  A junk box with confidence 0
    earns 1/2, the same as no box.  A missed object counts as a prediction with c = 0; a malformed prediction counts as
    one with c = 1, y = 0.

    >>> sure, unsure, hit, miss = (np.array([number]) for number in (1.0, 0.0, 1.0, 0.0))
    >>> shifted_score(sure, hit), shifted_score(sure, miss), shifted_score(unsure, miss)
    (1.0, 0.0, 0.5)
    """
    slots = max(len(confidence) + invalid, truths)
    if slots == 0:
        return abstention
    return 0.5 + 0.5 * (float((2 * confidence * hit - confidence**2).sum()) - invalid) / slots


def brier_score(confidence: Array, hit: Array, invalid: int = 0, truths: int = 0, abstention: float = 1.0) -> float:
    """Compute R_conf = mean over predictions of 1 - (c - y)²; a malformed prediction earns 0.

    The rule is proper, but a junk box with confidence 0 earns 1.

    >>> brier_score(np.array([0.0]), np.array([0.0]), truths=1)
    1.0
    """
    return _mean(1 - (confidence - hit) ** 2, invalid, truths, abstention)


def linear_score(confidence: Array, hit: Array, invalid: int = 0, truths: int = 0, abstention: float = 0.0) -> float:
    """Compute R_conf = mean over predictions of (c if hit else 1 - c): equations 7 and 8.

    The rule is not proper: the best c is always 0 or 1.

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
    """A detection reading holds the choices inside a detection reward; `STRICT` and `PAPER` are two readings.

    >>> DetectionReading(matching="best")
    Traceback (most recent call last):
    minirft.UserError: matching is 'best'; use one of hungarian, greedy
    """

    matching: str = "hungarian"
    threshold: float = 0.0  # τ: least IoU of a match; with 0 the IoU reward grows from the smallest overlap on
    denominator: str = "max"  # max(predictions, truths), or "predictions"
    rule: str = "shifted"  # of the confidence reward
    hit: float = 0.5  # a prediction is a hit from this matched IoU on
    abstention: float = 1.0  # reward of `No Objects`, in both parts, if there are no objects
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


def detection_scores(
    found: Detections | ParseFailure, truth: Detections, reading: DetectionReading = STRICT
) -> tuple[float, float]:
    """Compute R_IoU and R_conf of a parsed answer from one matching; a `ParseFailure` earns (0, 0).

    >>> box = Detections(np.array([[0.0, 0, 9, 9]]), np.ones(1))
    >>> detection_scores(box, box)
    (1.0, 1.0)
    """
    if isinstance(found, ParseFailure):
        return 0.0, 0.0
    matched = matched_iou(found, truth, reading.matching, reading.threshold)
    hit = ((matched > 0) & (matched >= reading.hit)).astype(np.float64)
    confidence, invalid = found.confidence, found.invalid
    if reading.inverted == "miss":
        confidence, invalid = np.append(confidence, found.inverted), invalid - len(found.inverted)
        hit = np.append(hit, np.zeros(len(found.inverted)))
    return (
        iou_score(matched, len(found), len(truth), reading.denominator, reading.abstention),
        CONFIDENCE_RULES[reading.rule](confidence, hit, invalid, len(truth), reading.abstention),
    )

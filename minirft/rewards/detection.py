"""The detection reward: how boxes overlap, which of them were found, and did the confidence know?

Two parts.  R_IoU is the overlap with the true boxes, R_conf how well the confidences tell hits from misses.  The
choices inside them are one dataclass, `DetectionReading`, of which `STRICT` and `PAPER` are two.

Deviations from the paper.  `PAPER` is equations 6-8 to the letter; where they are silent τ is 0.5 (it is never
given), matching is greedy by confidence, and saying `No Objects` earns 0: a mean over no predictions is undefined,
and any constant would pay silence on every picture.  An inverted box has IoU 0 there, so its confidence earns 1 - c.
`STRICT`, the default, matches by the Hungarian method without a threshold, divides by max(predictions, truths) so
that a miss costs as much as a false alarm, pays a right abstention in full, and scores confidence by a proper rule.
An inverted box is malformed in it.  The paper does not say how boxes are matched, so both usual ways are here.
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
    """Intersection over union of every pair: |a ∩ b| / |a ∪ b|, (N, 4), (M, 4) -> (N, M) in [0, 1].

    A box that is empty, inverted or not finite overlaps nothing: its row is 0.

    >>> iou([[0, 0, 2, 2]], [[0, 0, 2, 2], [1, 0, 3, 2], [5, 5, 6, 6]]).round(3).tolist()
    [[1.0, 0.333, 0.0]]
    """
    return sound_iou(_upright(a), _upright(b))


def sound_iou(a: Array, b: Array) -> Array:
    """`iou` of boxes of which each is known to be sound, as those of `Detections` are, (N, 4), (M, 4) -> (N, M).

    >>> sound_iou(np.array([[0.0, 0, 2, 2]]), np.array([[0.0, 0, 2, 1]])).tolist()
    [[0.5]]
    """
    return _ratio(*_overlaps(a, b))


def giou(a: ArrayLike, b: ArrayLike) -> Array:
    """Generalised IoU of every pair: IoU - (|hull| - |a ∪ b|) / |hull|, (N, 4), (M, 4) -> (N, M) in [-1, 1].

    The hull is the smallest box round both, so boxes that do not touch still differ by their distance.
    A box that is empty, inverted or not finite gets -1.  Source: Rezatofighi et al. 2019, arXiv 1902.09630.

    >>> giou([[0, 0, 1, 1]], [[0, 0, 1, 1], [1, 0, 2, 1], [9, 0, 10, 1]]).round(3).tolist()
    [[1.0, 0.0, -0.8]]
    """
    upright = _upright(a), _upright(b)
    intersection, union = _overlaps(*upright)
    value = _ratio(intersection, union) - 1 + _ratio(union, _hulls(*upright))
    return np.where(_sound(a)[:, None] & _sound(b)[None, :], value, -1.0)


def match_greedy(iou: Array, confidence: ArrayLike, threshold: float = 0.5) -> list[tuple[int, int]]:
    """Match one to one, the surest prediction choosing first: [(prediction, truth), ...] in that order.

    Each takes the free true box it overlaps most, if that overlap is at least `threshold` and not 0.  Equal
    confidences keep their order, and NaN goes last.  `iou` is (N, M), `confidence` (N,).  This is how detection
    is scored (COCO), and it can be a trap: a sure box between two objects may take the one another box needed.

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

    Pairs below `threshold` or without overlap are no pairs.  Equal sums go to the surer predictions where `confidence`,
    (N,) in [0, 1], is given, so the order of the list does not matter.  `iou` is (N, M); O(max(N, M)^3).

    >>> match_hungarian(np.array([[0.6, 0.7], [0.0, 0.9]]))
    [(0, 0), (1, 1)]
    """
    usable = np.where(iou >= threshold, iou, 0.0)
    surer = 1 + 1e-9 * np.reshape(confidence, (-1, 1))
    rows, columns = linear_sum_assignment(usable * surer, maximize=True)
    return [(int(n), int(m)) for n, m in zip(rows, columns, strict=True) if usable[n, m] > 0]


def _rows(boxes: ArrayLike) -> Array:
    array = np.asarray(boxes, dtype=np.float64)
    if array.size == 0:
        return np.zeros((0, 4))
    if array.ndim != 2 or array.shape[1] != 4:
        raise ValueError(f"expected boxes of shape (N, 4), got {array.shape}")
    return array


def _sound(boxes: ArrayLike) -> NDArray[np.bool_]:
    rows = _rows(boxes)
    return np.isfinite(rows).all(1) & (rows[:, 0] < rows[:, 2]) & (rows[:, 1] < rows[:, 3])


def _upright(boxes: ArrayLike) -> Array:
    """The boxes, an unsound one as a point at 0."""
    return np.where(_sound(boxes)[:, None], _rows(boxes), 0.0)


def _overlaps(a: Array, b: Array) -> tuple[Array, Array]:
    """Areas of intersection and union of every pair, each (N, M), one axis at a time: pairs are many, axes two."""
    with np.errstate(over="ignore", invalid="ignore"):  # numbers near 1e308 overflow; `_ratio` makes them 0
        x, y = (np.minimum.outer(a[:, n + 2], b[:, n + 2]) - np.maximum.outer(a[:, n], b[:, n]) for n in (0, 1))
        intersection = np.maximum(x, 0) * np.maximum(y, 0)
        return intersection, np.add.outer(_extent(a), _extent(b)) - intersection


def _hulls(a: Array, b: Array) -> Array:
    """Area of the smallest box round each pair, (N, M)."""
    with np.errstate(over="ignore", invalid="ignore"):
        x, y = (np.maximum.outer(a[:, n + 2], b[:, n + 2]) - np.minimum.outer(a[:, n], b[:, n]) for n in (0, 1))
        return x * y


def _extent(boxes: Array) -> Array:
    return (boxes[:, 2:] - boxes[:, :2]).prod(-1)


def _ratio(part: Array, whole: Array) -> Array:
    """part / whole in [0, 1]; 0 where that is not a number."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = part / whole
    return np.clip(np.where(np.isfinite(ratio), ratio, 0.0), 0.0, 1.0)


# ------------------------------------------------------------------ the two parts


def matched_iou(found: Detections, truth: Detections, matching: str = "hungarian", threshold: float = 0.0) -> Array:
    """IoU of each valid prediction with the one object it is matched to, 0 when there is none: shape (N,).

    Where either side has labels, boxes of different labels do not match: `same_label`.

    >>> box = Detections(np.array([[0.0, 0, 9, 9]]), np.ones(1))
    >>> matched_iou(box, box).tolist()
    [1.0]
    """
    overlap = sound_iou(found.boxes, truth.boxes)  # parsing has refused all others
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
    """Which predictions have the label of which objects: (N, M) bool; case, spaces and hyphens do not count.

    >>> a, b = np.zeros((1, 4)), np.ones(1)
    >>> same_label(Detections(a, b, labels=("Cat",)), Detections(a, b, labels=("cat",))).tolist()
    [[True]]
    """
    names = [[normalise(label) for label in side.labels] or [""] * len(side.boxes) for side in (found, truth)]
    return np.array(names[0], dtype=object)[:, None] == np.array(names[1], dtype=object)[None, :]


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

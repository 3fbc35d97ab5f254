"""Boxes: overlap, one-to-one matching, and which frame a box is in.

Boxes are float `xyxy` with y pointing down and no "+1": the box [0, 0, 2, 2] has area 4.  A `Frame` is
the size of the coordinate system; the models speak in `MODEL`, 0-1000 along either axis.  IoU does not
change when an axis is rescaled, so rewards never leave the model frame.

Deviation from the paper: none; it does not say how boxes are matched, so both usual ways are here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment

from minirft.samples import Frame

Array = NDArray[np.float64]


MODEL = Frame("model", 1000, 1000)


def pixels(width: float, height: float) -> Frame:
    """The frame of a picture of `width` x `height` pixels.

    >>> pixels(640, 480)
    Frame(name='pixels', width=640, height=480)
    """
    return Frame("pixels", width, height)


def convert(xyxy: ArrayLike, source: Frame, target: Frame) -> Array:
    """Boxes of one frame in the units of another, each axis scaled by itself; shape (..., 4) kept.

    Neither rounds nor clips.  Raises `ValueError` when the last axis is not 4.

    >>> convert([[32, 24, 64, 48]], pixels(64, 48), MODEL).tolist()
    [[500.0, 500.0, 1000.0, 1000.0]]
    """
    boxes = np.asarray(xyxy, dtype=np.float64)
    if boxes.shape[-1:] != (4,):
        raise ValueError(f"boxes end in an axis of 4 (x1, y1, x2, y2), got shape {boxes.shape}")
    x, y = target.width / source.width, target.height / source.height
    return boxes * np.array([x, y, x, y])


def iou(a: ArrayLike, b: ArrayLike) -> Array:
    """Intersection over union of every pair: |a ∩ b| / |a ∪ b|, (N, 4), (M, 4) -> (N, M) in [0, 1].

    A box that is empty, inverted or not finite overlaps nothing: its row is 0.

    >>> iou([[0, 0, 2, 2]], [[0, 0, 2, 2], [1, 0, 3, 2], [5, 5, 6, 6]]).round(3).tolist()
    [[1.0, 0.333, 0.0]]
    """
    return _ratio(*_overlaps(_upright(a), _upright(b)))


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
        x, y = (
            np.maximum(np.minimum.outer(a[:, n + 2], b[:, n + 2]) - np.maximum.outer(a[:, n], b[:, n]), 0)
            for n in (0, 1)
        )
        intersection = x * y
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

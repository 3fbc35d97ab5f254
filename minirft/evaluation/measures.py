"""This module measures ranked boxes: COCO's matching, average precision, calibration, ranking.

Each measure takes weights of shape (R, D), which count each of D boxes in each of R resamples, and returns (R,).
A row of ones gives the plain number, so a bootstrap needs no second matching.

Deviations from the usual definitions: none.  With weights 1, `average_precision` equals `COCOeval.accumulate` and
`ranking_auc` equals the Mann-Whitney statistic; both are tested.
"""

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from minirft.rewards import Detections

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

RECALLS = np.linspace(0.0, 1.0, 101)  # COCO samples the curve at these recalls
BINS = 10  # of confidence
MAX_DETECTIONS = 100  # COCO scores this many boxes of a query, those of highest confidence
AT_50, AT_75 = 0, 5  # rows of COCO's ten IoU thresholds


@dataclass(frozen=True, eq=False)
class Ranked:
    """Ranked boxes are in order of falling confidence, with their query and their hits at IoU .50, .55, ..., .95."""

    query: NDArray[np.intp]  # (D,)
    confidence: Array  # (D,)
    hit: Mask  # (10, D)
    ignored: Mask  # (10, D) on a crowd: neither a hit nor a false box


def rank_boxes(found: list[Detections], truth: list[Detections], crowds: list[Array] | None = None) -> Ranked:
    """Match the boxes of each query to its true ones with COCOeval: one to one, surest first, IoU >= threshold.

    A box that hits nothing but lies in one of the query's `crowds`, (M, 4) each, is ignored, as in COCO.

    >>> side = Detections(np.array([[0.0, 0.0, 9.0, 9.0]]), np.ones(1))
    >>> rank_boxes([side], [side]).hit.all()
    np.True_
    """
    with contextlib.redirect_stdout(io.StringIO()):
        run = COCOeval(_coco(truth, crowds), _coco(found), "bbox")
        run.params.useCats = 0  # a query is an image of one category, so matching does not need it
        run.params.maxDets = [MAX_DETECTIONS]
        run.params.areaRng, run.params.areaRngLbl = [[0, 1e10]], ["all"]
        run.evaluate()
    scored = [(q, image) for q, image in enumerate(run.evalImgs) if image is not None]
    query = np.repeat([q for q, _ in scored], [len(image["dtScores"]) for _, image in scored]).astype(np.intp)
    confidence = np.array([score for _, image in scored for score in image["dtScores"]], dtype=np.float64)
    matched, ignored = (
        np.concatenate([np.zeros((10, 0)), *(image[name] for _, image in scored)], axis=1) > 0
        for name in ("dtMatches", "dtIgnore")
    )
    order = np.argsort(-confidence, kind="stable")
    return Ranked(query[order], confidence[order], (matched & ~ignored)[:, order], ignored[:, order])


def _coco(sides: list[Detections], crowds: list[Array] | None = None) -> COCO:
    """Convert the true or the predicted boxes to a table of pycocotools."""
    rows = [
        (q, box, score, 0)
        for q, side in enumerate(sides)
        for box, score in zip(side.boxes, side.confidence, strict=True)
    ]
    rows += [(q, box, 1.0, 1) for q, group in enumerate(crowds or []) for box in group]
    boxes = [
        {"image_id": q, "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": float(score), "iscrowd": crowd}
        for q, (x1, y1, x2, y2), score, crowd in rows
    ]
    return as_coco(boxes, [{"id": q} for q in range(len(sides))], [{"id": 1}])


def as_coco(boxes: Iterable[Mapping[str, Any]], images: Sequence[Any], categories: Sequence[Any]) -> COCO:
    """Convert rows of boxes to a table of pycocotools.  Ids start at 1, because 0 means "no match" in COCOeval."""
    coco = COCO()
    rows = [{"area": row["bbox"][2] * row["bbox"][3], **row, "id": number} for number, row in enumerate(boxes, 1)]
    coco.dataset = {"images": images, "categories": categories, "annotations": rows}
    coco.createIndex()
    return coco


def average_precision(hit: Mask, weights: Array, truths: Array, ignored: Mask | None = None) -> Array:
    """Compute the area under the precision-recall curve: mean over 101 recalls r of max {precision : recall >= r}.

    `hit` and `ignored` (boxes that are neither hits nor false) are (D,), in order of falling confidence; `truths` (R,)
    is the number of true boxes.  The result is NaN without a truth.
    Source: COCO, https://cocodataset.org/#detection-eval

    >>> average_precision(np.array([True, False, True]), np.ones((1, 3)), np.array([2.0])).round(4).tolist()
    [0.835]
    """
    if not hit.size:
        return np.where(truths > 0, 0.0, np.nan)
    missed = ~hit if ignored is None else ~hit & ~ignored
    true, false = np.cumsum(weights * hit, axis=1), np.cumsum(weights * missed, axis=1)
    precision = true / (true + false + np.spacing(1))
    best_ahead = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall = true / np.maximum(truths, 1)[:, None]
    reached = np.searchsorted(RECALLS, recall, side="right")  # number of the 101 recalls reached after each box
    area = (np.diff(reached, axis=1, prepend=0) * best_ahead).sum(1) / len(RECALLS)
    return np.where(truths > 0, area, np.nan)


def calibration_error(confidence: Array, hit: Mask, weights: Array) -> Array:
    """Compute the expected calibration error: Σ_bins (n_bin / n) |mean hit - mean confidence|, 10 bins of equal width.

    Bin k is [k/10, (k+1)/10), and the last one includes 1.  NaN without a box.  Source: Naeini et al., AAAI 2015.

    >>> calibration_error(np.array([0.95, 0.85]), np.array([True, False]), np.ones((1, 2))).round(2).tolist()
    [0.45]
    """
    bins = np.searchsorted(np.arange(1, BINS) / BINS, confidence, side="right")
    gap = (hit - confidence)[:, None] * np.eye(BINS)[bins]  # (D, BINS)
    return divide(np.abs(weights @ gap).sum(1), weights.sum(1))


def ranking_auc(confidence: Array, hit: Mask, weights: Array) -> Array:
    """Compute the probability that a hit outranks a miss: P(c_hit > c_miss) + P(c_hit = c_miss) / 2.

    The result is NaN unless there are hits and misses.

    >>> ranking_auc(np.array([0.9, 0.9, 0.2]), np.array([True, False, False]), np.ones((1, 3))).tolist()
    [0.75]
    """
    order = np.argsort(confidence, kind="stable")
    starts = np.flatnonzero(np.diff(confidence[order], prepend=-np.inf))  # the first box at each level of confidence
    if not starts.size:
        return np.full(len(weights), np.nan)
    hits, misses = (np.add.reduceat(weights[:, order] * kind[order], starts, axis=1) for kind in (hit, ~hit))
    outranked = np.cumsum(misses, axis=1) - misses / 2
    return divide((hits * outranked).sum(1), hits.sum(1) * misses.sum(1))


def divide(part: Array, whole: Array) -> Array:
    """Divide part / whole; NaN where `whole` is 0.

    >>> divide(np.array([1.0, 0.0]), np.array([2.0, 0.0])).tolist()
    [0.5, nan]
    """
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=np.asarray(whole) > 0)

"""Evaluation turns completions and samples into numbers with intervals; it uses the model's texts only.

Every metric is a function of query weights.  Equal weights of 1 give the number; multinomial weights are a bootstrap
resample of the queries, so an interval needs no second matching.  A detection query, one category in one picture,
is a separate COCO image; COCOeval matches it (IoU .50:.05:.95, area "all", the 100 boxes of highest confidence).

Deviations from the paper's evaluation.  The samples alone decide which categories are in the questions; the presence
answers of another model are not used.  Exact duplicates are not removed: they are false boxes.  Labels must be equal
after normalisation; the released two-way substring rule, for which an empty answer is always right, is reported
beside it as `accuracy_substring`.  If an annotation file has boxes in pixels (`Sample.exact`), detection is scored in
pixels against those, and a box on a crowd is ignored, as in COCO; otherwise the solution is the truth.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minirft.evaluation.measures import (
    AT_50,
    AT_75,
    Array,
    Ranked,
    average_precision,
    calibration_error,
    divide,
    rank_boxes,
    ranking_auc,
)
from minirft.evaluation.queries import parse_all, parse_boxes
from minirft.evaluation.resampling import Statistic, intervals, resampled
from minirft.rewards import Detections, ParseFailure, iou_score, matched_iou, normalise
from minirft.rewards import giou as generalised_iou
from minirft.rewards import iou as overlaps
from minirft.samples import Sample, Task


def metrics(
    task: Task, completions: Sequence[str], samples: Sequence[Sample], *, resamples: int = 200
) -> dict[str, Any]:
    """Compute all metrics of a task, ready for JSON: {name: float or None, ..., "n": Q, "ci": {name: [low, high]}}.

    An undefined metric is None, such as AUC without a miss.  The intervals are 95% percentile bootstrap intervals
    over the Q queries, for those metrics where they are correct (`intervals`); `resamples` = 0 leaves them out.  The
    seed of the resamples is 0, so two sets of answers to the same samples get the same resamples.  Raises `ValueError`
    when the lengths differ or are 0.  `detection`, `classification`, `grounding` and `presence` define the metrics.
    """
    values, draws = bootstrap(task, completions, samples, resamples=resamples)
    return values | {"n": len(samples), "ci": intervals(draws)}


def by_category(task: Task, completions: Sequence[str], samples: Sequence[Sample]) -> dict[str, dict[str, Any]]:
    """Compute the main metric of each category: {"ap50_by_category": {name: value}}; {} for grounding."""
    key = {"detection": "ap50", "classification": "accuracy", "presence": "accuracy"}.get(task)
    pairs: dict[str, list[tuple[str, Sample]]] = {}
    for text, sample in zip(completions, samples, strict=True):
        pairs.setdefault(sample.category, []).append((text, sample))
    found = {name: metrics(task, *zip(*pairs[name], strict=True), resamples=0) for name in sorted(pairs)}
    return {f"{key}_by_category": {name: row[key] for name, row in found.items()}} if key else {}


def bootstrap(
    task: Task, completions: Sequence[str], samples: Sequence[Sample], *, resamples: int = 200
) -> tuple[dict[str, Any], dict[str, Array]]:
    """Compute every metric on all queries, as `metrics` does, and on resamples of them: {metric: (resamples,)}.

    The answers are matched once for both.  The errors are those of `metrics`.
    """
    check_pairs(completions, samples)
    of_task: dict[Task, Callable[[Sequence[str], Sequence[Sample]], Statistic]]
    of_task = {"detection": detection, "classification": classification, "grounding": grounding, "presence": presence}
    return resampled(of_task[task](completions, samples), len(samples), resamples)


def check_pairs(completions: Sequence[str], samples: Sequence[Sample]) -> None:
    """Raise `ValueError` unless there is one completion for each sample, and at least one."""
    if len(completions) != len(samples) or len(samples) == 0:
        raise ValueError(f"one completion per sample, at least one: got {len(completions)} for {len(samples)} samples")


def detection(completions: Sequence[str], samples: Sequence[Sample]) -> Statistic:
    """Make the detection metrics; each query is one category in one picture.

    ap, ap50, ap75    average precision at IoU .50:.95, .50, .75; macro mean over the categories that have a truth
    ap50_pooled       average precision at IoU .50 with all queries in one ranking
    ar                recall averaged over IoU .50:.95, macro mean over the same categories (COCO's AR at 100 boxes)
    recall            matched true boxes / true boxes, one to one at IoU >= .5
    precision         matched boxes / predictions, with malformed ones and without those on a crowd
    mean_iou          mean over queries with a truth of Σ IoU / max(n_pred, n_true), Σ over the Hungarian matching
                      without a threshold, n_pred with malformed predictions
    boxes_per_image   predictions per query, malformed ones included
    ece, auc          calibration error of the confidence; probability that a hit outranks a miss, both at IoU .5
    abstention        share of the queries about an absent category whose answer has no box
    false_abstention  the same share of the queries about a present category
    parse_rate        share of answers that parse and have the form <think>...</think> <answer>...</answer>

    An answer that does not parse has no boxes, and is no abstention.  If confidences are equal in different queries, AP
    depends on the order of the queries, as in COCOeval.
    """
    answers, found, truth, crowds, well_formed, owner, names = parse_boxes(completions, samples)
    true, predicted = (np.array([len(side) for side in sides], dtype=np.float64) for sides in (truth, found))
    pairs = zip(answers, found, strict=True)
    silent = np.array([isinstance(a, Detections) and len(f) == 0 for a, f in pairs], dtype=np.float64)
    pairs = zip(found, truth, strict=True)
    overlap = np.array([iou_score(matched_iou(f, t), len(f), len(t), abstention=0.0) for f, t in pairs])
    category = np.unique(names, return_inverse=True)[1]
    ranked = rank_boxes(found, truth, crowds)
    hit, ignored = ranked.hit[AT_50], ranked.ignored[AT_50]

    def statistic(weights: Array) -> dict[str, Array]:
        weights = weights[:, owner]
        weight, present = weights[:, ranked.query], true > 0
        matched, counted = weight @ hit, weight * ~ignored
        precisions, recalls = _by_category(ranked, weights, category, true)
        return {
            "ap": _mean_defined(precisions.mean(1)),
            "ap50": _mean_defined(precisions[:, AT_50]),
            "ap75": _mean_defined(precisions[:, AT_75]),
            "ap50_pooled": average_precision(hit, weight, weights @ true, ignored),
            "ar": _mean_defined(recalls.mean(1)),
            "recall": divide(matched, weights @ true),
            "precision": divide(matched, weights @ predicted - weight @ ignored),
            "mean_iou": divide(weights @ (overlap * present), weights @ present),
            "boxes_per_image": divide(weights @ predicted, weights.sum(1)),
            "ece": calibration_error(ranked.confidence, hit, counted),
            "auc": ranking_auc(ranked.confidence, hit, counted),
            "abstention": divide(weights @ (silent * ~present), weights @ ~present),
            "false_abstention": divide(weights @ (silent * present), weights @ present),
            "parse_rate": divide(weights @ well_formed, weights.sum(1)),
        }

    return statistic


def confidence_levels(completions: Sequence[str], samples: Sequence[Sample]) -> dict[str, list[int]]:
    """Count boxes by confidence, for a calibration curve: {confidence, two decimals: [boxes, hits at IoU .5]}."""
    _, found, truth, crowds, *_ = parse_boxes(completions, samples)
    ranked = rank_boxes(found, truth, crowds)
    counted = ~ranked.ignored[AT_50]
    texts = [f"{confidence:.2f}" for confidence in ranked.confidence[counted]]
    levels, level = np.unique(texts, return_inverse=True)
    boxes, hits = np.bincount(level).tolist(), np.bincount(level, ranked.hit[AT_50][counted]).astype(int).tolist()
    return {name: [n, m] for name, n, m in zip(levels.tolist(), boxes, hits, strict=True)}


def classification(completions: Sequence[str], samples: Sequence[Sample]) -> Statistic:
    """Make the label metrics: accuracy (equal after normalisation), accuracy_substring (released rule), parse_rate."""
    labels, truths, well_formed = parse_all("classification", completions, samples)
    pairs = zip(labels, truths, strict=True)
    return _means(
        accuracy=[isinstance(label, str) and normalise(label) == normalise(truth) for label, truth in pairs],
        accuracy_substring=[_substring(text, truth) for text, truth in zip(completions, truths, strict=True)],
        parse_rate=well_formed,
    )


def grounding(completions: Sequence[str], samples: Sequence[Sample]) -> Statistic:
    """Make the one-box metrics: box_iou, giou (means; 0 and -1 without a box), acc50 (share IoU >= .5), parse_rate."""
    answers, truths, well_formed = parse_all("grounding", completions, samples)
    found = [np.zeros(4) if isinstance(answer, ParseFailure) else answer for answer in answers]
    pairs = [(box[None], truth[None]) for box, truth in zip(found, truths, strict=True)]
    overlap = np.array([overlaps(*pair)[0, 0] for pair in pairs])
    giou = [generalised_iou(*pair)[0, 0] for pair in pairs]
    return _means(box_iou=overlap, giou=giou, acc50=overlap >= 0.5, parse_rate=well_formed)


def presence(completions: Sequence[str], samples: Sequence[Sample]) -> Statistic:
    """Make the yes/no metrics: accuracy (an answer that is neither is wrong) and parse_rate."""
    answers, truths, well_formed = parse_all("presence", completions, samples)
    right = [answer is truth for answer, truth in zip(answers, truths, strict=True)]
    return _means(accuracy=right, parse_rate=well_formed)


def _by_category(ranked: Ranked, weights: Array, category: np.ndarray, true: Array) -> tuple[Array, Array]:
    """Compute average precision and recall of every category: (K, thresholds, R), NaN for a category without truth."""
    precisions, recalls = [], []
    for k in range(category.max() + 1):
        mine, truths = category[ranked.query] == k, weights @ (true * (category == k))
        weight, hits, ignored = weights[:, ranked.query[mine]], ranked.hit[:, mine], ranked.ignored[:, mine]
        pairs = zip(hits, ignored, strict=True)
        precisions.append([average_precision(hit, weight, truths, skipped) for hit, skipped in pairs])
        recalls.append([divide(weight @ hit, truths) for hit in hits])
    return np.array(precisions), np.array(recalls)


def _mean_defined(values: Array) -> Array:
    """Average over the first axis, leaving out NaN: (K, R) -> (R,)."""
    return divide(np.nansum(values, axis=0), (~np.isnan(values)).sum(axis=0))


def _means(**columns: Any) -> Statistic:
    """Make the statistic of metrics that are plain means over queries."""
    return lambda weights: {name: weights @ np.array(v, dtype=float) / weights.sum(1) for name, v in columns.items()}


def _substring(text: str, truth: str) -> bool:
    """Apply the released rule: right if one contains the other, ignoring case, spaces and underscores."""
    answer = re.search(r"<answer>(.*?)</answer>", text)  # on one line, as in the released code; no answer is wrong
    if answer is None:
        return False
    a, b = (label.lower().replace(" ", "").replace("_", "") for label in (answer[1], truth))
    return a in b or b in a

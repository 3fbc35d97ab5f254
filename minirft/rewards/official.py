"""The official reading repeats the rewards of the released code, with their quirks, so that a learner can study them.

It was written from a description of github.com/Liuziyu77/Visual-RFT at commit 9486633 and checked against a table of
the released rewards' results and 1,500 recorded values per task.  Use it to compare; train with `strict`.  These quirks
are kept on purpose:

    parsing     the answer pattern does not span lines (in grounding it does); if it does not match, the whole
                completion is the answer; white space around the answer does not count; a truncated list is parsed up
                to its last element with a comma after it
    detection   exact duplicates are removed; a match needs IoU > 0.5; a right `No Objects` earns 0; confidences are
                not checked, and a NaN makes the reward NaN, which spreads to its whole group; a position that is no
                box spoils the list, unless every object is matched before its turn
    labels      an answer is right if either text contains the other, so the empty answer is always right
    grounding   GIoU + 1, and the box is not checked: 0 to 2 for a valid box, without bound for an inverted one; of
                several boxes all first corners come before the second ones, so the result mixes corners of two boxes

So these are the only rewards here that may leave [0, 1].  Deviations: the released detection and classification
rewards first call the math-verify package to test whether the completion *equals* the solution as mathematics (for
boxes: whether the first box has the right y1) and, if so, pay in full.  That step is left out.  On the 1,500 recorded
completions per task it would have raised the reward of 98 (6.5%) in detection and 6 (0.4%) in classification;
math-verify 0.5.2, docs/experiments.md.  A NaN confidence sorts last here; in the released code its place depends on the
sorting algorithm.  Texts longer than `answers.MAX_CHARACTERS` earn 0.
"""

import json
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from minirft.rewards.answers import MAX_CHARACTERS, ParseFailure
from minirft.rewards.detection import iou, match_greedy
from minirft.samples import Task

Prediction = tuple[tuple[Any, ...], float]  # position, confidence: unchecked

_CORNERS = re.compile(r"\(\s*N\s*,\s*N\s*\)\s*,\s*\(\s*N\s*,\s*N\s*\)".replace("N", r"(\d+)"))
MATCH = np.nextafter(0.5, 1)  # the released code needs IoU > 0.5, `match_greedy` IoU >= its threshold


def detection_iou(completion: str, solution: str) -> float:
    """Compute R_IoU = Σ matched IoU / max(predictions, truths); 0 if either text has no readable boxes.

    >>> box, other = "{'Position': [0, 0, 9, 9], 'Confidence': 1}", "{'Position': [50, 0, 59, 9], 'Confidence': 1}"
    >>> detection_iou(f"<answer>[{box}]</answer>", f"<answer>[{box}, {other}]</answer>")
    0.5
    """
    found, truth = parse("detection", completion), parse("detection", solution)
    overlaps = _overlaps(found, truth)
    return 0.0 if overlaps is None else sum(overlaps) / max(len(found), len(truth))


def detection_confidence(completion: str, solution: str) -> float:
    """Compute R_conf = mean over predictions of (c if matched else 1 - c), clipped to [0, 1] only after the mean.

    >>> truth = "<answer>[{'Position': [0, 0, 9, 9], 'Confidence': 1}]</answer>"
    >>> detection_confidence("<answer>[{'Position': [90, 90, 99, 99], 'Confidence': -5}]</answer>", truth)
    1.0
    >>> detection_confidence("<answer>[{'Position': [0, 0, 9, 9], 'Confidence': NaN}]</answer>", truth)
    nan
    """
    found = parse("detection", completion)
    overlaps = _overlaps(found, parse("detection", solution))
    if overlaps is None:
        return 0.0
    mean = sum(c if overlap else 1 - c for (_, c), overlap in zip(found, overlaps, strict=True)) / len(found)
    return mean if math.isnan(mean) else min(max(mean, 0.0), 1.0)


def accuracy(completion: str, solution: str) -> float:
    """Return 1 when answer ⊂ label or label ⊂ answer, ignoring spaces, underscores and case; else 0.

    >>> [accuracy(f"<answer>{label}</answer>", "<answer>737-300</answer>") for label in ("", "7", "747")]
    [1.0, 1.0, 0.0]
    """
    answer, label = parse("classification", completion), parse("classification", solution)
    if isinstance(answer, ParseFailure) or isinstance(label, ParseFailure):
        return 0.0
    answer, label = (text.lower().replace(" ", "").replace("_", "") for text in (answer, label))
    return float(answer in label or label in answer)


def grounding(completion: str, solution: str) -> float:
    """Compute GIoU + 1 of the (x1,y1),(x2,y2) in each answer, / 1000; 2 for equal answers, 0 without a box.

    >>> grounding("<answer>(400,400),(500,500)</answer>", "<answer>(400,400),(500,500)</answer>")
    2.0
    >>> round(grounding("<answer>(900,900),(100,100)</answer>", "<answer>(400,400),(500,500)</answer>"))
    65
    """
    found, truth = parse("grounding", completion), parse("grounding", solution)
    if isinstance(found, ParseFailure) or isinstance(truth, ParseFailure):
        return 0.0
    if _grounding_answer(completion) == _grounding_answer(solution):
        return 2.0
    return _unchecked_giou(found, truth) + 1


def tags(completion: str, solution: str = "") -> float:
    """Compute R_format: 1 for <think>, anything, </think>, space, <answer>, anything, </answer>, with nothing around.

    >>> tags("<think></think><answer></answer>"), tags(" <think>a</think> <answer>b</answer>")
    (1.0, 0.0)
    """
    if not (
        completion.startswith("<think>") and completion.endswith("</answer>") and len(completion) <= MAX_CHARACTERS
    ):
        return 0.0
    inside = completion[len("<think>") : -len("</answer>")]
    return float(re.search(r"</think>\s*<answer>", inside) is not None)


def parse(task: Task, text: str) -> Any:
    """Parse a text as the released code does; a `ParseFailure` where that code would raise or find no boxes.

    detection        [(position, confidence), ...], unchecked
    classification   the answer's text; only one that is too long is a failure
    grounding        [x1, y1, x2, y2] in 0-1, as the released code pairs them; the box may be invalid

    >>> parse("grounding", "<answer>(0,100),(200,300) or (400,500),(600,700)</answer>")
    [0.0, 0.1, 0.4, 0.5]
    """
    if len(text) > MAX_CHARACTERS:
        return ParseFailure("too long", f"{len(text)} characters, the limit is {MAX_CHARACTERS}")
    return _PARSERS[task](text)


def _detections(text: str) -> list[Prediction] | ParseFailure:
    wrapped = f"<answer>{_answer(text)}</answer>".replace("[[", "[").replace("]]", "]").replace("\n", "")
    inner = wrapped[wrapped.find("<answer>") + len("<answer>") : wrapped.find("</answer>")]
    if not inner.endswith("]"):  # the released code repairs a truncated list: it keeps the elements before a comma
        cut = inner.rfind("},")
        inner = inner[:cut] + "}]" if cut >= 0 else ""
    try:
        unique: dict[tuple[Any, ...], float] = {}
        for item in json.loads(inner.replace("'", '"')):
            position, confidence = item["Position"], item["Confidence"]
            unique.setdefault(tuple(position), _number(confidence))
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError) as error:
        return ParseFailure("unreadable", f"{type(error).__name__}: {error}"[:80])
    return list(unique.items()) or ParseFailure("no boxes")


def _corners(text: str) -> list[float] | ParseFailure:
    pairs = _CORNERS.findall(_grounding_answer(text))
    numbers = [number for pair in pairs for number in pair[:2]] + [number for pair in pairs for number in pair[2:]]
    return [float(number) / 1000 for number in numbers[:4]] or ParseFailure("no pair of points")


PARTS: dict[Task, dict[str, Callable[[str, str], float]]] = {
    "detection": {"iou": detection_iou, "confidence": detection_confidence},
    "classification": {"accuracy": accuracy},
    "grounding": {"iou": grounding},
}


def _answer(text: str) -> str:
    """Return the first <answer> block that opens and closes on one line, else the whole text; stripped."""
    for line in text.split("\n"):
        answer, closed, _ = line.partition("<answer>")[2].partition("</answer>")
        if closed:
            return answer.strip()
    return text.strip()


_PARSERS: dict[Task, Callable[[str], Any]] = {
    "detection": _detections,
    "classification": _answer,
    "grounding": _corners,
}


def _grounding_answer(text: str) -> str:
    """Return the first <answer> block, which may span lines here, else the whole text; stripped."""
    answer, closed, _ = text.partition("<answer>")[2].partition("</answer>")
    return (answer if closed else text).strip()


def _number(value: object) -> float:
    if not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    return float(value)


def _overlaps(found: list[Prediction] | ParseFailure, truth: list[Prediction] | ParseFailure) -> list[float] | None:
    """Compute the IoU of each prediction with its object, matched greedily by confidence; 0 if unmatched.

    The result is None where the released code fails: for a text without boxes, or a position that is no box and has its
    turn while an object is free.  Once all objects are matched, the code uses no further position.
    """
    if isinstance(found, ParseFailure) or isinstance(truth, ParseFailure):
        return None
    boxes, objects = ([_box(position) for position, _ in predictions] for predictions in (found, truth))
    if None in objects:
        return None
    overlap = iou([box or (0.0, 0.0, 0.0, 0.0) for box in boxes], objects)
    confidence = np.array([confidence for _, confidence in found])
    pairs = match_greedy(overlap, confidence, float(MATCH))
    order = np.argsort(-confidence, kind="stable").tolist()
    looked_at = order if len(pairs) < len(objects) else order[: order.index(pairs[-1][0])]
    if any(boxes[n] is None for n in looked_at):
        return None
    matched = {n: float(overlap[n, m]) for n, m in pairs}
    return [matched.get(n, 0.0) for n in range(len(found))]


def _box(position: tuple[Any, ...]) -> tuple[float, float, float, float] | None:
    """Convert a position to four numbers; None when it is not four numbers."""
    try:
        x1, y1, x2, y2 = map(_number, position)
    except (TypeError, ValueError, OverflowError):
        return None
    return x1, y1, x2, y2


def _unchecked_giou(a: list[float], b: list[float]) -> float:
    """Compute IoU - (hull - union) / hull; areas may be negative, and the hull may be smaller than either box."""
    intersection = max(min(a[2], b[2]) - max(a[0], b[0]), 0.0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0.0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - intersection
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return (intersection / union if union else 0.0) - ((hull - union) / hull if hull else 0.0)

"""The red team measures how much an answer earns that does not depend on the picture.

It scores a fixed set of answers on the same solutions.  `blind` answers are made without the picture; `edit` answers
change the honest, perfect answer in a way that should not pay.  A reading is sound when no blind answer comes near the
honest one and no edit beats it.  `share` is the part of the honest total that an answer earns.

Some shares cannot be 0: a blind `No Objects` is right for every absent category, and a constant label for every picture
with that label.  This is the base rate of the questions, not an exploit.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image

from minirft import UserError
from minirft.rewards.answers import extract, parse_solution
from minirft.rewards.prompts import detection_solution, grounding_solution
from minirft.rewards.readings import RewardFn, Variant, reading
from minirft.samples import Sample, Task

Edit = Callable[[str], str]  # solution -> completion

GREY = Image.new("RGB", (64, 64), "grey")
THOUGHT = "<think>I looked at the picture.</think> "

# Solutions for an audit without data: one, two and three objects, small and large, and an absent category
SOLUTIONS: dict[Task, list[str]] = {
    "detection": [
        detection_solution([[120, 364, 480, 649]]),
        detection_solution([[40, 80, 340, 520], [600, 100, 940, 700]]),
        detection_solution([[10, 10, 60, 60], [500, 420, 560, 500], [300, 700, 420, 900]]),
        detection_solution([]),
    ],
    "classification": [
        f"<answer>{name}</answer>"
        for name in ("2012 BMW 1 Series Convertible", "737-300", "Basset Hound", "forget-me-not", "737-300")
    ],
    "grounding": [grounding_solution(box) for box in ([400, 400, 500, 500], [0, 100, 700, 900], [820, 30, 990, 210])],
    "presence": [f"<answer>{word}</answer>" for word in ("yes", "no", "yes", "no")],
}


def audit(
    task: Task,
    reward: Variant | RewardFn = "strict",
    solutions: Sequence[str | Sample] | None = None,
    **options: Any,
) -> list[dict[str, Any]]:
    """Compute each answer's mean reward: [{"answer", "kind", parts..., "total", "share", "non_finite"}, ...].

    `reward` is a reading's name, which may have `options`, or any reward.  `solutions` may be samples, so that a reward
    of your own can use picture and question; plain solutions get a grey picture.  The first row is the honest answer.
    A mean is None if a score was not finite; `non_finite` is the share of such scores.  Raises `UserError` when there
    are no solutions, one is unreadable, or the reward fails on the first honest answer.

    >>> rows = audit("classification", "official", ["<answer>737-300</answer>"])
    >>> [(row["answer"], row["accuracy"]) for row in rows[:3]]
    [('honest', 1.0), ('empty completion', 1.0), ('no tags', 1.0)]
    """
    given = SOLUTIONS[task] if solutions is None else solutions
    samples = [s if isinstance(s, Sample) else Sample(f"audit-{n}", GREY, task, "", s) for n, s in enumerate(given)]
    if not samples:
        raise UserError("an audit needs at least one solution; the data set is empty")
    for sample in samples:
        parse_solution(task, sample.solution)
    scorer = reading(task, reward, **options) if isinstance(reward, str) else reward
    first = scorer(_honest(samples[0].solution), samples[0])
    if not math.isfinite(first.total):
        raise UserError(f"{first.failure or 'the score is not finite'}; that was an honest answer: mend the reward")
    honest = _row("honest", "honest", _honest, samples, scorer)
    known = [sample.solution for sample in samples]
    rows = [_row(name, "blind", lambda _, text=text: text, samples, scorer) for name, text in blind(task, known)]
    rows += [_row(name, "edit", edit, samples, scorer) for name, edit in edits(task)]
    for row in (honest, *rows):
        earned = (honest["total"] or 0) > 0
        row["share"] = None if row["total"] is None or not earned else row["total"] / honest["total"]
    return [honest, *rows]


def blind(task: Task, solutions: Sequence[str]) -> list[tuple[str, str]]:
    """List named completions that ignore the picture; they may use the set of solutions, which training can learn.

    >>> dict(blind("presence", []))["always yes"]
    '<think>I looked at the picture.</think> <answer>yes</answer>'
    """
    answers = {
        "detection": _blind_detection,
        "classification": lambda: _blind_labels(solutions),
        "grounding": _blind_grounding,
        "presence": lambda: {"always yes": "yes", "always no": "no", "both": "yes or no", "all of them": "yes no"},
    }[task]()
    everywhere = [
        ("empty completion", ""),
        ("no tags", next(iter(answers.values()))),
        ("empty answer", "<think></think><answer></answer>"),
    ]
    return everywhere + [(name, f"{THOUGHT}<answer>{answer}</answer>") for name, answer in answers.items()]


def edits(task: Task) -> list[tuple[str, Edit]]:
    """List named ways to spoil the honest answer.

    >>> dict(edits("presence"))["empty reasoning"]("<answer>yes</answer>")
    '<think></think><answer>yes</answer>'
    """
    everywhere: list[tuple[str, Edit]] = [
        ("empty reasoning", lambda solution: f"<think></think>{solution}"),
        ("template reasoning", lambda solution: f"<think> ... </think> {solution}"),
        ("answer in the reasoning only", lambda solution: f"<think>It is {solution}</think>"),
        ("two answers, honest first", lambda solution: f"{_honest(solution)} {_WRONG[task]}"),
        ("two answers, honest last", lambda solution: f"{THOUGHT}{_WRONG[task]} {solution}"),
        ("text after the answer", lambda solution: f"{_honest(solution)} I hope this helps!"),
        ("answer cut off", lambda solution: _honest(solution)[:-12]),
    ]
    return everywhere + _EDITS.get(task, [])


def _row(name: str, kind: str, edit: Edit, samples: Sequence[Sample], reward: RewardFn) -> dict[str, Any]:
    scores = [reward(edit(sample.solution), sample) for sample in samples]
    parts = dict.fromkeys(part for score in scores for part in score.parts)
    columns = {part: [score.parts[part] for score in scores if part in score.parts] for part in parts}
    columns["total"] = [score.total for score in scores]
    means = {part: sum(values) / len(values) for part, values in columns.items()}
    finite = {part: mean if math.isfinite(mean) else None for part, mean in means.items()}
    non_finite = sum(not math.isfinite(value) for value in columns["total"]) / len(scores)
    return {"answer": name, "kind": kind, **finite, "non_finite": non_finite}


def _honest(solution: str) -> str:
    return THOUGHT + solution


# ------------------------------------------------------------------ detection

_BOX = "{{'Position': [{}], 'Confidence': {}}}"


def _list(*predictions: tuple[str, object]) -> str:
    return f"[{', '.join(_BOX.format(*prediction) for prediction in predictions)}]"


def _blind_detection() -> dict[str, str]:
    grid = [f"{100 * x}, {200 * y}, {100 * x + 100}, {200 * y + 200}" for y in range(5) for x in range(10)]
    whole = "0, 0, 1000, 1000"
    return {
        "abstain": "No Objects",
        "empty list": "[]",
        "whole picture, sure": _list((whole, 1)),
        "whole picture, unsure": _list((whole, 0)),
        "junk box at confidence 0": _list(("998, 998, 999, 999", 0)),
        "junk box at confidence -5": _list(("998, 998, 999, 999", -5)),
        "junk box at confidence 100": _list(("998, 998, 999, 999", 100)),
        "junk box at confidence NaN": _list(("998, 998, 999, 999", "NaN")),
        "inverted box": _list(("1000, 1000, 0, 0", 0)),
        "fifty boxes, sure": _list(*((box, 1) for box in grid)),
        "fifty boxes at confidence 0": _list(*((box, 0) for box in grid)),
        "two thousand boxes": "[" + ",".join(["{'Position':[0,0,9,9]}"] * 2000) + "]",
        "fifty times the whole picture": _list(*[(whole, 0)] * 50),
        "echoed template": "[{'Position': [x1, y1, x2, y2], 'Confidence': number}, ...]",
        "oversize numbers": _list(("-1e9, -1e9, 1e9, 1e9", 0)),
        "endless digits": _list(("0, 0, 9" + "9" * 5000 + ", 9", 0)),
        "infinite box": _list(("-Infinity, -Infinity, Infinity, Infinity", 0)),
        "deep nesting": "[" * 20_000 + "]" * 20_000,
    }


def _rewrite(pattern: str, replacement: str) -> Edit:
    return lambda solution: _honest(re.sub(pattern, replacement, solution))


_DETECTION_EDITS: list[tuple[str, Edit]] = [
    ("every box twice", _rewrite(r"\[(\{.*\})\]", r"[\1, \1]")),
    ("one more box, junk at confidence 0", _rewrite(r"\}\]", f"}}, {_BOX.format('998, 998, 999, 999', 0)}]")),
    ("one more box, malformed", _rewrite(r"\}\]", "}, {'Position': [0, 0], 'Confidence': 0}]")),
    ("only the first box", _rewrite(r"\}, \{.*\}\]", "}]")),
    ("confidence NaN", _rewrite(r"'Confidence': [\d.]+", "'Confidence': NaN")),
    ("confidence 100", _rewrite(r"'Confidence': [\d.]+", "'Confidence': 100")),
    ("confidence -5", _rewrite(r"'Confidence': [\d.]+", "'Confidence': -5")),
    ("boxes inverted", _rewrite(r"\[(\d+), (\d+), (\d+), (\d+)\]", r"[\3, \4, \1, \2]")),
    ("boxes in 0-1", _rewrite(r"(?<=[\[ ])(\d{1,3})(?=[,\]])", r"0.\1")),
]

# ------------------------------------------------------------------ labels and one box


def _blind_labels(solutions: Sequence[str]) -> dict[str, str]:
    labels = [extract(solution)[1] or "" for solution in solutions]
    return {
        "most common label": Counter(labels).most_common(1)[0][0] if labels else "cat",
        "every label": ", ".join(sorted(set(labels))),
        "one letter": "e",
        "one digit": "1",
        "only punctuation": "-",
        "echoed template": "species name",
        "a refusal": "unknown",
    }


def _blind_grounding() -> dict[str, str]:
    return {
        "whole picture": "(0,0),(1000,1000)",
        "middle of the picture": "(250,250),(750,750)",
        "inverted box": "(1000,1000),(0,0)",
        "inverted, smaller": "(900,900),(100,100)",
        "inverted and oversize": "(99999,99999),(0,0)",
        "endless digits": f"({'9' * 400},{'9' * 400}),(0,0)",
        "oversize": "(-99999,-99999),(99999,99999)",
        "two boxes": "(0,0),(500,500),(500,500),(1000,1000)",
        "points that pair up wrongly": "(0,0) (600,600), (200,200) (1000,1000)",
        "echoed template": "(x1,y1),(x2,y2)",
    }


_LABEL_EDITS: list[tuple[str, Edit]] = [
    ("first letter of the label", _rewrite(r"<answer>(.).*<", r"<answer>\1<")),
    ("first half of the label", lambda solution: _honest(f"<answer>{_half(solution)}</answer>")),
    ("label and more", _rewrite(r"</answer>", " or something else</answer>")),
    ("wrong on two lines, label in the reasoning", lambda s: f"<think>Not {s[8:-9]}.</think> <answer>\ncat\n</answer>"),
]
_EDITS: dict[str, list[tuple[str, Edit]]] = {
    "detection": _DETECTION_EDITS,
    "classification": _LABEL_EDITS,
    "grounding": [("box inverted", _rewrite(r"(\(.*\)),(\(.*\))", r"\2,\1"))],
}
_WRONG = {
    "detection": f"<answer>{_list(('998, 998, 999, 999', 1))}</answer>",
    "classification": "<answer>cat</answer>",
    "grounding": "<answer>(998,998),(999,999)</answer>",
    "presence": "<answer>yes or no</answer>",
}


def _half(solution: str) -> str:
    label = extract(solution)[1] or ""
    return label[: (len(label) + 1) // 2]

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
import tomllib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from minirft import UserError
from minirft.rewards.answers import extract, parse_solution
from minirft.rewards.readings import RewardFn, Variant, reading
from minirft.samples import Sample, Task

Edit = Callable[[str], str]  # solution -> completion

GREY = Image.new("RGB", (64, 64), "grey")
THOUGHT = "<think>I looked at the picture.</think> "

TABLE: dict[str, Any] = tomllib.loads(Path(__file__).with_name("redteam.toml").read_text(encoding="utf-8"))
SOLUTIONS: dict[Task, list[str]] = TABLE["solutions"]
"""Solutions of each task for an audit without data."""


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
    answers = TABLE["blind"][task] | _computed(task, solutions)
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
    wrong = TABLE["wrong"][task]
    everywhere: list[tuple[str, Edit]] = [
        ("empty reasoning", lambda solution: f"<think></think>{solution}"),
        ("template reasoning", lambda solution: f"<think> ... </think> {solution}"),
        ("answer in the reasoning only", lambda solution: f"<think>It is {solution}</think>"),
        ("two answers, honest first", lambda solution: f"{_honest(solution)} {wrong}"),
        ("two answers, honest last", lambda solution: f"{THOUGHT}{wrong} {solution}"),
        ("text after the answer", lambda solution: f"{_honest(solution)} I hope this helps!"),
        ("answer cut off", lambda solution: _honest(solution)[:-12]),
    ]
    everywhere += [(name, _rewrite(*pair)) for name, pair in TABLE["edits"].get(task, {}).items()]
    return everywhere + (_LABEL_EDITS if task == "classification" else [])


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


def _computed(task: Task, solutions: Sequence[str]) -> dict[str, str]:
    """Write the blind answers that are long or depend on the set."""
    if task == "detection":
        grid = [[100 * x, 200 * y, 100 * x + 100, 200 * y + 200] for y in range(5) for x in range(10)]
        return {
            "fifty boxes, sure": _list(grid, 1),
            "fifty boxes at confidence 0": _list(grid, 0),
            "two thousand boxes": "[" + ",".join(["{'Position':[0,0,9,9]}"] * 2000) + "]",
            "fifty times the whole picture": _list([[0, 0, 1000, 1000]] * 50, 0),
            "endless digits": _list([[0, 0, "9" * 5001, 9]], 0),
            "deep nesting": "[" * 20_000 + "]" * 20_000,
        }
    if task == "grounding":
        return {"endless digits": f"({'9' * 400},{'9' * 400}),(0,0)"}
    labels = [extract(solution)[1] or "" for solution in solutions]
    most = Counter(labels).most_common(1)[0][0] if labels else "cat"
    return {"most common label": most, "every label": ", ".join(sorted(set(labels)))} if task != "presence" else {}


def _list(boxes: Sequence[Sequence[Any]], confidence: int) -> str:
    items = (f"{{'Position': [{', '.join(map(str, box))}], 'Confidence': {confidence}}}" for box in boxes)
    return f"[{', '.join(items)}]"


def _rewrite(pattern: str, replacement: str | Callable[[re.Match[str]], str]) -> Edit:
    return lambda solution: _honest(re.sub(pattern, replacement, solution))


_LABEL_EDITS: list[tuple[str, Edit]] = [
    ("first letter of the label", _rewrite(r"<answer>(.).*<", r"<answer>\1<")),
    ("first half of the label", _rewrite(r"(?<=<answer>).*(?=<)", lambda label: label[0][: (len(label[0]) + 1) // 2])),
    ("label and more", _rewrite(r"</answer>", " or something else</answer>")),
    ("wrong on two lines, label in the reasoning", lambda s: f"<think>Not {s[8:-9]}.</think> <answer>\ncat\n</answer>"),
]

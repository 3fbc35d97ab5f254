"""Rewards: what a completion earns, as named parts in [0, 1] and their weighted sum, in three readings of one paper.

    paper      equations 5-9 to the letter: R = R_IoU + R_conf + R_format for detection, R_acc + R_format for labels;
               grounding has no equation, so its IoU is taken as the text has it
    official   what the released code computes (`minirft.rewards.official`); the only one whose parts may leave [0, 1]
    strict     ours, the default: no exploit of the other two pays (`minirft.rewards.redteam` is the evidence)

The detection parts are in `detection`.  Deviation: a presence question has a reward too; the paper has none.

A reward is a pure function of two texts, so it needs no picture, no model and no state.  The solution's text must
be readable: `UserError` otherwise.  The completion's text may be anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache, partial
from typing import Any, Literal, get_args

import numpy as np

from minirft import UserError
from minirft.rewards import official
from minirft.rewards.answers import Detections, ParseFailure, is_well_formed, normalise, parse, parse_solution
from minirft.rewards.boxes import iou
from minirft.rewards.detection import PAPER, STRICT, DetectionReading, detection_scores
from minirft.samples import Task

Variant = Literal["strict", "paper", "official"]
Part = Callable[[str, str], float]  # (completion, solution) -> reward
Reader = Callable[[str], Any]  # completion -> answer or ParseFailure


@dataclass(frozen=True)
class Score:
    """What one completion earned: the weighted sum, the raw parts, and why it could not be read (None if it could).

    A malformed prediction in a list that can be read is no failure; it costs in every part instead.
    """

    total: float
    parts: dict[str, float]
    failure: str | None = None


@dataclass(frozen=True)
class Reward:
    """Named parts and their weights: R = Σ w_k R_k (equations 5 and 9, where every w is 1).

    `read` tells why a completion is no answer; leave it out for rewards of your own.

    >>> short = Reward({"short": lambda completion, solution: float(len(completion) < 9)}, {"short": 0.5})
    >>> short("cat", "<answer>cat</answer>")
    Score(total=0.5, parts={'short': 1.0}, failure=None)
    """

    parts: dict[str, Part]
    weights: dict[str, float]
    read: Reader | None = None

    def __post_init__(self) -> None:
        if set(self.parts) != set(self.weights) or not all(map(math.isfinite, self.weights.values())):
            raise ValueError(f"one finite weight for each of {sorted(self.parts)}, got {self.weights}")

    def __call__(self, completion: str, solution: str) -> Score:
        parts = {name: float(part(completion, solution)) for name, part in self.parts.items()}
        answer = self.read(completion) if self.read else None
        failure = answer.reason if isinstance(answer, ParseFailure) else None
        return Score(sum(self.weights[name] * value for name, value in parts.items()), parts, failure)


def grounding_iou(completion: str, solution: str) -> float:
    """IoU of the one box asked for; 0 for no box or an invalid one.

    >>> grounding_iou("<answer>(0,0),(10,5)</answer>", "<answer>(0,0),(10,10)</answer>")
    0.5
    """
    truth, box = parse_solution("grounding", solution), parse("grounding", completion)
    if not isinstance(box, np.ndarray):
        return 0.0
    return float(iou([box], [truth])[0, 0])


def accuracy(completion: str, solution: str, task: Task = "classification", literal: bool = False) -> float:
    """R_acc: 1 when the label (or the yes) is the true one: letter by letter if `literal`, else after `normalise`.

    >>> [accuracy(f"<answer>{label}</answer>", "<answer>Great Dane</answer>") for label in ("great-dane", "dane", "")]
    [1.0, 0.0, 0.0]
    """
    truth, answer = parse_solution(task, solution), parse(task, completion)
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


def reading(
    task: Task, variant: Variant = "strict", weights: Mapping[str, float] | None = None, **options: Any
) -> Reward:
    """The reward of a task under a reading, its parts weighted 1 unless `weights` says otherwise.

    Options: detection takes the fields of `DetectionReading`.  Raises `UserError` for what is not known.

    >>> reward = reading("detection", weights={"format": 0.5})
    >>> reward("<think>no cat here</think> <answer>No Objects</answer>", "<answer>No Objects</answer>")
    Score(total=2.5, parts={'iou': 1.0, 'confidence': 1.0, 'format': 1.0}, failure=None)
    """
    _check_options(task, variant, options)
    parts, read = (_official if variant == "official" else _ours)(task, variant, options)
    unknown = set(weights or {}) - set(parts)
    if unknown:
        raise UserError(f"no reward called {', '.join(sorted(unknown))} in {task}; its parts are {', '.join(parts)}")
    return Reward(parts, dict.fromkeys(parts, 1.0) | dict(weights or {}), read)


def score_rows(rows: Iterable[Mapping[str, Any]], reward: Reward) -> Iterator[dict[str, float | str | None]]:
    """Scores of saved completions: {"completion", "solution"} in, {part: value, ..., "total", "failure"} out.

    Every row out is valid JSON.  A value that is not finite, which only the official reading gives, becomes None, and
    `failure` then reads "not finite".  Raises `UserError`, with the row's number from 1, for a row that lacks a text.

    >>> rows = [{"completion": "<answer>cat</answer>", "solution": "<answer>Cat</answer>"}]
    >>> list(score_rows(rows, reading("classification")))
    [{'accuracy': 1.0, 'format': 0.0, 'total': 1.0, 'failure': None}]
    """
    for number, row in enumerate(rows, 1):
        completion, solution = row.get("completion"), row.get("solution")
        if not isinstance(completion, str) or not isinstance(solution, str):
            raise UserError(f"row {number}: completion and solution must both be text; got {sorted(row)}")
        try:
            score = reward(completion, solution)
        except UserError as error:
            raise UserError(f"row {number}: {error}") from None
        values = score.parts | {"total": score.total}
        finite = all(map(math.isfinite, values.values()))
        failure = score.failure if finite else "not finite"
        yield {**{name: v if math.isfinite(v) else None for name, v in values.items()}, "failure": failure}


_OPTIONS = {"detection": {field.name for field in fields(STRICT)}}


def _check_options(task: Task, variant: Variant, options: Mapping[str, Any]) -> None:
    if task not in get_args(Task):
        raise UserError(f"no task called {task!r}; use {', '.join(get_args(Task))}")
    if variant not in ("strict", "paper", "official"):
        raise UserError(f"no reading called {variant!r}; use strict, paper or official")
    free = variant == "strict" or (variant == "paper" and task == "detection")
    known = _OPTIONS.get(task, set()) if free else set()
    unknown = set(options) - known
    if unknown:
        takes = f"takes {', '.join(sorted(known))}" if known else "takes no options"
        raise UserError(f"{', '.join(sorted(unknown))} is no option of the {variant} {task} reward, which {takes}")


def _ours(task: Task, variant: Variant, options: Mapping[str, Any]) -> tuple[dict[str, Part], Reader]:
    """The parts of the strict and paper readings."""
    strict = variant == "strict"
    read: Reader = lru_cache(maxsize=1)(partial(parse, task))  # a completion is read once, whatever the parts
    if task == "detection":
        parts = _detection_parts(replace(STRICT if strict else PAPER, **options), read)
    elif task == "grounding":
        parts = {"iou": grounding_iou}
    else:
        parts = {"accuracy": partial(accuracy, task=task, literal=not strict)}
    return parts | {"format": partial(format_reward, read=read if strict else None)}, read


def _detection_parts(how: DetectionReading, read: Reader) -> dict[str, Part]:
    """R_IoU and R_conf, from one matching."""
    solution = lru_cache(maxsize=1)(partial(parse_solution, "detection"))

    @lru_cache(maxsize=1)
    def both(completion: str, truth: str) -> tuple[float, float]:
        return detection_scores(read(completion), solution(truth), how)

    return {"iou": lambda *texts: both(*texts)[0], "confidence": lambda *texts: both(*texts)[1]}


def _official(task: Task, variant: Variant, options: Mapping[str, Any]) -> tuple[dict[str, Part], Reader]:
    """The parts of the released code's reading."""
    if task not in official.PARTS:
        raise UserError(f"the released code has no {task} reward; use strict or paper")
    return official.PARTS[task] | {"format": official.tags}, official.READERS[task]

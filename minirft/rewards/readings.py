"""A reward scores a completion with named parts in [0, 1] and their weighted sum; the paper allows three readings.

    paper      follows equations 5-9: R = R_IoU + R_conf + R_format for detection, R_acc + R_format for labels;
               grounding has no equation, so its part is the IoU that the paper's text describes
    official   computes the same as the released code (`minirft.rewards.official`); only its parts may leave [0, 1]
    strict     is ours, the default: no exploit of the other two pays (`minirft.rewards.redteam` is the evidence)

The detection parts are in `detection`.  Deviation: a presence question has a reward too; the paper has none.

These rewards are pure functions of two texts, so they need no picture, no model and no state.  Each text is parsed
once, and the parts take the results: (answer, truth).  A solution that cannot be parsed raises `UserError`; a
completion may be any text.  `own` holds rewards of your own, which may use the picture too.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache, partial
from typing import Any, Literal, get_args

import numpy as np

from minirft import UserError
from minirft.rewards import official
from minirft.rewards.answers import Answer, Detections, is_well_formed, normalise, parse_solution
from minirft.rewards.boxes import Array
from minirft.rewards.detection import PAPER, STRICT, DetectionReading, detection_scores, iou
from minirft.samples import Sample, Task

Variant = Literal["strict", "paper", "official"]
Part = Callable[[Any, Any], float]  # (answer, truth), parsed -> reward


@dataclass(frozen=True)
class Score:
    """A score is the reward of one completion: the weighted sum, the raw parts, and the reason of a parse failure.

    A total that is not finite is no reward: `train.grpo_step` leaves the whole group out.  A malformed prediction in a
    readable list is no failure, but it lowers every part.
    """

    total: float
    parts: dict[str, float]
    failure: str | None = None


@dataclass(frozen=True)
class Reward:
    """A reward has named parts and their weights: R = Σ w_k R_k (equations 5 and 9, where every w is 1).

    `parse` turns a completion into an `Answer` and `parse_truth` turns a solution into its truth, once each; the parts
    take both.  By default the parts take the two texts.

    >>> short = Reward({"short": lambda completion, solution: float(len(completion) < 9)}, {"short": 0.5})
    >>> short("cat", "<answer>cat</answer>")
    Score(total=0.5, parts={'short': 1.0}, failure=None)
    """

    parts: dict[str, Part]
    weights: dict[str, float]
    parse: Callable[[str], Any] = str
    parse_truth: Callable[[str], Any] = str

    def __post_init__(self) -> None:
        if set(self.parts) != set(self.weights) or not all(map(math.isfinite, self.weights.values())):
            raise ValueError(f"one finite weight for each of {sorted(self.parts)}, got {self.weights}")

    def __call__(self, completion: str, sample: Sample | str) -> Score:
        """Score a completion; `sample` may be the text of the solution alone."""
        answer, truth = self.parse(completion), self.parse_truth(sample if isinstance(sample, str) else sample.solution)
        parts = {name: float(part(answer, truth)) for name, part in self.parts.items()}
        failure = answer.failure if isinstance(answer, Answer) else None
        return Score(sum(self.weights[name] * value for name, value in parts.items()), parts, failure)


RewardFn = Callable[[str, Sample], Score]  # (completion, sample) -> score


def grounding_iou(answer: Answer, truth: Array) -> float:
    """Compute the IoU of the answered box with the true one; 0 for no box or an invalid one.

    >>> grounding_iou(Answer.of("grounding", "<answer>(0,0),(10,5)</answer>"), np.array([0.0, 0, 10, 10]))
    0.5
    """
    return float(iou([answer.value], [truth])[0, 0]) if isinstance(answer.value, np.ndarray) else 0.0


def accuracy(answer: Answer, truth: str | bool, literal: bool = False) -> float:
    """Compute R_acc: 1 when the label (or yes/no) is right, exactly if `literal`, else after `normalise`.

    >>> answers = [Answer.of("classification", f"<answer>{label}</answer>") for label in ("great-dane", "dane", "")]
    >>> [accuracy(answer, "Great Dane") for answer in answers]
    [1.0, 0.0, 0.0]
    """
    if isinstance(answer.value, str) and isinstance(truth, str) and not literal:
        return float(normalise(answer.value) == normalise(truth))
    return float(answer.value == truth)


def format_reward(answer: Answer, truth: Any = None, literal: bool = False) -> float:
    """Compute R_format: 1 for <think>...</think> <answer>...</answer>; unless `literal`, the answer must parse too.

    >>> texts = "<think>long ears</think> <answer>basset</answer>", "<answer>basset</answer>"
    >>> [format_reward(Answer.of("classification", text)) for text in texts]
    [1.0, 0.0]
    """
    malformed = isinstance(answer.value, Detections) and answer.value.invalid > 0
    return float(is_well_formed(answer.text) and (literal or not (answer.failure or malformed)))


def reading(
    task: Task, variant: Variant = "strict", weights: Mapping[str, float] | None = None, **options: Any
) -> Reward:
    """Make the reward of a task in a reading; `weights` are those of its parts, 1 by default.

    Options: detection takes the fields of `DetectionReading`.  Raises `UserError` for an unknown task, reading, part or
    option.

    >>> reward = reading("detection", weights={"format": 0.5})
    >>> reward("<think>no cat here</think> <answer>No Objects</answer>", "<answer>No Objects</answer>")
    Score(total=2.5, parts={'iou': 1.0, 'confidence': 1.0, 'format': 1.0}, failure=None)
    """
    _check_options(task, variant, options)
    parts = _official_parts(task) if variant == "official" else _parts(task, variant, options)
    if unknown := set(weights or {}) - set(parts):
        raise UserError(f"no reward called {', '.join(sorted(unknown))} in {task}; its parts are {', '.join(parts)}")
    weights = dict.fromkeys(parts, 1.0) | dict(weights or {})
    if variant == "official":
        return Reward(parts, weights, lambda text: Answer(text, official.parse(task, text)))
    return Reward(parts, weights, partial(Answer.of, task), partial(parse_solution, task))


def _check_options(task: Task, variant: Variant, options: Mapping[str, Any]) -> None:
    if task not in get_args(Task):
        raise UserError(f"no task called {task!r}; use {', '.join(get_args(Task))}")
    if variant not in get_args(Variant):
        raise UserError(f"no reading called {variant!r}; use strict, paper or official, or your own as FILE.py:NAME")
    known = {field.name for field in fields(STRICT)} if task == "detection" and variant != "official" else set()
    if unknown := set(options) - known:
        takes = f"takes {', '.join(sorted(known))}" if known else "takes no options"
        raise UserError(f"{', '.join(sorted(unknown))} is no option of the {variant} {task} reward, which {takes}")


def _parts(task: Task, variant: Variant, options: Mapping[str, Any]) -> dict[str, Part]:
    """Make the parts of the strict or paper reading."""
    literal = variant == "paper"
    if task == "detection":
        parts = _detection_parts(replace(PAPER if literal else STRICT, **options))
    elif task == "grounding":
        parts = {"iou": grounding_iou}
    else:
        parts = {"accuracy": partial(accuracy, literal=literal)}
    return parts | {"format": partial(format_reward, literal=literal)}


def _detection_parts(choices: DetectionReading) -> dict[str, Part]:
    """Make R_IoU and R_conf, which share one matching."""

    @lru_cache(maxsize=1)
    def both(answer: Answer, truth: Detections) -> tuple[float, float]:
        return detection_scores(answer.value, truth, choices)

    return {"iou": lambda *pair: both(*pair)[0], "confidence": lambda *pair: both(*pair)[1]}


def _official_parts(task: Task) -> dict[str, Part]:
    """Make the parts of the official reading, each of which parses both texts in its own way."""
    if task not in official.PARTS:
        raise UserError(f"the released code has no {task} reward; use strict or paper")

    def on_texts(part: Callable[[str, str], float], answer: Answer, solution: str) -> float:
        return part(answer.text, solution)

    return {name: partial(on_texts, part) for name, part in (official.PARTS[task] | {"format": official.tags}).items()}

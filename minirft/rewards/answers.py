"""An answer is the text of a completion parsed to boxes, a label or yes/no, or the reason why that fails.

Every parser here is total: for every text it returns an answer or a `ParseFailure`, in time linear in the text's
length, with no exception, no NaN and no `eval`.  Texts are at most `MAX_CHARACTERS` long, lists `MAX_PREDICTIONS`, and
a label `MAX_LABEL`, because `normalise` takes time quadratic in a run of combining marks.  A bad prediction in a list
of good ones does not spoil the list, but it is counted (`Detections.invalid`), so a reward can charge for it.

Deviations (the paper describes no parser): exactly one answer block is well formed; of several, the last is parsed;
coordinates must lie in the model's 0-1000 frame and confidences in [0, 1].
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import compress
from typing import Any

import numpy as np

from minirft import UserError
from minirft.rewards.boxes import MODEL, Array
from minirft.samples import Sample, Task

MAX_CHARACTERS = 65_536  # longer than any completion we sample; it bounds the work
MAX_LABEL = 1_000  # characters; the longest of the data sets' labels has under 100
MAX_PREDICTIONS = 1_000  # Hungarian matching is cubic; COCO and LVIS score 100 and 300 boxes
_DETAIL = 80  # characters of the offending text shown
_TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_FORM = re.compile(r"<think>(?P<thought>.*)</think>\s*<answer>.*</answer>", re.DOTALL)
_NO_OBJECTS = re.compile(r"""['"]?no objects?['"]?\.?""", re.IGNORECASE)
_ITEM = re.compile(r"\{[^{}]*\}")
_ITEMS = re.compile(r"(?:\s*\{[^{}]*\}\s*(?:,(?!\Z)|\Z))*")
NUMBER = r"\s*(-?\d{1,9}(?:\.\d{1,9})?)\s*"
CORNERS = re.compile(rf"\({NUMBER},{NUMBER}\)\s*,\s*\({NUMBER},{NUMBER}\)", re.ASCII)
_EDGE_PUNCTUATION = " .,;:!?'\"`*()[]{}"  # not + or #, which end names such as C++


@dataclass(frozen=True)
class ParseFailure:
    """A parse failure explains why a text is no answer: `reason` is one of a few fixed phrases, `detail` the place."""

    reason: str
    detail: str = ""


@dataclass(frozen=True, eq=False)
class Detections:
    """Detections are predicted (or true) boxes in the model frame.

    `boxes` is (N, 4) xyxy, `confidence` (N,) in [0, 1].  `invalid` counts the malformed predictions, which have no
    box.  `inverted`, (at most `invalid`,), holds the confidences of those malformed predictions whose only fault is
    the order of the corners (x1 >= x2 or y1 >= y2).
    """

    boxes: Array
    confidence: Array
    invalid: int = 0
    inverted: Array = field(default_factory=lambda: np.zeros(0), repr=False)
    labels: tuple[str, ...] = ()  # of the boxes; only for questions about several categories

    def __len__(self) -> int:
        """Count the predictions, malformed ones included."""
        return len(self.boxes) + self.invalid


@dataclass(frozen=True, eq=False)
class Answer:
    """An answer holds the `text` of a completion and its parsed `value`, which may be a `ParseFailure`.

    >>> Answer.of("presence", "<answer>yes</answer>").value, Answer.of("presence", "a cat").failure
    (True, 'no answer block')
    """

    text: str
    value: Any

    @classmethod
    def of(cls, task: Task, text: str) -> Answer:
        """Parse a completion to a question of kind `task`."""
        return cls(text, parse(task, text))

    @property
    def failure(self) -> str | None:
        """Return the reason why the text is no answer, or None if it is one."""
        return self.value.reason if isinstance(self.value, ParseFailure) else None


def extract(text: str) -> tuple[str | None, str | None]:
    """Extract the reasoning and the answer of a completion, stripped; a missing part is None.

    The answer is the last <answer> block after the end of the reasoning.

    >>> extract("<think>a cat</think> <answer>cat</answer>")
    ('a cat', 'cat')
    >>> extract("<think>is it <answer>cat</answer>?</think>")
    ('is it <answer>cat</answer>?', None)
    """
    thought = max(text.rfind("</think>"), 0)
    opened, end = text.find("<think>", 0, thought), text.rfind("</answer>", thought)
    think = text[opened + len("<think>") : thought].strip() if opened >= 0 else None
    start = text.rfind("<answer>", thought, end) if end >= 0 else -1
    return think, text[start + len("<answer>") : end].strip() if start >= 0 else None


def is_well_formed(text: str) -> bool:
    """Check that a completion is <think>...</think> then <answer>...</answer>, once each, with only spaces around.

    The reasoning must contain a letter or a digit: an echoed ``<think> ... </think>`` is no reasoning.

    >>> [is_well_formed(f"<think>{thought}</think> <answer>cat</answer>") for thought in ("long ears", "...", "")]
    [True, False, False]
    """
    text = text.strip()
    if len(text) > MAX_CHARACTERS or any(text.count(tag) != 1 for tag in _TAGS):
        return False
    form = _FORM.fullmatch(text)
    return form is not None and any(map(str.isalnum, form["thought"]))


def parse(task: Task, text: str) -> Detections | str | Array | bool | ParseFailure:
    """Parse a completion to a question of kind `task`; a `ParseFailure` replaces an unreadable answer.

    detection        `Detections`, see `parse_detection`
    classification   a label of at most `MAX_LABEL` characters, unchanged; compare labels through `normalise`
    grounding        one box, ``(x1,y1),(x2,y2)``, valid in the model frame: shape (4,)
    presence         yes or no: True for yes

    >>> parse("classification", "<think>long ears</think> <answer> Basset Hound </answer>")
    'Basset Hound'
    >>> parse("grounding", "<answer> (10,20),(30,40) </answer>").tolist()
    [10.0, 20.0, 30.0, 40.0]
    >>> parse("presence", "<answer>Yes.</answer>"), parse("presence", "<answer>yes or no</answer>").reason
    (True, 'not yes or no')
    >>> parse("classification", "<answer></answer>")
    ParseFailure(reason='empty answer', detail='')
    """
    if len(text) > MAX_CHARACTERS:
        return ParseFailure("too long", f"{len(text)} characters, the limit is {MAX_CHARACTERS}")
    answer = extract(text)[1]
    if answer is None:
        return ParseFailure("no answer block", text[-_DETAIL:])
    return _PARSERS[task](answer) if answer else ParseFailure("empty answer")


def parse_detection(text: str) -> Detections | ParseFailure:
    """Parse boxes and confidences: ``[{'Position': [x1, y1, x2, y2], 'Confidence': c}, ...]`` or ``No Objects``.

    Single and double quotes are accepted; keys are case-sensitive; ``[]`` means ``No Objects``.  A prediction is valid
    if it has exactly these two keys, and for a question about several categories ``'Label': name`` too, and its numbers
    are finite JSON numbers, 0 <= x1 < x2 <= 1000, 0 <= y1 < y2 <= 1000, 0 <= c <= 1.

    >>> found = parse_detection("<answer>[{'Position': [10, 20, 30, 40], 'Confidence': 0.9}]</answer>")
    >>> found.boxes.tolist(), found.confidence.tolist(), found.invalid
    ([[10.0, 20.0, 30.0, 40.0]], [0.9], 0)
    >>> parse_detection('<answer>[{"Position": [30, 20, 10, 40], "Confidence": NaN}]</answer>').invalid
    1
    >>> len(parse_detection("<answer>No Objects</answer>"))
    0
    >>> parse_detection("A cat.").reason
    'no answer block'
    """
    return parse("detection", text)


def parse_solution(task: Task, text: str) -> Any:
    """Parse a solution.  It comes from data, not from a model, so an unreadable one raises `UserError`.

    >>> parse_solution("presence", "<answer>no</answer>")
    False
    """
    answer = parse(task, text)
    if isinstance(answer, Detections) and answer.invalid:
        answer = ParseFailure("invalid box", text[:_DETAIL])
    if isinstance(answer, ParseFailure):
        raise UserError(
            f"solution {text[:_DETAIL]!r} is no {task} answer ({answer.reason}); repair or remove the sample"
        )
    return answer


def true_boxes(sample: Sample) -> Array:
    """Return the boxes of the solution in the model's frame, (M, 4); a label or a yes/no has none.

    >>> from pathlib import Path
    >>> true_boxes(Sample("0", Path("0.jpg"), "grounding", "?", "<answer>(1,2),(3,4)</answer>")).tolist()
    [[1.0, 2.0, 3.0, 4.0]]
    """
    truth = parse_solution(sample.task, sample.solution)
    if isinstance(truth, Detections):
        return truth.boxes
    return np.reshape(truth, (-1, 4)) if isinstance(truth, np.ndarray) else np.zeros((0, 4))


def normalise(label: str) -> str:
    """Normalise a label for comparison: case, space, underscore, hyphen and punctuation at the ends do not count.

    The time is quadratic in the longest run of combining marks, so bound the length of a model's label first, as
    `parse` does.

    >>> normalise(" Forget-me_not. "), normalise("2012 BMW  X5")
    ('forget me not', '2012 bmw x5')
    """
    folded = unicodedata.normalize("NFKC", label).casefold()
    return re.sub(r"[\s_-]+", " ", folded).strip(_EDGE_PUNCTUATION)


def _detections(answer: str) -> Detections | ParseFailure:
    items = [] if _NO_OBJECTS.fullmatch(answer) else _items(answer)
    if isinstance(items, ParseFailure):
        return items
    parsed = [found for found in map(_prediction, items) if found]
    numbers = np.array([five for five, _ in parsed], dtype=np.float64).reshape(-1, 5)
    sound = (numbers[:, :2] < numbers[:, 2:4]).all(1)
    valid, names = numbers[sound], [label for _, label in parsed]
    labels = tuple(compress(names, sound)) if any(names) else ()
    return Detections(valid[:, :4], valid[:, 4], len(items) - len(valid), numbers[~sound, 4], labels)


def _label(answer: str) -> str | ParseFailure:
    if len(answer) > MAX_LABEL:
        return ParseFailure("label too long", f"{len(answer)} characters, the limit is {MAX_LABEL}")
    return answer if normalise(answer) else ParseFailure("empty answer", answer[:_DETAIL])


def _box(answer: str) -> Array | ParseFailure:
    corners = CORNERS.fullmatch(answer)
    if corners is None:
        return ParseFailure("not a box", answer[:_DETAIL])
    x1, y1, x2, y2 = box = [float(number) for number in corners.groups()]
    inside = 0 <= x1 < x2 <= MODEL.width and 0 <= y1 < y2 <= MODEL.height
    return np.array(box) if inside else ParseFailure("invalid box", answer[:_DETAIL])


def _yes_or_no(answer: str) -> bool | ParseFailure:
    word = normalise(answer) if len(answer) <= MAX_LABEL else ""
    return word == "yes" if word in ("yes", "no") else ParseFailure("not yes or no", answer[:_DETAIL])


def _items(answer: str) -> list[str] | ParseFailure:
    """Split a list into the texts of its {...}, without parsing them."""
    if not (answer.startswith("[") and answer.endswith("]")):
        return ParseFailure("not a list of predictions", answer[:_DETAIL])
    inside = answer[1:-1].strip()
    end = _ITEMS.match(inside).end()
    if end < len(inside):
        return ParseFailure("not a list of predictions", inside[end : end + _DETAIL])
    items = _ITEM.findall(inside)
    return items if len(items) <= MAX_PREDICTIONS else ParseFailure("too many predictions", f"{len(items)} of them")


def _prediction(item: str) -> tuple[tuple[float, ...], str] | None:
    """Parse one {...} to (x1, y1, x2, y2, confidence), corners in any order, and its label; None if malformed."""
    try:  # ValueError: not JSON, or an integer of over 4,300 digits; RecursionError: brackets nested too deep
        pairs = json.loads(item.replace("'", '"'), object_pairs_hook=list)
    except (ValueError, RecursionError):
        return None
    fields = dict(pairs)
    position, confidence, label = fields.get("Position"), fields.get("Confidence"), fields.get("Label", "")
    if len(pairs) != 2 + ("Label" in fields) or not isinstance(position, list) or len(position) != 4:
        return None
    numbers = all(type(number) in (int, float) for number in (*position, confidence))
    if not numbers or not isinstance(label, str) or len(label) > MAX_LABEL:
        return None
    framed = all(0 <= number <= side for number, side in zip(position, 2 * (MODEL.width, MODEL.height), strict=True))
    return ((*map(float, position), float(confidence)), label) if framed and 0 <= confidence <= 1 else None


_PARSERS: dict[Task, Callable[[str], Detections | str | Array | bool | ParseFailure]] = {
    "detection": _detections,
    "classification": _label,
    "grounding": _box,
    "presence": _yes_or_no,
}

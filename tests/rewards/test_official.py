"""Parity with the released code, as its rewards were tabulated by running them; `pytest -s` prints the tables."""

import math
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minirft.rewards import official
from minirft.rewards.answers import MAX_CHARACTERS, ParseFailure
from minirft.rewards.readings import reading

THINK = "<think>t</think> "
A, B, C = [100, 100, 300, 300], [400, 100, 600, 300], [700, 100, 900, 300]
FAR = [0, 900, 50, 950]
NEAR_A = [102, 100, 300, 300]
# a sure box between two objects takes the one that the other box needs; the best assignment would have two matches
TRAP_LEFT, TRAP_RIGHT, BETWEEN, FAR_LEFT = A, [190, 100, 390, 300], [140, 100, 340, 300], [80, 100, 280, 300]


def boxes(*predictions: tuple[list[float], object]) -> str:
    return "[" + ", ".join(f"{{'Position': {box}, 'Confidence': {c}}}" for box, c in predictions) + "]"


def tagged(answer: str) -> str:
    return f"{THINK}<answer>{answer}</answer>"


def truth(*true: list[int]) -> str:
    return f"<answer>{boxes(*((box, 1) for box in true)) if true else 'No Objects'}</answer>"


@pytest.fixture(scope="module", autouse=True)
def table() -> Iterator[list[tuple]]:
    """Rows (reading, case, tabulated, ours), printed at the end."""
    rows: list[tuple] = []
    yield rows
    print("\n\nparity with the released rewards (math-verify left out)")
    for name, case, expected, got in rows:
        numbers = ("  ".join(f"{value:>10.4g}" for value in values) for values in (expected, got))
        print(f"{name:<10} {case:<52} tabulated {next(numbers):<36} ours {next(numbers)}")


def check(table: list[tuple], name: str, case: str, got: tuple, expected: tuple, **tolerance: float) -> None:
    table.append((name, case, expected, got))
    assert got == pytest.approx(expected, nan_ok=True, **tolerance)


ALL = truth(A, B, C)
THREE = [(A, 1.0), (B, 1.0), (C, 1.0)]
DETECTION = [  # case, completion, solution, (IoU, confidence, format)
    ("3/3 perfect, conf 1", tagged(boxes(*THREE)), ALL, (1, 1, 1)),
    ("1 of 3 found, conf 1", tagged(boxes((A, 1))), ALL, (0.333, 1, 1)),
    ("3/3 and a wrong box at .9", tagged(boxes(*THREE, (FAR, 0.9))), ALL, (0.75, 0.775, 1)),
    ("3/3 and a wrong box at 0", tagged(boxes(*THREE, (FAR, 0))), ALL, (0.75, 1, 1)),
    ("near-duplicate of a hit", tagged(boxes((A, 0.95), (NEAR_A, 0.9))), truth(A), (0.5, 0.525, 1)),
    ("exact duplicate", tagged(boxes((A, 0.95), (A, 0.9))), truth(A), (1, 0.95, 1)),
    ("No Objects, there are objects", tagged("No Objects"), ALL, (0, 0, 1)),
    ("[], there are objects", tagged("[]"), ALL, (0, 0, 1)),
    ("one junk box, conf 0", tagged(boxes((FAR, 0))), ALL, (0, 1, 1)),
    ("No Objects, rightly", tagged("No Objects"), truth(), (0, 0, 1)),
    ("boxes, there is nothing", tagged(boxes((A, 1))), truth(), (0, 0, 1)),
    ("line breaks round the list", tagged(f"\n{boxes(*THREE)}\n"), ALL, (0, 0, 1)),
    ("line break in the list", tagged(boxes(*THREE).replace("}, ", "},\n")), ALL, (0, 0, 1)),
    ("fenced", tagged(f"```json {boxes(*THREE)} ```"), ALL, (0, 0, 1)),
    ("fenced, on lines", tagged(f"```json\n{boxes(*THREE)}\n```"), ALL, (0, 0, 1)),
    ("bare dict", tagged(boxes((A, 1))[1:-1]), truth(A), (0, 0, 1)),
    ("ends in , ...]", tagged(boxes(*THREE)[:-1] + ", ...]"), ALL, (0, 0, 1)),
    ("lower-case keys", tagged(boxes(*THREE).lower()), ALL, (0, 0, 1)),
    ("a Confidence is missing", tagged(boxes(*THREE).replace(", 'Confidence': 1.0", "", 1)), ALL, (0, 0, 1)),
    ("a Confidence is a string", tagged(boxes((A, "'1.0'"), (B, 1))), ALL, (0, 0, 1)),
    ("apostrophe in a label", tagged("[{'Position': [1, 2, 3, 4], 'Confidence': 1, 'L': 'a's'}]"), ALL, (0, 0, 1)),
    ("JSON double quotes", tagged(boxes(*THREE).replace("'", '"')), ALL, (1, 1, 1)),
    ("list without tags, conf .95", boxes((A, 0.95)), truth(A), (1, 0.95, 0)),
    ("Position of five numbers", tagged(boxes(([1, 2, 3, 4, 5], 1))), ALL, (0, 0, 1)),
    ("prose", tagged("There are three cats."), ALL, (0, 0, 1)),
    ("answer cut off", tagged(boxes(*THREE))[:-40], ALL, (0, 0, 0)),
    ("conf NaN", tagged(boxes((A, "NaN"))), truth(A), (1, math.nan, 1)),
    ("conf 100 on a hit, and a miss", tagged(boxes((A, 100), (FAR, 1))), truth(A), (0.5, 1, 1)),
    ("conf -5 on a miss", tagged(boxes((FAR, -5))), truth(A), (0, 1, 1)),
    ("inverted box, conf .7", tagged(boxes(([300, 100, 100, 300], 0.7))), truth(A), (0, 0.3, 1)),
    ("0-1 coordinates, conf .7", tagged(boxes(([0.1, 0.1, 0.3, 0.3], 0.7))), truth(A), (0, 0.3, 1)),
    ("two answer blocks", tagged(boxes((A, 1))) + f" <answer>{boxes((FAR, 1))}</answer>", truth(A), (1, 1, 1)),
    ("empty think", f"<think></think><answer>{boxes((A, 1))}</answer>", truth(A), (1, 1, 1)),
    ("leading space", " " + tagged(boxes((A, 1))), truth(A), (1, 1, 0)),
    ("trailing newline", tagged(boxes((A, 1))) + "\n", truth(A), (1, 1, 0)),
    (
        "greedy trap",
        tagged(boxes((BETWEEN, 0.95), (FAR_LEFT, 0.9))),
        truth(TRAP_LEFT, TRAP_RIGHT),
        (0.333, 0.525, 1),
    ),
    # not in the table: what its text says of the code
    ("by its text: IoU of 1/2 is no match", tagged(boxes(([100, 100, 300, 200], 1))), truth(A), (0, 0, 1)),
    ("by its text: [[ ]] is [ ]", tagged(f"[{boxes((A, 1))}]"), truth(A), (1, 1, 1)),
    ("by its text: cut off without tags is repaired", boxes((A, 1), (B, 1))[:-20], truth(A), (1, 1, 0)),
]


@pytest.mark.parametrize(("case", "completion", "solution", "expected"), DETECTION, ids=[row[0] for row in DETECTION])
def test_detection(table: list, case: str, completion: str, solution: str, expected: tuple) -> None:
    """Catches any departure from what the released detection rewards return (table A3)."""
    got = tuple(reading("detection", "official")(completion, solution).parts.values())
    check(table, "detection", case, got, expected, abs=1e-3)


BMW = "2012 BMW 1 Series Convertible"
CLASSIFICATION = [  # case, answer or completion, true label, accuracy
    ("the label", BMW, BMW, 1),
    ("spaces and case", "2012_bmw 1seriesconvertible", BMW, 1),
    ("empty", "", BMW, 1),
    ("the make only", "BMW", BMW, 1),
    ("every class", f"Audi A4, {BMW}, 737-300", BMW, 1),
    ("another car", "2012 Chevrolet Sonic Sedan", BMW, 0),
    ("Chevrolet Sonic 1 Sedan (math-verify: 1)", "2012 Chevrolet Sonic 1 Sedan", BMW, 0),
    ("hyphens", BMW.replace(" ", "-"), BMW, 0),
    ("7", "7", "737-300", 1),
    ("737", "737", "737-300", 1),
    ("747", "747", "737-300", 0),
    ("wrong on lines, label in the thought", f"<think>no {BMW}</think><answer>\nAudi\n</answer>", BMW, 1),
    ("empty completion", "<think></think>", "think", 1),
]


@pytest.mark.parametrize(
    ("case", "answer", "label", "expected"), CLASSIFICATION, ids=[row[0] for row in CLASSIFICATION]
)
def test_classification(table: list, case: str, answer: str, label: str, expected: float) -> None:
    """Catches any departure from the two-way substring rule (table A4)."""
    completion = answer if "<" in answer else tagged(answer)
    got = reading("classification", "official")(completion, f"<answer>{label}</answer>").parts["accuracy"]
    check(table, "labels", case, (got,), (expected,))


BOX = "<answer> (400,400),(500,500) </answer>"  # a hundredth of the picture
GROUNDING = [  # case, completion, (reward, format)
    ("the same text", THINK + BOX, (2, 1)),
    ("the same box", tagged("the box ( 400 , 400 ) , (500,500)"), (2, 1)),
    ("disjoint box", tagged("(0,0),(100,100)"), (0.08, 1)),
    ("whole picture", tagged("(0,0),(1000,1000)"), (1.01, 1)),
    ("inverted", tagged("(900,900),(100,100)"), (65, 1)),
    ("inverted whole picture", tagged("(1000,1000),(0,0)"), (101, 1)),
    ("inverted, oversize", tagged("(99999,99999),(0,0)"), (999_982, 1)),
    ("x inverted only", tagged("(900,400),(100,500)"), (-7, 1)),
    ("corners of two boxes mis-paired", tagged("(100,100) (600,600), (200,200) (900,900)"), (17, 1)),
    ("floats", tagged("(400.0,400.0),(500.0,500.0)"), (0, 1)),
    ("JSON list", tagged("[400, 400, 500, 500]"), (0, 1)),
    ("in the reasoning, no answer tags", "<think>(400,400),(500,500)</think>", (2, 0)),
    ("no box", tagged("no box"), (0, 1)),
]


@pytest.mark.parametrize(("case", "completion", "expected"), GROUNDING, ids=[row[0] for row in GROUNDING])
def test_grounding(table: list, case: str, completion: str, expected: tuple) -> None:
    """Catches any departure from the unchecked GIoU + 1 (table A5), which leaves [0, 2]."""
    got = tuple(reading("grounding", "official")(completion, BOX).parts.values())
    check(table, "grounding", case, got, expected, rel=1e-4)


def test_failures_have_reasons() -> None:
    """Catches a failure that is counted as a reading."""
    score = reading("detection", "official")
    assert score(tagged("prose"), ALL).failure == "unreadable"
    assert score(tagged("[]"), ALL).failure == "no boxes"
    assert score(tagged(boxes(*THREE)), ALL).failure is None
    assert reading("grounding", "official")("", BOX).failure == "no pair of points"
    assert reading("classification", "official")("", "<answer>a</answer>").failure is None


PIECES = [
    "<think>",
    "</think>",
    "<answer>",
    "</answer>",
    boxes((A, 1)),
    "[",
    "]",
    "{",
    "}",
    "'",
    ",",
    "\n",
    "NaN",
    "1e999",
]
PIECES += [
    "{'Position': ",
    "'Confidence': ",
    "[1, 2, 3, 4]",
    "Infinity",
    "-",
    "9" * 400,
    "9" * 5000,
    "(1,2),(3,4)",
    "null",
]


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(max_size=100), st.lists(st.sampled_from(PIECES), max_size=30).map("".join)))
def test_any_text(text: str) -> None:
    """Catches an exception, and values out of range where the released code has a range."""
    for completion in (text, tagged(text)):
        for solution in (ALL, BOX, text):
            overlap = official.detection_iou(completion, solution)
            confidence = official.detection_confidence(completion, solution)
            assert 0 <= overlap <= 1 and (math.isnan(confidence) or 0 <= confidence <= 1)
            assert official.accuracy(completion, solution) in (0, 1) and official.tags(completion) in (0, 1)
            assert isinstance(official.grounding(completion, solution), float)


@pytest.mark.parametrize(
    "text", ["<answer>" * 8_000, "[" * 60_000, "</think><answer>" * 4_000, "x" * (MAX_CHARACTERS + 1)]
)
def test_hostile_texts(text: str) -> None:
    """Catches a crash on deep nesting and on length, where every reading earns 0."""
    assert isinstance(official.parse("detection", text), ParseFailure)
    assert official.detection_iou(text, ALL) == official.detection_confidence(text, ALL) == official.tags(text) == 0
    assert official.grounding(text, BOX) == official.accuracy(text, f"<answer>{BMW}</answer>") == 0

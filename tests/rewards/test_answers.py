import math
import random
import time
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minirft import UserError
from minirft.rewards.answers import (
    MAX_CHARACTERS,
    MAX_LABEL,
    MAX_PREDICTIONS,
    Detections,
    ParseFailure,
    extract,
    is_well_formed,
    normalise,
    parse,
    parse_detection,
    parse_solution,
)
from minirft.rewards.readings import reading

TASKS = ("detection", "classification", "grounding", "presence")
ITEM = "{'Position': [10, 20, 30, 40], 'Confidence': 0.9}"
GOOD = {
    "detection": f"<think>two cats</think>\n<answer>[{ITEM}, {ITEM}]</answer>",
    "classification": "<think>long ears</think> <answer>Basset Hound</answer>",
    "grounding": "<think>the left one</think> <answer>(10,20),(30,40)</answer>",
    "presence": "<think>a tail</think> <answer>yes</answer>",
}


def tagged(answer: str) -> str:
    return f"<answer>{answer}</answer>"


def one(position: str = "[10, 20, 30, 40]", confidence: str = "0.9") -> str:
    return tagged(f"[{{'Position': {position}, 'Confidence': {confidence}}}]")


# ------------------------------------------------------------------ the tags


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("<think>a</think><answer>b</answer>", ("a", "b")),
        ("<answer>\nb\n</answer>", (None, "b")),
        ("<answer>a</answer> <answer>b</answer>", (None, "b")),
        ("<think>is it <answer>a</answer>?</think> <answer>b</answer>", ("is it <answer>a</answer>?", "b")),
        ("<think><answer>a</answer></think>", ("<answer>a</answer>", None)),
        ("<answer>a", (None, None)),
        ("a</answer>", (None, None)),
        ("</answer><answer>", (None, None)),
        ("</think><answer>a</answer>", (None, "a")),
        ("", (None, None)),
    ],
)
def test_extract(text: str, parts: tuple[str | None, str | None]) -> None:
    """Catches an answer that must fit one line, the first of two blocks, and an answer read out of the reasoning."""
    assert extract(text) == parts


@pytest.mark.parametrize("text", [*GOOD.values(), "\n <think>a</think>\n\n<answer></answer> \n"])
def test_well_formed(text: str) -> None:
    """Catches a format rule that space at the ends or between the blocks would break."""
    assert is_well_formed(text)


@pytest.mark.parametrize(
    "text",
    [
        "<answer>cat</answer>",
        "<think>a</think>",
        "<answer>b</answer><think>a</think>",
        "<think></think><answer>b</answer>",
        "<think> ... </think><answer>b</answer>",
        "<think>a</think> so <answer>b</answer>",
        "Hm. <think>a</think><answer>b</answer>",
        "<think>a</think><answer>b</answer>.",
        "<think>a</think><answer>b</answer><answer>c</answer>",
        "<think>a</think><think>a</think><answer>b</answer>",
        "<think>a<think>b</think><answer>c</answer>",
        "<think>a<answer></think>b</answer>",
        "<THINK>a</THINK><ANSWER>b</ANSWER>",
        "<think>a</think><answer>b",
        "",
    ],
)
def test_malformed(text: str) -> None:
    """Catches a format rule that pays for repeated, missing, swapped or crossed tags, or for thinking nothing."""
    assert not is_well_formed(text)


# ------------------------------------------------------------------ detection


@pytest.mark.parametrize(
    "text",
    [
        one(),
        one().replace("'", '"'),
        tagged('[{"Confidence": 0.9, "Position": [10, 20, 30, 40]}]'),
        tagged("\n[\n  {'Position':[10.0,20,30,4e1],\n'Confidence':9e-1}\n]\n"),
    ],
)
def test_detection_reads(text: str) -> None:
    """Catches quotes, line breaks, order of keys or a decimal point spoiling a good answer; and swapped coordinates."""
    found = parse_detection(text)
    assert isinstance(found, Detections)
    assert (found.boxes.tolist(), found.confidence.tolist(), found.invalid) == ([[10, 20, 30, 40]], [0.9], 0)


@pytest.mark.parametrize("text", ["No Objects", "no objects.", "'No Objects'", "No Object", "[]", "[ ]"])
def test_detection_of_nothing(text: str) -> None:
    """Catches an abstention taken for a failure."""
    found = parse_detection(tagged(text))
    assert isinstance(found, Detections) and len(found) == 0 and found.boxes.shape == (0, 4)


BAD_POSITIONS = [
    "[30, 20, 10, 40]",  # x inverted
    "[10, 40, 30, 20]",  # y inverted
    "[10, 20, 10, 40]",  # no width
    "[-1, 20, 30, 40]",
    "[10, 20, 30, 1001]",
    "[10, 20, 30]",
    "[10, 20, 30, 40, 50]",
    "[10, 20, 30, NaN]",
    "[10, 20, 30, Infinity]",
    "[10, 20, 30, 1e999]",
    "[10, 20, 30, '40']",
    "[true, 20, 30, 40]",
    "[10, 20, 30, null]",
    "[10, 20, 30, [40]]",
    "[x1, y1, x2, y2]",
    "'10, 20, 30, 40'",
    "10",
    "[0, 0, 9" + "9" * 5000 + ", 9]",
    "[0, 0, 9" + "9" * 400 + ", 9]",
    "[" * 3000 + "]" * 3000,
]
BAD_CONFIDENCES = ["-0.01", "1.01", "100", "-5", "NaN", "-Infinity", "'0.9'", "true", "null", "", "number", "[0.9]"]


@pytest.mark.parametrize(
    "text", [one(position=p) for p in BAD_POSITIONS] + [one(confidence=c) for c in BAD_CONFIDENCES]
)
def test_bad_numbers_are_counted(text: str) -> None:
    """Catches a malformed prediction that is let in, or that is dropped without being counted."""
    found = parse_detection(text)
    assert isinstance(found, Detections)
    assert (len(found.boxes), found.invalid, len(found)) == (0, 1, 1)


@pytest.mark.parametrize(
    "item",
    [
        "{}",
        "{'Position': [10, 20, 30, 40]}",
        "{'Confidence': 0.9}",
        "{'position': [10, 20, 30, 40], 'confidence': 0.9}",
        "{'Position': [10, 20, 30, 40], 'Confidence': 0.9, 'Class': 'cat'}",
        "{'Position': [10, 20, 30, 40], 'Confidence': 0.1, 'Confidence': 0.9}",
        "{'Position': [10, 20, 30, 40], 'Confidence': 0.9,}",
        "{'Position': [10, 20, 30, 40], 'Label': 'dog's', 'Confidence': 0.9}",
    ],
)
def test_bad_keys_spoil_one_prediction_only(item: str) -> None:
    """Catches one bad prediction taking the good ones with it; keys are exact and come once."""
    found = parse_detection(tagged(f"[{ITEM}, {item}, {ITEM}]"))
    assert isinstance(found, Detections) and (len(found.boxes), found.invalid) == (2, 1)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (ITEM, "not a list of predictions"),
        (f"[{ITEM},]", "not a list of predictions"),
        (f"[{ITEM}, ...]", "not a list of predictions"),
        (f"[{ITEM} {ITEM}]", "not a list of predictions"),
        (f"[,{ITEM}]", "not a list of predictions"),
        (f"[[{ITEM}]]", "not a list of predictions"),
        (f"[{ITEM}, {ITEM[:20]}", "not a list of predictions"),
        (f"```json\n[{ITEM}]\n```", "not a list of predictions"),
        ("[10, 20, 30, 40]", "not a list of predictions"),
        ("[{'a': {'b': 1}}]", "not a list of predictions"),
        ("There are no objects", "not a list of predictions"),
        ("[", "not a list of predictions"),
        ("", "empty answer"),
        (f"[{', '.join([ITEM] * (MAX_PREDICTIONS + 1))}]", "too many predictions"),
        ("[" + "[" * MAX_CHARACTERS, "too long"),
    ],
)
def test_detection_failures(text: str, reason: str) -> None:
    """Catches a list that is guessed at or repaired; each failure names its reason."""
    failure = parse_detection(tagged(text))
    assert isinstance(failure, ParseFailure) and failure.reason == reason and len(failure.detail) <= 100


def test_most_predictions() -> None:
    """Catches a limit that is off by one, and duplicates that are merged."""
    found = parse_detection(tagged(f"[{','.join([ITEM] * MAX_PREDICTIONS)}]"))
    assert isinstance(found, Detections) and len(found.boxes) == MAX_PREDICTIONS


# ------------------------------------------------------------------ labels, one box, yes and no


def test_labels() -> None:
    """Catches an empty answer let through, and labels that differ being made equal."""
    assert parse("classification", tagged(" Basset\nHound ")) == "Basset\nHound"
    for nothing in ("", "  ", "-", "_", "...", "''"):
        assert isinstance(parse("classification", tagged(nothing)), ParseFailure)
    same = ("Forget-me-not", "forget me not", "FORGET_ME_NOT.", " 'forget  me\nnot' ", "ｆorget-me-not")
    assert {normalise(label) for label in same} == {"forget me not"}
    different = (
        "737-200",
        "737-300",
        "737",
        "7372 00",
        "C",
        "C++",
        "C#",
        "F/A-18",
        "FA-18",
        "St. Bernard",
        "St Bernard",
    )
    assert len({normalise(label) for label in different}) == len(different)


@pytest.mark.parametrize("text", ["(10,20),(30,40)", " ( 10 , 20 ) , ( 30 , 40 ) ", "(10.0,20.0),(30.0,40.0)"])
def test_grounding_reads(text: str) -> None:
    """Catches space or decimals spoiling a good answer."""
    box = parse("grounding", tagged(text))
    assert isinstance(box, np.ndarray) and box.tolist() == [10, 20, 30, 40]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("(900,900),(100,100)", "invalid box"),
        ("(900,100),(100,900)", "invalid box"),
        ("(0,0),(0,9)", "invalid box"),
        ("(-1,0),(9,9)", "invalid box"),
        ("(0,0),(1001,9)", "invalid box"),
        ("(0,0),(99999,99999)", "invalid box"),
        (f"({'9' * 5000},0),(0,9)", "not a box"),
        ("(nan,0),(9,9)", "not a box"),
        ("(1e2,0),(9,9)", "not a box"),
        ("(٣,0),(9,9)", "not a box"),
        ("[0, 0, 9, 9]", "not a box"),
        ("(0,0),(9,9),(0,0),(9,9)", "not a box"),
        ("(0,0) (9,9)", "not a box"),
        ("the box is (0,0),(9,9)", "not a box"),
        ("", "empty answer"),
    ],
)
def test_grounding_failures(text: str, reason: str) -> None:
    """Catches an inverted, oversize or second box let through."""
    failure = parse("grounding", tagged(text))
    assert isinstance(failure, ParseFailure) and failure.reason == reason


def test_presence() -> None:
    """Catches yes and no swapped, and an answer that is both."""
    assert parse("presence", tagged("Yes")) is True and parse("presence", tagged(" no. ")) is False
    for neither in ("yes or no", "yes, no", "maybe", "y", "true", "-"):
        assert parse("presence", tagged(neither)) == ParseFailure("not yes or no", neither)


@pytest.mark.parametrize("task", TASKS)
def test_solutions_are_held_to_account(task: str) -> None:
    """Catches a broken solution in the data scored as if it were an empty one."""
    assert not isinstance(parse_solution(task, GOOD[task]), ParseFailure)
    with pytest.raises(UserError, match=f"is no {task} answer .no answer block.; repair or remove"):
        parse_solution(task, "nothing here")


def test_solution_with_a_bad_box() -> None:
    """Catches a true box that is silently dropped, which would make an absent object of it."""
    with pytest.raises(UserError, match="invalid box"):
        parse_solution("detection", one(position="[30, 20, 10, 40]"))


# ------------------------------------------------------------------ any text at all


def check_total(text: str) -> None:
    extract(text), is_well_formed(text)
    for task in TASKS:
        answer = parse(task, text)
        assert isinstance(answer, ParseFailure | Detections | str | np.ndarray | bool)
        if isinstance(answer, Detections):
            x1, y1, x2, y2 = answer.boxes.T
            assert ((x1 >= 0) & (x1 < x2) & (x2 <= 1000) & (y1 >= 0) & (y1 < y2) & (y2 <= 1000)).all()
            assert ((answer.confidence >= 0) & (answer.confidence <= 1)).all()
            assert len(answer.boxes) == len(answer.confidence) and answer.invalid >= 0
        elif isinstance(answer, ParseFailure):
            assert answer.reason and len(answer.detail) <= 100
        elif isinstance(answer, np.ndarray):
            assert answer.shape == (4,) and all(map(math.isfinite, answer))


PIECES = ["<think>", "</think>", "<answer>", "</answer>", "[", "]", "{", "}", "(", ")", ",", "'", '"', ":", " ", "\n"]
PIECES += [
    "'Position'",
    "'Confidence'",
    ITEM,
    "No Objects",
    "NaN",
    "Infinity",
    "-",
    "1e999",
    "9" * 400,
    "0",
    "1000",
    "yes",
]
PIECES += ["\\", "\\u", "\x00", "\ud800", "٣", "null", "true", "...", "cat"]


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(max_size=200), st.lists(st.sampled_from(PIECES), max_size=40).map("".join)))
def test_any_text(text: str) -> None:
    """Catches an exception or a NaN on any text, with the pieces of real answers among it."""
    check_total(text)
    check_total(tagged(text))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_near_misses(data: st.DataObject) -> None:
    """Catches what only nearly right answers reach: a good one with pieces cut out, repeated or put in."""
    text = GOOD[data.draw(st.sampled_from(TASKS))]
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(len(text), start + 12)))
        new = data.draw(st.sampled_from([*PIECES, "", text[start:end] * 2]))
        text = text[:start] + new + text[end:]
    check_total(text)


HOSTILE = {
    "open tags": "<answer>" * 9_000,
    "closed tags": "</answer>" * 8_000,
    "thoughts": "<think></think>" * 4_000,
    "spaces": tagged("(" + " " * 60_000 + ")"),
    "digits": tagged("(" + "1" * 60_000),
    "commas": tagged("[" + "," * 60_000 + "]"),
    "open braces": tagged("[" + "{" * 60_000 + "]"),
    "brackets": tagged("[{'Position': " + "[" * 30_000 + "]" * 30_000 + "}]"),
    "corners": tagged("(1,1),(" * 9_000),
    "boxes": tagged(f"[{','.join([ITEM] * MAX_PREDICTIONS)}]"),
    "long": "x" * 10_000_000,
    "combining marks": tagged("a" + "".join(random.Random(0).choices("\u0301\u0323\u0327\u0345", k=60_000))),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_bounded_work(name: str) -> None:
    """Catches searching that is quadratic in the text, and patterns that backtrack."""
    start = time.process_time()
    check_total(HOSTILE[name])
    assert time.process_time() - start < 1.0


@pytest.mark.parametrize("length", [MAX_LABEL, MAX_LABEL + 1, 60_000])
def test_normalised_characters_are_bounded(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches Unicode normalisation, quadratic in a run of combining marks, of a label of any length."""
    lengths, normalize = [], unicodedata.normalize

    def counted(form: str, text: str) -> str:
        lengths.append(len(text))
        return normalize(form, text)

    monkeypatch.setattr("minirft.rewards.answers.unicodedata.normalize", counted)
    label = "a" + "\u0301\u0323" * (length // 2) + "b" * (length % 2)
    label = label[:length]
    for task in ("classification", "presence"):
        reading(task)(tagged(label), "<answer>yes</answer>")
    assert max(lengths) <= MAX_LABEL and len(lengths) <= 10
    assert (parse("classification", tagged(label)) == label) == (length <= MAX_LABEL)


def test_reading_a_list_takes_time_linear_in_its_length() -> None:
    """Catches work on pairs of predictions: x16 for four times as many.  Matching is cubic, the cap bounds it.

    Seconds of the processor, not of the clock: neighbours made the clock say x17 on a machine of load 15.
    """

    def seconds(count: int) -> float:
        text, times = tagged(f"[{', '.join([ITEM] * count)}]"), []
        for _ in range(9):
            start = time.process_time()
            parse_detection(text)
            times.append(time.process_time() - start)
        return min(times)

    assert seconds(MAX_PREDICTIONS) < 8 * seconds(MAX_PREDICTIONS // 4)  # halfway, in ratios, from x4 to x16

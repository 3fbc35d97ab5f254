import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minirft import UserError
from minirft.commands.scoring import scored
from minirft.rewards import answers, detection
from minirft.rewards.answers import Detections
from minirft.rewards.detection import (
    CONFIDENCE_RULES,
    STRICT,
    brier_score,
    detection_scores,
    iou,
    iou_score,
    linear_score,
    matched_iou,
    shifted_score,
)
from minirft.rewards.prompts import detection_solution, grounding_solution
from minirft.rewards.readings import Reward, Score, reading

THOUGHT = "<think>I looked.</think> "
NOTHING = "<answer>No Objects</answer>"
A, B, C = [100, 100, 300, 300], [400, 100, 600, 300], [700, 100, 900, 300]
FAR = [0, 900, 50, 950]
HALF = [100, 100, 300, 200]  # IoU 1/2 with A


def answer(*predictions: tuple[list[int], object]) -> str:
    items = ", ".join(f"{{'Position': {box}, 'Confidence': {confidence}}}" for box, confidence in predictions)
    return f"{THOUGHT}<answer>[{items}]</answer>"


def parts(variant: str, completion: str, solution: str, **options: object) -> tuple[float, ...]:
    return tuple(reading("detection", variant, **options)(completion, solution).parts.values())


# ------------------------------------------------------------------ strict detection

MALFORMED = ([1, 2, 3], 1)
STRICT_CASES = {
    # answer, truth -> R_IoU, R_conf, R_format
    "perfect": (answer((A, 1), (B, 1), (C, 1)), [A, B, C], (1, 1, 1)),
    "in another order": (answer((C, 1), (A, 1), (B, 1)), [A, B, C], (1, 1, 1)),
    "perfect but unsure": (answer((A, 0.5)), [A], (1, 0.5 + 0.5 * 0.75, 1)),
    "one of three": (answer((A, 1)), [A, B, C], (1 / 3, 0.5 + 0.5 / 3, 1)),
    "three and a false one": (answer((A, 1), (B, 1), (C, 1), (FAR, 1)), [A, B, C], (0.75, 0.5 + 0.5 * 2 / 4, 1)),
    "a duplicate": (answer((A, 1), (A, 1)), [A], (0.5, 0.5, 1)),
    "a duplicate, the sure one last": (answer((A, 0.5), (A, 1)), [A], (0.5, 0.5 + 0.5 * (1 - 0.25) / 2, 1)),
    "a duplicate, the sure one first": (answer((A, 1), (A, 0.5)), [A], (0.5, 0.5 + 0.5 * (1 - 0.25) / 2, 1)),
    "half overlap is a hit": (answer((HALF, 1)), [A], (0.5, 1, 1)),
    "right abstention": (THOUGHT + NOTHING, [], (1, 1, 1)),
    "right abstention, as a list": (THOUGHT + "<answer>[]</answer>", [], (1, 1, 1)),
    "wrong abstention": (THOUGHT + NOTHING, [A], (0, 0.5, 1)),
    "junk at confidence 0": (answer((FAR, 0)), [A], (0, 0.5, 1)),
    "junk at confidence 1": (answer((FAR, 1)), [A], (0, 0, 1)),
    "a box where there is nothing": (answer((A, 1)), [], (0, 0, 1)),
    "an unsure box where there is nothing": (answer((A, 0)), [], (0, 0.5, 1)),
    "malformed beside a hit": (answer((A, 1), MALFORMED), [A], (0.5, 0.5, 0)),
    "malformed alone": (answer(MALFORMED), [A], (0, 0, 0)),
    "malformed where there is nothing": (answer(MALFORMED), [], (0, 0, 0)),
    "confidence NaN": (answer((A, "NaN")), [A], (0, 0, 0)),
    "confidence 100": (answer((A, 100)), [A], (0, 0, 0)),
    "unreadable": (THOUGHT + "<answer>a cat</answer>", [A], (0, 0, 0)),
    "unreadable where there is nothing": (THOUGHT + "<answer>nothing</answer>", [], (0, 0, 0)),
    "no reasoning": (answer((A, 1)).removeprefix(THOUGHT), [A], (1, 1, 0)),
    "two answers, the last is read": (answer((FAR, 1)) + answer((A, 1)).removeprefix(THOUGHT), [A], (1, 1, 0)),
}


@pytest.mark.parametrize("name", STRICT_CASES)
def test_strict_detection(name: str) -> None:
    """Catches any change of what an answer earns; the expected values are worked out by hand."""
    completion, truth, expected = STRICT_CASES[name]
    assert parts("strict", completion, detection_solution(truth)) == pytest.approx(expected)


def test_greedy_trap_is_no_trap_for_hungarian() -> None:
    """Catches `matching` that is ignored: the sure box lies between two objects and takes the wrong one."""
    between, left, right, far_left = [140, 100, 340, 300], A, [190, 100, 390, 300], [80, 100, 280, 300]
    completion, solution = answer((between, 0.95), (far_left, 0.9)), detection_solution([left, right])
    overlap = iou([between, far_left], [left, right])
    best = (overlap[0, 1] + overlap[1, 0]) / 2
    assert parts("strict", completion, solution)[0] == pytest.approx(best)
    greedy = parts("strict", completion, solution, matching="greedy")[0]
    assert greedy == pytest.approx((overlap[0, 0] + overlap[1, 1]) / 2) and greedy < best


def test_honest_answers_earn_most() -> None:
    """Catches a reward under which some subset of boxes, confidence or extra box beats the perfect answer."""
    truth = detection_solution([A, B])
    best = reading("detection")(answer((A, 1), (B, 1)), truth).total
    assert best == 3
    options = [(box, c) for box in (A, B, FAR, HALF) for c in (0, 0.5, 1)]
    for count in (0, 1, 2, 3):
        for chosen in itertools.combinations_with_replacement(options, count):
            total = reading("detection")(answer(*chosen), truth).total
            assert total < best or sorted(chosen) == [(A, 1), (B, 1)]


def test_junk_never_pays() -> None:
    """Catches junk at low confidence earning more than silence, or than leaving it out."""
    solution = detection_solution([A])
    silence, hit = (sum(parts("strict", text, solution)) for text in (THOUGHT + NOTHING, answer((A, 1))))
    for confidence in (0, 0.1, 0.5, 1):
        for count in (1, 3, 50):
            junk = [(FAR, confidence)] * count
            assert sum(parts("strict", answer(*junk), solution)) <= silence
            assert sum(parts("strict", answer((A, 1), *junk), solution)) < hit


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_strict_and_paper_stay_in_range(data: st.DataObject) -> None:
    """Catches a part that leaves [0, 1], a NaN, and a reward that depends on the order of the list (strict)."""
    side = st.integers(-1, 12).map(lambda n: n * 100)
    box = st.tuples(side, side, side, side).map(list)
    confidence = st.sampled_from([0, 0.3, 0.5, 1, -1, 2, "NaN", "'1'"])
    predictions = data.draw(st.lists(st.tuples(box, confidence), max_size=5))
    truth = detection_solution(data.draw(st.lists(st.sampled_from([A, B, C]), max_size=3, unique_by=tuple)))
    for variant in ("strict", "paper"):
        values = parts(variant, answer(*predictions), truth)
        assert all(0 <= value <= 1 for value in values)
    shuffled = data.draw(st.permutations(predictions))
    assert parts("strict", answer(*shuffled), truth) == pytest.approx(parts("strict", answer(*predictions), truth))


# ------------------------------------------------------------------ confidence rules


def test_shifted_and_brier_are_proper_and_linear_is_not() -> None:
    """Catches a confidence reward whose best confidence is not the probability of a hit."""
    grid = np.linspace(0, 1, 101)

    def best(rule: str, p: float) -> float:
        def expected(c: float) -> float:
            hit, miss = (CONFIDENCE_RULES[rule](np.array([c]), np.array([y]), truths=1) for y in (1.0, 0.0))
            return p * hit + (1 - p) * miss

        return grid[int(np.argmax([expected(c) for c in grid]))]

    for p in (0.0, 0.1, 0.35, 0.5, 0.8, 1.0):
        assert best("shifted", p) == best("brier", p) == pytest.approx(p)
    assert best("linear", 0.4) == 0 and best("linear", 0.6) == 1


def test_shifted_is_a_shifted_brier_score() -> None:
    """Catches a sign or a constant: 2cy - c² differs from 1 - (c - y)² by 1 - y, which the confidence cannot move."""
    c, y = np.array([0.2, 0.9, 0.6]), np.array([1.0, 0.0, 1.0])
    assert shifted_score(c, y) == pytest.approx(0.5 + 0.5 * (brier_score(c, y) - (1 - y).mean()))


def test_missed_objects_and_malformed_predictions_are_slots() -> None:
    """Catches a miss, or a malformed prediction, that the confidence reward does not notice."""
    sure, hit = np.array([1.0]), np.array([1.0])
    assert shifted_score(sure, hit, truths=4) == 0.5 + 0.5 / 4
    assert shifted_score(sure, hit, invalid=3, truths=1) == 0.5 + 0.5 * (1 - 3) / 4
    assert brier_score(sure, hit, invalid=3, truths=1) == linear_score(sure, hit, invalid=3, truths=1) == 0.25


def test_rules_without_a_prediction() -> None:
    """Catches a division by zero, and a plain mean that pays silence where there was something to say."""
    none = np.zeros(0)
    assert shifted_score(none, none, truths=2) == 0.5
    assert brier_score(none, none, truths=2) == linear_score(none, none, truths=2) == 0
    assert shifted_score(none, none) == brier_score(none, none) == 1 and linear_score(none, none) == 0


def test_rule_option() -> None:
    """Catches `rule` that is ignored: junk at confidence 0 is what tells the rules apart."""
    got = {rule: parts("strict", answer((FAR, 0)), detection_solution([A]), rule=rule)[1] for rule in CONFIDENCE_RULES}
    assert got == {"shifted": 0.5, "brier": 1.0, "linear": 1.0}


# ------------------------------------------------------------------ paper


def equations_6_to_8(predictions: list, truth: list, tau: float) -> tuple[float, float]:
    """The paper's two equations, written out with loops."""
    free, ious = list(range(len(truth))), [0.0] * len(predictions)
    for i in sorted(range(len(predictions)), key=lambda i: -predictions[i][1]):
        scores = {j: iou([predictions[i][0]], [truth[j]])[0, 0] for j in free}
        j = max(scores, key=scores.get, default=None)
        if j is not None and scores[j] >= tau:
            ious[i] = scores[j]
            free.remove(j)
    confidences = [c if value != 0 else 1 - c for (_, c), value in zip(predictions, ious, strict=True)]
    count = len(predictions)
    return sum(ious) / count, sum(confidences) / count


def test_paper_is_equations_6_to_8() -> None:
    """Catches another denominator, matching, threshold or sign than the paper's."""
    rng = np.random.default_rng(0)
    for _ in range(40):
        truth = [[x, y, x + 200, y + 200] for x, y in rng.integers(0, 500, (rng.integers(0, 4), 2)).tolist()]
        near = [[x + int(d) for x in box] for box, d in zip(truth, rng.integers(0, 120, 9), strict=False)]
        places = [*near, FAR, HALF][: rng.integers(1, 6)]
        predictions = [(box, round(float(c), 2)) for box, c in zip(places, rng.random(9), strict=False)]
        for tau in (0.3, 0.5, 0.75):
            got = parts("paper", answer(*predictions), detection_solution(truth), threshold=tau)
            assert got == pytest.approx((*equations_6_to_8(predictions, truth, tau), 1))


def test_paper_pays_an_inverted_box_one_minus_its_confidence() -> None:
    """Catches equation 7 not applied to a box of IoU 0 because its corners are in the wrong order."""
    inverted = [300, 100, 100, 300]
    solution = detection_solution([A])
    assert parts("paper", answer((inverted, 0.25)), solution) == (0, 0.75, 1)
    assert parts("paper", answer((A, 1), (inverted, 0.25), ([1, 2, 3], 0)), solution) == pytest.approx(
        (1 / 3, 1.75 / 3, 1)
    )
    assert parts("strict", answer((inverted, 0.25)), solution) == (0, 0, 0)
    assert parts("strict", answer((inverted, 0.25)), solution, inverted="miss")[2] == 0


def test_one_reading_and_one_matching_a_score(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches parts that each parse the completion and match its boxes again."""
    parsed, matched = [], []
    parse, match = answers.parse, detection.match_hungarian
    monkeypatch.setattr(answers, "parse", lambda *a: parsed.append(a[-1]) or parse(*a))
    monkeypatch.setattr(detection, "match_hungarian", lambda *a: matched.append(a) or match(*a))
    reward, texts = reading("detection"), (answer((A, 1)), detection_solution([A]))
    assert reward(*texts).total == 3
    assert parsed == list(texts) and len(matched) == 1
    assert reward(answer((B, 1)), texts[1]).total < 3  # another completion is not taken for the last one


def test_paper_leaves_misses_free_and_abstention_unpaid() -> None:
    """Catches our corrections leaking into the paper's reading."""
    assert parts("paper", answer((A, 1)), detection_solution([A, B, C])) == (1, 1, 1)
    assert parts("paper", answer((FAR, 0)), detection_solution([A])) == (0, 1, 1)
    assert parts("paper", THOUGHT + NOTHING, detection_solution([A])) == (0, 0, 1)
    assert parts("paper", THOUGHT + NOTHING, NOTHING) == (0, 0, 1)
    assert parts("paper", answer((A, 1), MALFORMED), detection_solution([A])) == (0.5, 0.5, 1)


def test_threshold_is_inclusive() -> None:
    """Catches a strict comparison: equation 6 drops an IoU below τ."""
    assert parts("paper", answer((HALF, 1)), detection_solution([A])) == (0.5, 1, 1)
    assert parts("paper", answer(([100, 100, 300, 199], 1)), detection_solution([A])) == (0, 0, 1)
    assert parts("paper", answer((HALF, 1)), detection_solution([A]), threshold=0.51) == (0, 0, 1)


# ------------------------------------------------------------------ labels, one box, yes and no


@pytest.mark.parametrize(
    ("completion", "strict", "paper"),
    [
        ("Basset Hound", 1, 1),
        ("basset_hound.", 1, 0),
        ("Basset", 0, 0),
        ("Basset Hound or Beagle", 0, 0),
        ("", 0, 0),
        ("-", 0, 0),
    ],
)
def test_labels(completion: str, strict: float, paper: float) -> None:
    """Catches a substring that passes for the label, and a label refused for its case."""
    for variant, expected in (("strict", strict), ("paper", paper)):
        score = reading("classification", variant)(f"<answer>{completion}</answer>", "<answer>Basset Hound</answer>")
        assert score.parts == {"accuracy": expected, "format": 0}


def test_grounding() -> None:
    """Catches GIoU for IoU."""
    solution, near, far = (f"{THOUGHT}{grounding_solution(box)}" for box in (A, HALF, FAR))
    for variant in ("strict", "paper"):
        reward = reading("grounding", variant)
        assert [reward(text, solution).parts["iou"] for text in (solution, near, far, THOUGHT)] == [1, 0.5, 0, 0]


def test_presence() -> None:
    """Catches a yes for a no."""
    reward = reading("presence")
    assert reward(f"{THOUGHT}<answer>Yes.</answer>", "<answer>yes</answer>").total == 2
    assert reward(f"{THOUGHT}<answer>no</answer>", "<answer>yes</answer>").total == 1
    assert reward(f"{THOUGHT}<answer>yes or no</answer>", "<answer>yes</answer>").total == 0


# ------------------------------------------------------------------ weights, options, schedules, rows


def test_weights() -> None:
    """Catches weights that change the kept parts, miss the total, or must be given in full."""
    score = reading("detection", weights={"iou": 2, "format": 0})(answer((HALF, 1)), detection_solution([A]))
    assert score.parts == {"iou": 0.5, "confidence": 1, "format": 1} and score.total == 2 * 0.5 + 1
    with pytest.raises(
        UserError, match="no reward called accuracy in detection; its parts are iou, confidence, format"
    ):
        reading("detection", weights={"accuracy": 1})
    with pytest.raises(ValueError, match="one finite weight for each"):
        Reward({"a": lambda c, s: 0.0}, {"a": math.nan})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: reading("detection", "lenient"), "no reading called 'lenient'; use strict, paper or official"),
        (lambda: reading("segmentation"), "no task called 'segmentation'; use detection, classification"),
        (lambda: reading("detection", tau=0.5), "tau is no option of the strict detection reward, which takes abst"),
        (lambda: reading("detection", threshold=1.5), r"threshold is 1.5; it lies in \[0, 1\]"),
        (lambda: reading("detection", matching="best"), "matching is 'best'; use one of hungarian, greedy"),
        (
            lambda: reading("detection", "official", threshold=0.3),
            "the official detection reward, which takes no options",
        ),
        (lambda: reading("grounding", measure="l1"), "the strict grounding reward, which takes no options"),
        (lambda: reading("presence", "official"), "the released code has no presence reward; use strict or paper"),
        (lambda: reading("detection")("", "<answer>cat</answer>"), "is no detection answer .not a list of predictions"),
    ],
)
def test_mistakes_are_named(call: object, message: str) -> None:
    """Catches an option that is silently ignored, and a traceback where a line would do."""
    with pytest.raises(UserError, match=message):
        call()


def test_rows_are_json(tmp_path: Path) -> None:
    """Catches NaN in the output, parts missing from it, and a bad row without its number."""
    solution = detection_solution([A])
    rows = [{"completion": text, "solution": solution} for text in (answer((A, 1)), "a cat", answer((A, "NaN")))]
    file = tmp_path / "rows.jsonl"

    def score_rows(rows: list[dict], variant: str = "strict") -> list[dict]:
        file.write_text("\n".join(map(json.dumps, rows)))
        return [json.loads(json.dumps(row, allow_nan=False)) for row in scored(file, reading("detection", variant))]

    for variant in ("strict", "official"):
        found = score_rows(rows, variant)
        assert [list(row) for row in found] == [["iou", "confidence", "format", "total", "failure"]] * 3
        assert found[0]["total"] == 3 and found[0]["failure"] is None
        assert found[1]["total"] == 0 and found[1]["failure"]
    assert found[2] == {"iou": 1, "confidence": None, "format": 1, "total": None, "failure": "not finite"}
    for bad in ({"completion": "a"}, {"completion": None, "solution": solution}, {"completion": "a", "solution": "b"}):
        with pytest.raises(UserError, match="line 2: "):
            score_rows([rows[0], bad])


def test_own_reward() -> None:
    """Catches a `Reward` that works only for the shipped readings."""
    reward = Reward({"short": lambda completion, solution: len(completion) < 9}, {"short": 0.5})
    assert reward("cat", "") == Score(0.5, {"short": 1.0}, None)


def test_pieces() -> None:
    """Catches denominators or matches that the whole would hide."""
    found = Detections(np.array([A, HALF, FAR], dtype=float), np.array([0.1, 0.9, 0.5]))
    truth = Detections(np.array([A, B], dtype=float), np.ones(2))
    assert matched_iou(found, truth).tolist() == [1, 0, 0]
    assert matched_iou(found, truth, "greedy").tolist() == [0, 0.5, 0]
    assert iou_score(np.array([1.0]), 4, 2) == 0.25 and iou_score(np.array([1.0]), 1, 2, "predictions") == 1
    assert iou_score(np.zeros(0), 0, 2, "predictions") == 0 and iou_score(np.zeros(0), 0, 0, abstention=0.25) == 0.25
    nothing = Detections(np.zeros((0, 4)), np.zeros(0))
    assert detection_scores(nothing, nothing, STRICT) == (1, 1)

import json

import pytest

from minirft import UserError
from minirft.rewards.prompts import detection_solution, grounding_solution
from minirft.rewards.redteam import SOLUTIONS, audit, blind, edits

TASKS = ("detection", "classification", "grounding", "presence")
# Each is right about something: an absent category, the usual label, half of the yes-no questions
BASE_RATE = {"abstain", "empty list", "most common label", "always yes", "always no"}


def rows(task: str, variant: str, solutions: list[str] | None = None) -> dict[str, dict]:
    return {row["answer"]: row for row in audit(task, variant, solutions)}


@pytest.mark.parametrize("task", TASKS)
def test_strict_survives(task: str) -> None:
    """Catches any exploit of the strict reading: blind answers far below the honest one, no edit that pays."""
    found = rows(task, "strict")
    assert found["honest"]["total"] == len(
        [part for part in found["honest"] if part in ("iou", "confidence", "accuracy", "format")]
    )
    assert len(found) > 10
    for name, row in found.items():
        assert row["non_finite"] == 0
        if row["kind"] == "blind":
            assert row["share"] <= (0.76 if name in BASE_RATE else 0.61), name
        if row["kind"] == "edit":
            assert row["share"] < 1, name


@pytest.mark.parametrize("task", ["detection", "classification", "grounding"])
def test_main_part_is_lost(task: str) -> None:
    """Catches an exploit that a generous format reward hides: alone, the part that measures the task stays near 0."""
    part = "accuracy" if task == "classification" else "iou"
    for name, row in rows(task, "strict").items():
        if row["kind"] == "blind" and name not in BASE_RATE:
            assert row[part] <= 0.21, name


def test_silence_is_the_best_blind_detection_where_objects_are() -> None:
    """Catches a junk box at confidence 0 that beats saying nothing, on pictures where there is something."""
    found = rows("detection", "strict", [detection_solution([[100, 100, 200, 200]])])
    blind_totals = {name: row["total"] for name, row in found.items() if row["kind"] == "blind"}
    silence = blind_totals["abstain"]
    assert silence == 1.5
    assert all(total <= silence + found[name]["iou"] + 1e-9 for name, total in blind_totals.items())
    assert blind_totals["junk box at confidence 0"] == silence
    assert blind_totals["whole picture, unsure"] == pytest.approx(silence + 0.01)  # its IoU, which is real


def test_the_released_rewards_do_not_survive() -> None:
    """Catches a red team without teeth: the known exploits pay in full under the released reading."""
    labels = rows("classification", "official")
    for name in ("empty answer", "every label", "first letter of the label", "label and more"):
        assert labels[name]["share"] == 1, name
    assert rows("grounding", "official")["inverted box"]["share"] > 10
    boxes = rows("detection", "official")
    assert boxes["junk box at confidence 0"]["total"] > boxes["abstain"]["total"]
    assert boxes["confidence NaN"]["total"] is None and boxes["confidence NaN"]["non_finite"] == 0.75
    assert boxes["every box twice"]["share"] == 1
    assert boxes["honest"]["total"] == 2.5  # the absent category earns its format only


def test_the_paper_does_not_survive() -> None:
    """Catches the paper's reading quietly repaired: misses are free, and junk at confidence 0 beats silence."""
    found = rows("detection", "paper")
    assert found["only the first box"]["share"] == 1
    assert found["junk box at confidence 0"]["total"] > found["abstain"]["total"]


@pytest.mark.parametrize("task", TASKS)
def test_answers_are_what_they_are_called(task: str) -> None:
    """Catches an edit whose pattern no longer matches and which so scores the honest answer, and repeated names."""
    solution = {
        "detection": detection_solution([[1, 2, 300, 400], [5, 6, 7, 8]]),
        "grounding": grounding_solution([1, 2, 3, 4]),
        "classification": "<answer>Basset Hound</answer>",
        "presence": "<answer>yes</answer>",
    }[task]
    names = [name for name, _ in blind(task, [solution]) + edits(task)]
    assert len(set(names)) == len(names)
    completions = [edit(solution) for _, edit in edits(task)]
    assert len(set(completions)) == len(completions)
    assert all(solution not in text or not text.startswith("<think>I looked") or text.count("<answer>") > 1
               or text.endswith("hope this helps!") for text in completions)  # fmt: skip
    twice = dict(edits("detection"))["every box twice"](detection_solution([[1, 2, 3, 4], [5, 6, 7, 8]]))
    assert twice.count("Position") == 4
    scaled = dict(edits("detection"))["boxes in 0-1"](detection_solution([[1, 20, 300, 400]]))
    assert "[0.1, 0.20, 0.300, 0.400], 'Confidence': 1}" in scaled


@pytest.mark.parametrize("variant", ["strict", "paper", "official"])
def test_audit_is_json(variant: str) -> None:
    """Catches a NaN in the output, and a row without a column."""
    for task in TASKS[:3]:
        table = json.loads(json.dumps(audit(task, variant), allow_nan=False))
        assert table[0]["answer"] == "honest" and len({tuple(row) for row in table}) == 1


def test_own_solutions() -> None:
    """Catches an audit that ignores the data it is given, divides by no data, or passes broken data over."""
    only_absent = rows("detection", "strict", [detection_solution([])])
    assert only_absent["abstain"]["share"] == 1
    assert set(SOLUTIONS) == set(TASKS)
    with pytest.raises(UserError, match="at least one solution"):
        audit("detection", solutions=[])
    with pytest.raises(UserError, match="is no detection answer"):
        audit("detection", "official", ["<answer>cat</answer>"])

"""Several categories in one question: the same numbers as one question for each, by reward and by every metric."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from minirft.evaluation import metrics
from minirft.evaluation.queries import labelled
from minirft.rewards import Detections, ParseFailure, iou, parse_detection, prompts, reading
from minirft.rewards.boxes import pixels
from minirft.samples import Sample, TrueBoxes

NAMES = ("cat", "dog", "traffic light")


def boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    corner, size = rng.integers(0, 600, (count, 2)), rng.integers(50, 400, (count, 2))
    return np.concatenate([corner, corner + size], 1).astype(float)


def near(rng: np.random.Generator, box: np.ndarray) -> np.ndarray:
    moved = np.clip(box + rng.integers(-25, 25, 4), 0, 1000)
    return np.concatenate([np.minimum(moved[:2], moved[2:] - 1).clip(0), moved[2:].clip(1)])


def picture(rng: np.random.Generator, number: int, exact: bool) -> tuple[list[tuple[Sample, str]], tuple[Sample, str]]:
    """Three questions with answers about a picture, and the one question about all three."""
    single, true, found, sure = [], [], [], []
    frame = pixels(640, 480)
    for name in NAMES:
        truth = boxes(rng, rng.integers(0, 3))
        guess = [near(rng, box) for box in truth if rng.random() < 0.8] + list(boxes(rng, rng.integers(0, 2)))
        guess = [box for box in guess if (box[2:] > box[:2]).all()]
        scores = rng.uniform(0, 1, len(guess)).round(2)
        own = TrueBoxes(frame, truth * [0.64, 0.48, 0.64, 0.48], np.zeros((0, 4))) if exact else None
        text = f"<think>looked</think> {prompts.detection_solution(guess, scores)}"
        question = Sample(f"{number}:{name}", Path("p.jpg"), "detection", "?", "", name, exact=own)
        single.append((replace(question, solution=prompts.detection_solution(truth)), text))
        true, found, sure = (
            [*true, *((b, name) for b in truth)],
            [*found, *((b, name) for b in guess)],
            [*sure, *scores],
        )
    rows, labels = [b for b, _ in true], [name for _, name in true]
    own = TrueBoxes(frame, np.reshape(rows, (-1, 4)) * [0.64, 0.48, 0.64, 0.48], np.zeros((0, 4)), tuple(labels))
    solution = prompts.detection_solution(rows, labels=labels)
    one = Sample(f"{number}:all", Path("p.jpg"), "detection", "?", solution, ", ".join(NAMES), NAMES)
    answer = prompts.detection_solution([b for b, _ in found], sure, [name for _, name in found])
    return single, (replace(one, exact=own if exact else None), f"<think>looked</think> {answer}")


@pytest.mark.parametrize("exact", [False, True])
def test_metrics_are_those_of_one_question_for_each(exact: bool):
    """Boxes of one category matched with objects of another, an AP over the wrong category, a lost false alarm."""
    rng = np.random.default_rng(0)
    pictures = [picture(rng, number, exact) for number in range(40)]
    single = [pair for singles, _ in pictures for pair in singles]
    apart = metrics("detection", [text for _, text in single], [sample for sample, _ in single], resamples=0)
    together = metrics("detection", [t for _, (_, t) in pictures], [s for _, (s, _) in pictures], resamples=0)
    assert apart.pop("n") == 3 * together.pop("n") == 120 and apart.pop("ci") == together.pop("ci") == {}
    assert together == pytest.approx(apart, nan_ok=True)
    assert 0.2 < apart["ap50"] < 0.95  # the case can tell


def test_intervals_take_pictures_not_categories():
    """Categories of one picture resampled as if they were independent: intervals that are too narrow."""
    rng = np.random.default_rng(1)
    pictures = [picture(rng, number, False)[1] for number in range(12)]
    texts, samples = [text for _, text in pictures], [sample for sample, _ in pictures]
    twice = metrics("detection", texts * 2, samples * 2, resamples=50)
    assert metrics("detection", texts, samples, resamples=50)["n"] == 12 and twice["n"] == 24


def test_the_reward_matches_within_a_category():
    """A dog paid for where the cat is."""
    truth = prompts.detection_solution([[0, 0, 500, 500], [500, 500, 900, 900]], labels=["cat", "traffic light"])
    right = prompts.detection_solution([[500, 500, 900, 900], [0, 0, 500, 500]], labels=["Traffic-light", "cat"])
    wrong = prompts.detection_solution([[0, 0, 500, 500], [500, 500, 900, 900]], labels=["traffic light", "cat"])
    bare = prompts.detection_solution([[0, 0, 500, 500], [500, 500, 900, 900]])
    strict = reading("detection")
    assert strict(right, truth).parts["iou"] == strict(truth, truth).parts["iou"] == 1
    assert (
        strict(wrong, truth).parts["iou"] == strict(bare, truth).parts["iou"] == strict(right, bare).parts["iou"] == 0
    )
    assert strict(wrong, truth).parts["confidence"] == pytest.approx(0.0)


def test_matching_under_labels_is_the_matching_of_each_label():
    """A Hungarian assignment over all boxes that gives up a pair of one category for a pair across categories."""
    rng, strict = np.random.default_rng(2), reading("detection")
    for _ in range(50):
        singles, (one, text) = picture(rng, 0, False)
        found, truth = parse_detection(text), parse_detection(one.solution)
        assert isinstance(found, Detections) and isinstance(truth, Detections)
        sums = 0.0
        for sample, answer in singles:
            parts, mine = strict(answer, sample).parts, parse_detection(answer)
            assert isinstance(mine, Detections)
            sums += parts["iou"] * max(len(mine), len(labelled(truth, sample.category, NAMES).boxes))
        expected = sums / max(len(found), len(truth)) if max(len(found), len(truth)) else 1.0
        assert strict(text, one).parts["iou"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("item", "labels"),
    [
        ("{'Position': [1, 2, 3, 4], 'Label': 'a cat', 'Confidence': 0.5}", ("a cat",)),
        ("{'Label': 'bird’s nest', 'Position': [1, 2, 3, 4], 'Confidence': 0.5}", ("bird’s nest",)),
        ("{'Position': [1, 2, 3, 4], 'Label': 3, 'Confidence': 0.5}", None),
        ("{'Position': [1, 2, 3, 4], 'Label': ['cat'], 'Confidence': 0.5}", None),
        ("{'Position': [1, 2, 3, 4], 'Label': 'cat'}", None),
    ],
)
def test_a_label_is_a_text_or_the_prediction_is_malformed(item: str, labels: tuple[str, ...] | None):
    """A label that is no text and raises in `normalise`, in the middle of a run."""
    found = parse_detection(f"<answer>[{item}]</answer>")
    assert not isinstance(found, ParseFailure)
    assert (found.labels, found.invalid) == ((labels, 0) if labels else ((), 1))


def test_a_quote_in_a_name_can_be_read_back():
    """A category called bird's nest whose solution is not readable: refused as data, in the middle of a run."""
    truth = parse_detection(prompts.detection_solution([[1, 2, 3, 4]], labels=["bird's nest"]))
    assert isinstance(truth, Detections) and truth.labels == ("bird’s nest",)
    assert "'bird’s nest', 'cat'" in prompts.detection_together(["bird's nest", "cat"])
    assert iou(truth.boxes, truth.boxes)[0, 0] == 1

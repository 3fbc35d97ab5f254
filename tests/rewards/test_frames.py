"""The frame check, by construction: answers in a known wrong frame are named, all others are left alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from minirft.engine.families.pixel_boxes import THOUSAND, rescale
from minirft.rewards import prompts
from minirft.rewards.boxes import MODEL, convert, pixels
from minirft.rewards.frames import MIN_ANSWERS, NAMES, boxes_anywhere, check_frames, judge
from minirft.samples import Frame, Sample

OTHERS = {name: words for name, words in NAMES.items() if name != "model"}
SIZES = [(640, 480), (333, 500), (1600, 1200), (64, 48)]
RESIZED = [(616, 448), (308, 476), (700, 532), (84, 56)]


def truth(generator, count):
    """Boxes of the model's frame, a tenth to a half of the picture wide and high."""
    low = generator.uniform(0, 500, (count, 2))
    return np.concatenate([low, low + generator.uniform(100, 500, (count, 2))], axis=1)


def said(true, frame, size, resized):
    """What a model says that means `true` but speaks in another frame."""
    if frame == "swapped":
        return true[:, [1, 0, 3, 2]]
    target = {"pixels": pixels(*size), "resized": pixels(*resized), "unit": Frame("unit", 1, 1), "model": MODEL}
    return convert(true, MODEL, target[frame])


def batch(frame, seed, count=24, noise=0.04, size=None):
    generator = np.random.default_rng(seed)
    answers = []
    for i in range(count):
        true = truth(generator, 1 + i % 3)
        shaken = true + noise * 1000 * generator.standard_normal(true.shape)
        one, other = size or SIZES[i % 4], RESIZED[i % 4]
        answers.append((said(shaken, frame, one, other), true, one, other))
    return answers


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("frame", OTHERS)
def test_each_wrong_frame_is_named(frame, seed):
    """Catches a frame that is converted the wrong way round, or one that another frame hides."""
    fits = judge(batch(frame, seed))
    assert fits.frame == frame and fits.answers == 24
    assert fits.mean[frame] > 0.5 and fits.better[frame] >= 16
    assert OTHERS[frame] in fits.warning and "\n" not in fits.warning


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.3])
@given(seed=st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_right_frames_are_left_alone(noise, seed):
    """Catches a warning about good answers, or about bad ones in the right frame, as early training gives them."""
    fits = judge(batch("model", seed, noise=noise))
    assert fits.frame == "model" and fits.warning is None


@given(seed=st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_boxes_at_random_are_no_frame(seed):
    """Catches a verdict drawn from chance: the best of four wrong guesses."""
    generator = np.random.default_rng(seed)
    answers = [(truth(generator, 2), truth(generator, 2), SIZES[i % 4], RESIZED[i % 4]) for i in range(MIN_ANSWERS)]
    assert judge(answers).frame == "model"


def test_the_whole_picture_said_every_time_is_no_frame():
    """Catches a lazy answer, which fits large boxes in several frames, taken for pixels."""
    generator = np.random.default_rng(0)
    whole = np.array([[0.0, 0, 1000, 1000]])
    assert judge([(whole, truth(generator, 1), SIZES[i % 4], None) for i in range(40)]).frame == "model"


def test_a_picture_of_a_thousand_pixels_tells_nothing():
    """Catches a warning where both frames are the same."""
    assert judge(batch("pixels", 0, size=(1000, 1000))).frame == "model"


def test_few_answers_and_a_few_of_many_are_no_verdict():
    """Catches an alarm about one lucky answer, or about the few that go astray; many that do are one."""
    assert judge(batch("unit", 0, count=MIN_ANSWERS)).frame == "unit"
    assert judge(batch("unit", 0, count=MIN_ANSWERS - 1)).frame == "model"
    assert judge([*batch("model", 0, count=16), *batch("pixels", 1, count=8)]).frame == "model"
    lost = [(0 * found, true, size, resized) for found, true, size, resized in batch("model", 0, count=14)]
    assert judge([*lost, *batch("pixels", 1, count=10)]).frame == "pixels"
    assert judge([]).mean == {"model": 0.0} and judge([]).answers == 0


def test_without_the_resized_sizes():
    """Catches a frame that cannot be judged being judged at 0."""
    fits = judge([(found, true, size, None) for found, true, size, _ in batch("pixels", 0)])
    assert fits.frame == "pixels" and "resized" not in fits.mean


def sample(task="detection", box=(100, 200, 600, 400)):
    solution = prompts.detection_solution([box]) if task == "detection" else prompts.grounding_solution(box)
    return Sample("0", Image.new("RGB", (640, 480)), task, "?", solution, "cat")


@pytest.mark.parametrize(
    ("text", "frame"),
    [
        ("<think>x</think> <answer>[{'Position': [64, 96, 384, 192], 'Confidence': 0.9}]</answer>", "pixels"),
        ("<answer>[{'Position': [0.1, 0.2, 0.6, 0.4], 'Confidence': 0.9}]</answer>", "unit"),
        ("[{'Position': [200, 100, 400, 600], 'Confidence': 0.9}]", "swapped"),
        ("<answer>[{'Position': [100, 200, 600, 400], 'Confidence': 0.9}]</answer>", "model"),
        ("<answer>(64,96),(384,192)</answer>", "pixels"),
        ("<answer>No Objects</answer>", "model"),
        ("", "model"),
    ],
)
def test_texts(text, frame):
    """Catches an answer that the strict parser refuses (0.1 is no fault, 1649 is) and that is then not looked at."""
    task = "grounding" if "(" in text else "detection"
    assert check_frames([text] * 16, [sample(task)] * 16).frame == frame


def test_other_tasks_and_absent_categories_say_nothing(tmp_path):
    """Catches labels or abstentions counted as answers with boxes; a picture on disk is opened for its size only."""
    label = Sample("0", Image.new("RGB", (9, 9)), "classification", "?", "<answer>cat</answer>", "cat")
    absent = Sample("1", Image.new("RGB", (9, 9)), "detection", "?", "<answer>No Objects</answer>", "cat")
    text = "<answer>[{'Position': [64, 96, 384, 192], 'Confidence': 0.9}]</answer>"
    assert check_frames([text, text], [label, absent]).answers == 0
    sample().image.save(tmp_path / "a.png")
    on_disk = Sample("2", tmp_path / "a.png", "detection", "?", sample().solution, "cat")
    assert check_frames([text] * 16, [on_disk] * 16).frame == "pixels"


@given(st.text(alphabet="[](),.0123456789 -'{}Position:<answer>/", max_size=200))
def test_any_text_can_be_read(text):
    """Catches an exception or a NaN from an answer that is nothing like one."""
    found = boxes_anywhere(text)
    assert found.shape[1:] == (4,) and np.isfinite(found).all()


def test_long_texts_are_read_in_linear_time():
    """Catches a pattern that backtracks over a completion of spaces and brackets."""
    for text in ("[ " * 60_000, "(" * 100_000, "[1," + " " * 100_000, "[1, 2, 3, " * 20_000):
        assert len(boxes_anywhere(text)) == 0
    assert len(boxes_anywhere("[1, 2, 3, 4]" * 5_000)) == 1_000


def test_a_model_of_pixels_that_answers_in_thousandths_is_named():
    """Qwen2.5-VL after training elsewhere: its numbers are read as pixels, so in thousandths they fit no frame."""
    picture = Image.new("RGB", (640, 480))
    solution = prompts.detection_solution([[100, 200, 400, 700], [500, 100, 900, 300]])
    samples = [Sample(f"{i}", picture, "detection", "?", solution) for i in range(MIN_ANSWERS)]
    resized = (308, 224)
    in_pixels = rescale(solution, THOUSAND, resized)
    stored = {said: [rescale(said, resized, THOUSAND)] * MIN_ANSWERS for said in (solution, in_pixels)}
    wrong = check_frames(stored[solution], samples, lambda size: resized, rescaled=True)
    assert "fit better as thousandths" in wrong.warning
    assert "must be pixels of the picture as it was resized for the model" in wrong.warning
    assert check_frames(stored[in_pixels], samples, lambda size: resized, rescaled=True).warning is None

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from minirft.rewards import prompts
from minirft.rewards.answers import Detections, parse

DETECTION = (
    "Detect all objects belonging to the category 'cat' in the image, and provide the bounding boxes (between 0 and "
    "1000, integer) and confidence (between 0 and 1, with two decimal places).\nIf no object belonging to the category "
    "'cat' in the image, return 'No Objects'.\nOutput the thinking process in <think> </think> and final answer in "
    "<answer> </answer> tags.The output answer format should be as follows:\n<think> ... </think> "
    "<answer>[{'Position': [x1, y1, x2, y2], 'Confidence': number}, ...]</answer>\nPlease strictly follow the format."
)
FLOWER = (
    "This is an image containing a plant. Please identify the species of the plant based on the image.\nOutput the "
    "thinking process in <think> </think> and final answer in <answer> </answer> tags.The output answer format should "
    "be as follows:\n<think> ... </think> <answer>species name</answer>\nPlease strictly follow the format."
)
GROUNDING = (
    "Output the bounding box in the image corresponding to the instruction: the cup Output the thinking process in "
    '<think> </think> and your grouding box. Following "<think> thinking process </think>\n'
    '<answer>(x1,y1),(x2,y2)</answer>)" format.'
)


def test_prompts_are_the_papers() -> None:
    """Catches a corrected typo or a lost line break: a prompt is part of the result."""
    assert prompts.detection("cat") == DETECTION
    assert prompts.classification("flower") == FLOWER
    assert prompts.grounding("the cup") == GROUNDING


def test_families() -> None:
    """Catches a family asked about with another's words, and "a aircraft"."""
    assert "a pet. Please identify the species of the pet " in prompts.classification("pet")
    assert "a car. Please identify the model of the car " in prompts.classification("car")
    assert "an aircraft. Please identify the model of the aircraft " in prompts.classification("aircraft")
    assert "an ant. Please identify the kind of the ant " in prompts.classification("ant")


@pytest.mark.parametrize("name", ["{x}", "%s", "'", "<answer>", "\\1", "{category}"])
def test_any_name_is_put_in_as_it_is(name: str) -> None:
    """Catches a name that is taken for a template."""
    for question in (prompts.detection, prompts.grounding, prompts.presence):
        assert question("zebra").replace("zebra", name) == question(name)


def test_presence_asks_for_what_its_parser_reads() -> None:
    """Catches a presence question that asks for an answer its parser refuses."""
    assert "yes or no" in prompts.presence("cat") and "'cat'" in prompts.presence("cat")
    assert parse("presence", prompts.presence_solution(True)) is True
    assert parse("presence", prompts.presence_solution(False)) is False


sides = st.tuples(st.floats(0, 1000), st.floats(0, 1000)).map(sorted).filter(lambda side: side[0] < side[1])
boxes = st.builds(lambda x, y: [x[0], y[0], x[1], y[1]], sides, sides)


@settings(max_examples=100, deadline=None)
@example([[0.0, 0.75, 1.0, 0.875]], 0.0)  # both ends round to 1
@given(st.lists(boxes, max_size=5), st.floats(0, 1))
def test_solutions_read_back(rows: list[list[float]], confidence: float) -> None:
    """Catches a true box lost to rounding: a thin one must not become an empty, unreadable one."""
    found = parse("detection", prompts.detection_solution(rows, confidence))
    assert isinstance(found, Detections) and found.invalid == 0
    np.testing.assert_allclose(found.boxes, np.reshape(rows, (-1, 4)), atol=1.0)
    np.testing.assert_allclose(found.confidence, confidence, atol=0.0051)
    for row in rows:
        np.testing.assert_allclose(parse("grounding", prompts.grounding_solution(row)), row, atol=1.0)


def test_each_box_has_its_confidence() -> None:
    """Catches confidences in the wrong order, a count that does not fit, and decimals the prompt does not ask for."""
    two = [[0, 0, 10, 10], [20, 20, 30, 30]]
    assert prompts.detection_solution(two, [0.25, 1.0]).count("'Confidence': 0.25}, ") == 1
    assert "'Confidence': 1}, {" in prompts.detection_solution(two)
    with pytest.raises(ValueError, match=r"shape"):
        prompts.detection_solution(two, [0.5, 0.5, 0.5])


@pytest.mark.parametrize(
    "box", [[9, 0, 1, 5], [0, 9, 5, 1], [0, 0, 0, 5], [-1, 0, 5, 5], [0, 0, 5, 1001], [0, 0, np.nan, 5]]
)
def test_bad_true_boxes_are_refused(box: list[float]) -> None:
    """Catches a box in the wrong frame written down as the truth."""
    for write in (lambda b: prompts.detection_solution([b]), prompts.grounding_solution):
        with pytest.raises(ValueError, match="expected 0 <= x1 < x2"):
            write(box)


def test_labels_read_back() -> None:
    """Catches a label changed on its way."""
    for name in ("737-200", "F/A-18", "Basset Hound"):
        assert parse("classification", prompts.label_solution(name)) == name

"""Reading COCO files: what a right file becomes, and what each wrong row gets."""

import copy
import json
import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from readings import read

from minirft import UserError
from minirft.data import findings as findings_module
from minirft.data.findings import Findings
from minirft.data.shots import is_present, k_shot, of_split, read_split, write_split
from minirft.data.tables import TOLERANCE, _box
from minirft.rewards.answers import parse_detection
from minirft.samples import Sample

COCO128 = Path(__file__).parents[3] / "shared" / "data" / "coco128"

GOOD = {
    "images": [
        {"id": 7, "file_name": "wide.png", "width": 200, "height": 100},
        {"id": 3, "file_name": "tall.png", "width": 50, "height": 100},
    ],
    "categories": [{"id": 1, "name": "cat"}, {"id": 5, "name": "dog"}, {"id": 9, "name": "crowded"}],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 1, "bbox": [20, 10, 100, 50], "iscrowd": 0},
        {"id": 2, "image_id": 7, "category_id": 1, "bbox": [0, 0, 200.4, 100], "iscrowd": 0},
        {"id": 3, "image_id": 3, "category_id": 5, "bbox": [25, 0, 25, 100]},
        {"id": 4, "image_id": 3, "category_id": 9, "bbox": [0, 0, 50, 50], "iscrowd": 1},
    ],
}


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (200, 100)).save(tmp_path / "wide.png")
    Image.new("RGB", (50, 100)).save(tmp_path / "tall.png")
    return tmp_path


def load(folder, data=GOOD, *categories, **options):
    path = folder / "annotations.json"
    path.write_text(json.dumps(data))
    return read("coco", path, folder, categories, **options)


def changed(table, row, **values):
    data = copy.deepcopy(GOOD)
    data[table][row] |= values
    return data


# ------------------------------------------------------------------ a right file


def test_boxes_are_scaled_by_the_size_of_their_own_picture(folder):
    """Catches swapped width and height, xywh read as xyxy, and one picture's size used for another."""
    cat, dog = load(folder)
    assert (cat.id, cat.category, cat.image) == ("7:cat", "cat", folder / "wide.png")
    assert parse_detection(cat.solution).boxes.tolist() == [[100, 100, 600, 600], [0, 0, 1000, 1000]]
    assert parse_detection(dog.solution).boxes.tolist() == [[500, 0, 1000, 1000]]
    assert "category 'dog'" in dog.problem


def test_order_is_by_picture_then_category(folder):
    """Catches an order that depends on the rows of the file."""
    data = copy.deepcopy(GOOD)
    data["annotations"].reverse()
    assert [sample.id for sample in load(folder, data)] == ["7:cat", "3:dog"]
    assert [s.id for s in load(folder, data, "dog", "cat", negatives=0.9)] == ["7:dog", "7:cat", "3:dog", "3:cat"]


def test_negatives_are_absent_and_a_crowd_is_neither(folder):
    """Catches a picture full of a crowd being called empty of it, and negatives of categories that are there."""
    every = load(folder, negatives=0.99)
    assert [s.id for s in every if not is_present(s)] == ["7:dog", "7:crowded", "3:cat"]  # not 3:crowded
    assert all("No Objects" in s.solution for s in every if not is_present(s))
    half = load(folder, negatives=0.5)
    assert [is_present(s) for s in half].count(False) == 2
    assert load(folder, negatives=0.5) == half
    assert {s.id for s in load(folder, negatives=0.34)} <= {s.id for s in half}
    assert len({tuple(s.id for s in load(folder, negatives=0.34, seed=seed)) for seed in range(9)}) > 1


def test_samples_named_by_their_ids(folder):
    """Catches a crowd asked about because a split names it, a present one asked about twice, and ids of nothing."""
    ids = ["3:cat", "7:cat", "3:crowded", "7:dog", "8:dog", "7:cow", "cat"]
    assert [(s.id, is_present(s)) for s in load(folder, only=ids)] == [
        ("7:cat", True),
        ("7:dog", False),
        ("3:cat", False),
    ]
    (folder / "tall.png").unlink()  # the pictures of a split are enough
    assert [s.id for s in load(folder, only=["7:dog"])] == ["7:dog"]


def test_presence_questions(folder):
    """Catches yes and no the wrong way round."""
    got = {s.id: s.solution for s in load(folder, GOOD, "cat", "dog", task="presence", negatives=0.5)}
    assert got == {
        "7:cat": "<answer>yes</answer>",
        "7:dog": "<answer>no</answer>",
        "3:cat": "<answer>no</answer>",
        "3:dog": "<answer>yes</answer>",
    }


@given(st.lists(st.floats(-50, 250, allow_subnormal=False), min_size=4, max_size=4))
def test_a_box_is_inside_its_picture_or_refused(bbox):
    """Catches a box that is empty inside its picture, or further outside than rounding explains."""
    row, picture = {"bbox": bbox, "at": ("a.json", "")}, {"width": 200, "height": 100, "file_name": "a.png"}
    box = _box(row, picture, (1, "cat"), Findings("skip"))
    if isinstance(box, tuple):
        (x1, x2), (y1, y2) = np.clip(box[::2], 0, 200), np.clip(box[1::2], 0, 100)
        assert x1 < x2 and y1 < y2 and np.abs(np.subtract([x1, y1, x2, y2], box)).max() <= TOLERANCE


def test_coco128_reads_back():
    """Catches rounding that leaves the frame, on real boxes, and crowds that slip in."""
    if not COCO128.exists():
        pytest.skip("no ../shared/data/coco128")
    path = COCO128 / "annotations" / "instances_train2017.json"
    samples = read("coco", path, COCO128 / "train2017", negatives=0.2)
    rows = [row for row in json.loads(path.read_text())["annotations"] if not row["iscrowd"]]
    assert sum(len(parse_detection(sample.solution)) for sample in samples) == len(rows) == 929
    assert [is_present(sample) for sample in samples].count(False) == round(0.25 * 362)
    assert samples[0].picture().size == (640, 480)


# ------------------------------------------------------------------ wrong files

WRONG = {
    "unknown picture": (changed("annotations", 2, image_id=4), r"annotations\[2\] is of image 4, .* repair"),
    "unknown category": (changed("annotations", 2, category_id=2), r"annotations\[2\] is of category 2, .* repair"),
    "outside": (changed("annotations", 0, bbox=[150, 0, 52, 10]), r"annotations\[0\] is a cat in wide.png .* outside"),
    "corners": (changed("annotations", 2, bbox=[30, 0, 50, 100]), r"annotations\[2\].* outside .*COCO boxes are"),
    "inverted": (changed("annotations", 0, bbox=[50, 10, -20, 10]), r"annotations\[0\].* inverted or empty"),
    "no height": (changed("annotations", 0, bbox=[50, 10, 20, 0]), r"annotations\[0\].* inverted or empty"),
    "just outside": (changed("annotations", 0, bbox=[200, 10, 1, 5]), r"annotations\[0\].* inverted or empty"),
    "not a number": (changed("annotations", 0, bbox=[50, 10, 20, float("nan")]), r"annotations\[0\].* four finite"),
    "three numbers": (changed("annotations", 0, bbox=[50, 10, 20]), r"annotations\[0\].* four finite"),
    "no size": (changed("images", 1, height=0), r"images\[1\] has size 50 x 0"),
    "other size": (changed("images", 1, width=60, height=100), r"tall.png is 50 x 100 pixels, .* for 60 x 100"),
    "no file": (changed("images", 1, file_name="gone.png"), "no picture at .*gone.png"),
    "a field short": ({**GOOD, "categories": [{"id": 1}]}, r"categories\[0\] has no name"),
    "a table short": ({"images": [], "annotations": []}, "no list 'categories'"),
    "a list": ([1, 2], "no list 'images'"),
    "empty": ({**GOOD, "annotations": []}, "has no box of cat, dog, crowded"),
    "nothing at all": ({"images": [], "annotations": [], "categories": []}, "has no box of any category"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_row_is_named(folder, name):
    """Catches a bad row that trains silently, or one reported without its place."""
    data, message = WRONG[name]
    with pytest.raises(UserError, match=message) as error:
        load(folder, data)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("bbox", [[25, 0, 25, 0], [25, 0, -5, 9], [float("nan"), 0, 1, 1], ["25", "0", "9", "9"], 7])
def test_bad_boxes_can_be_skipped(folder, bbox):
    """Catches a box left out whose category is then asked about as absent."""
    data = changed("annotations", 2, bbox=bbox)
    assert [s.id for s in load(folder, data, negatives=0.9, findings=Findings("skip"))] == [
        "7:cat",
        "7:dog",
        "7:crowded",
        "3:cat",
    ]


def test_unknown_category_gets_the_nearest(folder):
    """Catches a misspelt category that leaves an empty training set."""
    with pytest.raises(UserError, match="no category 'dgo'; did you mean 'dog'"):
        load(folder, GOOD, "cat", "dgo")
    with pytest.raises(UserError, match="no category 'zebra'; it has cat, dog, crowded"):
        load(folder, GOOD, "zebra")


def test_files_that_are_not_there_or_not_json(folder):
    """Catches a traceback where one line would do."""
    with pytest.raises(UserError, match=r"no file .*gone\.json; give a COCO-format file"):
        read("coco", folder / "gone.json", folder)
    (folder / "torn.json").write_text('{"images": [')
    with pytest.raises(UserError, match="cannot be read as JSON"):
        read("coco", folder / "torn.json", folder)
    (folder / "wide.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"wide\.png will not open as a picture"):
        load(folder)


# ------------------------------------------------------------------ shots


def cats_and_dogs(count=9):
    names = [("cat", i) for i in range(count)] + [("dog", i) for i in range(count)]
    yes = [Sample(f"{c}{i}", Path(f"{c}{i}.png"), "presence", "?", "<answer>yes</answer>", c) for c, i in names]
    no = [Sample(f"no {c}{i}", Path(f"{i}.png"), "presence", "?", "<answer>no</answer>", c) for c, i in names]
    return yes + no


@given(st.integers(0, 2**31), st.integers(1, 8), st.randoms(use_true_random=False))
def test_shots_are_nested_and_do_not_depend_on_order(seed, k, random):
    """Catches shots that change with the order of the file or with k, which makes 1, 2, 4, ... shots incomparable."""
    samples = cats_and_dogs()
    fewer, more = (k_shot(samples, shots, seed) for shots in (k, k + 1))
    assert len(fewer) == 2 * k and all(map(is_present, fewer))
    assert {s.id for s in fewer} < {s.id for s in more}
    shuffled = random.sample(samples, len(samples))
    assert {s.id for s in k_shot(shuffled, k, seed)} == {s.id for s in fewer}
    alone = k_shot([s for s in samples if s.category == "dog"], k, seed)
    assert {s.id for s in alone} == {s.id for s in fewer if s.category == "dog"}


def test_shots_keep_a_share_of_absent_ones_and_follow_the_seed():
    """Catches few-shot sets that cannot teach abstention, and a seed that is not used."""
    got = k_shot(cats_and_dogs(), 4, seed=0, negatives=0.2)
    assert [is_present(s) for s in got].count(False) == 2 and len(got) == 10
    assert len({tuple(s.id for s in k_shot(cats_and_dogs(), 2, seed)) for seed in range(5)}) == 5


def test_too_few_shots_are_said_once(caplog):
    """Catches a 4-shot split with 2 pictures of a category that nobody hears of, or hears of twice."""
    findings_module.report.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert len(k_shot(cats_and_dogs(3), 4, seed=0)) == 6
    assert caplog.text.count("cat has 3, dog has 3") == 1
    for samples, k in (([], 4), (cats_and_dogs(), 0)):
        with pytest.raises(UserError, match="shots"):
            k_shot(samples, k, seed=0)


def test_a_split_is_read_back(tmp_path):
    """Catches a split that others cannot reuse, or that silently shrinks on other data."""
    samples, path = cats_and_dogs(), tmp_path / "split.json"
    split = k_shot(samples, 2, seed=3)
    write_split(path, split, k=2, seed=3)
    names = read_split(path)
    assert of_split(names, samples[::-1], path, Findings()) == split
    assert json.loads(path.read_text())["seed"] == 3
    with pytest.raises(UserError, match="4 of 4 samples are not in this data set"):
        of_split(names, [], path, Findings())
    path.write_text("[]")
    with pytest.raises(UserError, match="not a split"):
        read_split(path)

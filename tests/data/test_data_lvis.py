"""Reading LVIS: what the file leaves open is not asked, and each wrong row is named."""

import copy
import json

import pytest
from PIL import Image
from readings import read

from minirft import UserError
from minirft.data.shots import is_present
from minirft.rewards.answers import parse_detection

URL = "http://images.cocodataset.org/"
GOOD = {
    "images": [
        {"id": 7, "coco_url": URL + "train2017/000000000007.jpg", "width": 200, "height": 100,
         "neg_category_ids": [3, 5], "not_exhaustive_category_ids": []},
        {"id": 3, "coco_url": URL + "val2017/000000000003.jpg", "width": 50, "height": 100,
         "neg_category_ids": [1], "not_exhaustive_category_ids": [5]},
    ],
    "categories": [{"id": 1, "name": "horse_buggy"}, {"id": 3, "name": "die"}, {"id": 5, "name": "papaya"}],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 1, "bbox": [20.0, 10.0, 100.0, 50.0]},
        {"id": 2, "image_id": 3, "category_id": 5, "bbox": [25.0, 0.0, 25.0, 100.0]},
        {"id": 3, "image_id": 3, "category_id": 3, "bbox": [0.0, 0.0, 25.0, 50.0]},
    ],
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    for name, size in (("train2017/000000000007.jpg", (200, 100)), ("val2017/000000000003.jpg", (50, 100))):
        (tmp_path / name).parent.mkdir()
        Image.new("RGB", size).save(tmp_path / name)
    return tmp_path


def load(folder, data=GOOD, *categories, **options):
    path = folder / "lvis_v1_train.json"
    path.write_text(json.dumps(data))
    return read("lvis", path, folder, categories, **options)


def changed(table, row, **values):
    data = copy.deepcopy(GOOD)
    data[table][row] |= values
    return data


def test_pictures_are_found_by_their_address(folder):
    """Catches the file name taken without its folder: LVIS's validation file uses pictures of both."""
    buggy, die = load(folder)
    assert buggy.image == folder / "train2017" / "000000000007.jpg" and buggy.picture().size == (200, 100)
    assert die.image == folder / "val2017" / "000000000003.jpg"
    assert parse_detection(buggy.solution).boxes.tolist() == [[100, 100, 600, 600]]
    assert "category 'horse_buggy' in" in buggy.problem


def test_detect_all_is_not_asked_where_the_marking_is_not_exhaustive(folder):
    """Catches a reward that punishes boxes on true objects that nobody marked."""
    assert [s.id for s in load(folder)] == ["7:horse_buggy", "3:die"]  # not 3:papaya
    assert [s.id for s in load(folder, task="presence")] == ["7:horse_buggy", "3:die", "3:papaya"]


@pytest.mark.parametrize("task", ["detection", "presence"])
def test_absent_questions_come_from_the_verified_list_only(folder, task):
    """Catches "No Objects" as the truth for a category that nobody looked for."""
    every = load(folder, negatives=0.99, task=task)
    assert [s.id for s in every if not is_present(s)] == ["7:die", "7:papaya", "3:horse_buggy"]
    some = load(folder, negatives=0.4, task=task)
    assert {s.id for s in some} <= {s.id for s in every}
    assert len({tuple(s.id for s in load(folder, negatives=0.4, seed=seed)) for seed in range(9)}) > 1
    assert load(folder, GOOD, "die", negatives=0.9)[0].id == "7:die"


def test_an_annotation_outweighs_the_list(folder):
    """Catches a category asked about as absent in a picture that has a box of it."""
    data = changed("images", 0, neg_category_ids=[1, 3])
    got = [(s.id, is_present(s)) for s in load(folder, data, negatives=0.9)]
    assert got == [("7:horse_buggy", True), ("7:die", False), ("3:horse_buggy", False), ("3:die", True)]


def test_a_split_names_absent_questions_too(folder):
    """Catches a split whose absent questions are lost when another seed or share is set."""
    ids = ["7:papaya", "3:die", "9:die", "3:papaya"]
    assert [s.id for s in load(folder, only=ids)] == ["7:papaya", "3:die"]  # 3:papaya is not exhaustive


WRONG = {
    "no address": (changed("images", 1, coco_url=None), r"images\[1\] has coco_url None"),
    "a bare name": (changed("images", 1, coco_url="3.jpg"), r"images\[1\] has coco_url '3.jpg'"),
    "a folder": (changed("images", 1, coco_url=URL + "val2017/"), r"images\[1\] has coco_url"),
    "outside the folder": (changed("images", 1, coco_url="http://x/../3.jpg"), r"images\[1\] has coco_url"),
    "unknown negative": (changed("images", 0, neg_category_ids=[3, 4]), r"images\[0\] has neg_category_ids \[4\]"),
    "negatives are no list": (changed("images", 0, neg_category_ids=3), r"images\[0\] has neg_category_ids 3"),
    "unknown not exhaustive": (changed("images", 0, not_exhaustive_category_ids=[9]), r"not_exhaustive.* \[9\]"),
    "other size": (changed("images", 1, width=60), r"003.jpg is 50 x 100 pixels, .* for 60 x 100"),
    "no file": (changed("images", 1, coco_url=URL + "val2017/gone.jpg"), r"no picture at .*val2017/gone.jpg"),
    "inverted": (changed("annotations", 0, bbox=[50, 10, -20, 10]), r"annotations\[0\].* inverted or empty"),
    "unknown picture": (changed("annotations", 2, image_id=4), r"annotations\[2\] is of image 4"),
    "a COCO file": (
        {**GOOD, "images": [{"id": 7, "file_name": "a.jpg", "width": 200, "height": 100}]},
        r"images\[0\] has no coco_url and no neg_category_ids and no not_exhaustive_category_ids",
    ),
    "nothing exhaustive": (
        {**changed("images", 1, not_exhaustive_category_ids=[3, 5]), "annotations": GOOD["annotations"][1:]},
        "no picture is marked exhaustively for",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_row_is_named(folder, name):
    """Catches a bad row that trains silently, or one reported without its place."""
    data, message = WRONG[name]
    with pytest.raises(UserError, match=message) as error:
        load(folder, data)
    assert "\n" not in str(error.value)

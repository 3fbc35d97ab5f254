"""Image folders, the four classification sets and ReasonSeg: small files in the true layouts, and each wrong row."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from readings import read
from scipy.io import savemat

from minirft import UserError
from minirft.data.fine_grained import FLOWERS
from minirft.data.reasonseg import masks
from minirft.rewards.answers import normalise, parse
from minirft.rewards.boxes import MODEL, convert, pixels
from minirft.rewards.detection import iou
from minirft.samples import Sample


def picture(path, size=(20, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)
    return path


def refusal(load, *args, **options):
    with pytest.raises(UserError) as caught:
        load(*args, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


# ------------------------------------------------------------------ image folders


@pytest.fixture
def pets_folder(tmp_path):
    for name in ("tabby_cat/b.png", "tabby_cat/a.jpg", "tabby_cat/more/c.png", "golden_retriever/a.png"):
        picture(tmp_path / name)
    (tmp_path / ".cache").mkdir()
    (tmp_path / "tabby_cat" / ".DS_Store").write_bytes(b"\0")
    return tmp_path


def test_a_folder_of_folders(pets_folder):
    """Catches a label with underscores, an order that the file system decides, ids that clash between classes."""
    samples = read("folder", pets_folder, family="pet")
    assert [s.id for s in samples] == [
        "golden_retriever/a.png",
        "tabby_cat/a.jpg",
        "tabby_cat/b.png",
        "tabby_cat/more/c.png",
    ]
    assert samples[1].category == parse("classification", samples[1].solution) == "tabby cat"
    assert samples[0].problem.startswith("This is an image containing a pet. Please identify the species")
    assert samples[0].picture().size == (20, 10)
    assert [s.category for s in read("folder", pets_folder, categories=["golden retriever"])] == ["golden retriever"]
    assert "containing an object. Please identify the kind" in read("folder", pets_folder)[0].problem


def test_wrong_folders(pets_folder, tmp_path):
    """Catches a text file asked about as a picture, an empty class, two classes that an answer cannot tell apart."""
    assert "did you mean 'tabby cat'" in refusal(read, "folder", pets_folder, categories=["tabby cats"])
    (pets_folder / "tabby_cat" / "notes.txt").write_text("no picture")
    assert "notes.txt will not open as a picture" in refusal(read, "folder", pets_folder)
    assert read("folder", pets_folder, categories=["golden retriever"])  # only what is asked about is opened
    (pets_folder / "tabby_cat" / "notes.txt").unlink()
    (pets_folder / "empty").mkdir()
    assert "empty holds no picture" in refusal(read, "folder", pets_folder)
    (pets_folder / "empty").rmdir()
    (pets_folder / "Tabby-Cat").mkdir()
    assert "make the same label" in refusal(read, "folder", pets_folder)
    assert "no folder in it" in refusal(read, "folder", picture(tmp_path / "flat" / "a.png").parent)


# ------------------------------------------------------------------ the four classification sets


def flowers(root):
    labels = np.array([[102, 1, 1, 2, 77]], dtype=np.uint8)
    savemat(root / "imagelabels.mat", {"labels": labels})
    savemat(root / "setid.mat", {"trnid": [[2, 4]], "valid": np.array([[5]]), "tstid": [[1, 3]]})
    for number in range(1, 6):
        picture(root / "jpg" / f"image_{number:05d}.jpg")


def pets(root):
    (root / "annotations").mkdir(parents=True)
    (root / "annotations" / "trainval.txt").write_text(
        "#Image CLASS-ID SPECIES BREED ID\nAbyssinian_100 1 1 1\nBritish_Shorthair_7 8 1 3\n"
    )
    (root / "annotations" / "test.txt").write_text("american_pit_bull_terrier_12 3 2 2\n")
    for name in ("Abyssinian_100", "British_Shorthair_7", "american_pit_bull_terrier_12"):
        picture(root / "images" / f"{name}.jpg")


def aircraft(root):
    (root / "data" / "images").mkdir(parents=True)
    (root / "data" / "images_variant_trainval.txt").write_text("1025794 737-200\n0034309 DHC-8 100\n")
    (root / "data" / "images_variant_test.txt").write_text("1514522 F/A-18\n")
    for number in ("1025794", "0034309", "1514522"):
        picture(root / "data" / "images" / f"{number}.jpg")


def car_rows(*rows):
    fields = [(name, object) for name in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")]
    return np.array([(1, 2, 3, 4, number, file) for number, file in rows], dtype=fields).reshape(1, -1)


def cars(root, test_folder="."):
    (root / "devkit").mkdir(parents=True)
    names = np.array([["Acura Integra Type R 2001", "Ram C/V Cargo Van Minivan 2012"]], dtype=object)
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": names})
    train = car_rows((2, "00001.jpg"), (1, "00002.jpg"))
    savemat(root / "devkit" / "cars_train_annos.mat", {"annotations": train})
    savemat(root / test_folder / "cars_test_annos_withlabels.mat", {"annotations": car_rows((1, "00001.jpg"))})
    for name in ("cars_train/00001.jpg", "cars_train/00002.jpg", "cars_test/00001.jpg"):
        picture(root / name)


MAKERS = {"flowers": flowers, "pets": pets, "aircraft": aircraft, "cars": cars}
EXPECTED = {
    ("flowers", "train"): {"image_00002.jpg": "pink primrose", "image_00004.jpg": "hard-leaved pocket orchid",
                           "image_00005.jpg": "passion flower"},
    ("flowers", "test"): {"image_00001.jpg": "blackberry lily", "image_00003.jpg": "pink primrose"},
    ("pets", "train"): {"Abyssinian_100.jpg": "abyssinian", "British_Shorthair_7.jpg": "british shorthair"},
    ("pets", "test"): {"american_pit_bull_terrier_12.jpg": "american pit bull terrier"},
    ("aircraft", "train"): {"1025794.jpg": "737-200", "0034309.jpg": "DHC-8 100"},
    ("aircraft", "test"): {"1514522.jpg": "F/A-18"},
    ("cars", "train"): {"00001.jpg": "2012 Ram C/V Cargo Van Minivan", "00002.jpg": "2001 Acura Integra Type R"},
    ("cars", "test"): {"00001.jpg": "2001 Acura Integra Type R"},
}  # fmt: skip


@pytest.fixture(params=MAKERS)
def kind(request, tmp_path):
    MAKERS[request.param](tmp_path)
    return request.param


@pytest.mark.parametrize("part", ["train", "test"])
def test_labels_and_pictures_of_the_four_sets(kind, part, tmp_path):
    """Catches a label one off (MATLAB counts from 1), the parts swapped, a picture of the other part."""
    samples = read(kind, tmp_path, part=part)
    assert {s.image.name: s.category for s in samples} == EXPECTED[kind, part]
    assert all(parse("classification", s.solution) == s.category and s.image.is_file() for s in samples)
    assert len({s.id for s in samples}) == len(samples)
    if kind == "cars":
        assert all(s.image.parent.name == f"cars_{part}" for s in samples)


def test_ids_differ_between_the_parts(kind, tmp_path):
    """Catches a split of training pictures that also reads on the test part: cars number both from 00001."""
    train, test = (read(kind, tmp_path, part=part) for part in ("train", "test"))
    assert not {s.id for s in train} & {s.id for s in test}


def test_a_missing_picture_names_its_row(kind, tmp_path):
    """Catches a set unpacked by half that trains on the other half."""
    where = {
        "flowers": ("jpg/image_00004.jpg", "setid.mat: trnid[1]"),
        "pets": ("images/Abyssinian_100.jpg", "trainval.txt:2"),
        "aircraft": ("data/images/0034309.jpg", "images_variant_trainval.txt:2"),
        "cars": ("cars_train/00002.jpg", "cars_train_annos.mat: annotations[1]"),
    }
    file, row = where[kind]
    (tmp_path / file).unlink()
    message = refusal(read, kind, tmp_path, part="train")
    assert "no picture at" in message and row in message


def test_a_picture_that_will_not_open(kind, tmp_path):
    """Catches a download that broke off, met hours later."""
    sample = read(kind, tmp_path, part="train")[0]
    sample.image.write_bytes(b"\xff\xd8\xff")
    assert "will not open as a picture" in refusal(read, kind, tmp_path, part="train")


def test_categories_of_a_set(kind, tmp_path):
    """Catches a misspelt class that leaves nothing to train on, and a filter that is not applied."""
    name = next(iter(EXPECTED[kind, "train"].values()))
    assert {s.category for s in read(kind, tmp_path, categories=[name], part="train")} == {name}
    assert "did you mean" in refusal(read, kind, tmp_path, categories=[name[:-1]], part="train")


def test_an_empty_folder_names_the_missing_file(tmp_path):
    """Catches a traceback for the folder above or below the right one."""
    for kind in MAKERS:
        message = refusal(read, kind, tmp_path, part="train")
        assert "no file" in message and "data.folder" in message


def test_wrong_rows_of_flowers(tmp_path):
    """Catches index errors for a file of another release, and a label 0 read as the last class."""
    flowers(tmp_path)
    savemat(tmp_path / "imagelabels.mat", {"labels": [[1, 103, 1, 0, 1]]})
    assert "labels[1] is 103, not 1 to 102" in refusal(read, "flowers", tmp_path, part="train")
    savemat(tmp_path / "imagelabels.mat", {"labels": [[1, 1, 1, 0, 1]]})
    assert "labels[3] is 0, not 1 to 102" in refusal(read, "flowers", tmp_path, part="train")
    savemat(tmp_path / "setid.mat", {"trnid": [[6]], "valid": [[1]]})
    assert "trnid[0] is picture 6, not 1 to 5" in refusal(read, "flowers", tmp_path, part="train")
    assert "no variable 'tstid'" in refusal(read, "flowers", tmp_path, part="test")
    (tmp_path / "setid.mat").write_bytes(b"<html>404</html>")
    assert "cannot be read as a MATLAB file" in refusal(read, "flowers", tmp_path, part="train")


@pytest.mark.parametrize(
    ("kind", "file", "line"),
    [
        ("pets", "annotations/trainval.txt", "Abyssinian_100 1 1"),
        ("pets", "annotations/trainval.txt", "Abyssinian 1 1 1"),
        ("pets", "annotations/trainval.txt", "../secret_1 1 1 1"),
        ("aircraft", "data/images_variant_trainval.txt", "1025794"),
        ("aircraft", "data/images_variant_trainval.txt", "737-200 1025794"),
    ],
)
def test_wrong_lines(kind, file, line, tmp_path):
    """Catches a line cut short that becomes a wrong label."""
    MAKERS[kind](tmp_path)
    good = (tmp_path / file).read_text()
    (tmp_path / file).write_text(good + line + "\n")
    message = refusal(read, kind, tmp_path, part="train")
    assert f"{file}:{len(good.splitlines()) + 1}: {line!r} is not" in message


def test_wrong_rows_of_cars(tmp_path):
    """Catches the test file without labels, and a class that the list of names does not reach."""
    cars(tmp_path)
    savemat(tmp_path / "devkit" / "cars_train_annos.mat", {"annotations": car_rows((1, "00001.jpg"), (3, "00002.jpg"))})
    assert "annotations[1], 00002.jpg, is of class 3" in refusal(read, "cars", tmp_path, part="train")
    rows = np.array([[(1, "00001.jpg")]], dtype=[("bbox_x1", object), ("fname", object)])
    savemat(tmp_path / "cars_test_annos_withlabels.mat", {"annotations": rows})
    assert "have no class; take cars_test_annos_withlabels.mat" in refusal(read, "cars", tmp_path, part="test")


def test_labels_of_the_cars_test_are_found_in_either_place(tmp_path):
    """Catches one of the two places where people unpack the file being refused."""
    cars(tmp_path, "devkit")
    assert len(read("cars", tmp_path, part="test")) == 1


def test_the_flower_names():
    """Catches a name lost from the shipped list, which would shift all labels after it."""
    assert len(FLOWERS) == len({normalise(name) for name in FLOWERS}) == 102
    assert (FLOWERS[0], FLOWERS[72], FLOWERS[101]) == ("pink primrose", "water lily", "blackberry lily")


# ------------------------------------------------------------------ ReasonSeg

SQUARE = [[20, 10], [60, 10], [60, 30], [20, 30]]
WATER = ("the part that holds water",)
SMALL = [[30, 15], [40, 15], [40, 20], [30, 20]]
FAR = [[80, 40], [120, 40], [90, 45]]  # reaches over the right edge of a picture 100 wide


def shape(points, label="target"):
    return {"label": label, "points": points, "shape_type": "polygon"}


def write(root, name="0001", shapes=None, text=WATER, part="train", **changes):
    path = picture(root / part / f"{name}.jpg", (100, 50))
    shapes = [shape(SQUARE)] if shapes is None else list(shapes)
    data = {"shapes": shapes, "text": list(text) if isinstance(text, tuple) else text, "is_sentence": True}
    path.with_suffix(".json").write_text(json.dumps(data | changes))
    return path.with_suffix(".json")


def test_one_sample_for_each_instruction(tmp_path):
    """Catches width and height swapped, a box of the ignored region, instructions that are lost."""
    write(tmp_path, shapes=[shape(SQUARE), shape(FAR, "ignore"), shape(FAR, "flag")], text=("a cup ", "what holds tea"))
    first, second = read("reasonseg", tmp_path, part="train")
    assert (first.id, first.category, second.id) == ("train/0001:0", "a cup", "train/0001:1")
    assert parse("grounding", first.solution).tolist() == [200, 200, 600, 600]
    assert "instruction: what holds tea Output the thinking" in second.problem


def test_the_box_covers_all_targets_within_the_picture(tmp_path):
    """Catches the first polygon standing for the whole target, and a box that leaves the frame."""
    write(tmp_path, shapes=[shape(SQUARE), shape(FAR)])
    (sample,) = read("reasonseg", tmp_path, part="train")
    assert parse("grounding", sample.solution).tolist() == [200, 200, 1000, 900]


def test_masks(tmp_path):
    """Catches a mask transposed, an ignored region counted as a hit, a small region hidden under a large one."""
    write(tmp_path, shapes=[shape(SMALL, "ignore"), shape(SQUARE)])
    (sample,) = read("reasonseg", tmp_path, part="train")
    target, ignored = masks(sample)
    assert target.shape == ignored.shape == (50, 100) and target.dtype == bool
    expected = np.zeros((50, 100), dtype=bool)
    expected[10:31, 20:61] = True  # edges belong to a polygon
    hole = np.zeros_like(expected)
    hole[15:21, 30:41] = True
    assert (ignored == hole).all() and (target == (expected & ~hole)).all()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.floats(0, 99), st.floats(0, 49)), min_size=3, max_size=8, unique=True))
def test_box_and_mask_agree(tmp_path, points):
    """Catches a box and a mask that are read from different points or in different frames."""
    points = [list(point) for point in points]
    xs, ys = zip(*points, strict=True)
    if max(xs) - min(xs) < 2 or max(ys) - min(ys) < 2:
        return
    write(tmp_path, shapes=[shape(points)])
    (sample,) = read("reasonseg", tmp_path, part="train")
    rows, columns = np.nonzero(masks(sample)[0])
    bounds = [[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]]
    box = convert(parse("grounding", sample.solution)[None], MODEL, pixels(100, 50))
    assert iou(box, bounds)[0, 0] > 0.3 and (np.abs(box - bounds) <= 1.2).all()


def test_windows_files(tmp_path):
    """Catches the published files that are not UTF-8 being refused."""
    path = write(tmp_path)
    path.write_bytes(path.read_text().replace("that holds", "that\\u2019s for").encode())
    path.write_bytes(path.read_bytes().replace(b"\\u2019", b"\x92"))
    assert read("reasonseg", tmp_path, part="train")[0].category == "the part that’s for water"


WRONG = {
    "no text": ({"text": []}, "'text' is [], not a list of instructions"),
    "text is a string": ({"text": "a cup"}, "'text' is 'a cup', not a list"),
    "an empty instruction": ({"text": ("a cup", " ")}, "not a list of instructions"),
    "no shapes": ({"shapes": ()}, "has no target polygon"),
    "only ignored": ({"shapes": (shape(SQUARE, "ignore"),)}, "has no target polygon"),
    "two points": ({"shapes": (shape(SQUARE[:2]),)}, "shapes[0] needs 3 or more points"),
    "points in threes": ({"shapes": (shape([[1, 2, 3]] * 3),)}, "shapes[0] needs 3 or more points"),
    "ragged points": ({"shapes": (shape([[1, 2], [3], [4, 5]]),)}, "shapes[0] needs 3 or more points"),
    "not a number": ({"shapes": (shape([[1, 2], [3, float("nan")], [4, 5]]),)}, "shapes[0] needs 3 or more points"),
    "no points": ({"shapes": (shape(SQUARE), {"label": "target"})}, "shapes[1] needs 3 or more points"),
    "no label": ({"shapes": (shape(SQUARE), {"points": SQUARE})}, "shapes[1] has no label"),
    "outside": ({"shapes": (shape([[200, 10], [260, 10], [260, 30]]),)}, "outside the 100 x 50 picture"),
    "a line": ({"shapes": (shape([[20, 10], [60, 10], [40, 10]]),)}, "the target is empty"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file_is_named(name, tmp_path):
    """Catches a file that trains with a box of zero size, or one reported without its name."""
    changes, expected = WRONG[name]
    write(tmp_path, "0001")
    write(tmp_path, "0002", **changes)
    message = refusal(read, "reasonseg", tmp_path, part="train")
    assert expected in message and "0002.json" in message


def test_files_that_are_missing(tmp_path):
    """Catches an archive unpacked by half, and an empty part that evaluates to nothing."""
    assert "no folder" in refusal(read, "reasonseg", tmp_path, part="val")
    path = write(tmp_path)
    path.with_suffix(".jpg").unlink()
    assert "no picture at" in refusal(read, "reasonseg", tmp_path, part="train")
    shutil.copy(picture(tmp_path / "spare.jpg"), path.with_suffix(".jpg"))
    path.write_text("[1")
    assert "cannot be read as JSON" in refusal(read, "reasonseg", tmp_path, part="train")
    path.write_text("[1]")
    assert "no list 'shapes'" in refusal(read, "reasonseg", tmp_path, part="train")
    path.unlink()
    assert "has no 0001.json" in refusal(read, "reasonseg", tmp_path, part="train")


def test_masks_of_another_set(tmp_path):
    """Catches gIoU of a sample that never had a mask."""
    sample = Sample("7:cat", picture(tmp_path / "a.jpg"), "detection", "?", "<answer>[]</answer>", "cat")
    assert "masks are for ReasonSeg only" in refusal(masks, sample)

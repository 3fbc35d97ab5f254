"""The published sets: parquet as the hub gives it, `save_to_disk` as the released code takes it, each wrong row."""

import io
import sys

import pytest
from PIL import Image
from readings import read

from minirft import UserError
from minirft.data.findings import Findings
from minirft.data.hub import StoredPicture
from minirft.rewards import prompts
from minirft.rewards.answers import parse_detection

datasets = pytest.importorskip("datasets")

CAT = "<answer>[{'Position': [1, 364, 98, 649], 'Confidence': 1}]</answer>"
ROWS = {
    "detection": [
        (prompts.detection("cat"), CAT),
        (prompts.detection("fire hydrant"), "<answer>No Objects</answer>"),
        ("<image>\n" + prompts.detection("cat"), CAT),
    ],
    "classification": [
        (prompts.classification("pet"), "<answer>british_shorthair</answer>"),
        (prompts.classification("aircraft"), "<answer>F/A-18</answer>"),
        (prompts.classification("car"), "<answer>2010 Chevrolet Malibu Hybrid Sedan</answer>"),
    ],
    "grounding": [(prompts.grounding("the taller cup"), "<answer> (10,20),(300,400) </answer>")],
}


def encoded(colour="red", mode="RGBA", form="PNG"):
    buffer = io.BytesIO()
    Image.new(mode, (32, 24), colour).save(buffer, form)
    return buffer.getvalue()


def table(rows, images=None):
    features = datasets.Features(
        {"image": datasets.Image(), "problem": datasets.Value("string"), "solution": datasets.Value("string")}
    )
    images = images or [encoded(colour) for colour in ("red", "green", "blue", "black")][: len(rows)]
    columns = {
        "image": [{"bytes": image, "path": None} for image in images],
        "problem": [problem for problem, _ in rows],
        "solution": [solution for _, solution in rows],
    }
    return datasets.Dataset.from_dict(columns, features=features)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """`datasets` copies parquet into its cache; here that is a folder that goes away."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def stored(form, made, tmp_path):
    place = tmp_path / "ViRFT_SET"
    if form == "save_to_disk":
        datasets.DatasetDict({"train": made}).save_to_disk(str(place))
    elif form == "one split on disk":
        made.save_to_disk(str(place))
    else:
        (place / "data").mkdir(parents=True)
        count = min(2, len(made))
        for i in range(count):
            shard = made.shard(count, i, contiguous=True)
            shard.to_parquet(str(place / "data" / f"train-{i:05d}-of-{count:05d}.parquet"))
    return place


@pytest.mark.parametrize("task", ROWS)
@pytest.mark.parametrize("form", ["parquet", "save_to_disk", "one split on disk"])
def test_all_forms_of_all_tasks(form, task, tmp_path):
    """Catches a form that is not read (load errors in half of the released code's issues), and rows out of order."""
    samples = read("virft", stored(form, table(ROWS[task]), tmp_path), task=task)
    assert [s.id for s in samples] == [f"ViRFT_SET:{i}" for i in range(len(ROWS[task]))]
    assert [s.solution for s in samples] == [solution for _, solution in ROWS[task]]
    assert all(s.task == task and not s.problem.startswith("<image>") for s in samples)
    assert [s.problem for s in samples] == [problem.removeprefix("<image>\n") for problem, _ in ROWS[task]]
    colours = [s.picture().getpixel((0, 0)) for s in samples]
    assert colours == [(255, 0, 0), (0, 128, 0), (0, 0, 255)][: len(samples)]  # RGBA loses its fourth channel


def test_categories(tmp_path):
    """Catches categories that k-shot and evaluation cannot count by."""
    kinds = {
        task: read("virft", stored("save_to_disk", table(ROWS[task]), tmp_path / task), task=task) for task in ROWS
    }
    names = {task: [s.category for s in samples] for task, samples in kinds.items()}
    assert names["detection"] == ["cat", "fire hydrant", "cat"]
    assert names["classification"] == ["british_shorthair", "F/A-18", "2010 Chevrolet Malibu Hybrid Sedan"]
    assert names["grounding"] == ["the taller cup"]
    place = tmp_path / "detection" / "ViRFT_SET"
    assert [s.id for s in read("virft", place, task="detection", categories=["cat"])] == ["ViRFT_SET:0", "ViRFT_SET:2"]
    with pytest.raises(UserError, match="did you mean 'cat'"):
        read("virft", place, task="detection", categories=["cats"])


def test_one_parquet_file(tmp_path):
    """Catches a file that must be put into a folder first."""
    path = tmp_path / "mine.parquet"
    table(ROWS["grounding"]).to_parquet(str(path))
    assert read("virft", path, task="grounding")[0].id == "mine:0"


def test_a_picture_is_read_when_it_is_asked_about(tmp_path):
    """Catches gigabytes of pictures held in memory, and two samples of one row taken for two pictures."""
    place = stored("save_to_disk", table(ROWS["detection"]), tmp_path)
    first, again = read("virft", place, task="detection"), read("virft", place, task="detection")
    assert {s.image for s in first} == {s.image for s in again} and len({s.image for s in first}) == 3
    image = first[1].image
    assert isinstance(image, StoredPicture) and str(image).endswith("ViRFT_SET, row 1")
    assert first[1].picture().tobytes() == first[1].picture().tobytes() == again[1].picture().tobytes()
    assert image.read_bytes() == encoded("green")
    assert not [value for value in vars(image).values() if isinstance(value, bytes)]


WRONG = {
    "no answer tag": ("detection", (prompts.detection("cat"), "cat"), "no answer block"),
    "inverted": ("detection", (prompts.detection("cat"), CAT.replace("98", "0")), "invalid box"),
    "pixels": ("detection", (prompts.detection("cat"), CAT.replace("649", "1649")), "invalid box"),
    "torn list": ("detection", (prompts.detection("cat"), CAT.replace("}]", "")), "not a list of predictions"),
    "empty label": ("classification", (prompts.classification("pet"), "<answer></answer>"), "empty answer"),
    "no box": ("grounding", (prompts.grounding("a cup"), "<answer>(1,2)</answer>"), "not a box"),
    "no problem": ("detection", (" ", CAT), "an empty problem or solution"),
    "null solution": ("detection", (prompts.detection("cat"), None), "an empty problem or solution"),
    "another task": ("detection", ROWS["grounding"][0], "is data.task = 'detection' right"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_row_is_named(name, tmp_path):
    """Catches a solution that no answer can match, and a set of another task: both train at reward 0 without a word."""
    task, row, expected = WRONG[name]
    place = stored("parquet", table([ROWS[task][0], row]), tmp_path)
    with pytest.raises(UserError, match=f"ViRFT_SET: row 1 has .*{expected}") as caught:
        read("virft", place, task=task)
    assert "\n" not in str(caught.value)


def test_a_picture_that_will_not_open(tmp_path):
    """Catches a torn picture met in the middle of a run."""
    place = stored("save_to_disk", table(ROWS["detection"][:2], [encoded(), encoded()[:20]]), tmp_path)
    with pytest.raises(UserError, match="row 1 will not open as a picture"):
        read("virft", place, task="detection")


def test_bad_boxes_can_be_dropped(tmp_path):
    """Catches a row whose only box is bad that comes to mean No Objects."""
    two = CAT.replace("}]", "}, {'Position': [5, 5, 5, 9], 'Confidence': 1}]")
    rows = [(prompts.detection("cat"), two), (prompts.detection("cat"), CAT.replace("98", "1"))]
    place = stored("save_to_disk", table(rows), tmp_path)
    (sample,) = read("virft", place, task="detection", findings=Findings("skip"))
    assert sample.id == "ViRFT_SET:0" and sample.solution == CAT
    assert len(parse_detection(sample.solution)) == 1
    with pytest.raises(UserError, match="no row that can be used"):
        read(
            "virft",
            stored("save_to_disk", table(rows[1:]), tmp_path / "b"),
            task="detection",
            findings=Findings("skip"),
        )


def test_folders_that_are_no_set(tmp_path):
    """Catches a traceback of pyarrow's for a wrong folder or a download that broke off."""
    with pytest.raises(UserError, match=r"no \.parquet file"):
        read("virft", tmp_path, task="detection")
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="cannot be read"):
        read("virft", tmp_path, task="detection")
    path = tmp_path / "b.parquet"
    table(ROWS["detection"]).remove_columns(["solution"]).to_parquet(str(path))
    with pytest.raises(UserError, match=r"has no column solution; it has image, problem"):
        read("virft", path, task="detection")


def test_without_the_package(tmp_path, monkeypatch):
    """Catches an ImportError that does not say what to install."""
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="pip install"):
        read("virft", tmp_path, task="detection")

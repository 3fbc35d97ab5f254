"""Pictures and annotation files as people have them: what each becomes, and that one bad one never stops a run."""

import json
import logging
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_runs import earnable, forked, small_config, trace

import minirft.train as train_module
from minirft import UserError
from minirft.commands.cli import main
from minirft.data import findings as findings_module
from minirft.data import screening as screening_module
from minirft.data.feed import held_out, training_set
from minirft.data.findings import Findings
from minirft.data.screening import Screening
from minirft.data.settings import DataConfig
from minirft.rewards.answers import parse_detection
from minirft.rewards.frames import displayed_size
from minirft.runs.config import GRPOConfig
from minirft.train import run as train

SIZE = (60, 40)
BOX = [6, 4, 30, 20]


@pytest.fixture(autouse=True)
def nothing_said_yet():
    """What is said once in a process would be silent in the second test."""
    findings_module.report.cache_clear()


def photograph(i: int = 0) -> Image.Image:
    """A gradient: dark at the left, light at the right, so that a turn and a scale show."""
    row = np.linspace(20, 200, SIZE[0]).astype(np.uint8)
    pixels = np.repeat(np.repeat(row[None, :, None], SIZE[1], 0), 3, 2)
    pixels[:4, :4] = i
    return Image.fromarray(pixels)


def dataset(folder: Path, count: int = 40, **changed_row) -> tuple[Path, dict]:
    """Photographs with a mug each, and their COCO tables; `changed_row` changes the first picture's row."""
    images = [{"id": i, "file_name": f"{i}.png", "width": SIZE[0], "height": SIZE[1]} for i in range(count)]
    for i, row in enumerate(images):
        photograph(i).save(folder / row["file_name"])
    images[0] |= changed_row
    boxes = [{"id": i, "image_id": i, "category_id": 1, "bbox": list(BOX)} for i in range(count)]
    return folder / "a.json", {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "mug"}]}


def data_of(path: Path, tables: dict, encoding: str = "utf-8", **options) -> DataConfig:
    path.write_text(json.dumps(tables), encoding=encoding)
    return DataConfig(kind="coco", annotations=path, images=path.parent, negatives=0.0, **options)


def screened(data: DataConfig):
    screening = Screening(data)
    return training_set(data, screening), screening


# ------------------------------------------------------------------ pictures


@pytest.mark.parametrize("annotated", [(40, 60), (60, 40)], ids=["boxes upright", "boxes as stored"])
def test_a_turn_is_applied_where_the_annotations_say_so(tmp_path, annotated, caplog):
    """Catches a phone's picture refused, and one lying on its side under boxes that were drawn on it upright."""
    path, tables = dataset(tmp_path, file_name="turned.jpg", width=annotated[0], height=annotated[1])
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    photograph().save(tmp_path / "turned.jpg", exif=exif, quality=95)
    with caplog.at_level(logging.WARNING):
        (first, *_), screening = screened(data_of(path, tables))
    assert first.picture().size == annotated == displayed_size(first)
    pixels = np.asarray(first.picture()).mean(-1)
    axis = 0 if annotated == (40, 60) else 1  # the gradient runs down the upright picture
    ends = pixels.mean(1 - axis)
    assert ends[-5:].mean() > ends[:5].mean() + 100
    said = "turned upright" if axis == 0 else "taken as they are stored"
    assert said in caplog.text and caplog.text.count("marked as turned") + caplog.text.count("upright") == 1
    assert any(said in what for what in screening.row()["mended"])


def test_16_bits_are_scaled(tmp_path):
    """Catches a picture that is white in every pixel, because 16 bits were clipped at 255."""
    path, tables = dataset(tmp_path)
    values = np.asarray(photograph().convert("L")).astype(np.uint16)
    Image.fromarray(values * 257).save(tmp_path / "0.png")
    (first, *_), screening = screened(data_of(path, tables))
    assert np.array_equal(np.asarray(first.picture())[..., 0], values)
    assert screening.row()["mended"] == {"pictures of more than 8 bits a pixel, scaled to 8": 1}


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_laid_on_white(tmp_path, mode):
    """Catches a cut-out on black, or on whatever colour lies below its transparent pixels."""
    path, tables = dataset(tmp_path)
    picture = photograph().convert("RGBA")
    picture.putalpha(Image.fromarray(np.where(np.indices(SIZE[::-1])[1] < 30, 0, 255).astype(np.uint8)))
    if mode == "P":
        made = picture.convert("RGB").quantize(16)
        made.paste(15, (0, 0, 30, 40))
        made.save(tmp_path / "0.png", transparency=15)
    else:
        picture.convert(mode).save(tmp_path / "0.png")
    (first, *_), _ = screened(data_of(path, tables))
    pixels = np.asarray(first.picture())
    assert (pixels[:, :30] == 255).all() and not (pixels[:, 31:] == 255).any()


@pytest.mark.parametrize(
    ("name", "options"),
    [("a.gif", {"save_all": True, "append_images": [photograph(9)]}), ("a.webp", {}), ("a.tif", {}), ("a.bmp", {})],
)
def test_formats_that_are_taken(tmp_path, name, options, caplog):
    """Catches an animation's last frame, and a CMYK picture refused."""
    path, tables = dataset(tmp_path, file_name=name)
    picture = photograph().convert("CMYK") if name == "a.tif" else photograph()
    picture.save(tmp_path / name, **options)
    with caplog.at_level(logging.WARNING):
        (first, *_), _ = screened(data_of(path, tables))
    assert first.picture().size == SIZE and np.asarray(first.picture())[0, 0].max() < 9 + 5 * (name != "a.gif")
    assert caplog.text.count("several frames") == (name == "a.gif")


def test_heic_says_which_extra_opens_it(tmp_path, monkeypatch):
    """Catches "cannot identify image file" for the pictures of every newer phone."""
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # as if it were not installed
    path, tables = dataset(tmp_path, count=2, file_name="a.heic")
    (tmp_path / "a.heic").write_bytes(b"\x00\x00\x00\x18ftypheic" + bytes(64))
    with pytest.raises(UserError, match=r"a\.heic will not open.*a HEIC picture: pip install .minirft\[heic\]"):
        training_set(data_of(path, tables, on_bad="stop"))


# ------------------------------------------------------------------ rows


def test_what_is_put_right_is_counted(tmp_path):
    """Catches a file refused for one box 5 pixels over the edge or of no size, and one changed without a word."""
    path, tables = dataset(tmp_path)
    tables["annotations"][0]["bbox"] = [30, 20, 35, 20]
    tables["annotations"][1]["bbox"] = [30, 20, 0, 5]
    samples, screening = screened(data_of(path, tables))
    assert [s.id for s in samples[:2]] == ["0:mug", "2:mug"]
    assert parse_detection(samples[0].solution).boxes.tolist() == [[500, 500, 1000, 1000]]
    assert samples[0].exact.boxes.tolist() == [[30, 20, 60, 40]]
    assert screening.row() == {"mended": {"boxes clipped to their pictures": 1, "empty boxes left out": 1}}
    with pytest.raises(UserError, match=r"annotations\[0\] is a mug in 0.png .* outside"):
        training_set(data_of(path, tables, on_bad="stop"))


BAD_ROWS = {
    "NaN": ({"bbox": [float("nan"), 1, 2, 3]}, "four finite numbers"),
    "strings": ({"bbox": ["1", "2", "3", "4"]}, "four finite numbers"),
    "inverted": ({"bbox": [30, 20, -5, 5]}, "inverted"),
    "far outside": ({"bbox": [50, 20, 40, 10]}, "outside"),
    "string id": ({"image_id": "0"}, "is of image '0', which 'images' does not list (it has 0)"),
    "unknown category": ({"category_id": 7}, "is of category 7"),
    "list as id": ({"image_id": [0]}, "is of image [0]"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_costs_its_sample(tmp_path, name):
    """Catches one NaN in 40 boxes that refuses the file, and a question whose truth lacks that box."""
    change, reason = BAD_ROWS[name]
    path, tables = dataset(tmp_path)
    tables["annotations"][0] |= change
    samples, screening = screened(data_of(path, tables))
    assert [s.id for s in samples] == [f"{i}:mug" for i in range(1, 40)]
    (bad,) = screening.findings.bad
    assert (bad.file, bad.row) == (str(path), "annotations[0]") and reason in bad.reason


def test_a_picture_with_a_lost_box_is_not_called_empty(tmp_path):
    """Catches a string id that leaves its picture without boxes, about which "No Objects" is then taught."""
    path, tables = dataset(tmp_path)
    tables["annotations"][0]["image_id"] = "0"
    samples, _ = screened(replace(data_of(path, tables), negatives=0.9))
    assert "0:mug" not in {s.id for s in samples}


def test_files_as_they_are_exported(tmp_path, caplog):
    """Catches a byte-order mark, \\ in names, a folder that is not there, no sizes, and " Mug " refused."""
    path, tables = dataset(tmp_path)
    tables["categories"][0]["name"] = " Mug "
    names = ["images/0.png", "C:\\photos\\images\\1.png", "./2.png"]
    for row, name in zip(tables["images"], names, strict=False):
        row["file_name"] = name
    del tables["images"][3]["width"], tables["images"][3]["height"]
    data = data_of(path, tables, encoding="utf-8-sig", categories=("mUG",))
    with caplog.at_level(logging.WARNING):
        samples, screening = screened(data)
    assert len(samples) == 40 and {s.category for s in samples} == {"Mug"} and "category 'Mug' in" in samples[0].problem
    assert screening.row()["mended"] == {
        "pictures found at another place than their names say": 2,
        "pictures without a size in their rows, which is read off the files": 1,
    }
    assert caplog.text.count("which is taken") == 1


def test_a_name_that_could_be_two_pictures_is_not_guessed(tmp_path):
    """Catches the wrong one of two pictures of a name, trained on without a word."""
    path, tables = dataset(tmp_path, file_name="x/same.png")
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        photograph().save(tmp_path / folder / "same.png")
    samples, screening = screened(data_of(path, tables))
    (bad,) = screening.findings.bad
    assert len(samples) == 39 and "2 of that name" in bad.reason


def test_a_wrong_folder_is_told_with_one_that_is_there(tmp_path):
    """Catches "no picture at" without the folder tried or what is in its place."""
    path, tables = dataset(tmp_path)
    data = data_of(path, tables)
    with pytest.raises(UserError, match=r"40 of 40 samples cannot be used.*there is no folder .*gone; .* has "):
        training_set(replace(data, images=tmp_path / "gone"))


def test_corners_in_place_of_sizes_are_refused(tmp_path):
    """Catches [x1, y1, x2, y2] read as COCO's form: boxes too large, most of them clipped without an error."""
    path, tables = dataset(tmp_path)
    for i, row in enumerate(tables["annotations"]):
        row["bbox"] = [10 + i % 5, 5, 45 + i % 5, 30]
    with pytest.raises(UserError, match=r"8 of 40 boxes reach outside .*all fit as corners"):
        training_set(data_of(path, tables))


def test_roboflows_phantom_category_is_not_asked_about(tmp_path):
    """Catches questions about "pets-v3", the name of the project, as a thing that is in no picture."""
    path, tables = dataset(tmp_path)
    tables["categories"] = [
        {"id": 0, "name": "pets-v3", "supercategory": "none"},
        {"id": 1, "name": "mug", "supercategory": "pets-v3"},
        {"id": 2, "name": "cup", "supercategory": "pets-v3"},
    ]
    samples, _ = screened(replace(data_of(path, tables), negatives=0.5))
    assert {s.category for s in samples} == {"mug", "cup"}


def test_an_extreme_shape_costs_its_sample(tmp_path):
    """Catches a panorama strip of 2000 x 8 that stops the run in the picture processor."""
    path, tables = dataset(tmp_path, width=2000, height=8)
    Image.new("RGB", (2000, 8)).save(tmp_path / "0.png")
    tables["annotations"][0]["bbox"] = [6, 2, 30, 4]
    samples, screening = screened(data_of(path, tables))
    (bad,) = screening.findings.bad
    assert len(samples) == 39 and "aspect ratio" in bad.reason


WRONG_FILES = {
    "web page": (b"<!DOCTYPE html><html>", "a web page"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "ZIP": (b"PK\x03\x04" + bytes(40), "a ZIP archive"),
    "empty": (b"", "an empty file"),
    "PDF": (b"%PDF-1.7", "a PDF"),
    "video": (b"\x00\x00\x00\x18ftypmp42" + bytes(20), "a video"),
}


@pytest.mark.parametrize("name", WRONG_FILES)
def test_a_file_of_another_kind_is_called_by_its_name(tmp_path, name):
    """Catches "cannot identify image file" for a page that a download gave in place of a picture."""
    stored, called = WRONG_FILES[name]
    path, tables = dataset(tmp_path)
    (tmp_path / "0.png").write_bytes(stored)
    samples, screening = screened(data_of(path, tables))
    (bad,) = screening.findings.bad
    assert len(samples) == 39 and called in bad.reason
    table = tmp_path / "b.json"
    table.write_bytes(stored + b"\xff")
    with pytest.raises(UserError):
        training_set(replace(data_of(path, tables), annotations=table))


def _crowd(tables: dict) -> None:
    tables["annotations"][0]["iscrowd"] = 1


def _twice_the_size(tables: dict) -> None:
    tables["images"][0] |= {"width": 120, "height": 80}
    tables["annotations"][0]["bbox"] = [12, 8, 60, 40]


def _id_0(tables: dict) -> None:
    for row in [*tables["annotations"], tables["categories"][0]]:
        row["category_id" if "bbox" in row else "id"] = 0


# The last row of the list: what was right, and is to stay so; with how many of four pictures are asked about.
KEPT = {
    "duplicate image rows": (lambda tables: tables["images"].append(dict(tables["images"][0])), 4),
    "duplicate category names": (lambda tables: tables["categories"].append({"id": 2, "name": "mug"}), 4),
    "category id 0": (_id_0, 4),
    "missing area": (lambda tables: tables["annotations"][1].update(area=9), 4),
    "a crowd": (_crowd, 3),
    "a size twice the picture's": (_twice_the_size, 3),
    "a grey picture": (lambda tables: None, 4),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_was_right_stays_right(tmp_path, name):
    """Catches a sample asked about twice, a crowd taken for one mug, and boxes twice as large as their picture."""
    change, asked = KEPT[name]
    path, tables = dataset(tmp_path, count=4)
    change(tables)
    if name == "a grey picture":
        photograph().convert("L").save(tmp_path / "0.png")
    samples, screening = screened(data_of(path, tables))
    assert [s.id for s in samples] == [f"{i}:mug" for i in range(4 - asked, 4)]
    assert all(parse_detection(s.solution).boxes.tolist() == [[100, 100, 600, 600]] for s in samples)
    reasons = [bad.reason for bad in screening.findings.bad]
    assert (["every box would be off" in reason for reason in reasons] == [True]) == (name[:6] == "a size")


def test_two_categories_of_one_name_that_both_have_boxes_are_refused(tmp_path):
    """Catches boxes of two things in one truth: an answer has a name alone."""
    path, tables = dataset(tmp_path, count=4)
    tables["categories"].append({"id": 2, "name": "mug"})
    tables["annotations"][1]["category_id"] = 2
    with pytest.raises(UserError, match="the categories 1 and 2 are both called 'mug' and both have boxes: rename one"):
        training_set(data_of(path, tables))


# ------------------------------------------------------------------ the run


def torn(path: Path) -> None:
    """Cut a picture off in the middle: its header is right."""
    noise = np.random.default_rng(0).integers(0, 256, (*SIZE[::-1], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_another_shot_is_drawn_for_a_torn_picture(tmp_path):
    """Catches 3 shots where 4 were asked for, and shots that change for the pictures that are sound."""
    path, tables = dataset(tmp_path)
    data = data_of(path, tables, shots=4)
    before = {s.id for s in training_set(data)}
    lost = sorted(before)[0]
    torn(tmp_path / f"{lost.split(':')[0]}.png")
    samples, screening = screened(data)
    after = {s.id for s in samples}
    assert len(after) == 4 and before - after == {lost}
    assert [bad.file for bad in screening.findings.bad] == [str(tmp_path / f"{lost.split(':')[0]}.png")]
    assert "will not open" in next(iter(screening.findings.bad)).reason


def test_too_much_stops_before_the_first_step(tmp_path):
    """Catches a run on the half of a set that happens to open."""
    path, tables = dataset(tmp_path)
    for i in (3, 5):
        torn(tmp_path / f"{i}.png")
    assert len(screened(data_of(path, tables))[0]) == 38  # 2 of 40 is 5%
    torn(tmp_path / "7.png")
    with pytest.raises(UserError, match=r"3 of 40 samples cannot be used, and data.max_bad = 0.05 allows 2; the first"):
        screened(data_of(path, tables))
    assert len(screened(data_of(path, tables, max_bad=0.1))[0]) == 37
    with pytest.raises(UserError, match=r"png will not open"):
        screened(data_of(path, tables, on_bad="stop"))


def test_one_alone_never_stops(tmp_path):
    """Catches four photographs, one of them torn, refused for a share of 25%."""
    path, tables = dataset(tmp_path, count=4)
    torn(tmp_path / "0.png")
    assert len(screened(data_of(path, tables))[0]) == 3
    with pytest.raises(UserError, match="max_bad = 0 allows 0"):
        screened(data_of(path, tables, max_bad=0.0))


@pytest.mark.parametrize("damage", [torn, lambda path: path.write_bytes(b""), Path.unlink])
def test_nothing_left_is_refused(tmp_path, damage):
    """Catches an empty training set, of which step 1 asks for a sample."""
    path, tables = dataset(tmp_path, count=1)
    damage(tmp_path / "0.png")
    with pytest.raises(UserError, match=r"1 of 1 samples cannot be used; the first: .*0\.png"):
        screened(data_of(path, tables))


def test_held_out_pictures_are_opened_too(tmp_path):
    """Catches an evaluation that a torn picture stops after an hour of training."""
    path, tables = dataset(tmp_path)
    data = data_of(path, tables, shots=4)
    left = held_out(GRPOConfig(data=data, eval_samples=0))
    torn(left[0].image)
    sound = held_out(GRPOConfig(data=data, eval_samples=0), Screening(data))
    assert sound == left[1:]


@pytest.fixture
def broken(tiny_random, tmp_path, monkeypatch):
    """A run on 40 pictures of which 2 are torn, and with one box over the edge and one of NaN."""
    monkeypatch.setattr(train_module, "reward_for", earnable)
    path, tables = dataset(tmp_path)
    for i in (3, 5):
        torn(tmp_path / f"{i}.png")
    tables["annotations"][8]["bbox"] = [30, 20, 35, 20]
    tables["annotations"][9]["bbox"] = [float("nan")] * 4
    (tmp_path / "eval").mkdir()
    other = data_of(*dataset(tmp_path / "eval", count=8))
    data = data_of(path, tables, max_bad=0.1, eval_annotations=other.annotations, eval_images=other.images)
    return small_config(tiny_random, tmp_path / "run", data=data, eval_every=3, prompts_per_step=8)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_run_with_bad_samples_resumes_bit_for_bit(broken, monkeypatch):
    """Over 5% of its pictures torn, kill -9, resume: samples that shift because a picture was mended in between."""
    straight = broken.out.with_name("straight")
    list(train(replace(broken, out=straight)))

    def die() -> None:
        for row in train(broken):
            if row["step"] == 3 and row["kind"] == "train":
                os.kill(os.getpid(), signal.SIGKILL)

    assert os.WTERMSIG(os.waitpid(forked(die), 0)[1]) == signal.SIGKILL
    photograph(3).save(broken.data.images / "3.png")  # somebody repairs it half-way
    opened = []
    monkeypatch.setattr(screening_module, "decode", lambda sample: opened.append(sample) or ("", []))
    list(train(broken, resume=broken.out))
    assert trace(broken.out) == trace(straight) and not opened
    listed = [json.loads(line) for line in (broken.out / "bad_samples.jsonl").read_text().splitlines()]
    assert [(Path(row["file"]).name, row["row"]) for row in listed] == [
        ("a.json", "annotations[9]"),
        ("3.png", ""),
        ("5.png", ""),
    ]
    first = trace(broken.out)["log"][0]
    assert first["kind"] == "data" and first["bad_samples"] == 3
    assert first["mended"] == {"boxes clipped to their pictures": 1}
    trained = {json.loads(line)["sample"] for line in (broken.out / "completions.jsonl").read_text().splitlines()}
    assert not trained & {"3:mug", "5:mug", "9:mug"} and "8:mug" in trained


def test_data_check_finds_it_before(tmp_path, capsys):
    """Catches a check that stops at the first, or that reads headers only; and one that says all is well with 0."""
    path, tables = dataset(tmp_path)
    for i in (3, 5):
        torn(tmp_path / f"{i}.png")
    data_of(path, tables)
    source, out = tmp_path / "mine.toml", tmp_path / "bad.jsonl"
    source.write_text(f"[data]\nkind = 'coco'\nannotations = '{path}'\nimages = '{tmp_path}'\nshots = 2\n")
    assert main(["data", "check", str(source), "--out", str(out)]) == 0
    assert "40 pictures opened, 38 samples can be used, 2 bad" in capsys.readouterr().out
    assert [Path(json.loads(line)["file"]).name for line in out.read_text().splitlines()] == ["3.png", "5.png"]
    assert main(["data", "check", str(source), "--data.max-bad", "0.01", "--json"]) == 2
    captured = capsys.readouterr()
    assert json.loads(captured.out)["bad"] == 2
    assert [line for line in captured.err.splitlines() if line.startswith("minirft: ")][-1].count("cannot be used") == 1


def test_strict_findings_raise_at_once():
    """Catches "stop" that skips."""
    for report in (Findings().lose, lambda *where: Findings().mend("boxes", *where)):
        with pytest.raises(UserError, match=r"a.json: row 3 is bad"):
            report("a.json", "row 3", "is bad")

"""What bad input gets from the command: one line that says what, where and what to do; exit code 2; nothing lost."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from minirft.commands.cli import main

BOX = [2.0, 3.0, 20.0, 10.0]  # x, y, width, height in pixels


def coco(folder: Path, **changes: Any) -> dict[str, Path]:
    """One picture of 64 x 48 with one cat; `changes` replace top-level lists of the file."""
    folder.mkdir(exist_ok=True)
    picture = folder / "a.png"
    if not picture.exists():
        Image.new("RGB", (64, 48), "white").save(picture)
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 48}],
        "categories": [{"id": 3, "name": "cat"}],
        "annotations": [{"image_id": 1, "category_id": 3, "bbox": BOX}],
    }
    path = folder / "boxes.json"
    path.write_text(json.dumps(content | changes))
    return {"annotations": path, "images": folder}


@pytest.fixture
def attempt(tiny_random: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """`minirft train` on COCO-format files; returns the one line that it is refused with."""

    def train(annotations: Path, images: Path, *flags: str) -> str:
        config = tmp_path / "mine.toml"
        config.write_text('steps = 1\nprompts_per_step = 1\nmax_completion_length = 4\n[data]\nkind = "coco"\n')
        out = tmp_path / "run"
        args = ["train", str(config), "--model", str(tiny_random), "--out", str(out), "--group-size", "2"]
        capsys.readouterr()
        assert main([*args, "--data.annotations", str(annotations), "--data.images", str(images), *flags]) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("minirft: ") and "Traceback" not in error
        return error

    return train


def boxes(*box: float) -> list[dict[str, Any]]:
    return [{"image_id": 1, "category_id": 3, "bbox": list(box)}]


def test_missing_files(attempt, tmp_path: Path):
    """A stack of frames that ends in FileNotFoundError."""
    files = coco(tmp_path / "data")
    assert "no file nowhere.json; give a COCO-format file in data.annotations" in attempt(
        Path("nowhere.json"), files["images"]
    )
    assert "a.png" in attempt(files["annotations"], tmp_path / "nowhere")


def test_no_annotations_named(attempt, tmp_path: Path, tiny_random: Path, capsys: pytest.CaptureFixture[str]):
    """A shipped config started without data, as everybody does once."""
    command = ["train", "coco_8cate_4shot", "--model", str(tiny_random), "--quantize", "none", "--out", str(tmp_path)]
    assert main([*command, "--dtype", "float32"]) == 2
    assert "name the COCO-format JSON file (--data.annotations FILE)" in capsys.readouterr().err


def test_pictures_that_will_not_open(attempt, tmp_path: Path):
    """A picture that is damaged, empty, or of another size than its annotations say."""
    files = coco(tmp_path / "data")
    (files["images"] / "a.png").write_bytes(b"not a picture")
    assert "a.png" in attempt(**files)
    (files["images"] / "a.png").write_bytes(b"")
    assert "a.png" in attempt(**files)
    Image.new("RGB", (32, 32)).save(files["images"] / "a.png")
    assert "a.png" in attempt(**files)


@pytest.mark.parametrize("box", [(2, 3, -5, 10), (2, 3, 0, 10), (60, 3, 40, 10), (2, 3, float("nan"), 9)])
def test_boxes_that_cannot_be_right(attempt, tmp_path: Path, box: tuple[float, ...]):
    """An inverted box, an empty one, one outside its picture: rewards of 0 for ever, and nobody knows why."""
    assert "box" in attempt(**coco(tmp_path / "data", annotations=boxes(*box)))


def test_labels_that_are_not_in_the_list(attempt, tmp_path: Path):
    """An annotation of an unknown category, or a category asked for that the file does not have."""
    unknown = [{"image_id": 1, "category_id": 99, "bbox": BOX}]
    assert "99" in attempt(**coco(tmp_path / "data", annotations=unknown))
    error = attempt(*coco(tmp_path / "data").values(), "--data.categories", "cta")
    assert "cta" in error and "cat" in error.replace("cta", "")


def test_an_empty_data_set(attempt, tmp_path: Path):
    """A division by zero in the first epoch."""
    assert "no box" in attempt(**coco(tmp_path / "data", annotations=[]))


def test_a_prompt_that_is_too_long(attempt, tmp_path: Path):
    """A prompt that is cut, so that the picture's last tokens or the question are gone."""
    error = attempt(*coco(tmp_path / "data").values(), "--max-prompt-length", "10")
    assert "max_pixels" in error or "max_prompt_length" in error


def test_a_model_that_is_no_qwen2_vl(attempt, tmp_path: Path):
    """A model of another family, which fails deep inside transformers."""
    other = tmp_path / "bert"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}')
    files = coco(tmp_path / "data")
    assert "bert" in attempt(*files.values(), "--model", str(other))
    assert "nowhere" in attempt(*files.values(), "--model", str(tmp_path / "nowhere"))


def test_a_reward_part_that_does_not_exist(attempt, tmp_path: Path):
    """A weight for a misspelt part, which would be ignored."""
    error = attempt(*coco(tmp_path / "data").values(), "--reward-weights", "iuo", "2.0")
    assert "iuo" in error and "iou" in error


def test_a_folder_that_cannot_be_written(attempt, tmp_path: Path):
    """An hour of training that cannot be saved at its end."""
    (tmp_path / "file").write_text("in the way")
    error = attempt(*coco(tmp_path / "data").values(), "--out", str(tmp_path / "file" / "run"))
    assert "cannot write into" in error and "--out" in error


def test_a_damaged_run(attempt, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Every checkpoint damaged: the run must say so, not start from nothing under its old name."""
    run = tmp_path / "damaged"
    step = run / "checkpoints" / "step-000002"
    step.mkdir(parents=True)
    (step / "manifest.json").write_text("{")
    (run / "config.toml").write_text('model = "tiny"\n')
    assert main(["eval", str(run)]) == 2
    assert "no checkpoint in" in capsys.readouterr().err


@pytest.mark.parametrize(("task", "right"), [("detection", "red circle"), ("classification", "pet")])
def test_a_category_that_the_tiny_world_lacks(capsys: pytest.CaptureFixture[str], task: str, right: str):
    """A KeyError from the drawing of a scene."""
    args = ["train", "tiny_detection", "--data.task", task, "--data.shots", "1", "--data.categories", right + "s"]
    assert main(args) == 2
    assert f"the tiny world has no category '{right}s'; did you mean '{right}'?" in capsys.readouterr().err

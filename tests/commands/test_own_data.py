"""What a user does with own pictures, from any folder: train, resume, evaluate, score, split, and a demo cut short."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minirft import experiments
from minirft import train as train_module
from minirft.commands.cli import main
from minirft.commands.ending import example_of
from minirft.commands.flags import print_result
from minirft.runs import folder as folder_module
from minirft.runs import load_config, read_log
from minirft.tiny import CATEGORIES

SETTINGS = """
model = "{model}"
steps = 2
prompts_per_step = 2
group_size = 2
max_completion_length = 6
eval_samples = 4
eval_every = 2
threads = 1
out = "run"
[data]
kind = "coco"
annotations = "boxes.json"
images = "pictures"
shots = 1
negatives = 0.0
"""


def photographs(folder: Path, count: int = 6) -> None:
    """Pictures with one mug each, or one cup, and the file of their boxes."""
    (folder / "pictures").mkdir(parents=True)
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / f"{i}.png")
    tables = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 60, "height": 40} for i in range(count)],
        "categories": [{"id": 1, "name": "mug"}, {"id": 2, "name": "cup"}],
        "annotations": [{"image_id": i, "category_id": 1 + i % 2, "bbox": [3, 4, 30, 20]} for i in range(count)],
    }
    (folder / "boxes.json").write_text(json.dumps(tables))


@pytest.fixture(scope="module")
def home(tiny_random: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which a run on relative paths was made."""
    folder = tmp_path_factory.mktemp("home")
    photographs(folder)
    (folder / "mine.toml").write_text(SETTINGS.format(model=tiny_random.as_posix()))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", "mine.toml"]) == 0
    return folder


def test_a_run_goes_on_from_any_folder(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    """Paths of a run that mean other files in another working folder; pictures opened again under other names."""
    before = (home / "run" / "pictures.json").read_text()
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--resume", str(home / "run"), "--steps", "3", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["step"] for row in rows] == [3]
    assert (home / "run" / "pictures.json").read_text() == before and str(home) in before
    monkeypatch.chdir(home)  # with the config that made it, whose paths are relative
    assert main(["train", "mine.toml", "--resume", "run", "--steps", "3"]) == 0


def test_ctrl_c_while_loading_says_what_is_kept(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    """ "stopped", and nobody knows whether an hour is lost; cells of an experiment thought to be gone."""

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(folder_module, "load_policy", stop)
    monkeypatch.setattr(experiments, "run_experiment", stop, raising=False)
    assert main(["train", "tiny_detection", "--out", str(tmp_path / "new")]) == 130
    assert main(["train", "--resume", str(home / "run"), "--steps", "9"]) == 130
    assert main(["experiment", "grounding", "--out", str(tmp_path / "cells")]) == 130
    new, old, cells = [line for line in capsys.readouterr().err.splitlines() if "stopped" in line]
    assert new == "minirft: stopped before anything was saved: type the command again"
    assert f"{home / 'run'} keeps step-00000" in old and old.endswith(f"go on with --resume {home / 'run'}")
    assert f"{tmp_path / 'cells'} keeps the finished cells: the same command does the rest" in cells
    assert not (tmp_path / "new").exists()


def test_eval_shows_the_base_and_each_category(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    """A number that nobody can judge, because the base's is not beside it; a category that fails behind a mean."""
    monkeypatch.chdir(tmp_path)
    assert main(["eval", str(home / "run"), "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert set(row["ap50_by_category"]) == {"mug", "cup"} == set(row["base"]["ap50_by_category"])
    at_step_0 = next(row for row in read_log(home / "run" / "log.jsonl")[1] if row["kind"] == "eval")
    assert row["base"]["boxes_per_image"] == at_step_0["boxes_per_image"] and row["base"]["n"] == 4
    assert main(["eval", str(home / "run")]) == 0  # from the files of answers
    told = capsys.readouterr()
    assert "(base 0.000)" in told.out and told.err.count("4 of 4 answers are in") == 2
    assert main(["eval", str(home / "run"), "--alone", "--json"]) == 0
    assert "base" not in json.loads(capsys.readouterr().out)


def test_the_end_of_a_run_asks_for_what_the_data_has(home: Path, monkeypatch: pytest.MonkeyPatch):
    """`--ask cat` after a run on mugs and cups; a traceback, or a dead end, when the pictures have moved."""
    monkeypatch.chdir(home)
    config = load_config("mine.toml")
    assert example_of(config) in ("mug", "cup")
    assert example_of(replace(config, data=replace(config.data, categories=("cup",)))) == "cup"
    assert example_of(replace(config, data=replace(config.data, annotations=home / "gone.json"))) == "TEXT"
    assert example_of(load_config("tiny_detection")) in CATEGORIES


def test_an_undefined_number_is_a_dash(capsys: pytest.CaptureFixture[str]):
    """`None` printed for a category that no held-out picture shows, and no reason."""
    print_result({"auc": None, "ap50_by_category": {"cup": 0.5, "mug": None}}, False)
    printed = capsys.readouterr().out
    assert "None" not in printed and printed.count("mug                  -\n") == 1
    assert "-: the category is in no held-out picture, so it has no AP" in printed


def test_an_interval_has_three_digits(capsys: pytest.CaptureFixture[str]):
    """`ap50_pooled [0.01351941115164148, 0.2310701805474666]` below numbers of three digits; `ci` above nothing."""
    print_result({"ci": {"ap50_pooled": [0.01351941115164148, 0.2310701805474666]}}, False)
    print_result({"ci": {}}, False)
    assert capsys.readouterr().out == f"ci\n  ap50_pooled          0.014 to 0.231\n{'ci':<20} -\n"


def test_score_takes_the_packages_own_files(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Completions that the package wrote and cannot read."""
    run = home / "run"
    assert main(["eval", str(run), "--alone"]) == 0
    files = [run / "completions.jsonl", run / "held_out.jsonl", next(run.glob("eval/greedy-*/predictions.jsonl"))]
    for file in files:
        capsys.readouterr()
        assert main(["score", "--task", "detection", str(file)]) == 0
        scored = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        rows = [row for line in file.read_text().splitlines() if "text" in (row := json.loads(line))]
        assert len(scored) == len(rows) > 0
        assert [row["total"] for row in scored] == [row.get("reward", row["total"]) for row in _both(rows, scored)]
    old = tmp_path / "old.jsonl"
    old.write_text('{"step": 1, "sample": "1:cat", "text": "<answer>No Objects</answer>"}\n')
    assert main(["score", "--task", "detection", str(old)]) == 2
    assert "old.jsonl line 1 has no solution: it is of an older run" in capsys.readouterr().err


def _both(rows: list[dict], scored: list[dict]) -> list[dict]:
    return [score | row for row, score in zip(rows, scored, strict=True)]


def test_a_split_works_with_the_config_that_made_it(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A file of 1 shot refused by the config with 1 shot that drew it."""
    monkeypatch.chdir(home)
    split, out = str(tmp_path / "split.json"), str(tmp_path / "run")
    assert main(["data", "split", "mine.toml", "--shots", "1", "--out", split]) == 0
    assert main(["train", "mine.toml", "--data.split", split, "--out", out, "--steps", "1"]) == 0


def test_an_interrupted_demo_goes_on_to_its_report(
    tiny_random: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Ctrl-C in the middle of a demo that leaves no report of the steps that were done."""
    real = train_module.run

    def stopped(config, progress):
        rows = real(config, progress=progress)
        yield from (row for row, _ in zip(rows, range(2), strict=False))
        rows.close()
        raise KeyboardInterrupt("stopped and saved after step 2; go on with ...")

    monkeypatch.setattr(train_module, "run", stopped)
    config = tmp_path / "demo.toml"
    small = "prompts_per_step = 2\ngroup_size = 4\nmax_completion_length = 8\neval_samples = 4\nthreads = 1\n"
    config.write_text(f'model = "{tiny_random.as_posix()}"\nsteps = 9\nsave_every = 1\n{small}')
    assert main(["demo", "--config", str(config), "--out", str(tmp_path / "out"), "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["steps"] == 2 and "stopped after step 2, goes on to the report" in told.err
    assert (tmp_path / "out" / "report.html").exists()
    assert len(read_log(tmp_path / "out" / "sft" / "log.jsonl")[1]) == 2

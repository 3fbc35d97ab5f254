"""The paper's tables on real data: what is read from where, cells that a stop does not lose, the paper's numbers."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from test_data_feed import coco  # noqa: F401, a fixture
from test_data_sets import MAKERS, write

from minirft import UserError
from minirft.commands.cli import main
from minirft.data.feed import held_out, training_set
from minirft.experiments import board as board_room
from minirft.experiments import real_cells
from minirft.experiments.board import Board
from minirft.experiments.cells import DRAWS, Key
from minirft.experiments.real import EXPERIMENTS, METRIC, missing, names_of, parts_of
from minirft.experiments.real_cells import Study, open_board, paper_number, run_cell, run_study
from minirft.experiments.settings import EXPERIMENTS as TINY
from minirft.experiments.summary import lines, table
from minirft.runs.config import SHIPPED, load_config
from minirft.runs.supervised import sft
from minirft.show import Line

SETTINGS = {
    "quantize": "none",
    "device": "cpu",
    "dtype": "float32",
    "threads": 1,
    "steps": 2,
    "sft_steps": 2,
    "prompts_per_step": 2,
    "group_size": 2,
    "max_completion_length": 4,
    "max_pixels": 12544,
    "max_prompt_length": 4096,
    "save_every": 1,
}


@pytest.fixture
def root(tmp_path: Path, coco) -> Path:  # noqa: F811
    """Every set in its true layout; COCO's pictures are links to one folder, as on a disk that has them already."""
    root = tmp_path / "all data"
    for kind, make in MAKERS.items():
        (root / kind).mkdir(parents=True)
        make(root / kind)
    for part in ("train", "val", "test"):
        for number in range(3):
            write(root / "ReasonSeg", f"{number:04}", part=part)
    files = ["coco/annotations/instances_train2017.json", "coco/annotations/instances_val2017.json"]
    files += [
        "lvis/lvis_v1_train.json",
        "lvis/lvis_v1_val.json",
        "own/annotations/train.json",
        "own/annotations/test.json",
    ]
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(json.dumps(annotated(json.loads(coco.annotations.read_text()))))
    for folder in ("coco/train2017", "coco/val2017", "own/train", "own/test"):
        (root / folder).symlink_to(coco.images)
    return root


def annotated(source: dict) -> dict:
    """Every category of the shipped configs, each in one of the pictures, as COCO and as LVIS have it."""
    data = [load_config(path.stem).data for path in sorted(SHIPPED.glob("*.toml"))]
    names = dict.fromkeys(name for one in data for name in one.categories + one.eval_categories)
    for row in source["images"]:
        url = f"http://images.cocodataset.org/train2017/{row['file_name']}"
        row |= {"coco_url": url, "neg_category_ids": [], "not_exhaustive_category_ids": []}
    categories = [{"id": i, "name": name} for i, name in enumerate(names)]
    boxes = [{"image_id": i % 12, "category_id": i, "bbox": [10, 10, 40, 20]} for i in range(len(names))]
    return {"images": source["images"], "annotations": boxes, "categories": categories}


@pytest.fixture
def study(root: Path, tmp_path: Path, tiny_random: Path) -> Study:
    """Grounding, two steps long, of a model of random weights."""
    return Study("grounding", root, tmp_path / "out", changes={"model": str(tiny_random), **SETTINGS})


# ------------------------------------------------------------------ what is trained, and read from where


def test_every_shipped_config_is_in_a_table():
    """A config that no experiment runs, or an experiment that names none."""
    used = {config for name in EXPERIMENTS for config in parts_of(name)}
    used |= {config for name in names_of("all", "7b") for config in parts_of(name, "7b")}
    shipped = {path.stem for path in SHIPPED.glob("*.toml")} - {"tiny_detection"}
    assert {name.removesuffix("_7b") for name in shipped - used} == {"coco_base65_lvis13"}  # table 7's run, tested anew
    assert used <= shipped and names_of("all") == list(EXPERIMENTS)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_seed_moves_the_shots_and_no_question(name: str, root: Path, tmp_path: Path):
    """Methods or seeds compared on other questions; a test's name with another test's categories."""
    study = Study(name, root, tmp_path)
    for key in study.keys(2):
        config = study.config(key)
        assert (config.seed, config.data.seed) == (key.seed, key.seed)
        assert config.data.shots == (key.shots or load_config(key.part).data.shots)
        assert training_set(config.data)
    for part, spec in study.parts.items():
        asked = {test: {s.category for s in held_out(study.test(part, test))} for test in spec.tests}
        assert all(asked.values())
        if name == "open-vocabulary":
            base, rare = load_config("coco_base65").data, load_config("coco_base65_lvis13").data
            assert asked["novel"] == set(base.eval_categories) and asked["rare"] == set(rare.eval_categories)
            assert asked["all"] == asked["novel"] | set(base.categories) and asked["base"] == set(base.categories)
    folders = [study.folder(key) for key in study.keys(2)]
    assert len(set(folders)) == len(folders)


def test_missing_data_is_named_at_once(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A set found missing after the first table has been trained; a whole set named file by file."""
    assert missing(root, EXPERIMENTS) == []
    (root / "cars" / "cars_test_annos_withlabels.mat").unlink()
    (root / "coco" / "val2017").unlink()
    (root / "ReasonSeg").rename(tmp_path / "elsewhere")
    (root / "flowers" / "setid.mat").unlink()
    command = ["experiment", "all", "--profile", "real", "--out", str(tmp_path / "out")]
    assert main([*command, "--data-root", str(root)]) == 2
    error = capsys.readouterr().err
    labels = "cars/cars_test_annos_withlabels.mat or devkit/cars_test_annos_withlabels.mat"
    assert f"lacks flowers/setid.mat, {labels}, coco/val2017, ReasonSeg: put them" in error
    assert missing(tmp_path / "nowhere", ["classification"]) == ["flowers", "pets", "aircraft", "cars"]
    assert missing(tmp_path / "nowhere", ["lvis-fewshot"]) == [
        "lvis/lvis_v1_train.json",
        "coco",
        "lvis/lvis_v1_val.json",
    ]
    assert not (tmp_path / "out").exists()
    assert main(command) == 2
    assert "needs --data-root DIR" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["grounding", "--model", "x"], "--model is for --profile real: leave it out"),
        (["grounding", "--dry-run"], "--dry-run is for --profile real"),
        (["grounding", "--profile", "real", "--workers", "2"], "--workers is for --profile tiny"),
        (["bases", "--profile", "real"], "no experiment bases on real data; choose from classification"),
        (["presence", "--profile", "real", "--model-size", "7b"], "presence has no 7B"),
    ],
)
def test_flags_that_do_nothing_are_refused(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    """A flag of the other profile that is silently ignored."""
    assert main(["experiment", *flags]) == 2
    assert message in capsys.readouterr().err


def test_settings_of_the_user(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A spelling mistake found after hours, or a table of settings that loses the shipped ones beside it."""
    study = Study("coco-fewshot", root, tmp_path, changes={"steps": 3, "lora": {"r": 4}})
    config, shipped = study.settings("coco_8cate_4shot"), load_config("coco_8cate_4shot")
    assert config == replace(shipped, steps=3, lora=replace(shipped.lora, r=4))
    (tmp_path / "mine.toml").write_text("stpes = 3\n")
    command = [
        "experiment",
        "all",
        "--profile",
        "real",
        "--data-root",
        str(root),
        "--settings",
        str(tmp_path / "mine.toml"),
    ]
    assert main(command) == 2
    assert "flowers_4shot with your settings: unknown key 'stpes'; did you mean 'steps'?" in capsys.readouterr().err


def test_the_tiny_profile_is_as_it_was(monkeypatch: pytest.MonkeyPatch):
    """Another number of seeds, or another folder, for who asks for nothing."""
    asked = []
    monkeypatch.setattr(board_room, "run_experiment", lambda *args: asked.append(args) or Board(Path("none")))
    assert main(["experiment", "grounding"]) == 0
    assert main(["experiment", "all", "--seeds", "2", "--workers", "3", "--out", "x"]) == 0
    assert asked[0] == ("grounding", Path("results/tiny"), 5, 0)
    assert asked[1:] == [(name, Path("x"), 2, 3) for name in TINY]


# ------------------------------------------------------------------ before


@pytest.mark.parametrize(("name", "size"), [("all", "2b"), ("grounding", "2b"), ("all", "7b")])
def test_dry_run(name: str, size: str, root: Path, miniature: Path, capsys: pytest.CaptureFixture[str]):
    """Weights asked for, a cell that is not counted, or a config that its data does not fit."""
    command = ["experiment", name, "--profile", "real", "--data-root", str(root), "--dry-run", "--model-size", size]
    command += ["--processor", str(miniature), "--seeds", "2"]
    assert main([*command, "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    expected = [
        (config, what, count)
        for one in names_of(name, size)
        for config, part in parts_of(one, size).items()
        for cells in [2 * len(part.shots)]
        for what, count in [("sft", cells), ("rft", cells), *((test, 1 + 2 * cells) for test in part.tests)]
    ]
    assert [(row["config"], row["what"], row["cells"]) for row in rows] == expected
    assert all(row["time"]["seconds"] > 0 for row in rows)
    assert all(row["memory"]["card_gb"] <= 8 for row in rows if row["what"] == "rft")
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(rows) and "not measured: assumed 20 TFLOP/s" in lines[-1]


# ------------------------------------------------------------------ cells


def test_end_to_end(root: Path, tmp_path: Path, tiny_random: Path, capsys: pytest.CaptureFixture[str]):
    """The whole command: a cell that trains nothing or tests the wrong policy, and cells that are done twice."""
    (tmp_path / "mine.toml").write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in SETTINGS.items()))
    command = ["experiment", "grounding", "--profile", "real", "--data-root", str(root), "--model", str(tiny_random)]
    command += ["--settings", str(tmp_path / "mine.toml"), "--eval-samples", "2", "--out", str(tmp_path / "out")]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert "reasonseg" in text and "box_iou" in text and "RFT - SFT" in text
    cells = json.loads((tmp_path / "out" / "grounding.json").read_text())["cells"]
    assert [(cell["key"]["method"], cell["pictures_seen"], cell["completions_sampled"]) for cell in cells] == [
        ("base", 0, 0),
        ("rft", 4, 8),
        ("sft", 4, 0),
    ]
    answers = {cell["tests"]["test"]["greedy"]["predictions"] for cell in cells}
    weights = {json.loads(Path(path).read_text().splitlines()[0])["settings"]["weights"] for path in answers}
    assert len(weights) == 3 and all(cell["tests"]["val"]["greedy"]["n"] == 2 for cell in cells)
    written = (tmp_path / "out" / "grounding.json").read_bytes()
    assert main([*command, "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["test"], row["what"]) for row in rows[:6]] == [
        ("test", what) for what in ("base", "sft", "rft", "sft - base", "rft - base", "rft - sft")
    ]
    assert len(rows) == 12 and rows[2]["paper"] == 0.376 and rows[2]["metric"] == "box_iou"
    assert (tmp_path / "out" / "grounding.json").read_bytes() == written
    assert main([*command, "--eval-samples", "1"]) == 2
    assert "was made with other settings; move it away" in capsys.readouterr().err


def test_a_stop_loses_nothing(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Killed within a run, then between two cells: a cell done again, a run begun anew, or other numbers at the end."""
    whole = run_study(replace(study, out=tmp_path / "whole", asked={}), progress=False)

    def killed(config, resume, progress):
        rows = sft(config, resume, progress)
        yield next(rows)
        next(rows)
        raise KeyboardInterrupt

    monkeypatch.setitem(real_cells.METHODS, "sft", killed)
    with pytest.raises(KeyboardInterrupt):
        run_study(study, progress=False)
    folder = study.folder(Key("grounding", "reasonseg", "sft", 0, 0))
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-000001"]
    begun = []
    monkeypatch.setitem(
        real_cells.METHODS, "sft", lambda *args, **options: begun.append(args[1]) or sft(*args, **options)
    )
    monkeypatch.setitem(real_cells.METHODS, "rft", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run_study(study, progress=False)
    assert begun == [folder] and {key.method for key in open_board(study).cells} == {"base", "sft"}
    monkeypatch.setitem(real_cells.METHODS, "sft", lambda *_, **__: pytest.fail("done twice"))
    monkeypatch.setitem(real_cells.METHODS, "rft", real_cells.run_grpo)
    assert numbers(run_study(study, progress=False)) == numbers(whole)


def test_detection_has_the_metrics_of_its_table(root: Path, tmp_path: Path, tiny_random: Path):
    """Table 4 without the AP that it was measured by, or answers that no COCO tool loads."""
    study = Study("lvis-fewshot", root, tmp_path / "out", changes={"model": str(tiny_random), **SETTINGS})
    found = run_cell(study, study.keys(1)[0], progress=False)["tests"]["same"]["greedy"]
    assert found["lvis_ap_area_averaged"] == found["ap"] == 0 and len(found["draws"]) == DRAWS
    assert json.loads(Path(found["predictions"]).with_name("predictions.coco_results.json").read_text()) == []


def numbers(board: Board) -> dict:
    """What was found, without times and places."""
    drop = {"predictions"}
    return {
        key: [{k: v for k, v in test["greedy"].items() if k not in drop} for test in cell["tests"].values()]
        for key, cell in board.cells.items()
    }


def test_a_file_of_something_else_is_refused(study: Study):
    """Cells of two settings in one table; a traceback for a file that is none of ours."""
    open_board(study).add(Key("grounding", "reasonseg", "base", 0, 0), {"tests": {}})
    assert len(open_board(study).cells) == 1
    with pytest.raises(UserError, match="made with other settings"):
        open_board(replace(study, changes=study.changes | {"learning_rate": 1e-3}))
    open_board(study).file.write_text("{}")
    with pytest.raises(UserError, match="not the file of an experiment"):
        open_board(study)


# ------------------------------------------------------------------ afterwards


def test_lines_by_hand(root: Path, tmp_path: Path):
    """A difference of other seeds, or of the wrong sign; the base counted as often as there are seeds."""
    study = Study("coco-fewshot", root, tmp_path)
    board, part = open_board(study), "coco_8cate_4shot"
    values = {("base", 0, 0): 0.2, ("sft", 4, 0): 0.25, ("rft", 4, 0): 0.4, ("rft", 4, 1): 0.5}
    for (method, shots, seed), value in values.items():
        found = {"ap": value, "ap50": 1.0, "draws": [value - 0.01, value + 0.01]}
        board.cells[Key("coco-fewshot", part, method, shots, seed)] = {"tests": {"same": {"greedy": found}}}
    found = {(line.shots, line.what): line.found for line in lines(board, study.name, study.parts)}
    assert {place: (round(one.mean, 3), one.seeds) for place, one in found.items()} == {
        (0, "base"): (0.2, 1),
        (4, "sft"): (0.25, 1),
        (4, "rft"): (0.45, 2),
        (4, "sft - base"): (0.05, 1),
        (4, "rft - base"): (0.25, 2),
        (4, "rft - sft"): (0.15, 1),
    }
    assert found[4, "rft - sft"].low == pytest.approx(0.15)
    text = table(lines(board, study.name, study.parts), partial(paper_number, study))
    row = next(row for row in text.splitlines() if " RFT  " in row)
    assert row.split() == [part, "same", "4", "greedy", "ap", "RFT", "0.450", "[0.390,", "0.510]", "2", "0.406"]


@pytest.mark.parametrize(
    ("name", "size", "line", "expected"),
    [
        ("classification", "2b", ("cars_4shot", "same", 16, "rft"), 0.953),
        ("classification", "2b", ("pets_4shot", "same", 0, "base"), 0.664),
        ("coco-fewshot", "7b", ("coco_8cate_4shot_7b", "same", 4, "sft"), 0.441),
        ("lvis-fewshot", "2b", ("lvis_6cate_10shot", "same", 10, "rft"), 0.194),
        ("out-of-domain", "2b", ("own_coco_4shot", "same", 16, "rft"), 0.634),
        ("grounding", "2b", ("reasonseg", "val", 0, "rft"), 0.344),
        ("open-vocabulary", "7b", ("coco_base65_7b", "novel", 0, "base"), 0.263),
        ("open-vocabulary", "2b", ("coco_base65", "rare", 0, "sft"), 0.076),
        ("presence", "2b", ("coco_presence", "same", 4, "rft"), None),
        ("coco-fewshot", "2b", ("coco_8cate_4shot", "same", 4, "rft - sft"), None),
    ],
)
def test_the_papers_numbers(name: str, size: str, line: tuple, expected: float | None, tmp_path: Path):
    """Another model's row, another number of shots, or a column of another table beside ours."""
    part, test, shots, what = line
    study = Study(name, tmp_path, tmp_path, size)
    asked = Line(part, test, shots, "greedy", what, None)
    assert paper_number(study, asked) == (None if expected is None else pytest.approx(expected))
    assert paper_number(study, asked, tmp_path / "none.json") is None
    assert METRIC["detection"] == "ap"

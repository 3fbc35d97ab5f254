"""Kinds of data as settings: which combinations are refused, what is trained and evaluated on, splits, the commands."""

import ast
import inspect
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from readings import read
from small_runs import small_config
from test_data_lvis import GOOD as LVIS
from test_data_sets import MAKERS, picture, write

from minirft import UserError
from minirft.commands.cli import main
from minirft.data import settings as settings_module
from minirft.data.feed import held_out, training_feed, training_set, validation
from minirft.data.readers import candidates
from minirft.data.settings import TASKS_OF, DataConfig
from minirft.data.summary import summarise, warnings
from minirft.rewards import prompts
from minirft.runs.config import GRPOConfig, load_config
from minirft.samples import Sample
from minirft.train import run

COCO128 = Path(__file__).parents[3] / "shared" / "data" / "coco128"
TASKS = ("detection", "classification", "grounding", "presence")


@pytest.fixture
def coco(tmp_path):
    """Twelve pictures: even ones show a cat, every third a dog."""
    rows = []
    for i in range(12):
        Image.new("RGB", (100, 50), (i, i, i)).save(tmp_path / f"{i}.png")
        shown = [1] * (i % 2 == 0) + [2] * (i % 3 == 0)
        rows += [{"image_id": i, "category_id": c, "bbox": [10 * c, 10, 40, 20]} for c in shown]
    images = [{"id": i, "file_name": f"{i}.png", "width": 100, "height": 50} for i in range(12)]
    data = {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]}
    (tmp_path / "instances.json").write_text(json.dumps(data))
    return DataConfig(kind="coco", annotations=tmp_path / "instances.json", images=tmp_path, negatives=0.2)


# ------------------------------------------------------------------ which settings go together


@pytest.mark.parametrize("kind", TASKS_OF)
def test_kind_and_task(kind):
    """Catches a classification set trained with detection prompts, which runs at reward 0 (issues #45 and #117)."""
    for task in TASKS:
        if task in TASKS_OF[kind]:
            assert DataConfig(kind=kind, task=task).task == task
        else:
            with pytest.raises(UserError, match=rf"data.task = '{task}': kind {kind} asks .*: set data.task = \""):
                DataConfig(kind=kind, task=task)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "coco", "eval_kind": "pets"}, "data.task = 'detection': kind pets asks classification"),
        ({"kind": "reasonseg", "task": "grounding", "shots": 4}, "data.shots = 4: instructions have no categories"),
        ({"kind": "reasonseg", "task": "grounding", "categories": ("cup",)}, "it has instructions, no categories"),
        ({"task": "detection", "question": "Where is it?"}, "data.question = 'Where is it?': it must hold {category}"),
        ({"kind": "coco", "max_bad": 5.0}, "data.max_bad = 5.0: a share"),
        ({"kind": "tiny", "split": Path("a.json")}, "data.split = a.json: the tiny world is drawn from data.seed"),
        (
            {"kind": "coco", "eval_part": "val"},
            "data.eval_part = 'val': only reasonseg, folder, yolo, voc, hf can have",
        ),
    ],
)
def test_settings_that_do_not_go_together(changes, message):
    """Catches a setting that is silently ignored."""
    with pytest.raises(UserError) as caught:
        DataConfig(**changes)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [kind for kind in TASKS_OF if kind != "tiny"])
def test_paths_that_are_not_set(kind):
    """Catches a None that travels into a reader, and advice that names the wrong flag."""
    data = DataConfig(kind=kind, task=TASKS_OF[kind][0])
    field = "annotations" if kind in ("coco", "lvis", "csv", "jsonl") else "folder"
    with pytest.raises(UserError, match=rf"data.{field} is not set: .*--data.{field} "):
        training_set(data)
    if kind in ("coco", "lvis"):
        with pytest.raises(UserError, match=r"data.images is not set: .*--data.images "):
            training_set(replace(data, annotations=Path("a.json")))


def test_evaluation_paths_that_are_not_set(coco):
    """Catches advice to set the training path where the evaluation path is missing."""
    with pytest.raises(UserError, match=r"data.eval_annotations is not set: .*LVIS.*--data.eval_annotations"):
        held_out(GRPOConfig(data=replace(coco, eval_kind="lvis", annotations=None)))


def test_every_data_setting_is_documented():
    """Catches a flag without help."""
    for node in ast.parse(inspect.getsource(settings_module)).body:
        if isinstance(node, ast.ClassDef):
            for field, following in zip(node.body, [*node.body[1:], None], strict=True):
                if isinstance(field, ast.AnnAssign):
                    assert isinstance(following, ast.Expr), f"{node.name}.{field.target.id} has no docstring"


@pytest.mark.parametrize("name", ["tiny_detection", "coco_8cate_4shot", "coco_base65"])
def test_shipped_configs_keep_working(name):
    """Catches a new rule that refuses an old file."""
    assert load_config(name).data.kind in ("tiny", "coco")


def test_every_kind_is_on_the_page():
    """Catches a kind that the page forgets, and one that is no more."""
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    assert set(re.findall(r'^kind = "(\w+)"', page, re.MULTILINE)) | {"tiny", "pets", "aircraft", "cars"} == set(
        TASKS_OF
    )
    assert all(f"`{kind}`" in page for kind in TASKS_OF)


# ------------------------------------------------------------------ what is trained and evaluated on


@pytest.mark.parametrize("kind", MAKERS)
def test_a_set_with_parts_is_evaluated_on_its_test_part(kind, tmp_path):
    """Catches evaluation on training pictures of a set that has its own test part."""
    MAKERS[kind](tmp_path)
    data = DataConfig(kind=kind, task="classification", folder=tmp_path, shots=1)
    assert training_set(data) == candidates(replace(data, shots=0), "train")
    config = GRPOConfig(data=data)
    assert held_out(config) == candidates(data, "test")
    assert not {s.image for s in held_out(config)} & {s.image for s in training_set(data)}
    with pytest.raises(UserError, match=r"training uses every picture.*set data\.eval_folder"):
        held_out(replace(config, data=replace(data, eval_part="train")))


def test_what_was_not_drawn_can_be_held_out(tmp_path):
    """Catches a validation set that holds the shots."""
    for i in range(6):
        picture(tmp_path / "tabby_cat" / f"{i}.png", (20 + i, 10))
        picture(tmp_path / "dog" / f"{i}.png", (20 + i, 30))
    data = DataConfig(kind="folder", task="classification", folder=tmp_path, shots=2, family="pet")
    trained, left = training_set(data), held_out(GRPOConfig(data=data))
    assert (len(trained), len(left)) == (4, 8) and not {s.id for s in trained} & {s.id for s in left}
    assert "containing a pet" in left[0].problem


def test_a_set_with_a_train_part_only_is_evaluated_on_the_rest(tmp_path):
    """Catches a YOLO set whose data.yaml names no val: trained on, and then nothing to evaluate on."""
    for i in range(6):
        picture(tmp_path / "images" / f"{i}.png", (20 + i, 10))
        (tmp_path / "labels").mkdir(exist_ok=True)
        (tmp_path / "labels" / f"{i}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "data.yaml").write_text("train: images\nnames: [mug]\n")
    data = DataConfig(kind="yolo", folder=tmp_path, shots=2, negatives=0.0)
    trained, left = training_set(data), held_out(GRPOConfig(data=data))
    assert (len(trained), len(left)) == (2, 4) and not {s.image for s in trained} & {s.image for s in left}
    with pytest.raises(UserError, match=r"training uses every picture.*set data\.eval_folder"):
        held_out(GRPOConfig(data=replace(data, shots=0)))
    with pytest.raises(UserError, match="'val': this data has the parts train; name one of them"):
        held_out(GRPOConfig(data=replace(data, eval_part="val")))


def test_reasonseg_has_two_parts_to_evaluate_on(tmp_path):
    """Catches val figures reported as test."""
    for part in ("train", "val", "test"):
        write(tmp_path, part=part)
    config = GRPOConfig(data=DataConfig(kind="reasonseg", task="grounding", folder=tmp_path))
    assert training_set(config.data)[0].id == "train/0001:0"
    for part in ("val", "test"):
        assert held_out(replace(config, data=replace(config.data, eval_part=part)))[0].id == f"{part}/0001:0"
    assert held_out(config)[0].id == "test/0001:0"


def test_training_and_evaluation_of_two_kinds(coco, tmp_path):
    """Catches table 8's protocol (trained on COCO, evaluated on LVIS) that cannot be written down."""
    folder = tmp_path / "lvis"
    for name, size in (("train2017/000000000007.jpg", (200, 100)), ("val2017/000000000003.jpg", (50, 100))):
        picture(folder / name, size)
    (folder / "lvis.json").write_text(json.dumps(LVIS))
    data = replace(coco, categories=("cat",), eval_kind="lvis", eval_annotations=folder / "lvis.json",
                   eval_images=folder, eval_categories=("die",))  # fmt: skip
    assert {s.category for s in training_set(data)} == {"cat"}
    assert {s.category for s in held_out(GRPOConfig(data=data))} == {"die"}


def test_a_feed_of_a_set(tmp_path):
    """Catches a kind that trains nothing because the feed does not know it."""
    MAKERS["pets"](tmp_path)
    config = GRPOConfig(data=DataConfig(kind="pets", task="classification", folder=tmp_path), prompts_per_step=2)
    assert {s.category for s in training_feed(config)(1)} == {"abyssinian", "british shorthair"}


# ------------------------------------------------------------------ splits


def test_a_split_is_what_the_same_settings_draw(coco, tmp_path, monkeypatch, capsys):
    """Catches a split file that trains on other samples than the run it was made to repeat."""
    source = tmp_path / "mine.toml"
    source.write_text(
        f"[data]\nkind = 'coco'\nannotations = '{coco.annotations}'\nimages = '{coco.images}'\nnegatives = 0.4\n"
    )
    out = tmp_path / "split.json"
    assert main(["data", "split", str(source), "--shots", "2", "--data.seed", "5", "--out", str(out)]) == 0
    assert f"--data.split {out}" in capsys.readouterr().out
    drawn = training_set(replace(coco, shots=2, seed=5, negatives=0.4))
    written = json.loads(out.read_text())
    assert written["samples"] == [s.id for s in drawn]
    assert (written["k"], written["seed"], written["negatives"], written["kind"]) == (2, 5, 0.4, "coco")
    assert written["source"] == "instances.json"  # a name, no path of this machine
    for other in (coco, replace(coco, negatives=0.0, seed=9)):  # the reader's own share and seed do not matter
        assert training_set(replace(other, split=out)) == drawn


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 4), st.sampled_from([0.0, 0.2, 0.5]))
def test_any_split_reads_back(seed, k, negatives):
    """Catches absent questions, drawn from millions of pairs, that cannot be found again."""
    if not COCO128.exists():
        pytest.skip("no ../shared/data/coco128")
    annotations, images = COCO128 / "annotations" / "instances_train2017.json", COCO128 / "train2017"
    names = ("dog", "person", "cup")
    data = DataConfig(kind="coco", annotations=annotations, images=images, categories=names, seed=seed, shots=k,
                      negatives=negatives)  # fmt: skip
    drawn = training_set(data)
    assert read("coco", annotations, images, names, only={s.id for s in drawn}) == drawn


def test_a_split_file_is_read_once(coco, tmp_path, monkeypatch):
    """Catches ids from one reading and shots from another, where the file is written anew between the two."""
    path, read_text, reads = tmp_path / "split.json", Path.read_text, []
    path.write_text(json.dumps({"samples": ["0:cat"], "k": 1}))
    monkeypatch.setattr(Path, "read_text", lambda self, *a, **k: reads.append(self) or read_text(self, *a, **k))
    assert [s.id for s in training_set(replace(coco, split=path, shots=1))] == ["0:cat"]
    assert reads.count(path) == 1


def test_a_split_of_other_data(coco, tmp_path):
    """Catches a split that shrinks without a word when a picture or a category is missing."""
    path = tmp_path / "split.json"
    for ids in (["0:cat", "99:cat"], ["0:cat", "0:bird"], ["0:cat", "nonsense"]):
        path.write_text(json.dumps({"samples": ids}))
        with pytest.raises(UserError, match=f"1 of 2 samples are not in this data set, such as '{ids[1]}'"):
            training_set(replace(coco, split=path))
    for text in ('{"samples": []}', '{"samples": [3]}', '{"samples": "0:cat"}', "{}", "[1"):
        path.write_text(text)
        with pytest.raises(UserError, match="is not a split"):
            training_set(replace(coco, split=path))
    with pytest.raises(UserError, match="is not a split"):
        training_set(replace(coco, split=tmp_path / "gone.json"))


def test_what_a_split_leaves_is_held_out(coco, tmp_path):
    """Catches evaluation on the pictures of the split."""
    path = tmp_path / "split.json"
    path.write_text(json.dumps({"samples": ["0:cat", "3:dog"]}))
    left = held_out(GRPOConfig(data=replace(coco, split=path)))
    assert left and not {s.image.stem for s in left} & {"0", "3"}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "name a config first"),
        (["tiny_detection", "--shots", "2"], "the tiny world is drawn from data.seed"),
        (["tiny_detection"], "give --shots K"),
        (["coco_8cate_4shot", "--shots", "2"], "data.annotations is not set"),
        (["coco_8cate_4shot", "--shtos", "2"], "did you mean --shots"),
    ],
)
def test_splits_that_cannot_be_made(args, message, capsys):
    """Catches a file written that no run can read."""
    assert main(["data", "split", *args]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and captured.out == ""


# ------------------------------------------------------------------ data inspect


def test_inspect_counts_and_draws(coco, tmp_path, capsys):
    """Catches a command that fails on real data, and counts of other samples than those trained on."""
    source, out = tmp_path / "mine.toml", tmp_path / "drawn.png"
    source.write_text(
        f"[data]\nkind = 'coco'\nannotations = '{coco.annotations}'\nimages = '{coco.images}'\nshots = 2\n"
    )
    assert main(["data", "inspect", str(source), "--samples", "3", "--out", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["samples"], told["boxes"], told["categories"]) == (5, 4, 2)
    assert told["by_category"]["cat"]["samples"] - told["by_category"]["cat"]["absent"] == 2
    with Image.open(out) as drawn:
        assert drawn.width > 500
    assert main(["data", "inspect", str(source), "--held-out", "--data.negatives", "0"]) == 0
    text = capsys.readouterr().out
    assert "category" in text and "warning: no question is about an absent category" in text


def test_inspect_draws_what_opens(coco, tmp_path, capsys, monkeypatch):
    """One torn picture, which costs a run its samples only, and no drawing of all the others."""
    (tmp_path / "0.png").write_bytes((tmp_path / "0.png").read_bytes()[:60])
    source = tmp_path / "mine.toml"
    monkeypatch.chdir(tmp_path)
    source.write_text('[data]\nkind = "coco"\nannotations = "instances.json"\nimages = "."\n')
    out = tmp_path / "seen.png"
    assert main(["data", "inspect", str(source), "--samples", "99", "--out", str(out)]) == 0, capsys.readouterr().err
    assert out.stat().st_size


@pytest.mark.parametrize("task", ["detection", "classification"])
def test_inspect_of_the_tiny_world(task, tmp_path, capsys):
    """Catches a task whose samples cannot be drawn or counted, and an endless world that is asked for all it has."""
    out = tmp_path / "drawn.png"
    args = ["data", "inspect", "tiny_detection", "--data.task", task, "--samples", "2", "--out", str(out), "--json"]
    assert main(args) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 128 and out.stat().st_size > 1000


def test_unknown_data_command(capsys):
    """Catches a traceback for a misspelt subcommand."""
    assert main(["data", "inspct"]) == 2
    assert "no command data inspct" in capsys.readouterr().err


def boxes(*rows, name="cat", image="0.png"):
    solution = prompts.detection_solution(rows)
    return Sample(f"{image}:{name}", Path(image), "detection", prompts.detection(name), solution, name)


def test_summary():
    """Catches pictures counted once for each question, and absent questions counted as present."""
    told = summarise([boxes([0, 0, 9, 9], [1, 1, 5, 5]), boxes(name="dog"), boxes([0, 0, 9, 9], image="1.png")])
    assert (told["samples"], told["pictures"], told["boxes"], told["categories"]) == (3, 2, 3, 2)
    assert told["absent"] == pytest.approx(1 / 3)
    assert told["by_category"]["cat"] == {"samples": 2, "absent": 0, "boxes": 3}
    assert summarise([])["absent"] == 0.0


def test_warnings():
    """Catches each fault that only shows hours later, and a warning where there is none."""
    good = [boxes([0, 0, 500, 500]), boxes([0, 0, 300, 500], name="dog"), boxes(name="dog", image="1.png")]
    assert warnings(good, 64) == []
    cases = {
        "nothing teaches": good[:2],
        "in no picture: bird": [*good, boxes(name="bird")],
        "unequal categories: 40 pictures of cat, 1 of dog": [
            *good[1:],
            *(boxes([0, 0, 500, 500], image=f"{i}.png") for i in range(40)),
        ],
        "1 solutions have more digits": [*good, boxes(*[[100, 100, 900, 900]] * 9, image="2.png")],
        "1 of 3 boxes are thinner": [*good, boxes([0, 0, 900, 9], image="2.png")],
        "1 questions are asked more than once": [*good, good[0]],
    }
    for message, samples in cases.items():
        (found,) = warnings(samples, 64)
        assert message in found and "\n" not in found
    assert "1 pictures are both trained and evaluated on" in warnings(good, 64, held_out=good[:1])[0]
    assert "in no picture: cow" in warnings(good, 64, wanted=("cat", "cow"))[0]


def test_coco128_is_inspected(tmp_path, capsys):
    """Catches what made-up files do not hold: real sizes, crowds, many categories."""
    if not COCO128.exists():
        pytest.skip("no ../shared/data/coco128")
    files = ["--data.annotations", str(COCO128 / "annotations" / "instances_train2017.json"),
             "--data.images", str(COCO128 / "train2017")]  # fmt: skip
    assert main(["data", "inspect", "coco_8cate_4shot", *files, "--out", str(tmp_path / "a.png")]) == 0
    text = capsys.readouterr().out
    assert "7 categories" in text and "warning: in no picture: fire hydrant" in text


def test_a_copied_file_is_no_held_out_picture(tmp_path):
    """Catches a question about a picture that is trained on, under another file name."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(4):
            Image.new("RGB", (8, 8), (i // 2, 9, 10 * (name == "b"))).save(tmp_path / name / f"{i}.png")
    data = DataConfig(kind="folder", task="classification", folder=tmp_path, shots=1)
    trained = {s.image.read_bytes() for s in training_set(data)}
    left = held_out(GRPOConfig(data=data, eval_samples=0))
    assert len(left) == 4 and not {s.image.read_bytes() for s in left} & trained


def test_shots_are_different_pictures(tmp_path):
    """Catches k shots of a category that are k copies of one picture; copies in another category are its own shots."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(8):
            Image.new("RGB", (8, 8), (i // 4, 9, 9)).save(tmp_path / name / f"{i}.png")
    for seed in range(10):
        data = DataConfig(kind="folder", task="classification", folder=tmp_path, shots=2, seed=seed)
        shots = training_set(data)
        assert len(shots) == 4 and len({s.image.read_bytes() for s in shots if s.category == "a"}) == 2
        fewer = {s.id for s in training_set(replace(data, shots=1))}
        assert fewer < {s.id for s in shots}
    assert len(training_set(replace(data, shots=5))) == 4


def test_only_files_of_one_size_are_read(tmp_path, monkeypatch):
    """Catches a large set whose every picture is read to find out that all differ."""
    from minirft.data import identity

    for i in range(6):
        (tmp_path / f"{i}.png").write_bytes(b"x" * (i + 1) + b"y" * (i == 5))
    (tmp_path / "copy.png").write_bytes((tmp_path / "3.png").read_bytes())
    read = []
    monkeypatch.setattr(identity, "picture_digest", lambda path: read.append(path.name) or path.read_bytes())
    names = [*(f"{i}.png" for i in range(6)), "copy.png"]
    keys = identity.picture_keys([Sample(n, tmp_path / n, "presence", "?", "") for n in names])
    assert read == ["3.png", "copy.png"] and keys[3] == keys[6] and len(set(keys)) == 6


def test_settings_are_not_chosen_on_the_test_questions():
    """A curve during training on the questions of the final score: whoever stops at its best has tuned on the test."""
    config = GRPOConfig(eval_samples=30)
    chosen, asked = validation(config), held_out(config)
    assert len(chosen) == len(asked) == 30
    assert not {s.picture().tobytes() for s in chosen} & {s.picture().tobytes() for s in asked}


def test_a_row_with_the_same_picture_is_not_held_out(tmp_path):
    """Catches a question about a picture that is trained on, in another row of a published set."""
    datasets = pytest.importorskip("datasets")
    from minirft.data.identity import picture_digest

    rows = []
    for i in range(12):
        stored = io.BytesIO()
        Image.new("RGB", (8, 8), (i // 3, 9, 9)).save(stored, "PNG")
        solution = "<answer>[{'Position': [10, 10, 200, 200], 'Confidence': 1}]</answer>"
        image = {"bytes": stored.getvalue(), "path": None}
        rows.append({"image": image, "problem": prompts.detection(f"c{i % 3}"), "solution": solution})
    datasets.Dataset.from_list(rows).to_parquet(str(tmp_path / "set.parquet"))
    data = DataConfig(kind="virft", folder=tmp_path / "set.parquet", shots=1)
    trained = {picture_digest(s.image) for s in training_set(data)}
    left = held_out(GRPOConfig(data=data, eval_samples=0))
    assert len(left) == 12 - 3 * len(trained) and not {picture_digest(s.image) for s in left} & trained


def test_inspect_reports_copies_across_parts(tmp_path):
    """Catches a copied picture in the evaluation data that a comparison of paths does not see."""
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    sample = Sample("0", tmp_path / "a.png", "classification", "?", "<answer>cat</answer>", "cat")
    found = warnings([sample], 64, held_out=[replace(sample, image=tmp_path / "b.png")])
    assert any("1 pictures are both trained and evaluated on" in line for line in found)
    found = warnings([sample, replace(sample, id="1", image=tmp_path / "b.png")], 64)
    assert any("1 pictures are copies of others" in line for line in found)


# ------------------------------------------------------------------ several categories in one question


def test_several_categories_are_asked_about_at_once(coco, tmp_path):
    """A picture asked about twice, a box that loses its label, or an absent category that nobody asks about."""
    several = replace(coco, categories_per_question=2)
    apart, joined = training_set(coco), training_set(several)
    assert sorted(f"{s.id.split(':')[0]}:{name}" for s in joined for name in s.asked) == sorted(s.id for s in apart)
    both = next(sample for sample in joined if sample.id == "0:cat+dog")
    assert "belonging to the categories 'cat', 'dog' in the image" in both.problem
    assert "'Label': 'cat'" in both.solution and "'Label': 'dog'" in both.solution
    assert both.exact.labels == ("cat", "dog") and both.exact.boxes.tolist() == [[10, 10, 50, 30], [20, 10, 60, 30]]
    own = replace(several, question="Which of {category}?")
    asked = next(sample for sample in training_set(own) if sample.id == "0:cat+dog").problem
    assert asked.startswith("Which of cat, dog?\nOutput the thinking") and "'Label': 'name'" in asked
    (tmp_path / "c.toml").write_text(_toml(several))
    assert main(["data", "split", f"{tmp_path}/c.toml", "--shots", "2", "--out", f"{tmp_path}/s.json"]) == 0
    named = training_set(replace(several, split=tmp_path / "s.json"))
    assert {name for sample in named for name in sample.asked} == {"cat", "dog"}


def _toml(data):
    lines = [f'annotations = "{data.annotations}"', f'images = "{data.images}"', f"negatives = {data.negatives}"]
    return "\n".join(["[data]", 'kind = "coco"', *lines, f"categories_per_question = {data.categories_per_question}"])


def test_a_run_with_several_categories_learns_and_is_evaluated(coco, tiny_random, tmp_path):
    """A joined question that breaks in reward, evaluation or COCO's results, at the end of a night."""
    config = small_config(
        tiny_random, tmp_path / "run", data=replace(coco, categories_per_question=2, shots=2), eval_every=3
    )
    rows = list(run(replace(config, max_prompt_length=4096, max_pixels=12544)))
    assert [row["kind"] for row in rows].count("eval") == 3 and rows[-1]["n"] > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "tiny"}, "data.categories_per_question = 2: only detection on pictures with boxes"),
        ({"kind": "coco", "task": "presence"}, "data.categories_per_question = 2: only detection"),
        ({"kind": "coco", "categories_per_question": 0}, "data.categories_per_question = 0: use a whole number"),
    ],
)
def test_where_several_cannot_be_asked(changes, message):
    """A setting that is silently ignored."""
    with pytest.raises(UserError) as caught:
        DataConfig(**{"categories_per_question": 2} | changes)
    assert message in str(caught.value)
    with pytest.raises(UserError, match="the released code knows no labels"):
        GRPOConfig(reward="official", data=DataConfig(kind="coco", categories_per_question=2))

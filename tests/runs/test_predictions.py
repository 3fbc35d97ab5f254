"""Answers on disk: gone on with as if never stopped, refused where they are others', and read alike by pycocotools."""

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED_DATA
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from readings import read
from small_runs import small_config

from minirft import UserError
from minirft.commands.cli import main
from minirft.data.findings import Findings
from minirft.data.settings import DataConfig
from minirft.evaluation.scores import metrics
from minirft.rewards import true_boxes
from minirft.rewards.boxes import pixels
from minirft.runs import predictions
from minirft.runs.config import GRPOConfig
from minirft.runs.folder import load_policy
from minirft.runs.loop import generate
from minirft.runs.predictions import default_file, predict, settings
from minirft.samples import Sample, TrueBoxes

COCO128 = SHARED_DATA / "coco128"


@pytest.fixture
def asked(tiny_random: Path, tmp_path: Path, samples):
    """A policy of random weights, its configuration, the samples, and the settings of their answers."""
    config = small_config(tiny_random, tmp_path, eval_batch=2)
    policy = load_policy(config)
    asked = [replace(samples[i % len(samples)], id=f"s{i}") for i in range(5)]
    return policy, config, asked, settings(policy, config, asked, "sampled", trained=False)


@pytest.mark.parametrize("left", [0, 1, 2, 3, 4, 5])
def test_a_stop_changes_nothing(asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: int):
    """Sampled answers that depend on where the run was killed, an answer twice, or a torn line taken for one."""
    policy, config, samples, made_with = asked
    path = tmp_path / "whole" / "predictions.jsonl"
    whole = predict(policy, config, samples, path, made_with)
    assert whole == generate(policy, config, samples, "sampled")
    lines = path.read_bytes().splitlines(keepends=True)
    torn = tmp_path / "torn.jsonl"
    torn.write_bytes(b"".join(lines[: 1 + left]) + b'{"id": "s')
    firsts = []
    monkeypatch.setattr(predictions, "generate", lambda *args: firsts.append(args[-1]) or generate(*args))
    assert predict(policy, config, samples, torn, made_with) == whole
    assert torn.read_bytes() == path.read_bytes()
    assert firsts == list(range(5 if left == 5 else left - left % 2, 5, 2))


def test_other_settings_are_refused(asked, tmp_path: Path):
    """Answers of another temperature, of other weights or to other questions under this evaluation's name."""
    policy, config, samples, made_with = asked
    path = tmp_path / "predictions.jsonl"
    predict(policy, config, samples, path, made_with)
    policy.trainable()[next(iter(policy.trainable()))].data.add_(1)
    others = [
        (settings(policy, replace(config, temperature=0.5), samples, "sampled", False), "temperature 1.0 -> 0.5"),
        (settings(policy, config, samples[::-1], "sampled", False), "samples "),
        (settings(policy, config, samples, "greedy", False), "mode sampled -> greedy"),
        (settings(policy, config, samples, "sampled", True), "weights "),
    ]
    for other, message in others:
        with pytest.raises(UserError, match=message):
            predict(policy, config, samples, path, other)
        assert default_file(tmp_path, other) != default_file(tmp_path, made_with)
    path.write_text("[]\n")
    with pytest.raises(UserError, match="line 1 is not a row"):
        predict(policy, config, samples, path, made_with)
    path.write_text('{"id": "s0", "text": ""}\n')
    with pytest.raises(UserError, match="not the header"):
        predict(policy, config, samples, path, made_with)


def test_greedy_answers_have_no_temperature(asked):
    """A greedy evaluation done again because of a seed that it does not use."""
    policy, config, samples, _ = asked
    other = replace(config, temperature=0.5, seed=7)
    assert settings(policy, config, samples, "greedy", False) == settings(policy, other, samples, "greedy", False)


# ------------------------------------------------------------------ COCO's own tools


def guesses(samples, seed: int) -> list[str]:
    """Answers in the format of the paper: true boxes moved a little or left out, and false ones; no two scores tie."""
    generator = np.random.default_rng(seed)
    texts, scores = [], iter(generator.permutation(100_000) / 100_000)
    for sample in samples:
        boxes = true_boxes(sample) + generator.normal(0, 25, (len(true_boxes(sample)), 4))
        low = generator.uniform(0, 800, (generator.integers(3), 2))
        boxes = np.concatenate([boxes[generator.random(len(boxes)) < 0.8], np.concatenate([low, low + 150], 1)])
        boxes = boxes.clip(0, 1000)
        boxes = boxes[(boxes[:, 0] < boxes[:, 2]) & (boxes[:, 1] < boxes[:, 3])].round(2)
        rows = [f"{{'Position': {box.tolist()}, 'Confidence': {next(scores):.5f}}}" for box in boxes]
        texts.append(
            f"<think>so</think> <answer>[{', '.join(rows)}]</answer>" if rows else "<answer>No Objects</answer>"
        )
    return texts


def coco_ap(annotations: dict, results: Path) -> tuple[float, float, float]:
    """AP, AP50 and AR of a results file by pycocotools alone."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = annotations
        truth.createIndex()
        run = COCOeval(truth, truth.loadRes(str(results)), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run.stats[0], run.stats[1], run.stats[8]


def drawn(tmp_path: Path, seed: int, crowds: bool = False) -> DataConfig:
    """Pictures of 1000 by 500 with boxes anywhere, some a little outside, two categories and ids with gaps."""
    generator = np.random.default_rng(seed)
    names, rows = [{"id": 3, "name": "cat"}, {"id": 90, "name": "stop sign"}], []
    for i in range(20):
        Image.new("RGB", (1000, 500)).save(tmp_path / f"{i}.png")
        for _ in range(generator.integers(1, 4)):
            x, y = generator.uniform(0, 600, 2).round(2).tolist()
            box = [x, y / 2, *generator.uniform([100, 50], [400, 200]).round(2).tolist()]
            row = {"image_id": 7 * i, "bbox": box, "area": box[2] * box[3]}
            rows.append(row | {"category_id": int(generator.choice([3, 90])), "iscrowd": 0})
        if crowds:
            box = [0, 0, 1000.3, 300.0]
            row = {"image_id": 7 * i, "bbox": box, "area": 3e5, "iscrowd": 1}
            rows.append(row | {"category_id": rows[-1]["category_id"]})
    rows = [{"id": number, **row} for number, row in enumerate(rows, 1)]
    images = [{"id": 7 * i, "file_name": f"{i}.png", "width": 1000, "height": 500} for i in range(20)]
    path = tmp_path / "instances.json"
    path.write_text(json.dumps({"info": {}, "images": images, "annotations": rows, "categories": names}))
    return DataConfig(kind="coco", annotations=path, images=tmp_path)


def agrees(data: DataConfig, samples: list, texts: list[str], folder: Path) -> dict:
    """Our metrics, after comparing them with pycocotools on the annotation file and the file that is written."""
    written = predictions.write_coco_results(texts, samples, GRPOConfig(data=data), folder / "answers.jsonl")
    ours = metrics("detection", texts, samples, resamples=0)
    annotations = json.loads(data.annotations.read_text())
    sound = [row for row in annotations["annotations"] if min(row["bbox"][2:]) > 0]  # what on_bad = "skip" keeps
    theirs = coco_ap({**annotations, "annotations": sound}, written)
    assert (ours["ap"], ours["ap50"], ours["ar"]) == pytest.approx(theirs, abs=1e-9)
    return ours


@pytest.mark.parametrize("crowds", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_our_ap_is_that_of_the_written_file(tmp_path: Path, seed: int, crowds: bool):
    """Truth rounded to thousandths, a box on a crowd called false, corners for sizes, ids by place, a lost box."""
    data = drawn(tmp_path, seed, crowds)
    samples = read("coco", data.annotations, data.images)
    ours = agrees(data, samples, guesses(samples, seed), tmp_path)
    assert 0.05 < ours["ap"] < 0.95


@pytest.mark.skipif(not COCO128.exists(), reason="no ../shared/data")
@pytest.mark.parametrize("perfect", [False, True])
def test_our_ap_is_that_of_the_written_file_on_coco128(tmp_path: Path, perfect: bool):
    """The same on photographs with crowds.  Perfect answers, written in thousandths, are not perfect in pixels."""
    source = COCO128 / "annotations" / "instances_train2017.json"
    data = DataConfig(kind="coco", annotations=source, images=COCO128 / "train2017")
    samples = read("coco", source, data.images, findings=Findings("skip"))
    texts = [sample.solution for sample in samples] if perfect else guesses(samples, 3)
    ours = agrees(data, samples, texts, tmp_path)
    assert 0.95 < ours["ap"] < 1 if perfect else ours["ap"] < 0.95


def test_a_box_on_a_crowd_is_no_false_box():
    """A crowd that is read as an object, or not at all, in precision, calibration or pooled AP."""
    exact = TrueBoxes(pixels(100, 100), np.array([[0.0, 0, 10, 10]]), np.array([[50.0, 50, 100, 100]]))
    solution = "<answer>[{'Position': [0, 0, 100, 100], 'Confidence': 1}]</answer>"
    sample = Sample("1:cat", Path("1.png"), "detection", "?", solution, "cat", exact=exact)
    boxes = "{'Position': [600, 600, 700, 700], 'Confidence': 0.9}, {'Position': [0, 0, 100, 100], 'Confidence': 0.8}"
    text = f"<think>so</think> <answer>[{boxes}]</answer>"
    seen = metrics("detection", [text], [sample], resamples=0)
    blind = metrics("detection", [text], [replace(sample, exact=None)], resamples=0)
    assert (seen["ap50_pooled"], seen["precision"], seen["recall"]) == pytest.approx((1, 1, 1))
    assert seen["ece"] == pytest.approx(0.2)
    assert blind["precision"] == 0.5 and blind["ap50_pooled"] == pytest.approx(0.5)


def test_evaluations_do_not_overwrite_each_other(tmp_path: Path):
    """One results file for all evaluations whose answers are in one folder: 293 rows became 1,400."""
    data = drawn(tmp_path, 0)
    samples = read("coco", data.annotations, data.images)
    config = GRPOConfig(data=data)
    first = predictions.write_coco_results(guesses(samples, 0), samples, config, tmp_path / "a.jsonl")
    before = first.read_bytes()
    second = predictions.write_coco_results(guesses(samples, 1), samples, config, tmp_path / "b.jsonl")
    assert first != second and first.read_bytes() == before != second.read_bytes()


@pytest.mark.parametrize("both", [False, True])
def test_two_categories_of_one_name(tmp_path: Path, both: bool):
    """Boxes that are reported under the other category of that name: AP50 .94 for perfect answers."""
    data = drawn(tmp_path, 0)
    tables = json.loads(data.annotations.read_text())
    tables["categories"].append({"id": 91, "name": "cat"})
    if both:
        tables["annotations"][0]["category_id"], tables["annotations"][1]["category_id"] = 3, 91
    data.annotations.write_text(json.dumps(tables))
    if both:
        with pytest.raises(UserError, match="3 and 91 are both called 'cat'"):
            read("coco", data.annotations, data.images)
    else:
        samples = read("coco", data.annotations, data.images)
        assert agrees(data, samples, [sample.solution for sample in samples], tmp_path)["ap50"] == 1


def test_eval_writes_what_it_says(tiny_random: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A second `minirft eval` that computes everything again, or a results file that no COCO tool loads."""
    data = drawn(tmp_path, 0)
    command = ["eval", "coco_8cate_4shot", "--model", str(tiny_random), "--quantize", "none", "--json"]
    command += ["--data.annotations", str(data.annotations), "--data.images", str(tmp_path), "--data.categories", "cat"]
    command += ["--data.eval-annotations", str(data.annotations), "--device", "cpu"]
    command += ["--eval-samples", "4", "--max-completion-length", "4", "--max-pixels", "12544"]
    command += ["--out", str(tmp_path / "run"), "--max-prompt-length", "4096", "--dtype", "float32"]
    assert main(command) == 0
    first = json.loads(capsys.readouterr().out)
    assert len(Path(first["predictions"]).read_text().splitlines()) == 1 + 4
    assert isinstance(json.loads(Path(first["coco_results"]).read_text()), list)
    assert main(command) == 0
    captured = capsys.readouterr()
    assert "4 of 4 answers are in" in captured.err
    assert json.loads(captured.out) | {"seconds": 0} == first | {"seconds": 0}
    assert main([*command, "--two-stages"]) == 0
    assert json.loads(capsys.readouterr().out)["predictions"] != first["predictions"]

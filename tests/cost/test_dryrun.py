"""The dry run: what it says of prompts, plan and memory is what the run will do, and over-long prompts stop it."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import test_data_sets
import torch
from conftest import SHARED_DATA
from test_data_feed import coco  # noqa: F401, a fixture
from transformers import AutoTokenizer

from minirft.commands.cli import main
from minirft.cost import dryrun, fit
from minirft.cost.lower_bound import floor
from minirft.cost.shapes import Shape
from minirft.engine.families.pixel_boxes import rescale
from minirft.engine.processor import load_processor
from minirft.rewards.frames import displayed_size
from minirft.runs.config import SHIPPED, GRPOConfig, load_config

PROCESSOR = SHARED_DATA / "qwen2vl_processor"
real = pytest.mark.skipif(not PROCESSOR.exists(), reason="no ../shared/data")


def told(capsys: pytest.CaptureFixture[str], *args: object) -> dict:
    capsys.readouterr()
    assert main([*map(str, args), "--dry-run", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_lengths_are_those_of_the_prompts(miniature: Path, samples):
    """Tokens counted from the size of a picture that are not those the processor makes."""
    processor = load_processor(str(miniature), None, None)
    for sample in samples:
        made = processor(sample)
        text, pictured = processor.count(sample, displayed_size(sample))
        assert text + pictured == len(made["input_ids"]) and pictured == int(made["mm_token_type_ids"].sum())


def test_of_the_tiny_world(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Weights loaded all the same, or the memory of other settings."""
    monkeypatch.setattr("minirft.policy.Policy.load", lambda *_, **__: pytest.fail("weights were loaded"))
    found = told(capsys, "train", "tiny_detection", "--steps", 7)
    assert found["plan"] == {"steps": 7, "prompts": 56, "completions": 448}
    assert found["memory"]["peak_gib"] == fit.account(load_config("tiny_detection")).peak / fit.GIB
    assert len(found["prompts"]) == 3 and all(p["tokens"] > p["picture_tokens"] > 0 for p in found["prompts"])
    assert told(capsys, "sft", "tiny_detection")["plan"]["completions"] == 8 * load_config("tiny_detection").sft_steps
    assert told(capsys, "eval", "tiny_detection", "--eval-samples", 50)["plan"]["completions"] == 50
    assert main(["train", "tiny_detection", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert (found["time_cpu"] is None) == torch.cuda.is_available() == ("CPU cores about" not in printed)
    assert all(word in printed for word in ("samples", "prompts", "plan", "memory", "not measured", "→ <answer>"))


def test_a_model_of_pixels_is_shown_pixels(capsys: pytest.CaptureFixture[str], miniature: Path, coco):  # noqa: F811
    """Catches thousandths printed for Qwen2.5-VL, whose prompt names the size of the resized picture."""
    data = ["--data.annotations", coco.annotations, "--data.images", coco.images, "--data.categories", "cat"]
    flags = [*data, "--processor", miniature, "--max-prompt-length", 4096]
    usual, shown = (
        told(capsys, "train", "own_coco_4shot", *flags, "--model", name)["prompts"][0]
        for name in ("qwen2-vl-2b", "qwen2.5-vl-3b")
    )
    limit = load_config("own_coco_4shot").max_pixels
    size = load_processor(str(miniature), limit, None).resized((shown["width"], shown["height"]))
    assert f"which is {size[0]} x {size[1]} pixels" in shown["problem"] and "between 0 and 1000" in usual["problem"]
    assert shown["solution"] == rescale(usual["solution"], (1000, 1000), size) != usual["solution"]


def test_over_long_prompts_are_named(capsys: pytest.CaptureFixture[str]):
    """A prompt over the limit found at step 100."""
    assert main(["train", "tiny_detection", "--dry-run", "--max-prompt-length", "20"]) == 2
    error = capsys.readouterr().err
    assert "8 of 8 prompts are longer than max_prompt_length = 20 tokens: " in error and "raise" in error


def test_time_by_hand():
    """A rate in the wrong unit, a step counted twice, a picture seen in every epoch."""
    config = GRPOConfig(steps=10, prompts_per_step=2, group_size=3, max_completion_length=5, kl_coef=0.1)
    lengths = np.array([[20, 16], [22, 16]])
    least = floor(dryrun.architecture("tiny"), Shape(37, 5, 3, 2, (1, 16)), 0, True)
    flops = dryrun.estimate(config, "grpo", lengths, 4, dryrun.Rates(1.0, 1e12))
    assert flops["parts"] == pytest.approx(
        {
            "vision": 2 * least["vision"] / 1e12,  # 4 pictures, 2 in a step
            "rollout": 10 * least["rollout"] / 1e12,
            "learning": 10 * (least["reference"] + least["forward"] + least["backward"]) / 1e12,
        }
    )
    traffic = dryrun.estimate(config, "grpo", lengths, 4, dryrun.Rates(1e9, 1.0))["parts"]["rollout"]
    assert traffic == pytest.approx(10 * 5 * dryrun.weight_bytes(config) / 1e9)


def test_bytes_of_2b():
    """4-bit weights that are read as 16 bits: 1.31 billion in linear layers, 0.23 billion in the head."""
    config = load_config("coco_8cate_4shot")
    assert dryrun.weight_bytes(config) == pytest.approx(1.31e9 * 0.516 + 0.2334e9 * 2, rel=0.01)


@pytest.mark.parametrize("rates", [("--tflops", "-1"), ("--bandwidth", "-2")])
def test_rates_that_no_machine_has(rates, capsys: pytest.CaptureFixture[str]):
    """A negative time."""
    assert main(["train", "tiny_detection", "--dry-run", *rates]) == 2
    assert "must be positive" in capsys.readouterr().err


# ------------------------------------------------------------------ every shipped config, on data in the true layout


def layout(name: str, root: Path, coco) -> list[str]:  # noqa: F811
    """Small files in the layout that a shipped config reads, and the flags that name them."""
    kind = load_config(name).data.kind
    if kind in ("coco", "lvis"):
        source = json.loads(coco.annotations.read_text())
        names = list(load_config(name).data.categories) or ["cat", "dog"]
        wanted = list(load_config(name).data.eval_categories) or names
        source["categories"] = [{"id": i, "name": n} for i, n in enumerate(dict.fromkeys(names + wanted), 1)]
        novel = next(row["id"] for row in source["categories"] if row["name"] == wanted[0])
        source["annotations"] += [{"image_id": 1, "category_id": novel, "bbox": [10, 10, 40, 20]}]
        lists = {"neg_category_ids": [], "not_exhaustive_category_ids": []}
        for row in source["images"]:
            row |= lists | {"coco_url": f"http://images.cocodataset.org/{root.name}/{row['file_name']}"}
        path = root / "all.json"
        path.write_text(json.dumps(source))
        pictures = root.parent if kind == "lvis" else root
        flags = ["--data.annotations", path, "--data.images", pictures, "--data.eval-annotations", path]
        other = root.parent if load_config(name).data.eval_kind == "lvis" else pictures
        return [*map(str, [*flags, "--data.eval-images", other])]
    if kind == "reasonseg":
        for part in ("train", "test"):
            test_data_sets.write(root / "set", part=part)
    else:
        (root / "set").mkdir()
        getattr(test_data_sets, kind)(root / "set")
    return ["--data.folder", str(root / "set")]


@pytest.fixture
def read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A vocabulary of 152,000 tokens takes most of a second to read."""
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", tokenizer_of)


tokenizer_of = cache(AutoTokenizer.from_pretrained)


@real
@pytest.mark.usefixtures("read_once")
@pytest.mark.parametrize("name", sorted(path.stem for path in SHIPPED.glob("*.toml") if "tiny" not in path.stem))
def test_every_shipped_config_on_true_layout(name: str, tmp_path: Path, coco, capsys):  # noqa: F811
    """A shipped config that no data fits, or whose prompts Qwen2-VL's own tokenizer makes too long."""
    flags = layout(name, tmp_path, coco)
    for command in ("train", "eval"):
        found = told(capsys, command, name, *flags, "--processor", PROCESSOR)
        assert 0 < found["prompt_tokens"]["longest"] <= 1024 and found["samples"] > 0
        assert found["time"]["seconds"] > 0
        assert command == "eval" or found["memory"]["card_gb"] <= 8

"""`minirft data export --to verl`: what verl reads from the files is what our policy gets, and scores as we score."""

import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from minirft import UserError
from minirft.commands import main
from minirft.data import DataConfig, training_feed
from minirft.engine import family_of
from minirft.policy import Policy
from minirft.rewards import blind, edits, reading, to_verl
from minirft.runs import GRPOConfig, export_for_verl, load_config, verl
from minirft.samples import Sample, Task

parquet = pytest.importorskip("pyarrow.parquet")
TINY = replace(load_config("tiny_detection"), steps=2, prompts_per_step=4, eval_samples=5)
LIMIT = 25_000  # pixels
KEYS = {"data_source", "prompt", "images", "reward_model", "extra_info"}


def read(file: Path) -> list[dict[str, Any]]:
    return parquet.read_table(file).to_pylist()


def as_verl_reads(row: dict[str, Any]) -> tuple[list[dict[str, Any]], Image.Image]:
    """Messages and picture as verl's `RLHFDataset._build_messages`, read in its git source, makes them."""
    (message,), (image,) = row["prompt"], row["images"]
    segments = [part for part in re.split("(<image>|<video>|<audio>)", message["content"]) if part]
    content = [{"type": "image"} if part == "<image>" else {"type": "text", "text": part} for part in segments]
    return [{"role": message["role"], "content": content}], Image.open(io.BytesIO(image["bytes"])).convert("RGB")


def own_pictures(folder: Path) -> DataConfig:
    """A JPEG that a camera turned, a transparent PNG and a plain JPEG of 240 x 180, with their boxes as CSV."""
    noise = np.random.default_rng(0).integers(0, 255, (180, 240, 4), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise[..., :3]).save(folder / "turned.jpg", exif=exif)
    Image.fromarray(noise).save(folder / "clear.png")
    Image.fromarray(noise[..., :3]).save(folder / "plain.jpg")
    lines = [f"{name},5,5,40,50,cat" for name in ("turned.jpg", "clear.png", "plain.jpg")]
    (folder / "boxes.csv").write_text("\n".join(["image,xmin,ymin,xmax,ymax,label", *lines]))
    return DataConfig("csv", annotations=folder / "boxes.csv", negatives=0.0)


def fuzzed(task: Task, solutions: list[str], seed: int = 0) -> list[tuple[str, str]]:
    """Pairs (completion, solution): every attack of the red team, and texts with characters lost or swapped."""
    random = np.random.default_rng(seed)
    pairs = [(text, solution) for solution in solutions for _, text in blind(task, solutions)]
    pairs += [(edit(solution), solution) for solution in solutions for _, edit in edits(task)]
    for solution in solutions * 20:
        letters = list(f"<think>a cat</think> {solution}")
        for place in random.integers(0, len(letters), 3):
            letters[place] = random.choice(["", "9", "]", "-", "<", letters[0]])
        pairs.append(("".join(letters), solution))
    return pairs


def test_what_verl_reads_is_our_prompt(tmp_path: Path):
    """A lost system message, a second picture, a picture in another size or not upright: other tokens or patches."""
    config = replace(TINY, data=own_pictures(tmp_path), max_pixels=LIMIT, eval_samples=0)
    result = export_for_verl(config, tmp_path / "out")
    assert result["train"] == 3 and result["warnings"][0].startswith("no held_out.parquet: training uses every picture")
    # verl has the model's own limit, a larger one
    ours, free = Policy.load("tiny", max_pixels=LIMIT), Policy.load("tiny", max_pixels=10 * LIMIT)
    samples = training_feed(config)(1)
    by_id = {sample.id: sample for sample in samples}
    for row in read(tmp_path / "out" / "train.parquet"):
        messages, picture = as_verl_reads(row)
        sample = by_id[row["extra_info"]["id"]]
        prompt = ours.encode(sample)
        theirs = free.encode(replace(sample, image=picture, upright=False))
        assert (prompt.pixel_values == theirs.pixel_values).all()
        text = free.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        single = text.replace("<|image_pad|>", "<|image_pad|>" * int(prompt.mm_token_type_ids.sum()))
        assert free.tokenizer.encode(single, add_special_tokens=False) == prompt.input_ids.tolist()


def test_a_plain_file_is_stored_as_it_is_and_others_as_the_policy_sees_them(tmp_path: Path):
    """Photographs that grow tenfold as PNG; a picture whose boxes are for the upright one, stored on its side."""
    export_for_verl(replace(TINY, data=own_pictures(tmp_path)), tmp_path / "out")
    rows = {row["extra_info"]["id"]: row for row in read(tmp_path / "out" / "train.parquet")}
    assert rows["plain.jpg:cat"]["images"][0]["bytes"] == (tmp_path / "plain.jpg").read_bytes()
    assert as_verl_reads(rows["turned.jpg:cat"])[1].size == (180, 240)
    assert as_verl_reads(rows["clear.png:cat"])[1].size == (240, 180)
    assert set(rows["plain.jpg:cat"]) == KEYS


@pytest.mark.parametrize("task", ["detection", "classification", "grounding", "presence"])
@pytest.mark.parametrize("variant", ["strict", "paper", "official"])
def test_own_solutions_earn_full_marks_and_fuzzed_ones_our_score(task: Task, variant: Any, tmp_path: Path):
    """A reward that loses its task, its weights or its reading on the way, or lets a NaN reach verl's advantages."""
    if (task, variant) == ("presence", "official"):
        pytest.skip("the released code has no such reward")
    weights = {"format": 0.5}
    config = replace(TINY, data=DataConfig(task=task), reward=variant, reward_weights=weights)
    export_for_verl(config, tmp_path / "out")
    rows, names = [], {}
    for part in ("train", "held_out"):
        rows += read(tmp_path / "out" / f"{part}.parquet")
    exec((tmp_path / "out" / "reward.py").read_text(), names | {"__file__": str(tmp_path / "out" / "reward.py")}, names)
    score, reward = names["compute_score"], reading(task, variant, weights)
    for row in rows:
        truth = row["reward_model"]["ground_truth"]
        earned = score(row["data_source"], f"<think>a cat</think> {truth}", truth, extra_info=row["extra_info"])
        best = reward(f"<think>a cat</think> {truth}", truth)
        assert earned == {"score": best.total, "failed": 0.0, **best.parts}
        if variant == "strict":
            assert best.total == len(best.parts) - 0.5
    pairs = fuzzed(task, [row["reward_model"]["ground_truth"] for row in rows])
    assert len(pairs) >= 300
    for completion, truth in pairs:
        earned, mine = score("", completion, truth), reward(completion, truth)
        finite = bool(np.isfinite(mine.total))
        assert earned["score"] == (mine.total if finite else 0.0) and earned["failed"] == (not finite)
        assert earned.keys() == {"score", "failed", *mine.parts} and all(map(np.isfinite, earned.values()))


BLOCKED = """
import sys, importlib.util, json
class Refused:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in {"torch", "transformers", "peft", "bitsandbytes", "tyro", "datasets"}:
            raise ImportError(f"{name} is not in verl's environment, or is of another version there")
sys.meta_path.insert(0, Refused())
spec = importlib.util.spec_from_file_location("reward", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
for line in sys.stdin:
    row = json.loads(line)
    print(json.dumps(module.compute_score("x", row["text"], row["truth"], extra_info=row["info"])))
"""


def scores_elsewhere(folder: Path, rows: list[dict[str, Any]]) -> list[dict[str, float]]:
    line = [sys.executable, "-W", "error", "-c", BLOCKED, str(folder / "reward.py")]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    env = {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(line, input=text, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_reward_needs_neither_torch_nor_transformers(tmp_path: Path):
    """verl pins transformers below 5.11, and minirft needs a newer one: an import of it ends verl's run."""
    export_for_verl(TINY, tmp_path / "out")
    rows = [
        {"text": f"<think>a</think> {row['reward_model']['ground_truth']}", "info": row["extra_info"]}
        | {"truth": row["reward_model"]["ground_truth"]}
        for row in read(tmp_path / "out" / "held_out.parquet")
    ]
    found = scores_elsewhere(tmp_path / "out", rows)
    assert [row["score"] for row in found] == [3.0] * 5


OWN = """
import numpy

def width(completion, sample):
    if completion == "break":
        raise RuntimeError("broken")
    return {"mean": numpy.asarray(sample.picture()).mean(), "asked": len(sample.category), completion: 1.0}
"""


def test_an_own_reward_gets_its_picture_and_question(tmp_path: Path):
    """A function of a user's file that opens the picture, whose failure must not end the run or change its keys."""
    (tmp_path / "own.py").write_text(OWN)
    config = replace(TINY, reward=f"{tmp_path / 'own.py'}:width", prompts_per_step=35)  # 70 rows: two groups of them
    export_for_verl(config, tmp_path / "out")
    rows = read(tmp_path / "out" / "train.parquet")
    texts = [(text, row) for row in rows for text in ("a", "break")]
    sent = [
        {"text": text, "info": row["extra_info"], "truth": row["reward_model"]["ground_truth"]} for text, row in texts
    ]
    for earned, (text, row) in zip(scores_elsewhere(tmp_path / "out", sent), texts, strict=True):
        best = np.asarray(as_verl_reads(row)[1]).mean() + len(row["extra_info"]["category"]) + 1.0
        score, failed = (best, 0.0) if text == "a" else (0.0, 1.0)
        assert earned == {"score": pytest.approx(score), "failed": failed}


def test_what_cannot_be_right_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Boxes in pixels scored as thousandths; a word of the question that verl takes for a picture; a lost export."""
    with pytest.raises(UserError, match="the problem holds <image>"):
        export_for_verl(
            replace(TINY, data=replace(own_pictures(tmp_path), question="<image> {category}?")), tmp_path / "a"
        )
    export_for_verl(TINY, tmp_path / "b")
    with pytest.raises(UserError, match="holds an export already: name another --out"):
        export_for_verl(TINY, tmp_path / "b")
    with pytest.raises(UserError, match=r"prompt is .* tokens"):
        export_for_verl(replace(TINY, max_prompt_length=20), tmp_path / "c")
    monkeypatch.setattr(verl, "read_family", lambda source: family_of("qwen2_5_vl", source))
    with pytest.raises(UserError, match=r"Qwen2.5-VL answers in pixels .* which verl cannot convert"):
        export_for_verl(TINY, tmp_path / "d")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r'pip install "minirft\[datasets\]"'):
        export_for_verl(TINY, tmp_path / "e")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The flags of a run that do not reach the export, and text on stdout beside the JSON object."""
    words = ["data", "export", "tiny_detection", "--to", "verl", "--steps", "1", "--prompts-per-step", "3"]
    assert main([*words, "--eval-samples", "2", "--reward", "paper", "--out", str(tmp_path / "out"), "--json"]) == 0
    folder = str(tmp_path / "out")
    assert json.loads(capsys.readouterr().out) == {"train": 3, "held_out": 2, "warnings": [], "folder": folder}
    assert "'paper'" in (tmp_path / "out" / "reward.py").read_text()
    assert main(["data", "export", "tiny_detection"]) == 2
    assert "give --to verl" in capsys.readouterr().err


def test_a_sample_has_all_that_an_own_reward_may_read():
    """A field of `Sample` that a later version adds and the rows lack."""
    known = {"id", "image", "task", "problem", "solution", "category", "asked"}  # `to_verl` fills these
    assert set(Sample.__dataclass_fields__) - known == {"reasoning", "upright", "exact"}
    assert to_verl("presence", "strict")("", "", "<answer>no</answer>")["score"] == 0
    assert GRPOConfig().reward == "strict"

"""The coordinate check where it is needed: in evaluations and in training that earns nothing."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from small_runs import small_config

from minirft.data.feed import held_out, training_feed
from minirft.data.settings import DataConfig
from minirft.policy import Policy
from minirft.rewards import true_boxes
from minirft.rewards.frames import displayed_size
from minirft.runs import loop, watches
from minirft.runs.config import GRPOConfig
from minirft.runs.log import read_log
from minirft.runs.watches import FrameWatch
from minirft.train import run as train


@pytest.fixture(scope="module")
def tiny(tiny_random: Path) -> Policy:
    return Policy.load(str(tiny_random))


def said(samples, scale: float) -> list[str]:
    """The true boxes, in thousandths times `scale`."""
    texts = []
    for sample in samples:
        rows = [f"{{'Position': {(scale * box).round(4).tolist()}, 'Confidence': 1}}" for box in true_boxes(sample)]
        texts.append(f"<think>so</think> <answer>[{', '.join(rows)}]</answer>")
    return texts


@pytest.mark.parametrize(("scale", "wrong"), [(0.001, "shares of width and height"), (1.0, None)])
def test_an_evaluation_says_in_which_frame_the_answers_are(tiny, scale: float, wrong: str | None):
    """An AP of 0 that nobody explains, or a warning about answers that are right."""
    config = GRPOConfig(eval_samples=40)
    samples = held_out(config)
    row = loop.judged(tiny, said(samples, scale), samples)
    assert (wrong in row["frame_warning"]) if wrong else "frame_warning" not in row


@pytest.mark.parametrize("task", ["presence", "classification"])
def test_answers_without_boxes_are_not_looked_at(tiny, task):
    """A check that reads boxes out of labels."""
    samples = held_out(GRPOConfig(eval_samples=3, data=DataConfig(task=task)))
    assert watches.frame_warning(tiny, ["<answer>[1, 2, 3, 4]</answer>"] * 3, samples) == {}


def test_training_is_looked_at_while_it_earns_little(tiny, capsys: pytest.CaptureFixture[str]):
    """A look that costs every step something, one of other pictures than the step's, or one that repeats itself."""
    config = GRPOConfig(prompts_per_step=20, group_size=2)

    def look(watch: FrameWatch, step: int, reward: float, scale: float = 0.001) -> dict:
        watch.run.step = step
        samples = [sample for sample in training_feed(config)(step) for _ in range(2)]
        pairs = zip(samples, said(samples, scale), strict=True)
        completions = [{"sample": sample.id, "text": text} for sample, text in pairs]
        return watch.training({"reward_iou": reward}, completions, samples)

    def fresh() -> FrameWatch:
        return FrameWatch(SimpleNamespace(policy=tiny, config=config, step=0))

    watch = fresh()
    assert look(watch, 4, 0.0)["frame_warning"].startswith("3") and look(watch, 8, 0.0) == {}
    assert capsys.readouterr().err.count("shares of width and height") == 1
    assert look(fresh(), 3, 0.0) == look(fresh(), 4, 0.9) == look(fresh(), 4, 0.0, scale=1.0) == {}
    assert fresh().training({"loss": 1.0}, [{"sample": "s", "text": ""}], []) == {}  # supervised: nothing was sampled
    resumed = FrameWatch(fresh().run, [{"kind": "train", "step": 4}, {"kind": "eval", "frame_warning": "in pixels"}])
    assert look(resumed, 8, 0.0) == {}, "a resumed run warns again, so its log differs from a straight run's"
    assert capsys.readouterr().err == ""


def test_the_log_of_a_run_says_it_and_stderr_once(tiny_random, tmp_path, monkeypatch, capsys):
    """A key that the log does not know, a line at every evaluation, an annotation file read at every evaluation."""
    reads = []
    monkeypatch.setattr(loop, "frame_warning", lambda *_: {"frame_warning": "boxes are in pixels"})
    monkeypatch.setattr(loop, "validation", lambda config, _: reads.append(1) or held_out(config))
    list(train(small_config(tiny_random, tmp_path, steps=3, eval_every=1)))
    rows = [row for row in read_log(tmp_path / "log.jsonl")[1] if row["kind"] == "eval"]
    assert [row["frame_warning"] for row in rows] == ["boxes are in pixels"] * 4
    assert capsys.readouterr().err.count("boxes are in pixels") == 1 and len(reads) == 1


def test_the_sizes_are_those_the_model_saw(tiny, monkeypatch):
    """Answers in pixels of the resized picture measured against another size."""
    samples = held_out(GRPOConfig(eval_samples=2))
    patch = tiny.image_processor.patch_size
    grids = np.array([tiny.encode(sample).image_grid_thw[0].tolist()[1:] for sample in samples])
    seen = [tiny.processor.resized(displayed_size(sample)) for sample in samples]
    assert seen == [(wide * patch, high * patch) for high, wide in grids.tolist()]
    told = []
    monkeypatch.setattr(watches, "check_frames", lambda *args: told.append(args) or SimpleNamespace(warning=None))
    watches.frame_warning(tiny, ["", ""], samples)
    assert told[0][2]((50, 60)) == tiny.processor.resized((50, 60)) != (50, 60)

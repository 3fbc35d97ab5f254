"""The supervised baseline: cross-entropy on written answers, through the same path as GRPO."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_runs import small_config

from minirft import UserError
from minirft.data.feed import training_feed
from minirft.engine.logprobs import naive_logits
from minirft.policy import Policy
from minirft.runs.config import GRPOConfig
from minirft.runs.folder import load_policy, load_run_policy
from minirft.runs.log import METRICS, read_log
from minirft.runs.loop import generate
from minirft.runs.step import make_optimiser
from minirft.runs.supervised import add_gradients, sft, sft_step, target_text, written_rollout
from minirft.samples import Sample


@pytest.fixture
def config(tiny_random: Path, tmp_path: Path) -> GRPOConfig:
    return small_config(tiny_random, tmp_path / "run", sft_learning_rate=3e-3)


@pytest.mark.parametrize("target", ["answer", "reasoning"])
def test_loss_is_the_cross_entropy_of_plain_transformers(config: GRPOConfig, target: str):
    """Labels shifted by one, prompt tokens in the loss, or the end of turn left out of it."""
    policy = load_policy(config)
    samples = training_feed(config)(1)
    rollout = written_rollout(policy, samples, target)
    total, count = 0.0, 0
    for prompt, row, length in zip(rollout.prompts, rollout.completion_ids, rollout.lengths, strict=True):
        ids = row[:length]
        assert policy.tokenizer.decode(ids) == target_text(prompt.sample, target) + policy.tokenizer.eos_token
        logits = naive_logits(policy, prompt, ids[None])[0, len(prompt) - 1 : -1].detach()
        logits[:, policy.banned] = -torch.inf  # never sampled, so no part of the distribution
        total += torch.nn.functional.cross_entropy(logits, ids, reduction="sum").item()
        count += length
    loss = sum(add_gradients(policy, rollout, rows) for rows in ([0], [1]))
    assert loss == pytest.approx(total / int(count), rel=1e-5)


def test_it_learns_the_answers_by_heart(config: GRPOConfig):
    """A sign lost, or a prompt that the answer is not conditioned on."""
    policy = load_policy(config)
    optimiser = make_optimiser(policy, config)
    samples = training_feed(config)(1)
    losses = [sft_step(policy, optimiser, samples, config, step)[0]["loss"] for step in range(1, 61)]
    assert losses[-1] < 0.1 * losses[0]
    longer = replace(config, max_completion_length=60)
    assert generate(policy, longer, samples) == [sample.solution for sample in samples]


def test_a_run_logs_and_leaves_its_policy(config: GRPOConfig):
    """Weights that are trained but not saved, or a key without a definition."""
    rows = list(sft(config))
    header, logged = read_log(config.out / "log.jsonl")
    assert header["config"]["method"] == "sft" and logged == rows and len(rows) == 6
    assert {key for row in rows for key in row} - {"kind"} <= METRICS.keys()
    assert json.loads((config.out / "completions.jsonl").read_text().splitlines()[-1])["step"] == 6
    start, end = load_policy(config), load_run_policy(config.out, config)
    changed = [not torch.equal(a, b) for a, b in zip(start.trainable().values(), end.trainable().values(), strict=True)]
    assert any(changed)


def test_memory_settings_do_not_change_a_step(config: GRPOConfig):
    """A mean of means over passes."""
    rows = [sft_step_row(replace(config, rows_per_pass=passes)) for passes in (0, 1)]
    assert rows[0]["loss"] == pytest.approx(rows[1]["loss"], rel=1e-6)
    assert rows[0]["grad_norm"] == pytest.approx(rows[1]["grad_norm"], rel=1e-4)


def sft_step_row(config: GRPOConfig) -> dict:
    policy = load_policy(config)
    return sft_step(policy, make_optimiser(policy, config), training_feed(config)(1), config, 1)[0]


def test_reasoning_that_nobody_wrote_is_asked_for():
    """An empty <think> as the target, which would teach not to think."""
    sample = Sample("coco-1", Path("a.png"), "detection", "?", "<answer>No Objects</answer>")
    with pytest.raises(UserError, match=r"sample coco-1 has no written reasoning: set sft_target = answer"):
        target_text(sample, "reasoning")
    assert target_text(replace(sample, reasoning="no"), "reasoning") == "<think>no</think> " + sample.solution


def test_a_loss_that_is_not_finite_stops_the_run(config: GRPOConfig, monkeypatch: pytest.MonkeyPatch):
    """NaN that reaches the weights by the other door."""
    original = Policy.logprobs
    monkeypatch.setattr(Policy, "logprobs", lambda *args: original(*args) * torch.inf)
    with pytest.raises(UserError, match=r"step 1: the gradient of \S+ is not finite, first for sample detection\S+-0"):
        list(sft(config))

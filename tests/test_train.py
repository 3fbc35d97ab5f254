"""One step of GRPO against the plain computation, and what a whole run promises."""

import copy
import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import rounding
from small_runs import earnable, small_config
from torch import Tensor

import minirft.train as train_module
from minirft import UserError
from minirft.advantages import group_advantages
from minirft.data.feed import cycle, held_out, training_feed
from minirft.policy import Policy
from minirft.rewards.readings import Reward, Score
from minirft.runs.config import DataConfig, GRPOConfig
from minirft.runs.folder import load_policy
from minirft.runs.log import METRICS, read_log
from minirft.runs.step import apply_gradients, blame, learning_rate, make_optimiser
from minirft.sampler import sample_groups
from minirft.samples import Rollout, Sample, step_seed
from minirft.train import add_gradients, grpo_step, learning_rows, score
from minirft.train import run as train


@pytest.fixture
def config(tiny_random: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GRPOConfig:
    """A small run whose reward can be earned."""
    monkeypatch.setattr(train_module, "reward_for", earnable)
    return small_config(tiny_random, tmp_path / "run")


def rollout_of(policy: Policy, config: GRPOConfig, step: int = 1) -> Rollout:
    prompts = [policy.encode(sample) for sample in training_feed(config)(step)]
    seed = step_seed(config.seed, step)
    return sample_groups(policy, prompts, config.group_size, max_completion_length=10, seed=seed)


def gradients(policy: Policy) -> dict[str, Tensor]:
    taken = {name: weight.grad.clone() for name, weight in policy.trainable().items() if weight.grad is not None}
    policy.model.zero_grad()
    return taken


def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Relative distance of two gradients."""
    assert a.keys() == b.keys()
    return (sum((a[k] - b[k]).square().sum() for k in a) / sum(b[k].square().sum() for k in b)).sqrt().item()


def test_gradient_is_that_of_the_formula(config: GRPOConfig):
    """A lost minus, a mask off by one, or a mean over the wrong axis: Σ -A log π / |row| / B by the naive path."""
    policy = load_policy(config)
    rollout = rollout_of(policy, config)
    rewards, _ = score(rollout, earnable())
    advantages = group_advantages(rewards).flatten()
    add_gradients(
        policy, rollout, torch.zeros_like(rollout.logprobs), None, advantages, config, list(range(8)), list(range(8))
    )
    ours = gradients(policy)
    logprobs = policy.logprobs(rollout, shared=False)
    (-(advantages[:, None] * logprobs).sum(1) / rollout.lengths / 8).sum().backward()
    forward = 4 * (128 + 32 + 60 + 128 + 128 + 384) + 128  # the embedded model's sums, as `conftest.FORWARD`
    assert distance(ours, gradients(policy)) < rounding(3 * forward)


@pytest.mark.parametrize("changes", [{"rows_per_pass": 3}, {"rows_per_pass": 1}, {"checkpointing": True}])
def test_memory_settings_do_not_change_a_step(config: GRPOConfig, changes: dict):
    """Counts of a pass in place of those of the step, which would make the gradient depend on memory."""
    after = []
    for variant in (replace(config, **changes), config):
        policy = load_policy(variant)
        optimiser = torch.optim.SGD(policy.trainable().values(), lr=1.0)
        grpo_step(policy, None, optimiser, training_feed(variant)(1), earnable(), variant, 1)
        after.append({name: weight.detach() for name, weight in policy.trainable().items()})
    assert distance(*after) < 1e-6


def test_reward_rises(config: GRPOConfig):
    """A sign lost anywhere between reward and weights: the policy would learn to avoid what it is paid for."""
    rows = list(train(replace(config, steps=12, prompts_per_step=4, group_size=8, learning_rate=3e-3, save_every=99)))
    assert rows[-1]["reward"] > 2 * rows[0]["reward"] > 0


def test_a_run_leaves_what_it_says(config: GRPOConfig):
    """A row without its step, a key without a definition, completions that cannot be matched with their rewards."""
    rows = list(train(config))
    header, logged = read_log(config.out / "log.jsonl")
    assert header["seed"] == 0 and header["config"]["method"] == "grpo" and logged == rows
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert {key for row in rows for key in row} - {"kind"} <= METRICS.keys()
    written = [json.loads(line) for line in (config.out / "completions.jsonl").read_text().splitlines()]
    assert len(written) == 6 * 8
    for row in rows:
        step = [line for line in written if line["step"] == row["step"]]
        assert sum(line["reward"] for line in step) / 8 == pytest.approx(row["reward"])
        assert sum(line["advantage"] for line in step[:4]) == pytest.approx(0, abs=1e-5)
    assert Policy.load(config.out / "policy").describe().startswith(str(config.out))
    assert sorted(path.name for path in (config.out / "checkpoints").iterdir()) == ["step-000004", "step-000006"]


def test_evaluation_rows(config: GRPOConfig):
    """An evaluation that is logged under the wrong step, or that disturbs the training beside it."""
    plain = [row["reward"] for row in train(config)]
    rows = list(train(replace(config, out=config.out.with_name("evaluated"), eval_every=3)))
    assert [row["step"] for row in rows if row["kind"] == "eval"] == [0, 3, 6]
    assert [row["reward"] for row in rows if row["kind"] == "train"] == plain


def test_a_step_is_a_function_of_seed_and_step(config: GRPOConfig):
    """Samples or completions that depend on what was drawn before: resuming could not be exact."""
    policy = load_policy(config)
    again = load_policy(config)
    rollout_of(again, config, 1)
    assert torch.equal(rollout_of(policy, config, 3).completion_ids, rollout_of(again, config, 3).completion_ids)
    assert rollout_of(policy, config, 3).texts != rollout_of(policy, config, 4).texts
    assert len({step_seed(seed, step) for seed in range(30) for step in range(30)}) == 900


def test_the_same_pictures_at_another_step_get_other_completions(config: GRPOConfig):
    """One stream of random numbers used at every step: 60 steps would see the same few completions again."""
    samples = training_feed(config)(1)
    texts = []
    for step in (1, 1, 2):
        policy = load_policy(config)
        written = grpo_step(policy, None, make_optimiser(policy, config), samples, earnable(), config, step)[1]
        texts.append([line["text"] for line in written])
    assert texts[0] == texts[1] != texts[2]


def test_divergence_from_the_reference_starts_at_zero_and_grows(config: GRPOConfig):
    """A reference that moves with the policy (always 0), or that is not the start (not 0 at first)."""
    kl = [row["kl"] for row in train(replace(config, kl_coef=0.05))]
    assert kl[0] == pytest.approx(0, abs=1e-9) and kl[-1] > 1e-5


def test_several_updates_per_rollout_move_the_ratio(config: GRPOConfig):
    """Old log-probs taken after the update: the ratio would stay 1 and clipping would never act."""
    once = next(iter(train(config)))
    often = next(iter(train(replace(config, out=config.out.with_name("often"), updates_per_rollout=4))))
    assert once["ratio_mean"] == pytest.approx(1, abs=1e-5) and abs(often["ratio_mean"] - 1) > 1e-3


def test_degenerate_groups_are_counted_and_can_be_skipped(config: GRPOConfig):
    """A step on nothing that still moves the weights, as weight decay and Adam's momentum would."""
    policy = load_policy(config)
    before = copy.deepcopy(policy.model.state_dict())
    skipping = replace(config, skip_degenerate=True, weight_decay=0.1)
    same = Reward({"iou": lambda text, solution: 0.5}, {"iou": 1.0})
    row, _ = grpo_step(policy, None, make_optimiser(policy, config), training_feed(config)(1), same, skipping, 1)
    assert row["degenerate_groups"] == 1 and "grad_norm" not in row
    assert all(torch.equal(weight, before[name]) for name, weight in policy.model.state_dict().items())
    assert learning_rows(torch.tensor([[1.0, 0.0], [1.0, 1.0]]), False) == [0, 1, 2, 3]


def test_learning_rate_schedules():
    """A warm-up that starts at 0 wastes a step; a linear fall that reaches 0 one step early wastes the last."""
    assert [learning_rate(s, 4, 2.0, "constant", 2) for s in (1, 2, 3, 4)] == [1, 2, 2, 2]
    assert [learning_rate(s, 6, 1.0, "linear", 2) for s in (1, 2, 3, 6)] == [0.5, 1.0, 1.0, 0.25]


def test_gradients_are_scaled_to_the_largest_norm():
    """Clipping by value, or after the step."""
    policy = type("P", (), {"trainable": lambda self: {"w": weight}})()
    weight = torch.nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([3.0, 4.0])
    assert apply_gradients(policy, torch.optim.SGD([weight], lr=9.0), rate=0.5, max_norm=1.0) == 5
    assert weight.tolist() == pytest.approx([-0.3, -0.4], abs=1e-5) and weight.grad is None


# ------------------------------------------------------------------ numbers that are not finite


def poisoned(at: str) -> Callable:
    plain = Policy.logprobs

    def logprobs(policy: Policy, rollout: Rollout, rows: list[int], **options: bool) -> tuple[Tensor, ...] | Tensor:
        result = plain(policy, rollout, rows, **options)
        first = result[0] if options.get("entropy") else result
        sick = torch.tensor([rollout.samples[b // rollout.group_size].id.endswith(at) for b in rows])
        first = first * torch.where(sick, torch.inf, 1.0)[:, None]
        return (first, *result[1:]) if options.get("entropy") else first

    return logprobs


def test_a_gradient_that_is_not_finite_stops_the_run(config: GRPOConfig, monkeypatch: pytest.MonkeyPatch):
    """NaN that spreads into the weights, and a message that names neither tensor nor sample."""
    monkeypatch.setattr(Policy, "logprobs", poisoned("-1"))
    policy = load_policy(config)
    before = copy.deepcopy(policy.model.state_dict())
    with pytest.raises(UserError, match=r"^step 1: the gradient of model\S+ is not finite, first for sample \S+-1;"):
        grpo_step(policy, None, make_optimiser(policy, config), training_feed(config)(1), earnable(), config, 1)
    assert all(torch.equal(weight, before[name]) for name, weight in policy.model.state_dict().items())


def test_a_weight_that_is_not_finite_is_named(config: GRPOConfig):
    """A run that goes on from a broken model and blames the data."""
    policy = load_policy(config)
    rollout = rollout_of(policy, config)
    name, weight = list(policy.trainable().items())[3]
    weight.data.view(-1)[0] = torch.nan
    assert blame(policy, rollout, [0, 1]) == f"the weight {name} is not finite"


def test_a_reward_that_is_not_finite_costs_its_group(config: GRPOConfig):
    """The official reading's NaN, which poisons a group and then the weights (Visual-RFT issues 39, 118)."""
    policy, scores = load_policy(config), iter([Score(torch.nan, {"iou": torch.nan})])

    def reward(text: str, sample: Sample) -> Score:
        return next(scores, Score(len(text) % 5 / 5, {"iou": len(text) % 5 / 5}))

    row, written = grpo_step(policy, None, make_optimiser(policy, config), training_feed(config)(1), reward, config, 1)
    assert [line["advantage"] for line in written[:4]] == [0.0] * 4 and written[0]["reward"] is None
    assert all(weight.isfinite().all() for weight in policy.trainable().values()) and row["grad_norm"] > 0


def test_out_of_memory_says_what_to_lower(config: GRPOConfig, monkeypatch: pytest.MonkeyPatch):
    """A traceback of CUDA's in place of the settings that help."""

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(train_module, "sample_groups", full)
    with pytest.raises(UserError, match=r"step 1 does not fit .* rows_per_pass"):
        list(train(config))


# ------------------------------------------------------------------ Ctrl-C


def test_ctrl_c_finishes_the_step_and_saves(config: GRPOConfig, monkeypatch: pytest.MonkeyPatch):
    """An interrupt in the middle of a step that loses it, or saves half of it."""
    rows = []

    def interrupting(text: str, solution: str) -> float:
        if len(rows) == 2:  # in the middle of step 3
            signal.raise_signal(signal.SIGINT)
            rows.append(None)
        return len(text) % 5 / 5

    handler = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(train_module, "reward_for", lambda *_: Reward({"iou": interrupting}, {"iou": 1.0}))
    with pytest.raises(KeyboardInterrupt, match=f"saved after step 3; go on with minirft train --resume {config.out}"):
        for row in train(config):
            rows.append(row)
    assert (config.out / "checkpoints" / "step-000003").is_dir()
    assert signal.getsignal(signal.SIGINT) is handler


# ------------------------------------------------------------------ which samples a step sees


def test_an_epoch_shows_every_sample_once():
    """A shuffle that repeats some samples and never shows others."""
    samples = list("abcdefg")
    seen = [name for step in range(1, 8) for name in cycle(samples, 0, 3, step)]
    assert all(sorted(seen[i : i + 7]) == samples for i in (0, 7, 14)) and seen[:7] != seen[7:14]


def test_held_out_samples_are_not_trained_on():
    """Evaluation on the training pictures."""
    data = DataConfig(shots=2, categories=("red circle", "blue star"), negatives=0.0)
    config = GRPOConfig(data=data, eval_samples=30)
    trained = {sample.picture().tobytes() for step in (1, 2) for sample in training_feed(config)(step)}
    assert len(trained) == 4
    assert not trained & {sample.picture().tobytes() for sample in held_out(config)}


def test_sixteen_bit_weights_are_not_trained(config: GRPOConfig):
    """Steps of 1e-6 on bfloat16 weights round to nothing: a run that learns nothing, without a word."""
    policy = load_policy(replace(config, dtype="bfloat16"))
    with pytest.raises(UserError, match="16 bits"):
        make_optimiser(policy, config)
    adapters = load_policy(replace(config, dtype="bfloat16", train="lora"))
    assert {weight.dtype for weight in adapters.trainable().values()} == {torch.float32}
    make_optimiser(adapters, config)

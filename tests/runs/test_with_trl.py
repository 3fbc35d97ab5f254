"""`minirft train --engine trl`: the same run on TRL's trainer, by one process and by two."""

import dataclasses
import json
import math
import os
import re
import subprocess
import sys
import typing
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import trl_ranks
from conftest import picture

from minirft import UserError
from minirft.commands import main
from minirft.data import check, training_feed
from minirft.rewards import OwnReward, reward_for
from minirft.runs import GRPOConfig, load_config, load_run_policy, read_log, trl_settings, with_trl
from minirft.runs.checkpoints import load_checkpoint
from minirft.runs.folder import load_policy, run_config
from minirft.runs.supervised import given_rollout
from minirft.samples import Sample

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    trl = pytest.importorskip("trl")
    pytest.importorskip("datasets")

pytestmark = pytest.mark.filterwarnings("ignore")  # of TRL and its libraries, about each other
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tiny_random: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two gloo processes left: gradients-0.pt, gradients-1.pt, weights-0.txt, weights-1.txt and the run `two`."""
    return by_two(tiny_random, tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def split(tiny_random: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left between which FSDP 2 split the weights: the same files, and 2 steps with adapters."""
    return by_two(tiny_random, tmp_path_factory.mktemp("split"), "split")


def by_two(model: Path, folder: Path, *how: str) -> Path:
    """Run trl_ranks.py by two processes; returns the folder that they wrote to."""
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "runs")])
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    words = [*line, str(ROOT / "tests" / "runs" / "trl_ranks.py"), str(model), str(folder), *how]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    (folder / "stderr.txt").write_text(done.stderr)
    return folder


@pytest.fixture(scope="module")
def one(tiny_random: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of the same command by one process."""
    out = tmp_path_factory.mktemp("one") / "run"
    trl_ranks.train_by_command(tiny_random, out)
    return out


def own_reward(folder: Path) -> str:
    """FILE.py:NAME of the reward that counts digits."""
    (folder / "own.py").write_text(trl_ranks.REWARD)
    return f"{folder / 'own.py'}:digits"


def rewards(run: Path, steps: range) -> torch.Tensor:
    rows = [json.loads(line) for line in (run / "completions.jsonl").read_text().splitlines()]
    return torch.tensor([row["reward"] for row in rows if row["step"] in steps])


def test_the_gradient_of_two_processes_is_that_of_one(folder: Path, tiny_random: Path, tmp_path: Path):
    """Advantages over half a group; a loss divided by the tokens or rows of one process; a prompt seen by both."""
    mine, *theirs = [
        trl_ranks.gradients(tiny_random, tmp_path, 1),
        *(torch.load(folder / f"gradients-{rank}.pt") for rank in (0, 1)),
    ]
    assert mine.keys() == theirs[0].keys() == theirs[1].keys() and len(mine) > 40 * len(trl_ranks.LOSSES)
    for name, gradient in mine.items():
        assert torch.equal(theirs[0][name], theirs[1][name]), f"{name}: each process would step its own way"
        assert (gradient - theirs[0][name]).norm() <= 1e-4 * gradient.norm() + 1e-7, name


def test_the_gradient_of_split_weights_is_that_of_one_process(split: Path, tiny_random: Path, tmp_path: Path):
    """A gradient divided once more by the processes; a part that is stepped with another part's gradient."""
    mine = trl_ranks.gradients(tiny_random, tmp_path, 1, trl_ranks.LOSSES[:1])
    theirs = torch.load(split / "gradients-0.pt")
    assert mine.keys() == theirs.keys() and len(mine) > 40
    for name, gradient in mine.items():
        assert (gradient - theirs[name]).norm() <= 1e-4 * gradient.norm() + 1e-7, name


def test_a_run_with_split_weights_leaves_whole_ones(split: Path, capsys: pytest.CaptureFixture[str]):
    """A checkpoint or an export that holds the part of one process."""
    run, config = split / "two", run_config(split / "two")
    trained, start = load_run_policy(run, config).trainable(), load_policy(config).trainable()
    exported = load_policy(config)
    exported.load_trainable(run / "policy")
    moved = {name for name in start if not torch.equal(trained[name], start[name])}
    assert len(moved) == len(start) / 2 or moved == set(start), "B was 0, so A learns from the second step on"
    assert all(torch.equal(trained[name], weight) for name, weight in exported.trainable().items())
    assert len(rewards(run, range(1, 3))) == 2 * 2 * 8
    assert not main(["eval", str(run), "--alone", "--eval-samples", "4", "--json"])


def test_both_processes_end_with_the_same_weights(folder: Path):
    """A process that steps on its own gradient; a model that torchrun did not wrap."""
    assert (folder / "weights-0.txt").read_text() == (folder / "weights-1.txt").read_text()
    assert "trains on 2 process" in (folder / "stderr.txt").read_text()


def test_a_reward_of_ones_own_rises_with_two_processes_as_with_one(folder: Path, one: Path):
    """Rewards that reach one process alone, or the wrong completions."""
    rises = []
    for run in (folder / "two", one):
        first, last = rewards(run, range(1, 6)), rewards(run, range(trl_ranks.STEPS - 4, trl_ranks.STEPS + 1))
        assert len(first) == len(last) == 5 * 2 * 8, "only process 0 writes, and what both of them drew"
        rises.append((last.mean() - first.mean()).item())
        assert rises[-1] > 5 * math.sqrt(first.var() / len(first) + last.var() / len(last)), f"{run}: {rises}"
    assert 1 / 4 < rises[0] / rises[1] < 4


def test_a_row_says_what_our_own_engine_says(folder: Path):
    """A metric under TRL's name; one process's half in the place of the whole; an evaluation that TRL skips."""
    header, rows = read_log(folder / "two" / "log.jsonl")
    assert header["config"]["method"] == "trl"
    steps = [row for row in rows if row["kind"] == "train"]
    assert [row["step"] for row in steps] == list(range(1, trl_ranks.STEPS + 1))
    assert [row["step"] for row in rows if row["kind"] == "eval"] == [0, 10, 20]
    known = {
        "reward",
        "reward_digits",
        "reward_std",
        "degenerate_groups",
        "parse_rate",
        "completion_length",
        "truncated",
    }
    known |= {"loss", "grad_norm", "lr", "entropy", "clip_fraction", "seconds", "tokens_per_second"}
    for row in steps:
        assert known <= row.keys() and row["processes"] == 2
        drawn = rewards(folder / "two", range(row["step"], row["step"] + 1))
        assert row["reward"] == pytest.approx(drawn.mean().item(), abs=1e-6)
        assert row["reward_std"] == pytest.approx(drawn.view(2, 8).std(-1).mean().item(), abs=1e-6)
        assert row["grad_norm"] > 0 and row["lr"] == pytest.approx(6e-3)


def test_the_folder_is_a_run(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """A checkpoint that holds the weights of the start; names that only TRL's wrapper has; no policy in the folder."""
    run, config = folder / "two", run_config(folder / "two")
    trained, start = load_run_policy(run, config).trainable(), load_policy(config).trainable()
    exported = load_policy(replace(config, model=str(run / "policy"))).trainable()
    assert any(not torch.equal(trained[name], start[name]) for name in start)
    assert all(torch.equal(trained[name], exported[name]) for name in start)
    picture(60, 60).save(tmp_path / "photo.png")
    assert not main(["export", str(run), "--to", "merged", "--out", str(tmp_path / "merged")])
    found = []
    for source in (run, tmp_path / "merged"):
        path = tmp_path / f"{source.name}.jsonl"
        assert not main(["eval", str(source), "--predictions", str(path), "--alone", "--eval-samples", "6", "--json"])
        found.append([json.loads(row)["text"] for row in path.read_text().splitlines()[1:]])
    assert found[0] == found[1] and len(found[0]) == 6
    photo, out = str(tmp_path / "photo.png"), str(tmp_path / "p")
    assert not main(["predict", str(run), photo, "--ask", "red square", "--out", out])
    assert not main(["report", str(run)])
    assert (run / "report.html").stat().st_size > 10_000


def test_a_run_of_trl_is_not_resumed_by_either_engine(one: Path, capsys: pytest.CaptureFixture[str]):
    """A run that goes on with moments of 0 and another sampler, as if nothing had happened."""
    for extra in ([], ["--engine", "trl"]):
        assert main(["train", "--resume", str(one), *extra, "--reward", str(one.parent / "own.py") + ":digits"]) == 2
        told = capsys.readouterr().err
        assert "resume" in told and "--engine trl" in told and len(told.strip().splitlines()) == 1


def test_every_setting_is_mapped_refused_or_ours():
    """A setting that is added later, and that TRL never hears of."""
    table = with_trl.TABLE
    places = [table["same"], table["values"], table["counted"], table["only"], table["ours"]["fields"]]
    named = [name for place in places for name in place]
    assert sorted(named) == sorted(field.name for field in dataclasses.fields(GRPOConfig))
    hints = typing.get_type_hints(GRPOConfig)
    for name, values in table["values"].items():
        assert set(values) == set(typing.get_args(hints[name])) - {"none"}, name
    theirs = {field.name for field in dataclasses.fields(trl.GRPOConfig)}
    for loss in table["values"]["loss"]:
        assert trl_settings(GRPOConfig(loss=loss)).keys() <= theirs


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"kl": "k1", "kl_coef": 0.1}, "kl = 'k1': TRL"),
        ({"advantage_scale": "none"}, "advantage_scale"),
        ({"advantage_eps": 1e-6}, "advantage_eps"),
        ({"skip_degenerate": True}, "skip_degenerate"),
        ({"importance_cap": 2.0}, "importance_cap"),
        ({"decoder": "graph"}, "decoder"),
        ({"prompts_per_decode": 1}, "prompts_per_decode"),
        ({"offload_vision": True}, "offload_vision"),
        ({"dtype": "float16"}, "dtype"),
        ({"device": "cuda:1"}, "device"),
        ({"loss": "bnpo"}, "loss = 'bnpo'.*dapo"),
        ({"prompts_per_step": 3}, "prompts_per_step = 3.*multiple of 2"),
        ({"rows_per_pass": 5}, "rows_per_pass"),
    ],
)
def test_what_trl_cannot_honour_is_refused_by_name(changes: dict[str, Any], told: str):
    """A setting that is silently dropped: the run would be another one than its config.toml says."""
    check(GRPOConfig(), with_trl.rules(GRPOConfig(), 2))
    config = GRPOConfig(**changes)
    with pytest.raises(UserError, match=told):
        check(config, with_trl.rules(config, 2))


@pytest.mark.parametrize("path", sorted((ROOT / "minirft" / "configs").glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_configs_can_be_handed_on(path: Path):
    """A refusal, but for savings of memory, that catches the configs that people start from."""
    savings = {"prompts_per_decode": 0, "offload_vision": False, "offload_embedding": False}
    config = replace(load_config(path.stem), **savings)
    for processes in (1, 4):
        check(config, with_trl.rules(config, processes))


@pytest.fixture
def uneven(tiny_random: Path, tmp_path: Path) -> tuple[GRPOConfig, Callable[[int], list[Sample]]]:
    """Two questions of unequal length, and the settings to ask them with."""
    config = GRPOConfig(
        model=str(tiny_random),
        out=tmp_path,
        steps=1,
        prompts_per_step=2,
        group_size=2,
        max_completion_length=8,
        threads=1,
    )
    first, second = training_feed(config)(1)
    samples = [first, replace(second, problem=second.problem + " Look twice before you answer, please.")]
    return config, lru_cache(2)(lambda step: samples)


def test_prompts_of_unequal_length_are_scored_as_we_do(uneven: tuple[GRPOConfig, Any]):
    """TRL pads ids on the left; a processor that pads on the right moves the picture's places: 5 nats off, silently."""
    config, feed = uneven
    policy, seen = load_policy(config), []
    args = trl.GRPOConfig(**trl_settings(config), output_dir=str(config.out))
    trainer = with_trl.new_trainer(trl, args, config, policy, feed, reward_for("detection", trl_ranks.length), seen)
    found = trainer._generate_and_score_completions(trainer.train_dataset.__getitems__([0, 0, 1, 1]))
    ids = torch.cat([found["prompt_ids"], found["completion_ids"]], dim=1)
    mask = torch.cat([found["prompt_mask"], found["completion_mask"]], dim=1)
    lengths = found["prompt_mask"].sum(-1)
    assert lengths[0] + 5 < lengths[2], "no padding, no test"
    names = ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")
    with torch.no_grad(), mock.patch.object(policy, "banned", policy.banned[:0]):  # TRL normalises over all tokens
        theirs = trainer._get_per_token_logps_and_entropies(
            trainer.model, ids, mask, found["completion_ids"].shape[1], **{name: found[name] for name in names}
        )[0]
        rollout = given_rollout(policy, feed(1), [text for text, _, _ in seen], [row for _, row, _ in seen])
        ours = policy.logprobs(rollout)
    assert (ours - theirs)[rollout.completion_mask].abs().max() < 1e-3


def test_adapters_on_4_bit_weights_stay_whole(tiny_random: Path, tmp_path: Path):
    """TRL rounds them to bfloat16, whose steps of a usual size vanish; with a KL term it adds a second adapter."""
    shape = {"steps": 1, "prompts_per_step": 2, "group_size": 4, "max_completion_length": 6, "learning_rate": 1e-3}
    config = GRPOConfig(
        model=str(tiny_random), out=tmp_path / "run", quantize="nf4", train="lora", kl_coef=0.1, threads=1, **shape
    )
    start = load_policy(config).trainable()
    (row,) = with_trl.train_with_trl(replace(config, reward=own_reward(tmp_path)))
    trained = load_checkpoint(tmp_path / "run" / "checkpoints").weights
    assert trained.keys() == start.keys() and {weight.dtype for weight in trained.values()} == {torch.float32}
    moved = [name for name, weight in trained.items() if not torch.equal(weight, start[name])]
    assert moved and all("lora_B" in name for name in moved), "A learns from the second step on: B was 0"
    assert row["kl"] == pytest.approx(0, abs=1e-6), "before the first update the policy is its reference"


def test_a_failed_reward_takes_its_group_out(samples: list[Sample]):
    """TRL would compare the rest of the group with a mean over fewer: another update than ours."""
    pay = OwnReward(lambda text, sample: 1 / (len(text) - 1))  # a text of one letter fails
    seen: with_trl.Seen = []
    texts = ["abc", "a", "abcd", "ab"]
    given = [[{"role": "assistant", "content": text}] for text in texts]
    found = with_trl._reward_func(pay, 2, seen)(given, [[1], [2], [3], [4]], [samples[0]] * 2 + [samples[1]] * 2)
    assert found == [None, None, pytest.approx(1 / 3), 1.0]
    assert [text for text, _, _ in seen] == texts and "ZeroDivisionError" in seen[1][2].failure


@pytest.fixture
def no_trl() -> Iterator[None]:
    """An environment without the extra."""
    with mock.patch.dict(sys.modules, {"trl": None}):  # `import trl` raises ImportError
        yield


def test_without_trl_one_line_says_what_to_install(no_trl: None, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """A traceback, or a folder that is left behind."""
    assert main(["train", "tiny_detection", "--engine", "trl", "--out", str(tmp_path / "run")]) == 2
    told = capsys.readouterr().err.strip()
    assert re.search(r"pip install 'minirft\[trl\]'", told) and len(told.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_deepspeed_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A checkpoint that holds one process's part."""
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(UserError, match="accelerate is set to DeepSpeed"):
        next(with_trl.train_with_trl(GRPOConfig(out=tmp_path / "run")))


def test_fsdp_that_accelerate_would_not_run_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """On a CPU, and for one process, accelerate runs something else in the place of FSDP without a word."""
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    config = GRPOConfig(model="tiny", out=tmp_path / "run", device="cpu", threads=1)
    for changes in ({"eval_every": 5}, {"quantize": "nf4", "train": "lora"}, {"optimiser": "adamw8bit"}):
        with pytest.raises(UserError, match=next(iter(changes))):
            next(with_trl.train_with_trl(replace(config, **{"eval_every": 0, **changes})))
    with pytest.raises(UserError, match="in the place of FSDP 2"):
        next(with_trl.train_with_trl(replace(config, eval_every=0)))

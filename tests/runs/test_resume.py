"""A run that was stopped, killed, or damaged goes on bit for bit as if nothing had happened."""

import contextlib
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_runs import earnable, forked, small_config, trace

import minirft.train as train_module
from minirft import UserError
from minirft.engine.model import LossScale
from minirft.runs import checkpoints
from minirft.runs.checkpoints import load_checkpoint
from minirft.runs.config import DataConfig, GRPOConfig
from minirft.runs.folder import run_config
from minirft.runs.supervised import sft
from minirft.runs.toml import to_toml
from minirft.train import run as train

Trainer = Callable[..., Iterator[dict[str, Any]]]
# Everything that has state of its own: Adam, a reference, several updates, an epoch over finite data.
CHANGES: dict[str, Any] = {"kl_coef": 0.1, "updates_per_rollout": 2, "lr_schedule": "linear", "weight_decay": 0.01}
CHANGES |= {"steps": 4, "sft_steps": 4}
SHOTS = DataConfig(shots=3, categories=("red circle",), negatives=0.0)


@pytest.fixture(scope="module", autouse=True)
def paid_for_digits() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_module, "reward_for", earnable)
        yield


@pytest.fixture
def config(tiny_random: Path, tmp_path: Path) -> GRPOConfig:
    return small_config(tiny_random, tmp_path / "run", data=SHOTS, **CHANGES)


@pytest.fixture(scope="module")
def stopped(tiny_random: Path, tmp_path_factory: pytest.TempPathFactory) -> GRPOConfig:
    """A run of four steps that stopped after two, for tests that leave it as it is."""
    config = small_config(tiny_random, tmp_path_factory.mktemp("stopped") / "run", data=SHOTS, **CHANGES)
    stop_after(train(config), 2)
    return config


_traces: dict[str, dict[str, Any]] = {}


def straight_through(trainer: Trainer, config: GRPOConfig) -> dict[str, Any]:
    """The trace of the same run, never stopped."""
    key = trainer.__name__ + to_toml(replace(config, out=Path()))
    if key not in _traces:
        folder = config.out.with_name("straight")
        list(trainer(replace(config, out=folder)))
        _traces[key] = trace(folder)
    return _traces[key]


def stop_after(rows: Iterator[Any], count: int) -> None:
    """Take `count` rows and walk away, as a notebook does."""
    for _, _row in zip(range(count), rows, strict=False):
        pass
    rows.close()


@pytest.mark.parametrize("trainer", [train, sft], ids=["grpo", "sft"])
@pytest.mark.parametrize("stopped_after", [1, 3])
def test_a_stopped_run_goes_on_as_if_it_had_not(config: GRPOConfig, trainer: Trainer, stopped_after: int):
    """Adam's moments, the reference, the place in the data or the schedule lost; rows logged twice."""
    stop_after(trainer(config), stopped_after)
    list(trainer(config, resume=config.out))
    assert trace(config.out) == straight_through(trainer, config)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimiser": "adamw8bit"},
        {"optimiser": "adamw8bit", "dtype": "bfloat16", "quantize": "nf4"},
        {"dtype": "bfloat16", "checkpointing": True},
        {"dtype": "float16", "offload_vision": True},
    ],
    ids=["float32", "8-bit moments", "all of 8 and 16 bits", "bfloat16 adapters", "float16"],
)
def test_a_lora_run_goes_on_as_if_it_had_not(config: GRPOConfig, monkeypatch: pytest.MonkeyPatch, changes: dict):
    """Adapters drawn anew on resuming; 8-bit moments, their scales, the noise of rounding or the loss scale lost."""
    monkeypatch.setattr(LossScale, "GROWTH", 3)  # of 8 updates: the scale changes before and after the stop
    config = replace(config, train="lora", learning_rate=1e-2, **changes)
    stop_after(train(config), 3)
    list(train(config, resume=config.out))
    straight = config.out.with_name("straight")
    list(train(replace(config, out=straight)))
    ends = [trace(folder, "adapter_model.safetensors") for folder in (config.out, straight)]
    assert ends[0] == ends[1]
    assert (config.out / "policy" / "adapter_config.json").is_file()
    state = load_checkpoint(straight / "checkpoints")
    scale = {"value": 4 * 65536.0, "updates": 2} if config.dtype == "float16" else {"value": 1.0, "updates": 0}
    assert state.extra == {"loss_scale": scale}
    names = {name for weight in state.optimizer["state"].values() for name in weight}
    assert ("__bnb_optimizer_quant_state__" in names) == (config.optimiser == "adamw8bit")


def test_resuming_a_finished_run_changes_nothing(config: GRPOConfig):
    """One step too many."""
    list(train(config))
    before = trace(config.out)
    assert list(train(config, resume=config.out)) == []
    assert trace(config.out) == before


def test_a_finished_run_can_be_given_more_steps(config: GRPOConfig):
    """A longer run that starts from nothing instead of going on."""
    config = replace(config, lr_schedule="constant")
    list(train(replace(config, steps=2)))
    list(train(config, resume=config.out))
    assert trace(config.out) == straight_through(train, config)
    assert run_config(config.out).steps == 4


def test_a_damaged_checkpoint_falls_back_to_the_one_before(config: GRPOConfig, capsys: pytest.CaptureFixture[str]):
    """A truncated file that stops the run for good, or is loaded as it is."""
    config = replace(config, save_every=1)
    stop_after(train(config), 3)
    damaged = config.out / "checkpoints" / "step-000002" / "weights.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-7])
    list(train(config, resume=config.out))
    assert "step-000002 is damaged" in capsys.readouterr().err
    assert trace(config.out) == straight_through(train, config)


def test_a_full_disk_during_a_save_loses_nothing(config: GRPOConfig, monkeypatch: pytest.MonkeyPatch):
    """Half a checkpoint in the place of a whole one."""
    write = checkpoints._write

    def full(path: Path, data: bytes) -> None:
        if "step-000004" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, data)

    monkeypatch.setattr(checkpoints, "_write", full)
    with pytest.raises(UserError, match=r"could not save .*step-000002 is intact"):
        list(train(config))
    monkeypatch.setattr(checkpoints, "_write", write)
    list(train(config, resume=config.out))
    assert trace(config.out) == straight_through(train, config)


# ------------------------------------------------------------------ kill -9


def killed_after(action: Callable[[], None], seconds: float) -> bool:
    """Run `action` in a fork that gets SIGKILL after `seconds` at the latest; whether it died of one."""
    child = forked(action)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.WIFSIGNALED(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("trainer", [train, sft], ids=["grpo", "sft"])
def test_kill_9_at_random_moments(config: GRPOConfig, trainer: Trainer):
    """Anything that is not whole at some moment: a torn row, a half-written checkpoint, a config without a log."""
    config = replace(config, save_every=1)
    chance = random.Random(trainer.__name__)
    expected = straight_through(trainer, config)
    start = time.monotonic()
    list(trainer(replace(config, out=config.out.with_name("timed"))))
    whole, kills = time.monotonic() - start, 0
    while kills < 4:
        resume = config.out if (config.out / "config.toml").exists() else None
        # Now and then long enough to get a step further, mostly not.
        if not killed_after(lambda: list(trainer(config, resume=resume)), chance.uniform(0.05, 0.5) * whole):  # noqa: B023
            shutil.rmtree(config.out)  # it got to the end: once more
        else:
            kills += 1
    resume = config.out if (config.out / "config.toml").exists() else None
    list(trainer(config, resume=resume))
    assert trace(config.out) == expected


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("call", range(1, 12, 2))
def test_kill_9_in_the_middle_of_a_save(config: GRPOConfig, monkeypatch: pytest.MonkeyPatch, call: int):
    """The moments that a random kill hardly hits: before each file of a checkpoint is on the disk, and its renaming."""
    calls = iter(range(1, 10_000))
    original = {"fsync": os.fsync, "replace": os.replace}

    def deadly(name: str) -> Callable[..., Any]:
        def function(*args: Any) -> Any:
            if next(calls) == call + 4:
                os.kill(os.getpid(), signal.SIGKILL)
            return original[name](*args)

        return function

    def die() -> None:
        for name in original:
            monkeypatch.setattr(os, name, deadly(name))
        list(train(config))

    assert killed_after(die, 60)
    list(train(config, resume=config.out))
    assert trace(config.out) == straight_through(train, config)


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["train", "sft"])
def test_kill_9_of_the_command_at_20_random_moments(verb: str, tmp_path: Path):
    """The whole program, from its start to its export, killed 20 times on the way."""
    run, straight = tmp_path / "run", tmp_path / "straight"
    settings = [*("--steps", "30"), *("--sft-steps", "60"), *("--save-every", "3"), *("--eval-every", "0")]
    settings += ["--prompts-per-step", "4"]

    def command(*args: str) -> list[str]:
        return [sys.executable, "-m", "minirft", verb, *args]

    subprocess.run(command("tiny_detection", *settings, "--out", str(straight)), check=True)
    chance, kills, start = random.Random(0), 0, ["tiny_detection", *settings, "--out", str(run)]
    while kills < 20:
        child = subprocess.Popen(command(*(["--resume", str(run)] if (run / "config.toml").exists() else start)))
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(chance.uniform(4, 16))
        if child.poll() is not None:
            assert child.returncode == 0
            shutil.rmtree(run)  # it got to the end: once more
        else:
            child.kill()
            child.wait()
            kills += 1
    final = command(*(["--resume", str(run)] if (run / "config.toml").exists() else start))
    subprocess.run(final, check=True)
    assert trace(run) == trace(straight)


# ------------------------------------------------------------------ what is refused


def test_a_fresh_run_never_overwrites(stopped: GRPOConfig):
    """Yesterday's run gone, because the command was repeated."""
    before = (stopped.out / "log.jsonl").read_bytes()
    with pytest.raises(UserError, match=r"already holds a run: go on with --resume .*, or choose another --out"):
        next(train(stopped))
    assert (stopped.out / "log.jsonl").read_bytes() == before


def test_a_second_process_is_refused(config: GRPOConfig):
    """Two processes that both go on with a run and log every step twice.  (A lock that outlives kill -9: see above.)"""
    rows = train(config)
    next(rows)
    before = (config.out / "log.jsonl").read_bytes()
    with pytest.raises(
        UserError, match=r"run is in use by another process.*: wait for it or stop it, or choose another --out"
    ):
        next(train(config, resume=config.out))
    with pytest.raises(UserError, match="already holds a run"):
        next(train(config))
    assert (config.out / "log.jsonl").read_bytes() == before
    next(rows)  # the first is not disturbed
    rows.close()
    stop_after(train(config, resume=config.out), 1)
    with pytest.raises(UserError, match="with another seed"):
        next(train(replace(config, seed=1), resume=config.out))
    stop_after(train(config, resume=config.out), 1)  # one that was refused holds nothing


def test_an_attempt_that_failed_before_its_first_step_is_in_nobodys_way(config: GRPOConfig):
    """A mistake put right, and the command refused because of the folder that the mistake left."""
    with pytest.raises(UserError, match="the limit is 10"):
        next(train(replace(config, max_prompt_length=10)))
    assert next(train(config))["step"] == 1


def test_a_run_may_move_to_a_smaller_card(config: GRPOConfig):
    """A resume refused for settings that change where weights lie and no number."""
    config = replace(config, train="lora")
    stop_after(train(config), 2)
    list(train(replace(config, offload_vision=True), resume=config.out))
    straight = config.out.with_name("straight")
    list(train(replace(config, out=straight)))
    assert trace(config.out, "adapter_model.safetensors") == trace(straight, "adapter_model.safetensors")


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"group_size": 2},
        {"data": replace(SHOTS, shots=2)},
        {"optimiser": "adamw8bit"},
        {"prompts_per_decode": 1},  # the same completions but for the last bits
    ],
)
def test_resuming_with_other_settings_is_refused(stopped: GRPOConfig, changes: dict):
    """Half a run with one learning rate and half with another, under one name."""
    name = "data.shots" if "data" in changes else next(iter(changes))
    with pytest.raises(UserError, match=f"with another {name}, because"):
        next(train(replace(stopped, **changes), resume=stopped.out))


def test_another_number_of_threads_is_said(stopped: GRPOConfig, config: GRPOConfig, capsys: pytest.CaptureFixture[str]):
    """A run whose last bits change half-way, on a machine with other cores, and not a word about it."""
    shutil.copytree(stopped.out, config.out)
    stop_after(train(config, resume=config.out), 1)
    assert "CPU threads" not in capsys.readouterr().err
    log = config.out / "log.jsonl"
    header, *rows = log.read_text().splitlines(keepends=True)
    log.write_text(json.dumps(json.loads(header) | {"threads": 96}) + "\n" + "".join(rows))
    stop_after(train(config, resume=config.out), 1)
    assert "began with 96 CPU threads" in capsys.readouterr().err


def test_resuming_nothing_is_refused(config: GRPOConfig):
    """A misspelt folder that starts a run from nothing."""
    with pytest.raises(UserError, match=r"holds no run .*check the path"):
        next(train(config, resume=config.out))
    (config.out / "rft").mkdir(parents=True)
    (config.out / "rft" / "config.toml").write_text("")
    with pytest.raises(UserError, match=r"holds no run .*; there are .*rft"):  # the folder of a demo
        next(train(config, resume=config.out))


def test_resuming_a_run_of_another_kind_is_refused(config: GRPOConfig):
    """A supervised run finished by GRPO."""
    stop_after(sft(config), 1)
    with pytest.raises(UserError, match="resume it with minirft sft --resume"):
        next(train(config, resume=config.out))

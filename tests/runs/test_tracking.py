"""Trackers get the numbers of a run and change nothing in it; a missing package is one line before anything is made."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from minirft import UserError
from minirft.commands.cli import main
from minirft.runs.config import GRPOConfig
from minirft.runs.log import read_log
from minirft.runs.tracking import numbers, tracked

ROWS = [
    {"kind": "eval", "step": 0, "ap50": 0.25, "auc": None, "mode": "greedy", "ci": {"ap50": [0.1, 0.4]}, "n": 4},
    {"kind": "train", "step": 1, "reward": 1.5, "grad_norm": float("inf")},
]
WANTED = [({"eval/ap50": 0.25, "eval/n": 4.0}, 0), ({"train/reward": 1.5}, 1)]


def fake(name: str, calls: list[Any]) -> ModuleType:
    """A client that writes down how it was called, with the signatures that ours relies on."""
    client = ModuleType(name)
    client.log = lambda values, step: calls.append((values, step))
    client.finish = lambda: calls.append("finish")

    def init(*, project: str, name: str, config: dict, **more: Any) -> SimpleNamespace:
        calls.append(("init", project, name, config["steps"]))
        return SimpleNamespace(log=client.log, finish=client.finish)

    client.init = init
    return client


@pytest.mark.parametrize("tracker", ["trackio", "wandb"])
def test_a_client_gets_every_number_and_is_ended(tracker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A null or an interval sent as a number, a step lost, a run left open after an error."""
    calls: list[Any] = []
    monkeypatch.setitem(sys.modules, tracker, fake(tracker, calls))
    assert list(tracked(ROWS, tracker, GRPOConfig(steps=9), tmp_path / "a")) == ROWS
    assert calls == [("init", "minirft", "a", 9), *WANTED, "finish"]

    def broken():
        yield ROWS[0]
        raise KeyboardInterrupt

    calls.clear()
    with pytest.raises(KeyboardInterrupt):
        list(tracked(broken(), tracker, GRPOConfig(), tmp_path / "a"))
    assert calls[-1] == "finish"


def test_a_missing_package_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A traceback of an import, or a run that trains for hours untracked."""
    monkeypatch.setitem(sys.modules, "wandb", None)
    begun: list[int] = []

    def rows():
        begun.append(1)
        yield ROWS[0]

    with pytest.raises(UserError, match=r"pip install 'minirft\[wandb\]'"):
        list(tracked(rows(), "wandb", GRPOConfig(), tmp_path))
    assert not begun and not any(tmp_path.iterdir())
    assert list(tracked(rows(), "none", GRPOConfig(), tmp_path)) == ROWS[:1]


def test_tensorboard_holds_the_log(tiny_random: Path, tmp_path: Path):
    """Numbers under other names or steps than the run's own log has them.  Through tensorboard's own reader."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    command = ["train", "tiny_detection", "--model", str(tiny_random), "--out", str(run), "--steps", "2"]
    command += ["--prompts-per-step", "2", "--group-size", "2", "--max-completion-length", "8", "--eval-every", "0"]
    assert main([*command, "--track", "tensorboard"]) == 0
    rows = read_log(run / "log.jsonl")[1]
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    for row in rows:
        for name, value in numbers(row).items():
            found = {event.step: event.value for event in events.Scalars(name)}
            assert found[row["step"]] == pytest.approx(value, rel=2**-23, abs=2**-126)  # stored as float32

"""A run that learns nothing says so, once, with what to change; and a progress bar that fits a terminal."""

from dataclasses import replace
from pathlib import Path

import pytest
from small_runs import small_config, trace
from tqdm import tqdm

from minirft.runs import loop
from minirft.runs.config import GRPOConfig
from minirft.runs.log import read_log
from minirft.runs.watches import IdleWatch
from minirft.train import run as train

FINE = {"truncated": 0.5, "parse_rate": 0.5, "degenerate_groups": 0.5, "reward": 1.0}


@pytest.mark.parametrize(
    ("sign", "cure"),
    [
        ({"truncated": 1.0}, "cut off at 96 tokens: raise max_completion_length, such as to 192"),
        ({"parse_rate": 0.0}, "say how to answer in data.question, or begin with minirft sft"),
        ({"degenerate_groups": 1.0, "reward": 0.0}, "nothing earns a reward: raise temperature or group_size"),
        ({"degenerate_groups": 1.0, "reward": 2.0}, "all answers to a picture are alike: raise temperature"),
    ],
)
def test_the_fifth_idle_step_in_a_row_is_said_once(sign: dict, cure: str, capsys: pytest.CaptureFixture[str]):
    """A run of hours that says "done"; a line at every step; one for four unlucky steps and a good one."""
    watch = IdleWatch(GRPOConfig())
    rows = [FINE | sign] * 4 + [FINE] + [FINE | sign] * 9
    said = [watch.training(row).get("warning") for row in rows]
    assert [step for step, text in enumerate(said, start=1) if text] == [10]
    assert cure in said[9] and capsys.readouterr().err == f"minirft: {said[9]}\n"


def test_bare_rewards_teach_in_equal_groups_too():
    """A warning about advantages that are not those of groups."""
    watch = IdleWatch(GRPOConfig(advantage_scale="none"))
    assert not any(watch.training(FINE | {"degenerate_groups": 1.0}) for _ in range(9))


def test_a_resumed_run_says_what_a_straight_one_would(tiny_random: Path, tmp_path: Path, capsys):
    """A log with a key that is not defined; counts that begin anew at a resume, so that the two logs differ."""
    config = small_config(tiny_random, tmp_path / "straight", steps=7, eval_every=0)
    list(train(config))
    assert capsys.readouterr().err.count("5 steps in a row") >= 1
    stopped = replace(config, out=tmp_path / "stopped")
    rows = train(stopped)
    for _ in range(3):
        next(rows)
    rows.close()
    list(train(stopped, resume=stopped.out))
    assert trace(config.out) == trace(stopped.out)
    warned = [row["step"] for row in read_log(config.out / "log.jsonl")[1] if "warning" in row]
    assert warned and min(warned) == 5


def test_the_bar_fits_80_columns(monkeypatch: pytest.MonkeyPatch, tiny_random: Path, tmp_path: Path, capsys):
    """A bar whose reward is cut off at the right of a usual terminal."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(loop, "tqdm", lambda **given: tqdm(**given | {"dynamic_ncols": False, "ncols": 500}))
    full = {"loss": 0.1, "kl": 0.01, "reward_iou": 0.5, "parse_rate": 1.0, "degenerate_groups": 1.0, "reward": 12.34}
    monkeypatch.setattr(loop, "bar_text", lambda row, bar_text=loop.bar_text: bar_text(row | full))
    list(train(small_config(tiny_random, tmp_path, steps=2), progress=True))
    shown = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if "reward" in line]
    assert shown and max(map(len, shown)) + len("1:00:00") < 80 and "reward 12.34, parse 100%" in shown[-1]

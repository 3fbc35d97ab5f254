"""The run log: provenance, defined keys, valid JSON, torn lines, and a resumed log that looks never stopped."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minirft import UserError
from minirft.runs import log as log_module
from minirft.runs.log import METRICS, RunLog, provenance, read_log, truncate_after


def new_log(folder, **options):
    return RunLog(folder / "log.jsonl", config={"group_size": 8}, seed=3, **options)


def test_header_says_where_the_numbers_come_from(tmp_path):
    """Bug: a log whose run cannot be repeated."""
    header, rows = read_log(new_log(tmp_path).path)
    assert rows == []
    assert header.keys() == {
        "kind", "config", "seed", "commit", "versions", "python", "device", "threads", "started", "command"
    }  # fmt: skip
    assert (header["kind"], header["config"], header["seed"], header["device"]) == (
        "header",
        {"group_size": 8},
        3,
        "cpu",
    )
    assert header["versions"]["torch"] == torch.__version__
    assert header["threads"] == torch.get_num_threads()


def test_commit_is_ours_or_unknown(monkeypatch, tmp_path):
    """Bug: the commit of whatever repository the user's environment lies in; or no git, no run."""
    monkeypatch.setattr(log_module, "_commit", log_module._commit.__wrapped__)  # not the one that is remembered
    assert re.fullmatch(r"unknown|[0-9a-f]{40}(-dirty)?", provenance({}, 0, "cpu")["commit"])
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance({}, 0, "cpu")["commit"] == "unknown"


def test_every_key_is_defined(tmp_path):
    """Bug: a logged number nobody can look up."""
    log = new_log(tmp_path)
    with pytest.raises(ValueError, match=r"undefined keys \['rewrad'\]"):
        log.row("train", step=1, rewrad=0.5)
    assert read_log(log.path)[1] == []
    assert all(re.fullmatch(r"[a-z0-9_]+", key) and text and "\n" not in text for key, text in METRICS.items())


def test_numbers_of_all_kinds_become_json(tmp_path):
    """Bug: NaN in the file, which is not JSON; a tensor or numpy number that stops the run at its first row."""
    log = new_log(tmp_path)
    log.row(
        "train",
        step=np.int64(1),
        loss=torch.tensor(0.5),
        kl=float("nan"),
        reward=np.float32(0.25),
        ci={"ap50": (0.0, float("inf"))},
        mode="greedy",
    )
    [row] = [json.loads(line, parse_constant=pytest.fail) for line in log.path.read_text().splitlines()[1:]]
    expected = {"step": 1, "loss": 0.5, "kl": None, "reward": 0.25, "ci": {"ap50": [0.0, None]}, "mode": "greedy"}
    assert row == {"kind": "train", **expected}


def test_a_torn_last_line_is_dropped_and_then_cut(tmp_path):
    """Bug: kill -9 in the middle of a row makes the log unreadable, or glues the next row to the torn one."""
    log = new_log(tmp_path)
    log.row("train", step=1)
    whole = log.path.read_bytes()
    log.row("train", step=2)
    log.path.write_bytes(log.path.read_bytes()[:-3])
    assert [row["step"] for row in read_log(log.path)[1]] == [1]
    resumed = new_log(tmp_path)
    assert log.path.read_bytes() == whole
    resumed.row("train", step=2)
    assert [row["step"] for row in read_log(log.path)[1]] == [1, 2]


@settings(max_examples=30, deadline=None)
@given(stop=st.integers(0, 6), checkpoint=st.integers(0, 6), torn=st.integers(0, 20))
def test_a_resumed_log_ends_as_if_never_stopped(tmp_path_factory, stop, checkpoint, torn):
    """Bug: rows of redone steps twice, or an evaluation of the checkpoint's own step lost."""

    def go(log, first, last):
        for step in range(first, last + 1):
            log.row("train", step=step, reward=step / 7)
            if step % 2 == 0:
                log.row("evaluation", step=step, ap50=0.5)

    checkpoint = min(checkpoint, stop)
    straight, broken = (new_log(tmp_path_factory.mktemp("run")) for _ in range(2))
    go(straight, 1, 6)
    go(broken, 1, stop)
    with broken.path.open("ab") as file:
        file.write(b'{"kind": "train", "st'[:torn])
    resumed = new_log(broken.path.parent)
    truncate_after(resumed.path, checkpoint)
    go(resumed, checkpoint + 1, 6)
    assert broken.path.read_bytes().split(b"\n")[1:] == straight.path.read_bytes().split(b"\n")[1:]


def test_resume_of_a_log_killed_at_birth_writes_the_header(tmp_path):
    """Bug: a run without provenance because its first line was the torn one."""
    (tmp_path / "log.jsonl").write_bytes(b'{"kind": "hea')
    assert read_log(new_log(tmp_path).path)[0]["seed"] == 3


def test_another_run_is_not_overwritten(tmp_path):
    """Bug: the same command twice, and the first run's log is gone.  (`open_run` refuses it before.)"""
    before = new_log(tmp_path).path.read_bytes()
    assert new_log(tmp_path).path.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        (b"", "does not start with a header"),
        (b'{"kind": "train"}\n', "does not start with a header"),
        (b'{"kind": "header"}\n{"kind": "tr\x00\n{}\n', "line 2 is not a row"),
        (b'{"kind": "header"}\n[1]\n', "line 2 is not a row"),
        (b'{"kind": "header"}\n\xff\xfe\n', "line 2 is not a row"),
    ],
)
def test_what_is_not_a_log_is_refused(tmp_path, content, message):
    """Bug: a traceback from json for a user who mistyped a path."""
    path = tmp_path / "log.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_log(path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_said(tmp_path):
    """Bug: a traceback after hours of training."""
    log = new_log(tmp_path)
    log.path = Path("/dev/full")
    with pytest.raises(UserError, match=r"cannot write the run log /dev/full \(No space left"):
        log.row("train", step=1)

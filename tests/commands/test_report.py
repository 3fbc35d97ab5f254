"""`report` on runs as they are left: with and without evaluations, of SFT, of a demo, with data that has moved."""

import json
import re
import shutil
from pathlib import Path

import pytest
from small_runs import small_config

from minirft.commands.cli import main
from minirft.commands.ending import moved
from minirft.commands.report import moments, report_data, runs_in
from minirft.runs.history import read_history
from minirft.runs.supervised import sft
from minirft.train import run


@pytest.fixture(scope="module")
def runs(tiny_random: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the demo leaves it: a GRPO run of 4 steps with two evaluations, and one of SFT without."""
    folder = tmp_path_factory.mktemp("runs")
    list(run(small_config(tiny_random, folder / "rft", steps=4, eval_every=4)))
    list(sft(small_config(tiny_random, folder / "sft", sft_steps=2)))
    return folder


def test_a_history_is_what_the_run_wrote(runs: Path):
    """Answers of one step under another, in another order than the samples, or a group of two pictures."""
    history = read_history(runs / "rft")
    lines = [json.loads(line) for line in (runs / "rft" / "held_out.jsonl").read_text().splitlines()]
    assert list(history.answers) == [0, 4] and len(history.samples) == 4
    for step, texts in history.answers.items():
        wanted = {line["sample"]: line["text"] for line in lines if line["step"] == step}
        assert [wanted[sample.id] for sample in history.samples] == list(texts)
    shown = moments(history, 3)
    assert [moment.group.step for moment in shown] in ([1, 3, 4], [1, 2, 4])
    for moment in shown:
        group, rows = moment.group, history.scored[moment.group.step][moment.first : moment.first + 4]
        assert {row["sample"] for row in rows} == {group.sample.id} and len(rows) == 4
        assert group.texts == [row["text"] for row in rows] and group.rewards == [row["reward"] for row in rows]
        for name, values in moment.parts.items():
            assert len(values) == 8
            assert values[moment.first : moment.first + 4] == [row["parts"][name] for row in rows] == group.parts[name]


def test_a_resumed_run_keeps_one_answer_a_question(runs: Path, tiny_random: Path, tmp_path: Path):
    """An evaluation that is done again after a stop and then stands there twice."""
    config = small_config(tiny_random, tmp_path / "run", steps=4, eval_every=2, save_every=2)
    steps = run(config)
    for row in steps:
        if row["kind"] == "train" and row["step"] == 3:
            steps.close()
            break
    list(run(config, resume=tmp_path / "run"))
    lines = [json.loads(line) for line in (tmp_path / "run" / "held_out.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0] * 4 + [2] * 4 + [4] * 4


def test_report_of_a_demos_runs(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A page that wants the network, leaves a run out, or has grown beyond 5 MB."""
    page = tmp_path / "page.html"
    assert main(["report", str(runs), "--out", str(page), "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"report": str(page)}
    assert captured.err.count("\n") == 1 and "sft" in captured.err  # it has no held-out answers
    text = page.read_text(encoding="utf-8")
    assert page.stat().st_size < 5e6 and "<title>Runs rft, sft</title>" in text
    for heading in ("Replay", "The worst misses", "Before and after", "Learning, step by step"):
        assert f"<h2>{heading}</h2>" in text, heading
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!data:image/)""", text)
    (block,) = re.findall(r'id="replay-data">(.*?)</script>', text, re.DOTALL)
    assert [run["name"] for run in json.loads(block)] == ["rft"]
    assert json.loads(block)[0]["moments"][0]["picture"].startswith("data:image/")


def test_what_a_run_lacks_is_left_out(runs: Path, tmp_path: Path):
    """A run without evaluations, or whose samples cannot be drawn again, that ends in a traceback."""
    bare = tmp_path / "bare"
    shutil.copytree(runs / "rft", bare)
    (bare / "held_out.jsonl").unlink()
    (bare / "completions.jsonl").unlink()
    log = bare / "log.jsonl"
    log.write_text("".join(line + "\n" for line in log.read_text().splitlines() if '"kind": "eval"' not in line))
    data = report_data([read_history(bare)])
    assert not data.before and not data.after and not data.replays and not data.misses and data.steps == 4
    assert main(["report", str(bare)]) == 0 and (bare / "report.html").is_file()
    assert runs_in(runs) == [runs / "rft", runs / "sft"] and runs_in(bare) == [bare]


def test_a_mistake_gets_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A traceback for a folder without a run, or for a page that cannot be written."""
    for args, what in ((["report"], "name the folder of a run"), (["report", str(tmp_path)], "holds no run")):
        assert main(args) == 2
        captured = capsys.readouterr()
        assert what in captured.err and captured.err.count("\n") == 1 and captured.out == ""


def test_the_end_of_a_run_says_what_moved(runs: Path):
    """A rise called one where the intervals overlap; a table made of one evaluation."""

    def row(step: int, value: float) -> dict:
        return {"kind": "eval", "step": step, "ap50_pooled": value, "ci": {"ap50_pooled": [value - 0.1, value + 0.1]}}

    assert moved([row(0, 0.2)]) == []
    assert moved([row(0, 0.2), row(5, 0.9), row(9, 0.35)])[1].endswith("within its intervals")
    assert moved([row(0, 0.2), row(5, 0.25), row(9, 0.6)])[1].split() == ["ap50_pooled", "0.200", "0.600", "moved"]

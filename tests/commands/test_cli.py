"""The command line as scripts see it: exit codes, one line on stderr, JSON and nothing else on stdout."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import is_dataclass
from pathlib import Path
from typing import get_type_hints

import pytest
from safetensors.torch import load_file
from small_runs import forked
from transformers import Qwen2VLForConditionalGeneration

from minirft.commands.cli import COMMANDS, main, usage

SMALL = [
    *("--steps", "2", "--sft-steps", "2", "--prompts-per-step", "2", "--group-size", "2"),
    *("--max-completion-length", "8", "--save-every", "1", "--eval-samples", "4", "--eval-every", "0"),
]
FIXED = [
    *("--model", "--quantize", "--steps", "--seed", "--group-size", "--max-pixels", "--max-completion-length"),
    *("--save-every", "--out", "--resume", "--data.annotations", "--data.images", "--json"),
]


@pytest.fixture
def run(tiny_random: Path, tmp_path: Path) -> Path:
    """A finished run of two steps."""
    folder = tmp_path / "run"
    assert main(["train", "tiny_detection", "--model", str(tiny_random), "--out", str(folder), *SMALL]) == 0
    return folder


def refusal(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """The one line that a mistake gets; stdout must stay empty and the exit code be 2."""
    assert main(list(args)) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("minirft: ") and captured.err.count("\n") == 1
    return captured.err


def test_help_lists_every_command_and_imports_no_torch():
    """A command that exists but cannot be found; help that takes seconds."""
    assert all(f"  {name} " in usage() for name in COMMANDS)
    code = "import sys; from minirft.commands.cli import main; main(['--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_the_process_ends_with_the_code():
    """`python -m minirft` that ends with 0 whatever `main` returns."""
    done = subprocess.run([sys.executable, "-m", "minirft", "trian"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "did you mean train?" in done.stderr


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "version"])
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]):
    """A flag whose type the parser does not know, found by the first user."""
    with pytest.raises(SystemExit) as stop:
        main([*name.split(), "--help"])
    assert not stop.value.code and f"minirft {name}" in capsys.readouterr().out


def test_the_flags_of_the_contract(capsys: pytest.CaptureFixture[str]):
    """A fixed name changed, which breaks other people's scripts."""
    for name in ("train", "sft"):
        with pytest.raises(SystemExit):
            main([name, "tiny_detection", "--help"])
        text = capsys.readouterr().out
        for flag in FIXED:
            assert f"{flag} " in text or f"{flag}\n" in text, flag


@pytest.mark.parametrize(
    ("args", "what"),
    [
        ("trian", "did you mean train?"),
        ("train", "name a config first"),
        ("train --steps 3 tiny_detection", "name a config first"),
        ("train tiny_detecton", "did you mean tiny_detection?"),
        ("train tiny_detection --stpes 3", "did you mean --steps?"),
        ("train tiny_detection --data.anotations x", "did you mean --data.annotations?"),
        ("train tiny_detection --steps many", "--steps"),
        ("train tiny_detection --steps", "--steps"),
        ("train tiny_detection --quantize int8", "none"),
        ("train tiny_detection --group-size 1", "group_size = 1"),
        ("train tiny_detection --temperature 0", "temperature = 0"),
        ("train --resume nowhere", "no config nowhere"),
        ("eval nowhere", "no config nowhere: give a TOML file, the folder of a run, or one of"),
        ("score --task detection nowhere.jsonl", "cannot read nowhere.jsonl"),
        ("score nowhere.jsonl", "--task"),
        ("audit --task counting", "counting"),
        ("audit rewards.py --task detection", "FILE.py:NAME"),
        ("export nowhere", "nowhere holds no run"),
        ("demo --sed 3", "did you mean --seed?"),
    ],
)
def test_a_mistake_gets_one_line_and_code_2(capsys: pytest.CaptureFixture[str], args: str, what: str):
    """A traceback, or a box of twenty lines in which the mistake is lost."""
    assert what in refusal(capsys, *args.split())


def test_json_of_train_is_one_row_a_line(tiny_random: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A progress bar or a library's remark between the rows."""
    assert (
        main(["train", "tiny_detection", "--model", str(tiny_random), "--out", str(tmp_path / "r"), *SMALL, "--json"])
        == 0
    )
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["kind"], row["step"]) for row in rows] == [("train", 1), ("train", 2)]


def test_resume_by_the_folder_alone(run: Path, capsys: pytest.CaptureFixture[str]):
    """`--resume RUN` that asks for the config again, or trains with its defaults."""
    capsys.readouterr()
    assert main(["train", "--resume", str(run), "--steps", "3", "--json"]) == 0
    assert [json.loads(line)["step"] for line in capsys.readouterr().out.splitlines()] == [3]
    assert "with another seed" in refusal(capsys, "train", "--resume", str(run), "--seed", "5")
    assert "minirft train --resume" in refusal(capsys, "sft", f"--resume={run}")


def test_eval_of_a_run_and_of_a_config(run: Path, tiny_random: Path, capsys: pytest.CaptureFixture[str]):
    """Metrics of the base under the name of the run."""
    capsys.readouterr()
    assert main(["eval", str(run), "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)
    assert metrics["n"] == 4 and metrics["mode"] == "greedy" and {"ap50", "ap", "mean_iou", "ece"} <= metrics.keys()
    out = ["--out", str(run.parent / "base")]  # where the answers go
    assert main(["eval", "tiny_detection", "--model", str(tiny_random), *SMALL, *out, "--mode", "sampled"]) == 0
    assert "ap50" in capsys.readouterr().out


def test_score_reads_and_writes_json_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Keys of the contract renamed, or a bad completion that stops the rest."""
    file = tmp_path / "answers.jsonl"
    solution = "<answer>[{'Position': [1, 2, 300, 400], 'Confidence': 1}]</answer>"
    texts = [f"<think>one</think> {solution}", "nonsense"]
    file.write_text("\n".join(json.dumps({"completion": text, "solution": solution}) for text in texts) + "\n\n")
    assert main(["score", "--task", "detection", "--variant", "strict", str(file)]) == 0
    right, wrong = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert right == {"iou": 1.0, "confidence": 1.0, "format": 1.0, "total": 3.0, "failure": None}
    assert wrong["total"] < 1 and wrong["failure"]
    file.write_text('{"completion": "a", "solution": "<answer>b</answer>"}\n{broken\n')
    assert main(["score", "--task", "classification", str(file)]) == 2
    assert "line 2 is not JSON" in capsys.readouterr().err


def test_audit_as_json(capsys: pytest.CaptureFixture[str]):
    """A table where a script expects rows."""
    assert main(["audit", "--task", "detection", "--variant", "official", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows[0]["answer"] == "honest" and len(rows) > 5


@pytest.mark.parametrize("module", ["asking", "bench", "data", "experiment", "fit", "learning", "report", "scoring"])
def test_flags_resolve_in_their_own_module(module: str):
    """An inherited field whose annotation is not known where the class stands: `make docs` failed on it."""
    names = vars(importlib.import_module(f"minirft.commands.{module}"))
    own = [value for value in names.values() if is_dataclass(value) and value.__module__.endswith(module)]
    assert own and all(get_type_hints(flags.__init__) for flags in own)


def test_export_gives_what_transformers_loads(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """An export of the base instead of what was trained."""
    assert main(["export", str(run), "--to", "merged", "--out", str(tmp_path / "model")]) == 0
    Qwen2VLForConditionalGeneration.from_pretrained(tmp_path / "model")
    ours, saved = load_file(tmp_path / "model" / "model.safetensors"), load_file(run / "policy" / "model.safetensors")
    assert ours.keys() == saved.keys() and all(ours[name].equal(saved[name]) for name in ours)
    capsys.readouterr()
    assert "no adapter" in refusal(capsys, "export", str(run), "--to", "adapter")


def test_demo_leaves_what_it_says(tiny_random: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A key of summary.json renamed, or a report that is not there."""
    config, out = tmp_path / "demo.toml", tmp_path / "out"
    small = "prompts_per_step = 2\ngroup_size = 4\nmax_completion_length = 8\neval_samples = 4\nthreads = 1\n"
    config.write_text(f'model = "{tiny_random.as_posix()}"\n{small}')
    command = ["demo", "--config", str(config), "--out", str(out), "--steps", "2", "--seed", "3", "--json"]
    assert main(command) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary == json.loads((out / "summary.json").read_text())
    assert (summary["seed"], summary["steps"]) == (3, 2)
    assert summary["seconds"]["train"] > 0 and 0 < summary["seconds"]["to_first_step"] < summary["seconds"]["total"]
    for name in ("before", "after", "sft"):
        for block in (summary[name], summary[name]["sampled"]):
            assert set("ap50 ap mean_iou parse_rate ece auc boxes_per_image n".split()) <= block.keys()  # noqa: SIM905
    for file in ("report.html", "rft/log.jsonl", "sft/log.jsonl", "pictures/before_after.png", "pictures/group.png"):
        assert (out / file).stat().st_size > 500, file
    assert "already holds" in refusal(capsys, *command)


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch):
    """A programming error dressed up as the user's."""

    def broken(args: list[str]) -> None:
        raise ValueError("a bug")

    monkeypatch.setitem(COMMANDS, "version", broken)
    with pytest.raises(ValueError, match="a bug"):
        main(["version"])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_ctrl_c_exits_130_and_says_how_to_go_on(tiny_random: Path, tmp_path: Path):
    """Ctrl-C that ends in a traceback and loses the run."""
    run, errors = tmp_path / "run", tmp_path / "errors"
    command = ["sft", "tiny_detection", "--model", str(tiny_random), "--out", str(run), "--threads", "1"]
    command += ["--sft-steps", "100000", "--eval-every", "0"]

    def action() -> int:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.stderr = open(errors, "w", buffering=1)  # noqa: SIM115
        return main(command)

    child = forked(action)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (run / "completions.jsonl").exists():
        time.sleep(0.05)
    os.kill(child, signal.SIGINT)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 130, errors.read_text()
    said = errors.read_text()
    assert f"go on with minirft sft --resume {run}" in said.splitlines()[-1] and "Traceback" not in said
    assert any((run / "checkpoints").glob("step-*"))

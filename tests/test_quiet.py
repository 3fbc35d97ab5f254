"""A user's screen is quiet: on stderr nothing but our own lines and progress bars, with Python's own filters."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
ENDING = r"held out +step.+|[a-z0-9_]+ +\d\.\d+ +\d\.\d+  .+|next:|  minirft (report|eval|predict|export) .+  # .+"
OURS = re.compile(rf"{ENDING}|minirft: .+|\[ *\d+\.\d s\] .+| *\d+%\|.*\| \d+/\d+ \[.*\]|\d+/\d+ steps, .+ left.*|")
SMALL = "--prompts-per-step 2 --group-size 2 --max-completion-length 8 --eval-samples 4 --eval-every 0 --threads 1"
ADAPTERS = "--train lora --quantize nf4 --optimiser adamw8bit"  # all that bitsandbytes is asked for


def others(stderr: str) -> list[str]:
    """The lines that are not ours; a bar is drawn anew behind a carriage return."""
    return [line for line in re.split(r"[\r\n]+", stderr) if not OURS.fullmatch(line)]


MARK = "<<< "  # what stands before a command's name in the stderr of the process that runs all of them
SCRIPT = f"""
import json, os, sys
import minirft
import bitsandbytes, peft, transformers.models.qwen2_vl.modeling_qwen2_vl
from minirft.commands import main
work = json.loads(sys.argv[1])

def cells():
    exec(compile(work["cells"], "cells.py", "exec"), {{"__name__": "__main__"}})

for name, line in (work["commands"] | {{"cells": None}}).items():
    print("{MARK}" + name, file=sys.stderr, flush=True)
    child = os.fork()
    if not child:
        sys.exit(main(line) if line else cells())
    if os.waitpid(child, 0)[1]:
        sys.exit(name)
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each command, and the notebooks' first cells, leaves on stderr; under "imports" what the libraries do.

    pytest's filters, or what another command did, would hide a warning.  So a new process imports the libraries, which
    takes seconds, and each command is a fork of it.
    """
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    folder = tmp_path_factory.mktemp("quiet")
    small = "prompts_per_step = 2\ngroup_size = 4\nmax_completion_length = 8\neval_samples = 4\nthreads = 1\n"
    (folder / "demo.toml").write_text(f'model = "tiny"\n{small}')
    commands = {
        "demo": f"demo --config {folder}/demo.toml --steps 1 --out {folder}/d",
        "train": f"train tiny_detection --steps 1 {SMALL} {ADAPTERS} --out {folder}/run",
        "eval": f"eval {folder}/run",
        "fit": "fit qwen2-vl-2b",
    }
    cells = [next(c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code") for path in NOTEBOOKS]
    assert cells
    work = {
        "commands": {name: shlex.split(line) for name, line in commands.items()},
        "cells": "\n".join(cell.source for cell in cells),
    }
    env = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"} | {"PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-c", SCRIPT, json.dumps(work)]
    done = subprocess.run(line, cwd=NOTEBOOKS[0].parent, env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return dict(part.split("\n", 1) for part in f"imports\n{done.stderr}".split(MARK))


def test_other_lines_are_told_from_ours():
    """A filter that lets everything through, or stops at a bar."""
    bar = "\r  0%|          | 0/1 [00:00<?, ?picture/s]\r0/1 steps, ? left\r1/1 steps, 00:00 left, loss 0.1\n"
    assert others(f"[ 28.2 s] the base answers\n{bar}minirft: 4 answers are there already\n") == []
    warning = "/site-packages/a.py:3: FutureWarning: b\n  warnings.warn(\n"
    assert others(f"{bar}{warning}") == warning.splitlines()
    assert others("`kernels` is not installed\n") == ["`kernels` is not installed"]


def test_imports_are_quiet(said: dict[str, str]):
    """bitsandbytes' line about a package of another's, on a CPU that has the instructions for it."""
    assert said["imports"] == ""


def test_demo_is_quiet(said: dict[str, str]):
    """Three FutureWarnings of transformers 5.24 in the first command that a newcomer types."""
    assert others(said["demo"]) == []
    assert "GRPO, 1 steps" in said["demo"] and "1/1 steps" in said["demo"]


def test_train_and_eval_are_quiet(said: dict[str, str]):
    """PEFT's advice, or a loading bar of transformers."""
    assert others(said["train"]) == [] and "1/1 steps" in said["train"]
    assert others(said["eval"]) == []


def test_fit_is_quiet(said: dict[str, str]):
    """A warning about a model that is only looked at."""
    assert said["fit"] == ""


def test_first_cells_of_the_notebooks_are_quiet(said: dict[str, str]):
    """A warning of an import above the first lesson; the cells in their order, as one script."""
    assert said["cells"] == ""

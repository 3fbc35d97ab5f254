"""A user's screen is quiet: on stderr nothing but our own lines and progress bars, with Python's own filters."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
OURS = re.compile(r"minirft: .+|\[ *\d+\.\d s\] .+| *\d+%\|.*\| \d+/\d+ \[.*\]|")
SMALL = "--prompts-per-step 2 --group-size 2 --max-completion-length 8 --eval-samples 4 --eval-every 0 --threads 1"
ADAPTERS = "--train lora --quantize nf4 --optimiser adamw8bit"  # all that bitsandbytes is asked for


def others(stderr: str) -> list[str]:
    """The lines that are not ours; a bar is drawn anew behind a carriage return."""
    return [line for line in re.split(r"[\r\n]+", stderr) if not OURS.fullmatch(line)]


def said(folder: Path, line: str) -> str:
    """What a new process leaves on stderr.  pytest's filters, or an import made before, would hide a warning."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"} | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *shlex.split(line)], cwd=folder, env=env, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_other_lines_are_told_from_ours():
    """A filter that lets everything through, or stops at a bar."""
    bar = "\r  0%|          | 0/1 [00:00<?, ?step/s]\r100%|█| 1/1 [00:00<00:00,  2.30step/s, loss 0.1]\n"
    assert others(f"[ 28.2 s] the base answers\n{bar}minirft: 4 answers are there already\n") == []
    warning = "/site-packages/a.py:3: FutureWarning: b\n  warnings.warn(\n"
    assert others(f"{bar}{warning}") == warning.splitlines()
    assert others("`kernels` is not installed\n") == ["`kernels` is not installed"]


def test_demo_is_quiet(tmp_path: Path):
    """Three FutureWarnings of transformers 5.24 in the first command that a newcomer types."""
    small = "prompts_per_step = 2\ngroup_size = 4\nmax_completion_length = 8\neval_samples = 4\nthreads = 1\n"
    (tmp_path / "demo.toml").write_text(f'model = "tiny"\n{small}')
    stderr = said(tmp_path, "-m minirft demo --config demo.toml --steps 1 --out d")
    assert others(stderr) == []
    assert "GRPO, 1 steps" in stderr and "100%|" in stderr


def test_train_and_eval_are_quiet(tmp_path: Path):
    """bitsandbytes' line about a package of another's, PEFT's advice, or a loading bar of transformers."""
    stderr = said(tmp_path, f"-m minirft train tiny_detection --steps 1 {SMALL} {ADAPTERS} --out run")
    assert others(stderr) == [] and "100%|" in stderr
    assert others(said(tmp_path, "-m minirft eval run")) == []


def test_fit_is_quiet(tmp_path: Path):
    """A warning about a model that is only looked at."""
    assert said(tmp_path, "-m minirft fit qwen2-vl-2b") == ""


def test_first_cells_of_the_notebooks_are_quiet(tmp_path: Path):
    """A warning of an import above the first lesson; the cells in their order, as one script."""
    cells = [next(c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code") for path in NOTEBOOKS]
    (tmp_path / "cells.py").write_text("\n".join(cell.source for cell in cells), encoding="utf-8")
    assert cells and said(NOTEBOOKS[0].parent, shlex.quote(str(tmp_path / "cells.py"))) == ""

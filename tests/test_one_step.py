"""The minimal core as a number: what one GRPO step enters and runs, traced, and what importing it brings."""

import importlib
import sys
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from transformers import AttentionInterface

import minirft
from minirft.data import training_feed
from minirft.engine import layers
from minirft.reference import make_reference
from minirft.rewards import reading
from minirft.runs import load_config, load_policy, make_optimiser
from minirft.train import grpo_step

PACKAGE = Path(minirft.__file__).parent


@pytest.fixture(scope="module")
def lines_run() -> dict[str, set[int]]:
    """File -> lines that one step runs: LoRA, NF4, KL, shared prefix, after a step that has imported everything."""
    config = replace(
        load_config("tiny_detection"), train="lora", quantize="nf4", kl_coef=0.04, group_size=4, prompts_per_step=2
    )
    policy = load_policy(config)
    rest = make_reference(policy, config.kl_coef), make_optimiser(policy, config)
    samples = [training_feed(config)(step) for step in (1, 2)]
    reward = reading("detection", "strict")
    grpo_step(policy, *rest, samples[0], reward, config, 1)
    found: dict[str, set[int]] = {}

    def local(frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            found[frame.f_code.co_filename].add(frame.f_lineno)
        return local

    def enter(frame: FrameType, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(f"{PACKAGE}/"):
            return None
        found.setdefault(frame.f_code.co_filename, set()).add(frame.f_lineno)
        return local

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        grpo_step(policy, *rest, samples[1], reward, config, 2)
    finally:
        sys.settrace(before)
    return {str(Path(name).relative_to(PACKAGE)): lines for name, lines in found.items()}


def test_a_step_enters_few_files_and_runs_few_lines(lines_run: dict[str, set[int]]):
    """A detour: a reader of the step has to open one more file, or to follow more code than the algorithm needs."""
    counts = {name: len(lines) for name, lines in sorted(lines_run.items())}
    assert "train.py" in counts and "loss.py" in counts
    assert len(counts) <= FILES and sum(counts.values()) <= LINES, (len(counts), sum(counts.values()), counts)


FILES, LINES = 16, 650


def test_importing_the_step_brings_few_files():
    """An import that drags in readers of data sets, figures or benchmarks: seconds, and a reader's patience."""
    kept = {name: sys.modules.pop(name) for name in [*sys.modules] if name.partition(".")[0] == "minirft"}
    try:  # as in a new process, but with torch and transformers there
        importlib.import_module("minirft.train")
        own = [module for name, module in sys.modules.items() if name.startswith("minirft.")]
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "minirft"]:
            del sys.modules[name]
        sys.modules.update(kept)
        AttentionInterface.register(layers.SHARED_PREFIX, layers.shared_prefix_attention)  # as it was
    found = sorted(module.__name__ for module in own if not module.__file__.endswith("__init__.py"))
    assert "minirft.train" in found
    assert len(found) <= CLOSURE, found


CLOSURE = 25

"""Training runs of milliseconds a step: the tiny architecture with random weights, and a reward that it can earn."""

import json
import os
import traceback
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from minirft.rewards.readings import Reward
from minirft.runs.checkpoints import load_checkpoint
from minirft.runs.config import GRPOConfig

CLOCK = ("seconds", "tokens_per_second")  # what two equal runs may differ in


def small_config(model: Path, out: Path, **changes: Any) -> GRPOConfig:
    """Six steps of 2 prompts and 4 completions of at most 10 tokens, saved every second step."""
    config = GRPOConfig(
        model=str(model),
        out=out,
        steps=6,
        sft_steps=6,
        prompts_per_step=2,
        group_size=4,
        max_completion_length=10,
        learning_rate=1e-3,
        save_every=2,
        eval_samples=4,
        threads=1,
    )
    return replace(config, **changes)


def earnable(*_: Any, **__: Any) -> Reward:
    """In place of `rewards.reading`: the share of a completion's characters that are digits."""
    return Reward({"iou": lambda text, solution: sum(c.isdigit() for c in text) / (len(text) + 1)}, {"iou": 1.0})


def trace(folder: Path, exported: str = "model.safetensors") -> dict[str, Any]:
    """All that a run leaves, without the times: equal for two runs only if they were equal bit for bit."""
    newest = load_checkpoint(folder / "checkpoints").path
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()[1:]]
    return {
        "checkpoint": {file.name: file.read_bytes() for file in newest.iterdir()},
        "log": [{key: value for key, value in row.items() if not key.startswith(CLOCK)} for row in rows],
        "completions": (folder / "completions.jsonl").read_text(),
        "policy": (folder / "policy" / exported).read_bytes(),
    }


def forked(action: Callable[[], int | None]) -> int:
    """The process id of a fork that runs `action`, and ends with the code that it returns: torch is there already."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking a process that has threads
        child = os.fork()
    if child:
        return child
    code = 1
    try:
        code = action() or 0
    except BaseException:
        traceback.print_exc()
    finally:  # whatever happens: it must not go on as a second pytest
        os._exit(code)

"""This module writes the last lines of a run: the change of its metrics, and the commands to use next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from minirft import UserError, data, runs, show

Row = Mapping[str, Any]
MOVED = {True: "moved", False: "within its intervals", None: "no interval"}


def ending(folder: Path, config: runs.GRPOConfig) -> str:
    """Return the summary of a run, from its log, and the commands to use next."""
    rows = runs.read_log(folder / "log.jsonl")[1]
    return "\n".join([*moved(rows), "next:", *next_lines(folder, config)])


def moved(rows: Sequence[Row]) -> list[str]:
    """Return the main metrics before and after, and whether their intervals overlap; [] without two evaluations.

    >>> rows = [{"kind": "eval", "step": s, "auc": s / 9, "ci": {"auc": [s / 9, s / 9 + 0.2]}} for s in (0, 5)]
    >>> print("\\n".join(moved(rows)))
    held out         step 0   step 5
    auc               0.000    0.556  moved
    """
    evaluations = [row for row in rows if row.get("kind") == "eval"]
    if len(evaluations) < 2:
        return []
    first, last = evaluations[0], evaluations[-1]
    lines = [f"{'held out':<14}{'step ' + str(first['step']):>9}{'step ' + str(last['step']):>9}"]
    for key in show.HEADLINE:
        if first.get(key) is not None and last.get(key) is not None:
            verdict = MOVED[show.intervals_apart(first, last, key)]
            lines.append(f"{key:<14}{first[key]:>9.3f}{last[key]:>9.3f}  {verdict}")
    return lines


def next_lines(folder: Path, config: runs.GRPOConfig) -> list[str]:
    """Return one line each for report, eval, predict and export, ready to be typed."""
    name = example_of(config)
    name = f'"{name}"' if " " in name else name
    kind = "adapter" if config.train == "lora" else "merged"
    lines = {
        f"minirft report {folder}": "curves, misses, and the run step by step",
        f"minirft eval {folder}": "held-out metrics",
        f"minirft predict {folder} PICTURE --ask {name}": "answers to pictures of yours",
        f"minirft export {folder} --to {kind}": "for PEFT, transformers and vLLM",
    }
    width = max(map(len, lines))
    return [f"  {line:<{width}}  # {why}" for line, why in lines.items()]


def example_of(config: runs.GRPOConfig) -> str:
    """Return something to ask for in the data at hand: a family of labels, a category, or else an instruction."""
    if config.data.task == "classification" and config.data.kind != "tiny":
        return config.data.family
    if config.data.categories:
        return config.data.categories[0]
    with suppress(UserError):  # the data has moved
        return data.held_out(replace(config, eval_samples=1))[0].category or "TEXT"
    return "TEXT"

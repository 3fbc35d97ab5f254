"""This module holds the commands that need rewards only: score and audit."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from minirft import UserError, as_user_error, data, rewards, runs
from minirft.commands.flags import Switch, parse
from minirft.samples import Task


@dataclass(frozen=True)
class ScoreFlags:
    """`ScoreFlags` are the flags of `score`."""

    file: tyro.conf.Positional[Path]
    """JSON lines, each {"completion": text, "solution": text}; or the completions.jsonl, held_out.jsonl or
    predictions.jsonl of a run."""
    task: Task
    """Kind of question."""
    variant: rewards.Variant = "strict"
    """Reading of the reward."""
    json: Switch = False
    """Print JSON lines, as without this flag."""


def score(args: list[str]) -> None:
    """Score saved completions: JSON lines {"completion", "solution"} in, reward parts out."""
    flags = parse(ScoreFlags, args, "minirft score")
    for row in scored(flags.file, rewards.reading(flags.task, flags.variant)):
        print(json.dumps(row))


def scored(file: Path, reward: rewards.Reward) -> Iterator[dict[str, float | str | None]]:
    """Score the completions in a file of JSON lines: yield {part: value, ..., "total", "failure"} for each.

    Every result is valid JSON.  A value that is not finite, which only the official reading gives, becomes None, and
    `failure` is then "not finite".  Blank lines and headers are skipped.  Raises `UserError` with the line's number.
    """
    with as_user_error(f"cannot read {file} ({{why}}); check the path", OSError, UnicodeDecodeError):
        lines = file.read_text(encoding="utf-8").split("\n")  # `splitlines` would also split at U+2028 in a text
    for number, line in enumerate(lines, start=1):
        place = f"{file} line {number}"
        with as_user_error(f"{place} is not JSON ({{why}}); repair or remove it", ValueError):
            row = json.loads(line) if line.strip() else {"kind": "blank"}
        if not isinstance(row, dict):
            raise UserError(f"{place} is not a JSON object; expected completion and solution")
        if row.get("kind") in ("header", "blank"):
            continue
        if "text" in row and "solution" not in row:
            raise UserError(f"{place} has no solution: it is of an older run; `minirft eval` scores it")
        completion, solution = row.get("completion", row.get("text")), row.get("solution")
        if not isinstance(completion, str) or not isinstance(solution, str):
            raise UserError(f"{place}: completion and solution must both be text; got {sorted(row)}")
        with as_user_error(f"{place}: {{why}}", UserError):
            score = reward(completion, solution)
        values = score.parts | {"total": score.total}
        failure = score.failure if all(map(math.isfinite, values.values())) else "not finite"
        yield {name: v if math.isfinite(v) else None for name, v in values.items()} | {"failure": failure}


@dataclass(frozen=True)
class AuditFlags:
    """`AuditFlags` are the flags of `audit`."""

    task: Task
    """Kind of question."""
    reward: tyro.conf.Positional[str | None] = None
    """A reward function of your own, FILE.py:NAME."""
    variant: rewards.Variant = "strict"
    """Reading of the reward, if you name no function."""
    config: str | None = None
    """Use 50 held-out questions of this config, with their pictures, instead of a few made-up answers."""
    json: Switch = False
    """Print one JSON line for each kind of answer."""


def audit(args: list[str]) -> None:
    """Attack a reward: measure how much an answer can earn without looking at the picture."""
    flags = parse(AuditFlags, args, "minirft audit")
    samples = None
    if flags.config:
        config = runs.load_config(flags.config)
        if config.data.task != flags.task:
            wanted = config.data.task
            raise UserError(f"{flags.config} asks for {wanted}, not {flags.task}: give --task {wanted}")
        samples = data.held_out(replace(config, eval_samples=50))
    rows = rewards.audit(flags.task, rewards.reward_for(flags.task, flags.reward or flags.variant), samples)
    for row in rows:
        if flags.json:
            print(json.dumps(row))
        else:
            total, share = ("-" if row[key] is None else f"{row[key]:.2f}" for key in ("total", "share"))
            print(f"{row['kind']:<7} {row['answer']:<40} {total:>6} {share:>6} of honest")

"""The commands about rewards alone: score and audit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from minirft.commands.flags import Json, parse

if TYPE_CHECKING:
    from minirft.samples import Sample

TaskName = Literal["detection", "classification", "grounding", "presence"]
Variant = Literal["strict", "paper", "official"]


@dataclass(frozen=True)
class ScoreFlags:
    """What `score` takes."""

    file: tyro.conf.Positional[Path]
    """JSON lines, each {"completion": text, "solution": text}; or the completions.jsonl, held_out.jsonl or
    predictions.jsonl of a run."""
    task: TaskName
    """What was asked."""
    variant: Variant = "strict"
    """Reading of the reward."""
    json: Json = False
    """Accepted for symmetry: the output is JSON lines either way."""


def score(args: list[str]) -> None:
    """Score saved completions: JSON lines {"completion", "solution"} in, reward parts out."""
    flags = parse(ScoreFlags, args, "minirft score")
    from minirft.rewards import reading, score_rows

    for row in score_rows(read_rows(flags.file), reading(flags.task, flags.variant)):
        print(json.dumps(row))


@dataclass(frozen=True)
class AuditFlags:
    """What `audit` takes."""

    task: TaskName
    """What is asked."""
    reward: tyro.conf.Positional[str | None] = None
    """A function of your own, FILE.py:NAME."""
    variant: Variant = "strict"
    """Reading of the reward, where no function is given."""
    config: str | None = None
    """Take 50 held-out questions of this config, with their pictures, in place of a few made-up answers."""
    json: Json = False
    """Print one JSON line for each kind of answer."""


def audit(args: list[str]) -> None:
    """The red team: how much can an answer earn without looking at the picture?"""
    flags = parse(AuditFlags, args, "minirft audit")
    from minirft.rewards import audit, reward_for

    samples = _questions(flags.config, flags.task) if flags.config else None
    rows = audit(flags.task, reward_for(flags.task, flags.reward or flags.variant), samples)
    for row in rows:
        if flags.json:
            print(json.dumps(row))
        else:
            total, share = ("-" if row[key] is None else f"{row[key]:.2f}" for key in ("total", "share"))
            print(f"{row['kind']:<7} {row['answer']:<40} {total:>6} {share:>6} of honest")


def _questions(source: str, task: TaskName) -> list[Sample]:
    from minirft import UserError
    from minirft.data import held_out
    from minirft.runs import load_config

    config = load_config(source)
    if config.data.task != task:
        raise UserError(f"{source} asks for {config.data.task}, not {task}: give --task {config.data.task}")
    return held_out(replace(config, eval_samples=50))


def read_rows(file: Path) -> Iterator[Any]:
    """The values in a file of JSON lines, blank lines skipped.  Raises `UserError` with the line."""
    from minirft import UserError

    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {file} ({error}); check the path") from None
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line or "null")
        except ValueError as error:
            raise UserError(f"{file} line {number} is not JSON ({error}); repair or remove it") from None
        if isinstance(row, dict) and row.get("kind") != "header":
            if "text" in row and "solution" not in row:
                raise UserError(
                    f"{file} line {number} has no solution: it is of an older run; `minirft eval` scores it"
                )
            yield {"completion": row["text"], **row} if "text" in row else row
        elif row is not None and not isinstance(row, dict):
            raise UserError(f"{file} line {number} is not a JSON object; expected completion and solution")

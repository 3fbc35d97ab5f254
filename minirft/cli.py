"""`minirft COMMAND ...`: reads the command line, calls the room that does the work, prints what comes back.

A mistake of the user ends as one line on stderr and exit code 2, Ctrl-C as 130; a traceback means a bug
(or `MINIRFT_DEBUG=1`).  With `--json` stdout holds JSON and nothing else; progress goes to stderr.

Imports are inside the commands: torch and transformers take seconds, and `minirft --help` needs neither.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

if TYPE_CHECKING:
    from minirft.config import GRPOConfig

DetectionLike = Literal["detection", "classification", "grounding", "presence"]
Variant = Literal["strict", "paper", "official"]
AsJson = Annotated[bool, tyro.conf.arg(name="json", help="Print JSON on stdout and nothing else.")]


def main(args: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    args = sys.argv[1:] if args is None else args
    if not args or args[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if args[0] not in COMMANDS:
        near = difflib.get_close_matches(args[0], COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else "see minirft --help"
        print(f"minirft: no command {args[0]}; {hint}", file=sys.stderr)
        return 2
    return run(COMMANDS[args[0]], args[1:])


def run(command: Callable[[list[str]], None], args: list[str]) -> int:
    """Call `command` and turn what it raises into an exit code and one line on stderr."""
    from minirft.samples import UserError

    try:
        command(args)
    except UserError as error:
        if os.environ.get("MINIRFT_DEBUG"):
            raise
        print("minirft: " + " ".join(str(error).split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"minirft: {stop or 'stopped'}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as in `minirft score ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def usage() -> str:
    """The list of commands."""
    lines = [f"  {name:<9} {(command.__doc__ or '').splitlines()[0]}" for name, command in COMMANDS.items()]
    return "\n".join(
        ["usage: minirft COMMAND ...", "", *lines, "", "`minirft COMMAND --help` lists what a command takes."]
    )


# ------------------------------------------------------------------ commands


def demo(args: list[str]) -> None:
    """Evaluate, train by GRPO, evaluate again, and write a report: the main job on the embedded model."""

    def options(out: Path = Path("runs/demo"), seed: int = 0, steps: int | None = None, json: AsJson = False) -> None:
        """Evaluate the embedded model, train it by GRPO and by SFT, evaluate both, write OUT/report.html.

        Args:
            out: Folder for summary.json, report.html, the run logs and the pictures.
            seed: Seed of the training runs; the held-out questions are always the same.
            steps: Training steps, if not those of the shipped config tiny_detection.
        """
        from minirft.demo import run_demo

        _show(run_demo(out, seed=seed, steps=steps), json)

    parse(options, args, "minirft demo")


def train(args: list[str]) -> None:
    """Reinforcement fine-tuning (GRPO): minirft train CONFIG [--field value ...], or --resume RUN."""
    from minirft.train import train

    _train("train", train, args)


def sft(args: list[str]) -> None:
    """Supervised fine-tuning, the baseline, from the same config: minirft sft CONFIG [--field value ...]."""
    from minirft.sft import sft

    _train("sft", sft, args)


def evaluate(args: list[str]) -> None:
    """Held-out metrics of a run, or of the model that a config starts from: minirft eval RUN_or_CONFIG."""
    from minirft.loop import evaluate_policy, load_run_policy

    config, rest = _config(args, "minirft eval", dataclass(_EvalFlags))
    policy = load_run_policy(config, rest.run)
    _show(evaluate_policy(policy, config, mode=rest.mode), rest.json)


def score(args: list[str]) -> None:
    """Score saved completions: rows {"completion", "solution"} in, one row of reward parts each out."""

    def options(
        file: Annotated[Path, tyro.conf.Positional], task: DetectionLike, variant: Variant = "strict", json: AsJson = True
    ) -> None:
        """Score saved completions; writes one JSON line for each line read.

        Args:
            file: JSON lines, each {"completion": text, "solution": text}.
            task: What was asked.
            variant: Reading of the reward.
        """
        from minirft.rewards import reading

        reward = reading(task, variant)
        for row in _json_lines(file, ("completion", "solution")):
            scored = reward(row["completion"], row["solution"])
            print(json_line({**scored.parts, "total": scored.total, "failure": scored.failure}))

    parse(options, args, "minirft score")

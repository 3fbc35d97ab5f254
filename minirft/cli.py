"""`minirft COMMAND ...`: reads the command line, calls the room that does the work, prints what comes back.

A mistake of the user ends as one line on stderr and exit code 2, Ctrl-C as 130; a traceback means a bug
(or `MINIRFT_DEBUG=1`).  With `--json` stdout holds JSON and nothing else; progress goes to stderr.

Imports are inside the commands: torch and transformers take seconds, and `minirft --help` needs neither.
"""

from __future__ import annotations

import difflib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from minirft.flags import parse, parse_config, quieten_libraries

TaskName = Literal["detection", "classification", "grounding", "presence"]
Variant = Literal["strict", "paper", "official"]
Json = Annotated[bool, tyro.conf.arg(name="json"), tyro.conf.FlagCreatePairsOff]


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
    hint = "`minirft COMMAND --help` lists what a command takes."
    return "\n".join(["usage: minirft COMMAND ...", "", *lines, "", hint])


# ------------------------------------------------------------------ commands and what they take


@dataclass(frozen=True)
class DemoFlags:
    """What `demo` takes."""

    out: Path = Path("runs/demo")
    """Folder for summary.json, report.html, the two runs and the pictures."""
    seed: int = 0
    """Seed of the two training runs; the held-out questions stay the same."""
    config: str = "tiny_detection"
    """What to train: a TOML file or the name of a shipped one."""
    steps: int | None = None
    """Training steps of both runs, if not those of the config."""
    json: Json = False
    """Print summary.json on stdout."""


def demo(args: list[str]) -> None:
    """The main job on the embedded model: evaluate, GRPO, evaluate again, SFT beside it, a report."""
    flags = parse(DemoFlags, args, "minirft demo")
    quieten_libraries()
    from minirft.config import load_config
    from minirft.demo import headline, run_demo

    config = load_config(flags.config)
    config = replace(config, seed=flags.seed, steps=config.steps if flags.steps is None else flags.steps)
    summary = run_demo(config, flags.out)
    print(json.dumps(summary) if flags.json else f"{headline(summary)}\n\nreport: {flags.out / 'report.html'}")


@dataclass(frozen=True)
class TrainFlags:
    """What `train` and `sft` take besides the settings."""

    resume: Path | None = None
    """Folder of a run that stopped: go on exactly there."""
    json: Json = False
    """Print every logged row on stdout, one JSON line each."""


def train(args: list[str]) -> None:
    """Reinforcement fine-tuning (GRPO): CONFIG [--field value ...], or --resume RUN."""
    config, flags = parse_config(args, TrainFlags(), "minirft train")
    from minirft.train import train

    follow(train(config, flags.resume, progress=True), flags.json, flags.resume or config.out)


def sft(args: list[str]) -> None:
    """The supervised baseline from the same config: CONFIG [--field value ...], or --resume RUN."""
    config, flags = parse_config(args, TrainFlags(), "minirft sft")
    from minirft.sft import sft

    follow(sft(config, flags.resume, progress=True), flags.json, flags.resume or config.out)


@dataclass(frozen=True)
class EvalFlags:
    """What `eval` takes besides the settings."""

    mode: Literal["greedy", "sampled"] = "greedy"
    """Take the likeliest token, or sample at the temperature of training."""
    json: Json = False
    """Print the metrics as one JSON object."""


def evaluate(args: list[str]) -> None:
    """Held-out metrics of a run, or of the model that a config starts from: RUN_or_CONFIG."""
    config, flags = parse_config(args, EvalFlags(), "minirft eval")
    from minirft.feed import held_out
    from minirft.loop import evaluate_policy
    from minirft.runs import load_policy, load_run_policy

    samples = held_out(config)
    policy = load_run_policy(Path(args[0]), config) if Path(args[0]).is_dir() else load_policy(config)
    show(evaluate_policy(policy, config, samples, flags.mode), flags.json)


@dataclass(frozen=True)
class ScoreFlags:
    """What `score` takes."""

    file: tyro.conf.Positional[Path]
    """JSON lines, each {"completion": text, "solution": text}."""
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
    variant: Variant = "strict"
    """Reading of the reward."""
    json: Json = False
    """Print one JSON line for each kind of answer."""


def audit(args: list[str]) -> None:
    """The red team: how much can an answer earn without looking at the picture?"""
    flags = parse(AuditFlags, args, "minirft audit")
    from minirft.redteam import audit

    for row in audit(flags.task, flags.variant):
        if flags.json:
            print(json.dumps(row))
        else:
            total, share = ("-" if row[key] is None else f"{row[key]:.2f}" for key in ("total", "share"))
            print(f"{row['kind']:<7} {row['answer']:<40} {total:>6} {share:>6} of honest")


def pretrain(args: list[str]) -> None:
    """Rebuild the embedded checkpoint from nothing: about 35 minutes on two cores."""
    quieten_libraries()
    from minirft.tiny.pretrain import PretrainConfig, main

    def options(config: PretrainConfig, out: Path = Path("runs/base")) -> tuple[PretrainConfig, Path]:
        return config, out

    options.__annotations__ = {"config": Annotated[PretrainConfig, tyro.conf.arg(name="")], "out": Path}
    main(*parse(options, args, "minirft pretrain"))


@dataclass(frozen=True)
class ExportFlags:
    """What `export` takes."""

    run: tyro.conf.Positional[Path]
    """Folder of the run."""
    to: Literal["adapter", "merged"] = "merged"
    """An adapter for PEFT, or a whole model folder for transformers and vLLM."""
    out: Path | None = None
    """Folder to write; RUN/adapter or RUN/merged if left out."""


def export(args: list[str]) -> None:
    """Write what PEFT, transformers and vLLM load: RUN --to adapter|merged."""
    flags = parse(ExportFlags, args, "minirft export")
    quieten_libraries()
    from minirft.runs import export_run

    print(export_run(flags.run, flags.to, flags.out or flags.run / flags.to))


def version(args: list[str]) -> None:
    """Print the version."""
    from importlib import metadata

    print(metadata.version("minirft"))


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "demo": demo,
    "train": train,
    "sft": sft,
    "eval": evaluate,
    "score": score,
    "audit": audit,
    "pretrain": pretrain,
    "export": export,
    "version": version,
}


# ------------------------------------------------------------------ reading and printing


def read_rows(file: Path) -> Iterator[Any]:
    """The values in a file of JSON lines, blank lines skipped.  Raises `UserError` with the line."""
    from minirft.samples import UserError

    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {file} ({error}); check the path") from None
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line or "null")
        except ValueError as error:
            raise UserError(f"{file} line {number} is not JSON ({error}); repair or remove it") from None
        if isinstance(row, dict):
            yield row
        elif row is not None:
            raise UserError(f"{file} line {number} is not a JSON object; expected completion and solution")


def follow(rows: Iterable[dict[str, Any]], as_json: bool, folder: Path) -> None:
    """Let a run run: its rows as JSON lines, or at the end where to find it."""
    from minirft.runlog import plain

    for row in rows:
        if as_json:
            print(json.dumps(plain(row)), flush=True)
    if not as_json:
        print(f"done: {folder}")


def show(result: Any, as_json: bool, indent: str = "") -> None:
    """A result as one JSON object, or as indented lines."""
    if as_json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        if isinstance(value, dict):
            print(f"{indent}{name}")
            show(value, False, indent + "  ")
        else:
            print(f"{indent}{name:<20} {f'{value:.3f}' if isinstance(value, float) else value}")

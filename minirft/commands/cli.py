"""This module runs `minirft COMMAND ...`.

A mistake of the user ends with one line on stderr and exit code 2, and Ctrl-C with 130; a traceback means a bug (or
`MINIRFT_DEBUG=1`).  With `--json` stdout contains only JSON; progress goes to stderr.

Imports are inside the commands, because torch and transformers take seconds to load and `minirft --help` needs neither.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable

from minirft import UserError
from minirft.commands.asking import predict
from minirft.commands.bench import bench
from minirft.commands.data import data
from minirft.commands.experiment import experiment
from minirft.commands.fit import fit
from minirft.commands.learning import demo, evaluate, export, pretrain, sft, train
from minirft.commands.report import report
from minirft.commands.scoring import audit, score


def main(args: list[str] | None = None) -> int:
    """Run one command and return the exit code."""
    args = sys.argv[1:] if args is None else args
    if not args or args[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if args[0] not in COMMANDS:
        near = difflib.get_close_matches(args[0], COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else "see minirft --help"
        print(f"minirft: no command {args[0]}; {hint}", file=sys.stderr)
        return 2
    if sys.stderr.isatty() and args[0] != "version":
        print(f"minirft {args[0]}: loading", file=sys.stderr, flush=True)  # torch alone takes seconds
    return run(COMMANDS[args[0]], args[1:])


def run(command: Callable[[list[str]], None], args: list[str]) -> int:
    """Call `command` and turn what it raises into an exit code and one line on stderr."""
    try:
        command(args)
    except UserError as error:
        if os.environ.get("MINIRFT_DEBUG"):
            raise
        print("minirft: " + " ".join(str(error).split()), file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if os.environ.get("MINIRFT_DEBUG") or (error.name or "minirft").startswith("minirft"):
            raise
        print(f"minirft: the package {error.name} is missing: pip install {error.name}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"minirft: {stop or 'stopped'}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the program that reads our output has ended, as in `minirft score ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def usage() -> str:
    """Return the list of commands."""
    lines = [f"  {name:<10} {(command.__doc__ or '').splitlines()[0]}" for name, command in COMMANDS.items()]
    hint = "`minirft COMMAND --help` lists what a command takes."
    return "\n".join(["usage: minirft COMMAND ...", "", *lines, "", hint])


def version(args: list[str]) -> None:
    """Print the version."""
    from importlib import metadata

    print(metadata.version("minirft"))


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "demo": demo,
    "train": train,
    "sft": sft,
    "eval": evaluate,
    "predict": predict,
    "report": report,
    "score": score,
    "audit": audit,
    "data": data,
    "fit": fit,
    "bench": bench,
    "experiment": experiment,
    "pretrain": pretrain,
    "export": export,
    "version": version,
}

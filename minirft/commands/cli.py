"""This module runs `minirft COMMAND ...`.

A mistake of the user ends with one line on stderr and exit code 2, and Ctrl-C with 130; a traceback means a bug (or
`MINIRFT_DEBUG=1`).  With `--json` stdout contains only JSON; progress goes to stderr.

Torch and transformers take seconds to load and `minirft --help` needs neither: the commands import rooms, which load
their files at first use.
"""

import difflib
import os
import sys
from collections.abc import Callable

from minirft import UserError
from minirft.commands.asking import predict
from minirft.commands.bench import bench
from minirft.commands.data import check, export_data, inspect, split
from minirft.commands.experiment import experiment
from minirft.commands.fit import fit
from minirft.commands.learning import demo, evaluate, export, pretrain, sft, train
from minirft.commands.report import report
from minirft.commands.scoring import audit, score


def main(args: list[str] | None = None) -> int:
    """Run one command and return the exit code."""
    args = sys.argv[1:] if args is None else args
    words = 2 if args[:1] == ["data"] else 1
    name, rest = " ".join(args[:words]), args[words:]
    if name.removeprefix("data").strip() in ("", "-h", "--help", "help"):
        print(usage())
        return 0
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else "see minirft --help"
        print(f"minirft: no command {name}; {hint}", file=sys.stderr)
        return 2
    if sys.stderr.isatty() and name != "version":
        print(f"minirft {name}: loading", file=sys.stderr, flush=True)  # torch alone takes seconds
    return run(COMMANDS[name], rest)


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
        print(f"minirft: {str(stop) or 'stopped'}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the program that reads our output has ended, as in `minirft score ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def usage() -> str:
    """Return the list of commands."""
    lines = [f"  {name:<12} {(command.__doc__ or '').splitlines()[0]}" for name, command in COMMANDS.items()]
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
    "data inspect": inspect,
    "data check": check,
    "data split": split,
    "data export": export_data,
    "fit": fit,
    "bench": bench,
    "experiment": experiment,
    "pretrain": pretrain,
    "export": export,
    "version": version,
}

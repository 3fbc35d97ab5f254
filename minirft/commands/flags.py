"""This module parses command lines into dataclasses with tyro, and turns every mistake into an error of one line."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from minirft import UserError, runs
from minirft.engine import quieten_libraries

S = TypeVar("S")
T = TypeVar("T")
Switch = Annotated[bool, tyro.conf.FlagCreatePairsOff]


def parse_config(args: list[str], flags: T, prog: str, **defaults: Any) -> tuple[runs.GRPOConfig, T]:
    """Parse `CONFIG [--field value ...]`; return the settings and the other flags.

    CONFIG is a shipped name, a TOML file or the folder of a run; with `--resume RUN` it may be left out.  `defaults`
    replace the values of CONFIG.
    """
    config, rest = named_config(args, prog)
    known = ", ".join(sorted(file.stem for file in runs.SHIPPED.glob("*.toml")))
    about = (
        f"CONFIG is a TOML file, the folder of a run, or a shipped name: {known}.  The help of a setting may name "
        "the source of a value: Paper (Visual-RFT, arXiv 2503.01785), Released (its authors' code, which differs), "
        "Measured (by us, on the embedded model)."
    )
    return parse_both(replace(config, **defaults), flags, rest, prog, about=about)


def named_config(args: list[str], prog: str) -> tuple[runs.GRPOConfig, list[str]]:
    """Load the config that the line begins with, or that of `--resume RUN`; return it with the other arguments."""
    source, rest = (args[0], args[1:]) if args and not args[0].startswith("-") else (value_of("--resume", args), args)
    if source is not None:
        return runs.run_config(Path(source)) if Path(source).is_dir() else runs.load_config(source), rest
    if not {"-h", "--help"} & set(args):
        raise UserError(f"{prog}: name a config first, as in `{prog} tiny_detection`")
    return runs.GRPOConfig(), rest


def parse_both(settings: S, flags: T, args: list[str], prog: str, name: str = "", about: str = "") -> tuple[S, T]:
    """Parse the fields of two dataclasses from one command line; `name` is a prefix for those of the first."""
    kinds = Annotated[type(settings), tyro.conf.arg(name=name)], Annotated[type(flags), tyro.conf.arg(name="")]
    return parse(tuple[kinds], args, prog, about, given=(settings, flags))


def value_of(flag: str, args: list[str]) -> str | None:
    """Return the value of one flag, before the rest of the line can be parsed.

    >>> value_of("--resume", ["--steps", "3", "--resume", "runs/a"]), value_of("--resume", ["--resume=runs/b"])
    ('runs/a', 'runs/b')
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(flag, dest="value", nargs="?")
    return parser.parse_known_args(args)[0].value


def parse(kind: Callable[..., T], args: list[str], prog: str, about: str = "", given: Any = tyro.MISSING_NONPROP) -> T:
    """Parse the command line into `kind`; `about` describes CONFIG, if the command takes one.

    `given` is the result of an empty line.  Raises `UserError` with one line in place of tyro's box.
    """
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            name = f"{prog} CONFIG" if about else prog
            parsed = tyro.cli(kind, args=args, prog=name, description=about, default=given)
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
        raise UserError(f"{one_line(box.getvalue())}; see {prog} --help") from None
    quieten_libraries()
    return parsed


def one_line(box: str) -> str:
    """Shorten an error that tyro prints to the problem and the nearest known flag.

    >>> one_line("Value error\\n---\\nError parsing --steps: invalid\\nliteral\\n---\\nArgument helptext: ...\\n")
    'Error parsing --steps: invalid literal'
    """
    text = re.sub(r"\x1b\[[0-9;]*m", "", box)
    sections: list[list[str]] = [[]]
    for line in (raw.strip(" │|") for raw in text.splitlines()):
        if line.startswith("╭") or (line and not line.strip("-─╰╯")):  # a title, or a rule between sections
            sections.append([])
        elif line:
            sections[-1].append(line)
    problem = " ".join(sections[min(1, len(sections) - 1)]).rstrip(".")
    near = next((part[1].split()[0] for part in sections if part[:1] == ["Perhaps you meant:"]), None)
    return f"{problem}; did you mean {near}?" if near else problem


def print_result(result: Any, as_json: bool, indent: str = "", beside: Any = None) -> None:
    """Print a result as one JSON object, or as indented lines, each with the base model's number from `beside`."""
    if as_json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        other = (beside or {}).get(name)
        if isinstance(value, dict) and value:
            print(f"{indent}{name}")
            print_result(value, False, indent + "  ", other)
            if name.endswith("_by_category") and None in value.values():
                print(f"{indent}  -: the category is in no held-out picture, so it has no AP")
        else:
            if isinstance(value, list):  # an interval
                value = " to ".join(f"{end:.3f}" for end in value)
            shown = "-" if value in (None, {}) else f"{value:.3f}" if isinstance(value, float) else value
            base = f"  (base {other:.3f})" if isinstance(other, float) else ""
            print(f"{indent}{name:<20} {shown}{base}")

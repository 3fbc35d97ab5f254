"""The command line in a notebook: a line as it is typed in a terminal, and all that it prints as the cell's output."""

from __future__ import annotations

import contextlib
import gc
import shlex
import sys

from minirft.commands import main


def terminal(line: str) -> None:
    """A command, "minirft ...", runs in this process, which saves the seconds of loading torch for each of them.

    Its errors and its bar go to the same output; an exit code other than 0 is told.

    >>> terminal("minirft nonsense")
    $ minirft nonsense
    minirft: no command nonsense; see minirft --help
    exit code 2
    """
    print(f"$ {line}")
    with contextlib.redirect_stderr(sys.stdout):
        code = main(shlex.split(line)[1:])
    gc.collect()  # a policy that a command has left: the next one may need the memory of the card
    if code:
        print(f"exit code {code}")

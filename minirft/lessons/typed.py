"""The command line in a notebook: a command runs as in a terminal, and its output is the output of the cell."""

from __future__ import annotations

import contextlib
import gc
import shlex
import sys

from minirft.commands import main


def terminal(line: str) -> None:
    """Run a command, "minirft ...", in this process, which saves the seconds of loading torch.

    Errors and progress bars go to the same output; an exit code other than 0 is printed.

    >>> terminal("minirft nonsense")
    $ minirft nonsense
    minirft: no command nonsense; see minirft --help
    exit code 2
    """
    print(f"$ {line}")
    with contextlib.redirect_stderr(sys.stdout):
        code = main(shlex.split(line)[1:])
    gc.collect()  # free the policy of this command: the next command may need the memory of the card
    if code:
        print(f"exit code {code}")

"""Cells of a notebook: predictions with a hidden answer, checks of the reader's code, and commands as in a terminal."""

import contextlib
import gc
import html
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets
import numpy as np
import torch
from IPython.display import HTML, display

from minirft.commands import main
from minirft.show import live

BOX = "border-left:4px solid #0072b2;padding:.4em 1em;margin:.3em 0;max-width:52em"


class Prediction:
    """A question with its options; `reveal` shows the right answer beside the reader's choice."""

    def __init__(self, question: str, options: Sequence[str], answer: str, because: str) -> None:
        if answer not in options:
            raise ValueError(f"the answer {answer!r} is not among the options {list(options)}")
        self.question, self.options, self.answer, self.because = question, list(options), answer, because
        self.buttons = ipywidgets.ToggleButtons(options=self.options, value=None, style={"button_width": "auto"})

    def _ipython_display_(self) -> None:
        question = _marked(self.question)
        listed = "".join(f"<li>{_marked(option)}</li>" for option in self.options)
        head = ipywidgets.HTML(f"<b>Predict</b>: {question}")
        folded = f"<details><summary>What holds, and why</summary>{self._truth()}</details>"
        stored = f"<b>Predict</b>, before you read on: {question}<ul>{listed}</ul>{folded}"
        live(ipywidgets.VBox([head, self.buttons]), f'<div style="{BOX}">{stored}</div>')

    def reveal(self) -> None:
        """Show the right answer and the reason, beside the reader's choice."""
        choice = self.buttons.value
        verdict = "" if choice is None else f"You said: {_marked(choice)}. {'✓' if choice == self.answer else '✗'} "
        display(HTML(f'<div style="{BOX}">{verdict}{self._truth()}</div>'))

    def _truth(self) -> str:
        return f"<b>{_marked(self.answer)}</b>. {_marked(self.because)}"


def _marked(text: str) -> str:
    """Escape a text for HTML; what is between backticks is code, as in Markdown."""
    return re.sub(r"`(.+?)`", r"<code>\1</code>", html.escape(text))


def predict(question: str, options: Sequence[str], answer: str, because: str) -> Prediction:
    """Ask the reader for a prediction; display it in one cell, and call its `reveal()` in a later cell."""
    return Prediction(question, options, answer, because)


def check(attempt: Callable[..., Any], oracle: Callable[..., Any], *cases: tuple[Any, ...]) -> bool:
    """Check that the reader's function equals `oracle`, to 1e-5, on every tuple of arguments.

    Returns False, with a message, while the function is unwritten (it returns None or ...).  Raises `AssertionError`
    with the first case that differs.

    >>> check(lambda x: ..., abs, (-1,))
    not written yet: replace the ... and run this cell again
    False
    >>> check(lambda x: max(x, -x), abs, (-1,), (2,))
    right, on 2 cases
    True
    """
    for case in cases:
        found = attempt(*case)
        if found is None or found is ...:
            print("not written yet: replace the ... and run this cell again")
            return False
        expected = oracle(*case)
        shown = ", ".join(map(repr, case))
        assert same(found, expected), f"for ({shown}) expected {expected!r}, and yours gives {found!r}"
    print(f"right, on {len(cases)} cases")
    return True


def same(value: Any, expected: Any) -> bool:
    """Return whether two values are equal; numbers and arrays to 1e-5."""
    if isinstance(expected, str):
        return value == expected
    plain = [x.detach() if isinstance(x, torch.Tensor) else x for x in (value, expected)]
    try:
        value, expected = (np.asarray(x, dtype=float) for x in plain)
    except (TypeError, ValueError):
        return bool(value == expected)
    return value.shape == expected.shape and np.allclose(value, expected, rtol=1e-5, atol=1e-5)


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

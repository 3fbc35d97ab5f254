"""Commands: each `minirft COMMAND` parses its flags, calls the room that does the work, and prints the result."""

from typing import TYPE_CHECKING

from minirft import lazily

if TYPE_CHECKING:
    from minirft.commands.cli import main

__getattr__, __all__ = lazily(__name__)

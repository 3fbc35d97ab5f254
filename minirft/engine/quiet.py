"""The libraries' own messages, switched off.  Nothing heavy is imported before it is called."""

from __future__ import annotations

import os


def quieten_libraries() -> None:
    """Loading bars and advice of the libraries would bury our one line."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()

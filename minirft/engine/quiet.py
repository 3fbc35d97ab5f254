"""This module switches the libraries' own messages off; it imports transformers only when it is called."""

import os


def quieten_libraries() -> None:
    """Switch off the libraries' progress bars and advice, which would hide our own messages."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()

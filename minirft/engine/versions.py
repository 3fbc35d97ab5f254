"""This module holds all differences between versions of transformers and peft; the rest of the package calls it.

Each choice depends on what the library offers, not on its version number: a build from source may have any number, and
the next release would need a new line here even without a change.
"""

import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLTextModel

try:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize
except ImportError:  # one class, that uses PIL
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import (
        Qwen2VLImageProcessor as Qwen2VLImageProcessorPil,
    )
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

__all__ = ["CACHE", "Qwen2VLImageProcessorPil", "quiet_peft", "recompute_layers", "smart_resize"]

# The keyword under which the language model takes a cache of keys and values: `model(**{CACHE: cache})`.  It is
# `past_key_values` up to transformers 5.23 and `cache` from 5.24 on.  A name that the model does not know is no error:
# it goes into **kwargs, and the cache stays empty.
CACHE = "cache" if "cache" in inspect.signature(Qwen2VLTextModel.forward).parameters else "past_key_values"


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Silence PEFT's warning inside a `with` block: it uses an old name of transformers when it adds adapters."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        yield


def recompute_layers(text: nn.Module) -> None:
    """Switch on gradient checkpointing for the language model alone: the backward pass computes its layers again.

    On the whole model it would also affect the frozen vision tower.
    """
    new_name = getattr(text, "activation_checkpointing_enable", None)
    (new_name or text.gradient_checkpointing_enable)({"use_reentrant": False})

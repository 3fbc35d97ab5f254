"""What differs between the versions of transformers and peft, in one place: everything else calls this file.

Each choice is made by what the library offers, never by its version number: a number says nothing of a build from
source, and the next release would need a line here even where nothing changed.
"""

from __future__ import annotations

import inspect

from torch import nn
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLTextModel

try:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize
except ImportError:  # one class, that uses PIL
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import (
        Qwen2VLImageProcessor as Qwen2VLImageProcessorPil,
    )
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

__all__ = ["CACHE", "Qwen2VLImageProcessorPil", "recompute_layers", "smart_resize"]

# The keyword under which the language model takes a cache of keys and values: `model(**{CACHE: cache})`.  It is
# `past_key_values` up to transformers 5.23 and `cache` from 5.24 on.  A name that the model does not know is no error:
# it goes into **kwargs, and the cache stays empty.
CACHE = "cache" if "cache" in inspect.signature(Qwen2VLTextModel.forward).parameters else "past_key_values"


def recompute_layers(text: nn.Module) -> None:
    """Turns gradient checkpointing on for the language model alone: its layers are computed again in the backward pass.

    On the whole model it would also hook the frozen vision tower.
    """
    new_name = getattr(text, "activation_checkpointing_enable", None)
    (new_name or text.gradient_checkpointing_enable)({"use_reentrant": False})

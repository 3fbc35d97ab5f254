"""The configurations of Qwen2-VL-2B and 7B: the shapes of all weights, without the weights.

Planning memory, or making a model of real size with random weights, needs only the shapes and no download.
Source of two of the JSON files beside this one: `config.json` of Qwen/Qwen2-VL-2B-Instruct and
Qwen/Qwen2-VL-7B-Instruct.  The sizes of "small" and "mid" are between these and the embedded model, whose tokenizer
they use.  They have 8 query heads on 2 key heads, and a vision tower of 4 layers of width 320, which costs 2.6
prefills, as in Qwen2-VL-2B.
"""

from __future__ import annotations

import json
from pathlib import Path

from transformers import Qwen2VLConfig

from minirft import UserError
from minirft.engine import HUB, resolve

RANDOM = ("small", "mid")  # models that exist with random weights only


def architecture(name: str) -> Qwen2VLConfig:
    """Return the configuration of a model by the names that `Policy.load` takes; 2B and 7B need no download.

    Raises `UserError` if the model does not exist, or is not a Qwen2-VL.

    >>> architecture("qwen2-vl-7b").text_config.hidden_size
    3584
    """
    short = {hub: known for known, hub in HUB.items()}.get(name, name)
    if short in (*HUB, *RANDOM):
        return Qwen2VLConfig(**json.loads(Path(__file__).with_name(f"{short}.json").read_text(encoding="utf-8")))
    source = resolve(name)
    try:
        config = Qwen2VLConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{name}: its configuration does not load ({reason})") from None
    if config.model_type != "qwen2_vl":
        raise UserError(f"{name} is a {config.model_type} model; minirft trains Qwen2-VL (qwen2_vl)")
    return config

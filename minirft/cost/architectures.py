"""The configurations of the models in `HUB`: the shapes of all weights, without the weights.

Planning memory, or making a model of real size with random weights, needs only the shapes and no download.
Source of the JSON files beside this one with a name from `HUB`: the `config.json` of that model; that of a Qwen3.5 is
read from its folder or the hub.  The sizes of "small"
and "mid" are between these and the embedded model, whose tokenizer they use.  They have 8 query heads on 2 key heads,
and a vision tower of 4 layers of width 320, which costs 2.6 prefills, as in Qwen2-VL-2B.
"""

from __future__ import annotations

import json
from pathlib import Path

from transformers import PreTrainedConfig

from minirft.engine import HUB, family_of, read_config, resolve

STORED = {file.stem: file for file in Path(__file__).parent.glob("*.json")}
RANDOM = ("small", "mid")  # models that exist with random weights only


def architecture(name: str) -> PreTrainedConfig:
    """Return the configuration of a model by the names that `Policy.load` takes; most of `HUB` need no download.

    Raises `UserError` if the model does not exist, or is of no known family.

    >>> architecture("qwen2-vl-7b").text_config.hidden_size
    3584
    """
    short = {hub: known for known, hub in HUB.items()}.get(name, name)
    if file := STORED.get(short):
        stored = json.loads(file.read_text(encoding="utf-8"))
        return family_of(stored.get("model_type", "qwen2_vl"), name).config_class(**stored)
    return read_config(resolve(name))

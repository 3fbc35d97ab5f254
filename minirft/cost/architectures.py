"""The configurations of the models in `HUB`: the shapes of all weights, without the weights.

Planning memory, or making a model of real size with random weights, needs only the shapes and no download.
Source of the JSON files beside this one with a name from `HUB`: the `config.json` of that model.  The sizes of "small"
and "mid" are between these and the embedded model, whose tokenizer they use.  They have 8 query heads on 2 key heads,
and a vision tower of 4 layers of width 320, which costs 2.6 prefills, as in Qwen2-VL-2B.
"""

from __future__ import annotations

import json
from pathlib import Path

from transformers import PreTrainedConfig

from minirft import UserError
from minirft.engine import HUB, family_of, read_config, resolve

RANDOM = ("small", "mid")  # models that exist with random weights only
UNCOUNTED = "{}: memory and work are not counted for layers that carry a state; train with few prompts a step first"


def architecture(name: str) -> PreTrainedConfig:
    """Return the configuration of a model by the names that `Policy.load` takes; those of `HUB` need no download.

    Raises `UserError` if the model does not exist, is of no known family, or has layers that carry a state: this room
    has no formulas for their memory and work.

    >>> architecture("qwen2-vl-7b").text_config.hidden_size
    3584
    """
    short = {hub: known for known, hub in HUB.items()}.get(name, name)
    if short in (*HUB, *RANDOM):
        file = Path(__file__).with_name(f"{short}.json")
        if not file.is_file():
            raise UserError(UNCOUNTED.format(name))
        stored = json.loads(file.read_text(encoding="utf-8"))
        return family_of(stored.get("model_type", "qwen2_vl"), name).config_class(**stored)
    config = read_config(resolve(name))
    if "linear_attention" in (getattr(config.get_text_config(), "layer_types", None) or ()):
        raise UserError(UNCOUNTED.format(name))
    return config

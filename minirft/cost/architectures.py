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

from minirft import UserError
from minirft.engine import HUB, check_layers, family_of, resolve

RANDOM = ("small", "mid")  # models that exist with random weights only


def architecture(name: str) -> PreTrainedConfig:
    """Return the configuration of a model by the names that `Policy.load` takes; most of `HUB` need no download.

    Raises `UserError` if the model does not exist, or is of no known family.

    >>> architecture("qwen2-vl-7b").text_config.hidden_size
    3584
    """
    short = {hub: known for known, hub in HUB.items()}.get(name, name)
    file = Path(__file__).with_name(f"{short.rpartition('/')[2]}.json")
    if short in (*HUB, *RANDOM) and file.is_file():
        stored = json.loads(file.read_text(encoding="utf-8"))
        return family_of(stored.get("model_type", "qwen2_vl"), name).config_class(**stored)
    source = resolve(name)
    try:
        stored, _ = PreTrainedConfig.get_config_dict(source)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{name}: its configuration does not load ({reason})") from None
    family = family_of(stored.get("model_type"), name)
    config = family.config_class.from_dict(stored)
    check_layers(config, family, name)
    return config

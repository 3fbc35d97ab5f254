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
from minirft.engine import HUB, check_layers, family_of, resolve

RANDOM = ("small", "mid")  # models that exist with random weights only
UNCOUNTED = "memory and time of layers that carry a state are not counted; train with few prompts a step first"


def architecture(name: str) -> PreTrainedConfig:
    """Return the configuration of a model by the names that `Policy.load` takes; those of `HUB` need no download.

    Raises `UserError` if the model does not exist, is of no known family, or has layers that carry a state: this room
    has no formulas for their memory and work.

    >>> architecture("qwen2-vl-7b").text_config.hidden_size
    3584
    """
    if (name in HUB and not _stored(name).is_file()) or carries_state(config := configuration(name)):
        raise UserError(f"{name}: {UNCOUNTED}")
    return config


def configuration(name: str) -> PreTrainedConfig:
    """Return what `architecture` returns, also for layers that carry a state (Qwen3.5: from its folder or the hub)."""
    short = {hub: known for known, hub in HUB.items()}.get(name, name)
    if short in (*HUB, *RANDOM) and _stored(short).is_file():
        stored = json.loads(_stored(short).read_text(encoding="utf-8"))
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


def carries_state(config: PreTrainedConfig) -> bool:
    """Return whether some layers carry a state from token to token, as the gated delta nets of Qwen3.5 do."""
    return "linear_attention" in (getattr(config.get_text_config(), "layer_types", None) or ())


def _stored(name: str) -> Path:
    return Path(__file__).with_name(f"{name}.json")

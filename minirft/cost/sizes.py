"""The sizes of a model and a step, in weights and tokens, which the memory ledger multiplies.

Letters: S prompt tokens, L packed tokens of a pass, R its completions, D hidden, I the width inside the MLP, A and K
the widths of a token's queries and keys, V vocabulary, E and M the widths of the vision tower and inside its MLP, b
bytes of a number.

The shapes of all weights need only a model's configuration, no weights and no download.  Source of the JSON files
beside this one with a name from `HUB`: the `config.json` of that model; that of a Qwen3.5 is read from its folder or
the hub.  The sizes of "small" and "mid" are between these and the embedded model, whose tokenizer they use.  They have
8 query heads on 2 key heads, and a vision tower of 4 layers of width 320, which costs 2.6 prefills, as in Qwen2-VL-2B.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig

from minirft.engine import HUB, family_of, read_config, resolve
from minirft.runs import GRPOConfig

NF4 = 1 / 2 + 1 / 64 + 4 / (64 * 256)
"""Bytes of a 4-bit weight: 4 bits, an 8-bit scale for each 64 weights, and a float32 scale for each 256 scales."""
DEFAULT_MAX_PIXELS = 12845056
"""Largest picture of Qwen2-VL's own `preprocessor_config.json`."""
STORED = {file.stem: file for file in Path(__file__).parent.glob("*.json")}


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


@dataclass(frozen=True)
class Shape:
    """The sizes of a step in the worst case of the settings."""

    model: PreTrainedConfig
    config: GRPOConfig
    b: int  # bytes of a number in weights and activations
    queries: int  # A, the width of the queries of one token
    keys: int  # K, that of its keys
    state_layers: int  # layers that carry a state instead of keys and values
    prompt: int  # S, tokens
    pictured: int  # tokens of the largest picture
    rows: int  # R, completions in a pass
    prompts: int  # prompts of these completions
    together: int  # prompts decoded together
    learning: int  # weights that learn
    weight_bytes: int  # bytes of one of them

    @classmethod
    def of(cls, model: PreTrainedConfig, config: GRPOConfig) -> Shape:
        """Compute the worst case of the settings.  `dtype = "auto"` counts 2 bytes, or 4 if all weights are trained."""
        lora = config.train == "lora"
        auto = 2 if lora else 4
        b = {"auto": auto, "float32": 4}.get(config.dtype, 2)
        area = (model.vision_config.patch_size * model.vision_config.spatial_merge_size) ** 2
        g, everything = config.group_size, config.prompts_per_step * config.group_size
        rows = min(config.rows_per_pass or everything, everything)
        queries, keys = head_widths(model)
        passes = [(start, min(start + rows, everything) - 1) for start in range(0, everything, rows)]
        return cls(
            model=model,
            config=config,
            b=b,
            queries=queries,
            keys=keys,
            state_layers=sum(map(carries_state, mixers(model))),
            prompt=config.max_prompt_length,
            pictured=min((config.max_pixels or DEFAULT_MAX_PIXELS) // area, config.max_prompt_length),
            rows=rows,
            prompts=max(last // g - first // g + 1 for first, last in passes),
            together=min(config.prompts_per_decode or config.prompts_per_step, config.prompts_per_step),
            learning=sum((adapter_weights if lora else full_weights)(model, config).values()),
            weight_bytes=4 if lora else b,
        )

    @property
    def patches(self) -> int:
        """Return the patches of the largest picture."""
        return self.pictured * self.model.vision_config.spatial_merge_size**2

    @property
    def packed(self) -> int:
        """Return L, the tokens of a packed pass."""
        return self.prompts * self.prompt + self.fresh

    @property
    def fresh(self) -> int:
        """Return the completion tokens of a packed pass."""
        return self.rows * self.config.max_completion_length

    @property
    def seen(self) -> int:
        """Return the keys of a packed pass, with a copy of the prompt's keys for every completion."""
        return self.rows * (self.prompt + self.config.max_completion_length)

    @property
    def attention_layers(self) -> int:
        """Return the number of layers with keys and values."""
        return self.model.text_config.num_hidden_layers - self.state_layers

    @property
    def embedded(self) -> int:
        """Return the width of an embedding of the prompt, with the extra features of a picture token."""
        levels = family_of(self.model.model_type, self.config.model).levels(self.model)
        return (1 + levels) * self.model.text_config.hidden_size


# ------------------------------------------------------------------ weights


def skeleton(model: PreTrainedConfig) -> Any:
    """Build the model without storage; the classes of its family define its layers and their widths."""
    return _skeleton(model.model_type, model.to_json_string(use_diff=False))


@lru_cache(maxsize=32)
def _skeleton(model_type: str, config: str) -> Any:
    family = family_of(model_type, "the configuration")
    with torch.device("meta"):
        return family.model_class(family.config_class.from_dict(json.loads(config)))


def head_widths(model: PreTrainedConfig) -> tuple[int, int]:
    """Return A and K of one layer; A is heads * head width, which can differ from D."""
    attention = first_mixer(model)
    return attention.o_proj.in_features, attention.k_proj.out_features


def first_mixer(model: PreTrainedConfig, stateful: bool = False) -> Any:
    """Return the first attention of the language model, or its first layer with a state, without storage."""
    return next(mixer for mixer in mixers(model) if carries_state(mixer) == stateful)


def mixers(model: PreTrainedConfig) -> list[Any]:
    """List what mixes tokens in each layer, without storage: attention, or a gated delta net, which carries a state."""
    layers = skeleton(model).model.language_model.layers
    return [layer.self_attn if hasattr(layer, "self_attn") else layer.linear_attn for layer in layers]


def carries_state(mixer: Any) -> bool:
    """Check whether a layer carries a state from token to token instead of keys and values."""
    return not hasattr(mixer, "k_proj")


def state_numbers(mixer: Any) -> int:
    """Count the numbers of the state of one row in such a layer: a matrix per head."""
    return mixer.num_v_heads * mixer.head_k_dim * mixer.head_v_dim


def tower_widths(model: PreTrainedConfig) -> tuple[int, int]:
    """Return E and M of the vision tower."""
    tower = skeleton(model).model.visual
    return tower.patch_embed.proj.out_channels, max(layer.out_features for layer in linears(tower.blocks[0].mlp))


def linears(module: nn.Module) -> list[nn.Linear]:
    """List the linear layers of a module."""
    return [layer for layer in module.modules() if isinstance(layer, nn.Linear)]


def count_weights(model: PreTrainedConfig) -> dict[str, dict[str, int]]:
    """Count the weights of each part, those of linear layers (which can have 4 bits) apart from the others."""
    core = skeleton(model)
    parts = {
        "language linears": [layer.weight for layer in linears(core.model.language_model)],
        "vision tower": list(core.model.visual.parameters()),
        "embedding": [core.get_input_embeddings().weight],
        "head": [] if core.lm_head.weight is core.get_input_embeddings().weight else [core.lm_head.weight],
    }
    counts = {part: sum(weight.numel() for weight in weights) for part, weights in parts.items()}
    tower = sum(layer.weight.numel() for layer in linears(core.model.visual))
    return {
        "language linears": {"linear": counts["language linears"]},
        "vision tower": {"linear": tower, "other": counts["vision tower"] - tower},
        "embedding": {"other": counts["embedding"]},
        "head": {"other": counts["head"]},
        "norms and biases": {"other": sum(weight.numel() for weight in core.parameters()) - sum(counts.values())},
    }


def full_weights(model: PreTrainedConfig, config: GRPOConfig) -> dict[str, int]:
    """Count the weights of each part that learn if all weights are trained."""
    parts = {name: sum(kinds.values()) for name, kinds in count_weights(model).items()}
    return {name: n for name, n in parts.items() if config.train_vision or name != "vision tower"}


def adapter_weights(model: PreTrainedConfig, config: GRPOConfig) -> dict[str, int]:
    """Count the adapters' weights of each part: r (inputs + outputs) for every adapted linear layer."""
    adapted = config.lora.part(config.train_vision)
    widths = adapter_widths(model).items()
    return {part: config.lora.r * width * (adapted in (part, "all")) for part, width in widths}


def adapter_widths(model: PreTrainedConfig) -> dict[str, int]:
    """Sum inputs + outputs of the linear layers of each part."""
    parts = {"language": skeleton(model).model.language_model, "vision": skeleton(model).model.visual}
    return {name: sum(x.in_features + x.out_features for x in linears(part)) for name, part in parts.items()}


def tower_learns(config: GRPOConfig) -> bool:
    """Check whether any weight of the vision tower learns."""
    return config.train_vision or (config.train == "lora" and config.lora.targets != "language")

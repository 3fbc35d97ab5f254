"""The sizes of a model and a step, in weights and tokens, which the memory ledger multiplies.

Letters: S prompt tokens, L packed tokens of a pass, R its completions, D hidden, I the width inside the MLP, K the
width of a token's keys, V vocabulary, E and M the hidden and inner widths of the vision tower, b bytes of a number.
"""

from __future__ import annotations

from dataclasses import dataclass

from transformers import Qwen2VLConfig

from minirft.runs import GRPOConfig

NF4 = 1 / 2 + 1 / 64 + 4 / (64 * 256)
"""Bytes of a 4-bit weight: 4 bits, an 8-bit scale for each 64 weights, and a float32 scale for each 256 scales."""
DEFAULT_MAX_PIXELS = 12845056
"""Largest picture of Qwen2-VL's own `preprocessor_config.json`."""


@dataclass(frozen=True)
class Shape:
    """The sizes of a step in the worst case of the settings."""

    model: Qwen2VLConfig
    config: GRPOConfig
    b: int  # bytes of a number in weights and activations
    prompt: int  # S, tokens
    patches: int  # of the largest picture, before merging
    rows: int  # R, completions in a pass
    prompts: int  # prompts of these completions
    together: int  # prompts decoded together
    learning: int  # weights that learn
    weight_bytes: int  # bytes of one of them

    @classmethod
    def of(cls, model: Qwen2VLConfig, config: GRPOConfig) -> Shape:
        """Compute the worst case of the settings.  `dtype = "auto"` counts 2 bytes, or 4 if all weights are trained."""
        lora = config.train == "lora"
        auto = 2 if lora else 4
        b = {"auto": auto, "float32": 4}.get(config.dtype, 2)
        pixels = config.max_pixels or DEFAULT_MAX_PIXELS
        merge = model.vision_config.spatial_merge_size**2
        pictured = min(pixels // (model.vision_config.patch_size**2 * merge), config.max_prompt_length)
        g, everything = config.group_size, config.prompts_per_step * config.group_size
        rows = min(config.rows_per_pass or everything, everything)
        passes = [(start, min(start + rows, everything) - 1) for start in range(0, everything, rows)]
        return cls(
            model=model,
            config=config,
            b=b,
            prompt=config.max_prompt_length,
            patches=pictured * merge,
            rows=rows,
            prompts=max(last // g - first // g + 1 for first, last in passes),
            together=min(config.prompts_per_decode or config.prompts_per_step, config.prompts_per_step),
            learning=sum(adapter_weights(model, config).values()) if lora else _full_weights(model, config),
            weight_bytes=4 if lora else b,
        )

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
    def keys(self) -> int:
        """Return K, the width of the keys of one token."""
        return key_width(self.model)


# ------------------------------------------------------------------ weights


def key_width(model: Qwen2VLConfig) -> int:
    """Return K, the width of the keys of one token in one layer."""
    text = model.text_config
    return text.hidden_size // text.num_attention_heads * text.num_key_value_heads


def count_weights(model: Qwen2VLConfig) -> dict[str, dict[str, int]]:
    """Count the weights of each part, those of linear layers (which can have 4 bits) apart from the others."""
    text, vision = model.text_config, model.vision_config
    d, i, e = text.hidden_size, text.intermediate_size, vision.embed_dim
    k = key_width(model)
    m, merged = int(e * vision.mlp_ratio), e * vision.spatial_merge_size**2
    patch = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    layer, block = 2 * d * (d + k) + 3 * d * i, 4 * e * e + 2 * e * m
    return {
        "language linears": {"linear": text.num_hidden_layers * layer},
        "vision tower": {
            "linear": vision.depth * block + merged * (merged + d),
            "other": vision.depth * (4 * e + e + m + 4 * e) + patch * e + 2 * e + merged + d,
        },
        "embedding": {"other": text.vocab_size * d},
        "head": {"other": 0 if model.tie_word_embeddings else text.vocab_size * d},
        "norms and biases": {"other": text.num_hidden_layers * (d + 2 * k + 2 * d) + d},
    }


def adapter_weights(model: Qwen2VLConfig, config: GRPOConfig) -> dict[str, int]:
    """Count the adapters' weights of each part: r (inputs + outputs) for every adapted linear layer."""
    return {part: config.lora.r * width * (part in adapted(config)) for part, width in adapter_widths(model).items()}


def adapter_widths(model: Qwen2VLConfig) -> dict[str, int]:
    """Sum inputs + outputs of the linear layers of each part."""
    text, vision = model.text_config, model.vision_config
    d, i, e, k = text.hidden_size, text.intermediate_size, vision.embed_dim, key_width(model)
    m, merged = int(e * vision.mlp_ratio), e * vision.spatial_merge_size**2
    return {
        "language": text.num_hidden_layers * (2 * (d + d) + 2 * (d + k) + 3 * (d + i)),
        "vision": vision.depth * (4 * e + 2 * e + 2 * (e + m)) + 2 * merged + merged + d,
    }


def adapted(config: GRPOConfig) -> tuple[str, ...]:
    """Return the parts of the model that have adapters."""
    if config.lora.targets == "all" or (config.train_vision and config.lora.targets == "language"):
        return "language", "vision"
    return (config.lora.targets,)


def _full_weights(model: Qwen2VLConfig, config: GRPOConfig) -> int:
    parts = {name: sum(kinds.values()) for name, kinds in count_weights(model).items()}
    return sum(n for name, n in parts.items() if config.train_vision or name != "vision tower")

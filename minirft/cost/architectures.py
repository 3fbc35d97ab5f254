"""Qwen2-VL-2B and 7B as configurations: the shapes of every weight, without the weights.

Who plans memory, or builds a model of real size with random weights, needs shapes only and no download.
Source: `config.json` of Qwen/Qwen2-VL-2B-Instruct and Qwen/Qwen2-VL-7B-Instruct.
"""

from __future__ import annotations

from transformers import Qwen2VLConfig

from minirft import UserError
from minirft.engine import HUB, resolve

_VISION = {
    "depth": 32,
    "embed_dim": 1280,
    "num_heads": 16,
    "mlp_ratio": 4,
    "in_channels": 3,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
_LANGUAGE = {
    "num_hidden_layers": 28,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    "bos_token_id": 151643,
    "eos_token_id": 151645,
}
_TOKENS = {
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
}
_SIZES = {
    "qwen2-vl-2b": {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
    "qwen2-vl-7b": {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
        "tie_word_embeddings": False,
    },
}


def architecture(name: str) -> Qwen2VLConfig:
    """The configuration of a model, by the names `Policy.load` takes; 2B and 7B need no download.

    Raises `UserError` when there is no such model, or it is not a Qwen2-VL.

    >>> architecture("qwen2-vl-7b").text_config.hidden_size
    3584
    """
    short = {hub: known for known, hub in HUB.items()}.get(name, name)
    if short in _SIZES:
        return real_size(short)
    source = resolve(name)
    try:
        config = Qwen2VLConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{name}: its configuration does not load ({reason})") from None
    if config.model_type != "qwen2_vl":
        raise UserError(f"{name} is a {config.model_type} model; minirft trains Qwen2-VL (qwen2_vl)")
    return config


def real_size(name: str) -> Qwen2VLConfig:
    """The built-in configuration of "qwen2-vl-2b" or "qwen2-vl-7b"."""
    size = _SIZES[name]
    tied = size["tie_word_embeddings"]
    return Qwen2VLConfig(
        text_config={**_LANGUAGE, **size},
        vision_config={**_VISION, "hidden_size": size["hidden_size"]},
        tie_word_embeddings=tied,
        **_TOKENS,
    )

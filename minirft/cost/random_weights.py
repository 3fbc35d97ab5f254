"""A model folder of real size with random weights, for benchmarks of time and memory without a download.

Time and memory do not depend on the values of the weights, if no activation overflows and no rollout ends at its first
token.  Tensors are drawn and written one after another, so 7B needs no more memory than its largest tensor.

Linear weights have standard deviation 1 / √(inputs), 0.026 at the 1,536 inputs of 2B, so a layer keeps the size of the
activations at any width.  Weights of queries and keys are twice as large, so that attention prefers some tokens.  Plain
random attention averages over the whole context, which hardly changes from token to token, and greedy decoding then
repeats one token.  Token embeddings of 0.02 are small beside the output of the layers, so a head tied to them does not
repeat the last token either.

Biases of queries and keys add 1e4 to every raw score, as in Qwen2 (transformers pull request 33317).  This does not
change a softmax, but it changes arithmetic that rounds scores to 16 bits.  The weights of such a bias's row are divided
by 100: multiplied by a bias of 100 they would choose one key for every query, and greedy decoding would repeat a token.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)

from minirft import UserError
from minirft.cost.architectures import architecture
from minirft.engine import Qwen2VLImageProcessorPil
from minirft.tiny import CHAT_TEMPLATE

# Qwen2-VL's control tokens in the order of their ids, 151643 to 151656.
CONTROL = [
    f"<|{name}|>"
    for name in (
        *("endoftext", "im_start", "im_end", "object_ref_start", "object_ref_end", "box_start", "box_end"),
        *("quad_start", "quad_end", "vision_start", "vision_end", "vision_pad", "image_pad", "video_pad"),
    )
]
EMBEDDING_STD = 0.02
RAW_SCORE = 1e4
"""The biases add this to every unscaled score, on the slowest rotary pair, which hardly rotates over a prompt."""
PIXELS = (56 * 56, 28 * 28 * 16384)  # smallest and largest picture of Qwen2-VL's own preprocessor_config.json


def write_random(
    folder: Path,
    name: str,
    seed: int = 0,
    tokenizer: PreTrainedTokenizerBase | None = None,
    device: str = "cpu",
) -> Path:
    """Write a random bfloat16 model of the architecture `name` into `folder`, as `Policy.load` takes it.

    `name` is what `architecture` takes ("qwen2-vl-2b": 4.4 GB on disk, "qwen2-vl-7b": 16.6 GB).  Every tensor has its
    own file.  The tokenizer is `placeholder_tokenizer` if none is given.  Numbers are drawn on `device`: a processor
    needs two minutes for those of 7B, a card seconds.
    Raises `UserError` for an unknown architecture, or one of another family.
    """
    config = architecture(name)
    if not isinstance(config, Qwen2VLConfig):
        raise UserError(f"random weights, and so bench, are of Qwen2-VL alone, and {name} is {config.model_type}")
    folder.mkdir(parents=True, exist_ok=True)
    _write_weights(folder, random_weights(config, seed, device))
    config.architectures, config.dtype = ["Qwen2VLForConditionalGeneration"], torch.bfloat16
    config.save_pretrained(folder)
    tokenizer = tokenizer or placeholder_tokenizer(config)
    tokenizer.save_pretrained(folder)
    _image_processor(config).save_pretrained(folder)
    ends = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    GenerationConfig(eos_token_id=ends, pad_token_id=tokenizer.pad_token_id).save_pretrained(folder)
    return folder


def _write_weights(folder: Path, weights: Iterable[tuple[str, Tensor]]) -> None:
    places: dict[str, str] = {}
    for name, weight in weights:
        places[name] = f"model-{len(places) + 1:05}.safetensors"
        save_file({name: weight}, folder / places[name], metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def random_weights(config: Qwen2VLConfig, seed: int, device: str = "cpu") -> Iterator[tuple[str, Tensor]]:
    """Yield every weight of the architecture, bfloat16 on the CPU, under the names of the published models."""
    generator = torch.Generator(device).manual_seed(seed)
    with torch.device("meta"):
        shapes = Qwen2VLForConditionalGeneration(config).state_dict()
    width = config.text_config.hidden_size // config.text_config.num_attention_heads
    for name, meta in shapes.items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        weight = torch.empty(meta.shape, dtype=torch.bfloat16, device=device)
        if weight.dim() == 1:
            weight.fill_(0.0 if name.endswith("bias") else 1.0)
        else:
            weight.normal_(std=_std(name, weight.numel() // len(weight)), generator=generator)
        raise_scores(name, weight, width)
        yield name.replace("model.visual.", "visual.").replace("model.language_model.", "model."), weight.cpu()


def raise_scores(name: str, weight: Tensor, width: int, raw: float = RAW_SCORE) -> None:
    """Change the bias of a query or key projection in place, so that every score rises by `raw`; others are kept.

    `weight` belongs to heads of `width` numbers.  The bias is √raw on the slowest rotary pair of each head, and the
    weights of its rows are divided by √raw.

    >>> weight = torch.ones(8, 2)
    >>> raise_scores("layers.0.self_attn.k_proj.weight", weight, width=4)
    >>> weight[:, 0].tolist()
    [1.0, 0.009999999776482582, 1.0, 1.0, 1.0, 0.009999999776482582, 1.0, 1.0]
    """
    pair = width // 2 - 1
    if name.endswith(("q_proj.bias", "k_proj.bias")):  # the tower's have other names
        weight.view(-1, width)[:, pair] = raw**0.5
    elif name.endswith(("q_proj.weight", "k_proj.weight")):
        weight.view(-1, width, weight.shape[1])[:, pair] /= raw**0.5


def _std(name: str, inputs: int) -> float:
    if "embed_tokens" in name:
        return EMBEDDING_STD
    return inputs**-0.5 * (2.0 if "q_proj" in name or "k_proj" in name else 1.0)


def placeholder_tokenizer(config: Qwen2VLConfig) -> PreTrainedTokenizerFast:
    """Make a tokenizer of bytes, placeholders, and the control tokens at the ids of the configuration.

    For 2B and 7B it has 151,657 tokens, as many as the real tokenizer.
    """
    ends = config.text_config.eos_token_id
    control = {
        ends - 2: "<|endoftext|>",
        ends - 1: "<|im_start|>",
        ends: "<|im_end|>",
        config.vision_start_token_id: "<|vision_start|>",
        config.vision_end_token_id: "<|vision_end|>",
        config.image_token_id: "<|image_pad|>",
        config.video_token_id: "<|video_pad|>",
    }
    gaps = [index for index in range(ends - 2, max(control)) if index not in control]
    control |= dict(zip(gaps, (token for token in CONTROL if token not in control.values()), strict=False))
    alphabet = dict(enumerate(sorted(pre_tokenizers.ByteLevel.alphabet())))
    names = {index: f"<{index}>" for index in range(max(control) + 1)} | alphabet | control
    raw = Tokenizer(models.BPE(vocab={token: index for index, token in names.items()}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens([AddedToken(control[i], special=True, normalized=False) for i in sorted(control)])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def _image_processor(config: Qwen2VLConfig) -> Qwen2VLImageProcessorPil:
    vision = config.vision_config
    return Qwen2VLImageProcessorPil(
        size=dict(zip(("shortest_edge", "longest_edge"), PIXELS, strict=True)),
        patch_size=vision.patch_size,
        temporal_patch_size=vision.temporal_patch_size,
        merge_size=vision.spatial_merge_size,
    )

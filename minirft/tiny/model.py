"""A new tiny Qwen2-VL with random weights: config, tokenizer, chat template, picture processor.

The tokenizer is byte-level, as Qwen2's is, so any text can be encoded.  In place of learned merges it
has one token for each word, number and sentence of the tiny world; a prompt of the paper's, 550
characters long, becomes 35 tokens, 16 of them the picture's.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2VLConfig, Qwen2VLForConditionalGeneration

from minirft.engine import Qwen2VLImageProcessorPil
from minirft.rewards import prompts
from minirft.tiny.annotators import CAREFUL_START, CONFIDENCES, QUICK_THOUGHT, THEREFORE, VERDICTS
from minirft.tiny.lookalikes import FAMILIES
from minirft.tiny.scenes import COLOURS, GRID, SHAPES, SIDE
from minirft.tiny.world import EXTREMES

PATCH = 14  # pixels; 2 x 2 patches merge into one picture token of 28 x 28 pixels
SPECIAL = {
    "pad": "<|endoftext|>",
    "start": "<|im_start|>",
    "end": "<|im_end|>",
    "vision_start": "<|vision_start|>",
    "vision_end": "<|vision_end|>",
    "image": "<|image_pad|>",
    "video": "<|video_pad|>",
}
SYSTEM = "You are a helpful assistant."
CHAT_TEMPLATE = """\
{%- if messages[0].role != 'system' %}<|im_start|>system
You are a helpful assistant.<|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{% if message.content is string %}{{ message.content }}
{%- else %}{% for part in message.content %}
{%- if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}
{%- endfor %}{% endif %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def phrases() -> Iterator[str]:
    """Every string of the tiny world that is one token."""
    blank = "\0"
    for template in (prompts.detection, prompts.grounding, prompts.presence):
        yield from template(blank).split(blank)
    yield from (prompts.classification(family) for family in FAMILIES)
    yield from (f"system\n{SYSTEM}", "user\n", "assistant\n", "\n")
    yield from ("<think>", "</think>", " <answer>", "<answer>", "</answer>", "No Objects", "yes", "no")
    yield from ("[{'Position': [", "], 'Confidence': ", "}, {'Position': [", "}]", "[]", "(", ",", "),(", ")", ", ")
    numbers = [str(round(k * 1000 / (SIDE // GRID))) for k in range(SIDE // GRID + 1)]
    yield from numbers
    yield from (f", {number}" for number in numbers)
    yield from CONFIDENCES
    yield from (QUICK_THOUGHT, CAREFUL_START, THEREFORE, *VERDICTS, "; ", "the ", " something")
    yield from COLOURS
    yield from (f" {shape}" for shape in SHAPES)
    yield from (f", {size} " for size in ("small", "medium", "big", "shattered"))
    yield from ("top left", "top right", "bottom left", "bottom right", "top", "bottom", "left", "right", "middle")
    yield from EXTREMES
    for family, classes in FAMILIES.items():
        yield from (family, *classes)
        for first, *others in classes.values():
            yield from (first, *(f", {other}" for other in others))


def new_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, special tokens and `phrases()`; 477 tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={char: index for index, char in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL.values()])
    words = [phrase for phrase in dict.fromkeys(phrases()) if phrase and phrase not in alphabet]
    core.add_tokens([AddedToken(word, normalized=False) for word in words])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=SPECIAL["end"],
        pad_token=SPECIAL["pad"],
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
    )


def new_config(tokenizer: PreTrainedTokenizerFast) -> Qwen2VLConfig:
    """1.65 M parameters; every linear layer is a multiple of 64 wide, as 4-bit blocks want."""
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in SPECIAL.items()}
    return Qwen2VLConfig(
        text_config={
            "vocab_size": (len(tokenizer) + 63) // 64 * 64,
            "hidden_size": 128,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 384,
            "max_position_embeddings": 1024,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 6, 6]},
            "tie_word_embeddings": True,
            "bos_token_id": ids["pad"],
            "eos_token_id": ids["end"],
            "pad_token_id": ids["pad"],
        },
        vision_config={
            "depth": 2,
            "embed_dim": 128,
            "num_heads": 4,
            "mlp_ratio": 4,
            "patch_size": PATCH,
            "temporal_patch_size": 1,
            "spatial_merge_size": 2,
            "hidden_size": 128,
        },
        image_token_id=ids["image"],
        video_token_id=ids["video"],
        vision_start_token_id=ids["vision_start"],
        vision_end_token_id=ids["vision_end"],
        tie_word_embeddings=True,
    )


def new_image_processor() -> Qwen2VLImageProcessorPil:
    """112 x 112 pixels whatever comes in: 64 patches, 16 picture tokens."""
    return Qwen2VLImageProcessorPil(
        min_pixels=SIDE * SIDE,
        max_pixels=SIDE * SIDE,
        patch_size=PATCH,
        temporal_patch_size=1,
        merge_size=2,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.25, 0.25, 0.25],
    )


def new_model(seed: int, folder: Path | None = None) -> Qwen2VLForConditionalGeneration:
    """A random tiny Qwen2-VL; with `folder`, saved there together with tokenizer and processor."""
    tokenizer = new_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2VLForConditionalGeneration(new_config(tokenizer))
    if folder is not None:
        save(model, folder)
    return model


def save(model: Qwen2VLForConditionalGeneration, folder: Path) -> None:
    """Write model (safetensors), tokenizer, chat template and picture processor into one folder."""
    model.generation_config.update(do_sample=False, eos_token_id=model.config.text_config.eos_token_id)
    model.save_pretrained(folder)
    new_tokenizer().save_pretrained(folder)
    new_image_processor().save_pretrained(folder)

"""This module makes a tiny Qwen2-VL with random weights, and the checkpoint's config, tokenizer and picture processor.

The tokenizer is byte-level, like Qwen2's, so it can encode any text.  Instead of learned merges it has one token for
each word, number and sentence of the tiny world; a prompt of the paper with 550 characters becomes 35 tokens, 16 of
them for the picture.
"""

from pathlib import Path

import torch
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from minirft.engine import TINY

PATCH = 14  # pixels; 2 x 2 patches merge into one picture token of 28 x 28 pixels
CHAT_TEMPLATE = (TINY / "chat_template.jinja").read_text(encoding="utf-8")


def new_model(seed: int, folder: Path | None = None) -> Qwen2VLForConditionalGeneration:
    """Make a tiny Qwen2-VL with random weights; with `folder`, save it there with tokenizer and processor.

    It has 1.65 M parameters, and the shapes of the checkpoint's `config.json`: the width of every linear layer is a
    multiple of 64, which 4-bit blocks need.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2VLForConditionalGeneration(Qwen2VLConfig.from_pretrained(TINY))
    if folder is not None:
        save(model, folder)
    return model


def save(model: Qwen2VLForConditionalGeneration, folder: Path) -> None:
    """Write model (safetensors), tokenizer, chat template and picture processor into one folder."""
    model.generation_config.update(do_sample=False, eos_token_id=model.config.text_config.eos_token_id)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "preprocessor_config.json"):
        (folder / name).write_bytes((TINY / name).read_bytes())

"""What is measured: models of a named size with random weights, and prompts of an exact length.

Time does not depend on what the weights are, as long as sampling is not degenerate, so sizes between the embedded
model and Qwen2-VL-2B need no download.  Completions have exactly C tokens: ending early is forbidden to every trainer.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer

from minirft import UserError
from minirft.cost.architectures import RANDOM
from minirft.cost.random_weights import write_random
from minirft.engine import LoraSettings
from minirft.policy import Policy
from minirft.samples import Sample
from minirft.tiny import CHECKPOINT

PICTURE_SHARE = 400 / 512
"""Share of the prompt that is picture, as in a detection prompt."""


@dataclass(frozen=True)
class Shape:
    """One step: `prompts` prompts of `prompt` tokens, `group` completions of `completion` tokens each.

    `picture` is the picture in tokens, (high, wide).
    """

    prompt: int
    completion: int
    group: int
    prompts: int = 1
    picture: tuple[int, int] = (1, 1)

    @property
    def patches(self) -> int:
        """Patches of one picture; 2 x 2 of them are one token."""
        return 4 * self.picture[0] * self.picture[1]


@contextmanager
def model_source(name: str) -> Iterator[str]:
    """Yield the model's name for `Policy.load`: a temporary folder of random weights for "small" and "mid".

    Their head is not tied to the embedding: a tied random model repeats one token for ever.
    """
    if name not in RANDOM:
        yield name
        return
    with tempfile.TemporaryDirectory(prefix=f"minirft-{name}-") as folder:
        yield str(write_random(Path(folder), name, tokenizer=AutoTokenizer.from_pretrained(CHECKPOINT)))


def load_policy(source: str, lora: LoraSettings | None, checkpointing: bool = False, **options: Any) -> Policy:
    """The policy to measure, `endless`; `options` go to `Policy.load`, which loads on the CPU if they name no device.

    The adapters' B matrices are drawn at random, not zero: at zero the gradient of A would be zero too, and comparing
    it would compare nothing.
    """
    policy = endless(Policy.load(source, lora=lora, checkpointing=checkpointing, **{"device": "cpu"} | options))
    generator = torch.Generator().manual_seed(1)
    for name, weight in policy.trainable().items():
        if "lora_B" in name:
            weight.data.copy_(0.02 * torch.randn(weight.shape, generator=generator))
    return policy


def endless(policy: Policy) -> Policy:
    """The policy, never ending a completion by itself, and taking pictures and prompts of any size as they are."""
    policy.processor = replace(policy.processor, max_prompt_length=None)
    policy.image_processor.size = {"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 16384}
    policy.banned = torch.cat([policy.banned, torch.tensor(policy.eos_ids).to(policy.banned)])
    policy.eos_ids = (-1,)  # no token
    return policy


def fit_shape(policy: Policy, shape: Shape) -> Shape:
    """The shape with the picture that makes about 3/4 of its prompt.  Raises `UserError` when none fits."""
    least = len(policy.encode(question("?", noise((1, 1), 0)))) - 1
    room = shape.prompt - least
    if room < 1:
        raise UserError(
            f"a prompt of {shape.prompt} tokens has no room for a picture: the chat template and a question take "
            f"{least}; use --prompt {least + 1} or more"
        )
    tokens = max(1, min(round(PICTURE_SHARE * shape.prompt), room))
    high = isqrt(tokens)
    return Shape(shape.prompt, shape.completion, shape.group, shape.prompts, (high, tokens // high))


def filler(policy: Policy, shape: Shape) -> str:
    """A question that makes the prompt exactly `shape.prompt` tokens long, with the shape's picture.

    Raises `UserError` when the tokenizer allows none.
    """
    picture = noise(shape.picture, 0)

    def length(text: str) -> int:
        return len(policy.encode(question(text, picture)))

    missing = shape.prompt - length("?")
    unit = (length("?" + 8 * " a") - length("?")) // 8
    text = "?" * (1 + missing % unit) + " a" * (missing // unit)
    if missing < 0 or length(text) != shape.prompt:
        raise UserError(f"no question makes a prompt of exactly {shape.prompt} tokens: got {length(text)}; try another")
    return text


def question(text: str, picture: Image.Image, name: str = "bench") -> Sample:
    """A sample to measure; nobody checks its answer."""
    return Sample(name, picture, "presence", text, "<answer>yes</answer>")


def questions(text: str, shape: Shape, seed: int) -> list[Sample]:
    """The samples of one step, each about a picture of its own."""
    seeds = range(seed * shape.prompts, (seed + 1) * shape.prompts)
    return [question(text, noise(shape.picture, s), f"bench{s}") for s in seeds]


def noise(size: tuple[int, int], seed: int) -> Image.Image:
    """A picture of (high, wide) tokens of 28 x 28 pixels; no two seeds alike."""
    high, wide = (28 * n for n in size)
    pixels: Tensor = torch.randint(0, 256, (high, wide, 3), generator=torch.Generator().manual_seed(seed))
    return Image.fromarray(pixels.to(torch.uint8).numpy())

"""The measured models, with random weights in several sizes, and prompts of an exact length.

Time does not depend on the values of the weights if sampling is not degenerate, so sizes between the embedded model and
Qwen2-VL-2B need no download.  Completions have exactly C tokens: no trainer may end one earlier.
"""

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

from minirft import UserError
from minirft.cost.random_weights import PIXELS, check_qwen2_vl, write_random
from minirft.engine import LoraSettings
from minirft.policy import Policy
from minirft.samples import Sample

RANDOM = ("small", "mid")  # models that exist with random weights only
PICTURE_SHARE = 400 / 512
"""Share of the prompt that is picture, as in a detection prompt."""


@dataclass(frozen=True)
class Shape:
    """The lengths of a step: `prompts` prompts of `prompt` tokens, `group` completions of `completion` tokens each.

    `picture` is the picture in tokens, (high, wide).
    """

    prompt: int
    completion: int
    group: int
    prompts: int = 1
    picture: tuple[int, int] = (1, 1)


@contextmanager
def model_source(name: str) -> Iterator[str]:
    """Yield the model's name for `Policy.load`: a temporary folder of random weights for "small" and "mid".

    Their head is not tied to the embedding, because a tied random model repeats one token.
    """
    if name not in RANDOM:
        check_qwen2_vl(name)  # as `write_random` does
        yield name
        return
    with tempfile.TemporaryDirectory(prefix=f"minirft-{name}-") as folder:
        yield str(write_random(Path(folder), name))


def load_policy(source: str, lora: LoraSettings | None, checkpointing: bool = False, **options: Any) -> Policy:
    """Load the policy to measure, `endless`; `options` go to `Policy.load`, with the CPU as default device.

    The adapters' B matrices are drawn at random, not zero: at zero the gradient of A would be zero too, and the
    comparison would be empty.
    """
    policy = endless(Policy.load(source, lora=lora, checkpointing=checkpointing, **{"device": "cpu"} | options))
    generator = torch.Generator().manual_seed(1)
    for name, weight in policy.trainable().items():
        if "lora_B" in name:
            weight.data.copy_(0.02 * torch.randn(weight.shape, generator=generator))
    return policy


def endless(policy: Policy) -> Policy:
    """Change a policy so that it never ends a completion, and takes pictures and prompts of any size."""
    policy.processor = replace(policy.processor, max_prompt_length=None)
    policy.image_processor.size = PIXELS | {"shortest_edge": 28 * 28}
    policy.banned = torch.cat([policy.banned, torch.tensor(policy.eos_ids).to(policy.banned)])
    policy.eos_ids = (-1,)  # no token
    return policy


def fit_shape(policy: Policy, shape: Shape) -> Shape:
    """Return the shape with a picture of about 3/4 of its prompt.  Raises `UserError` if no picture fits."""
    least = len(policy.encode(question("?", noise((1, 1), 0)))) - 1
    room = shape.prompt - least
    if room < 1:
        raise UserError(
            f"a prompt of {shape.prompt} tokens has no room for a picture: the chat template and a question take "
            f"{least}; use --prompt {least + 1} or more"
        )
    tokens = max(1, min(round(PICTURE_SHARE * shape.prompt), room))
    high = isqrt(tokens)
    return replace(shape, picture=(high, tokens // high))


def filler(policy: Policy, shape: Shape) -> str:
    """Return a question for a prompt of exactly `shape.prompt` tokens, with the shape's picture.

    Raises `UserError` if there is no such question.
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
    """Make a sample for a measurement; its answer is not checked."""
    return Sample(name, picture, "presence", text, "<answer>yes</answer>")


def questions(text: str, shape: Shape, seed: int) -> list[Sample]:
    """Make the samples of one step, each with its own picture."""
    seeds = range(seed * shape.prompts, (seed + 1) * shape.prompts)
    return [question(text, noise(shape.picture, s), f"bench{s}") for s in seeds]


def noise(size: tuple[int, int], seed: int) -> Image.Image:
    """Make a random picture of (high, wide) tokens of 28 x 28 pixels, different for each seed."""
    high, wide = (28 * n for n in size)
    pixels: Tensor = torch.randint(0, 256, (high, wide, 3), generator=torch.Generator().manual_seed(seed))
    return Image.fromarray(pixels.to(torch.uint8).numpy())

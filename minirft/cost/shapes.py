"""What is measured: models of a named size with random weights, and prompts of an exact length.

Time does not depend on what the weights are, as long as sampling is not degenerate, so sizes between the embedded
model and Qwen2-VL-2B need no download.  Completions have exactly C tokens: ending early is forbidden to every trainer.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import isqrt
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from minirft import UserError
from minirft.cost.random_weights import raise_scores
from minirft.engine import LoraSettings, Qwen2VLImageProcessorPil
from minirft.policy import Policy
from minirft.samples import Sample
from minirft.tiny import SPECIAL, new_tokenizer

PICTURE_SHARE = 400 / 512
"""Share of the prompt that is picture, as in a detection prompt."""

RANDOM = {
    "small": {"hidden_size": 512, "num_hidden_layers": 4, "intermediate_size": 1536, "vocab_size": 512},
    "mid": {"hidden_size": 512, "num_hidden_layers": 8, "intermediate_size": 1536, "vocab_size": 8192},
}
"""Random models: 8 heads on 2, vision tower of 4 layers 320 wide, 2.6 prefills dear as that of Qwen2-VL-2B."""


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
    """The model's name for `Policy.load`: "small" and "mid" as a temporary folder of random weights, others as is."""
    if name not in RANDOM:
        yield name
        return
    with tempfile.TemporaryDirectory(prefix=f"minirft-{name}-") as folder:
        write_random_model(Path(folder), RANDOM[name])
        yield folder


def write_random_model(folder: Path, language: dict[str, int], vision: dict[str, int] | None = None) -> None:
    """Writes a random Qwen2-VL with an untied head: a tied random model repeats one token for ever.

    Linear weights have standard deviation 1 / √inputs, so that activations keep their size, and the head 2 / √hidden,
    so that logits have standard deviation 2.  Biases raise the scores as in `random_weights`.
    """
    config = random_config(language, vision or {})
    width = config.text_config.hidden_size // config.text_config.num_attention_heads
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen2VLForConditionalGeneration(config)
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                scale = 2.0 if name.startswith("lm_head") else 1.0
                weight.data.normal_(std=scale * (weight.numel() / len(weight)) ** -0.5)
            raise_scores(name, weight.data, width)
    tokenizer = new_tokenizer()
    model.generation_config.update(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Qwen2VLImageProcessorPil().save_pretrained(folder)


def random_config(language: dict[str, int], vision: dict[str, int]) -> Qwen2VLConfig:
    """The architecture of a random model; the tokenizer is the embedded model's, of 477 tokens."""
    ids = dict(zip(SPECIAL, new_tokenizer().convert_tokens_to_ids(list(SPECIAL.values())), strict=True))
    hidden, heads = language["hidden_size"], language.get("num_attention_heads", 8)
    half = hidden // heads // 2
    sections = [half - 2 * (3 * half // 8), 3 * half // 8, 3 * half // 8]  # Qwen2-VL's 16, 24, 24 in proportion
    return Qwen2VLConfig(
        text_config={
            "num_attention_heads": heads,
            "num_key_value_heads": 2,
            "max_position_embeddings": 32768,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections},
            "bos_token_id": ids["pad"],
            "eos_token_id": ids["end"],
            "pad_token_id": ids["pad"],
        }
        | language,
        vision_config={"depth": 4, "embed_dim": 320, "num_heads": 5, "mlp_ratio": 4, "hidden_size": hidden} | vision,
        image_token_id=ids["image"],
        video_token_id=ids["video"],
        vision_start_token_id=ids["vision_start"],
        vision_end_token_id=ids["vision_end"],
        tie_word_embeddings=False,
    )


def load_policy(source: str, lora: LoraSettings | None, checkpointing: bool) -> Policy:
    """The policy to measure: never ends a completion by itself, takes a picture of any size as it is.

    The adapters' B matrices are drawn at random, not zero: at zero the gradient of A would be zero too, and comparing
    it would compare nothing.
    """
    policy = Policy.load(source, lora=lora, checkpointing=checkpointing, device="cpu")
    policy.processor.image_processor.size = {"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 16384}
    policy.banned = torch.cat([policy.banned, torch.tensor(policy.eos_ids).to(policy.banned)])
    policy.eos_ids = ()
    generator = torch.Generator().manual_seed(1)
    for name, weight in policy.trainable().items():
        if "lora_B" in name:
            weight.data.copy_(0.02 * torch.randn(weight.shape, generator=generator))
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

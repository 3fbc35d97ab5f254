"""A miniature Qwen2-VL on disk, policies loaded from it, and questions about small pictures."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # imported where they are used: the process that only hands tests to others needs none of them
    import torch
    from PIL import Image
    from transformers import PreTrainedTokenizerFast, Qwen2VLConfig

    from minirft.policy import Policy
    from minirft.samples import Sample

CONTROL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}{% if c['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def no_bars() -> None:
    """Bars of transformers between pytest's lines."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--slow` runs the tests that take minutes."""
    parser.addoption("--slow", action="store_true", help="run the tests marked slow as well")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without `--slow` they are skipped."""
    if not config.getoption("--slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="takes minutes; run with --slow"))


@pytest.fixture(scope="session", autouse=True)
def one_commit() -> Iterator[None]:
    """The commit, that every run writes down, asked for once: `git describe` reads the whole tree."""
    from minirft.runs import log

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log, "_commit", cache(log._commit))
        yield


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, then Qwen's control tokens: 263 in all."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens(CONTROL)
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=CHAT_TEMPLATE
    )


def miniature_config(tokenizer: PreTrainedTokenizerFast, vocab_size: int, **text: object) -> Qwen2VLConfig:
    """Hidden 64, 2 layers, 4 heads on 2; every width a multiple of 64, as 4-bit kernels want."""
    from transformers import Qwen2VLConfig

    ids = {
        name: tokenizer.convert_tokens_to_ids(token)
        for name, token in zip(
            ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"),
            ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"),
            strict=True,
        )
    }
    language = {
        "vocab_size": vocab_size,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {"depth": 2, "embed_dim": 64, "hidden_size": 64, "num_heads": 4, "mlp_ratio": 2, "temporal_patch_size": 2}
    return Qwen2VLConfig(text_config=language | text, vision_config=vision, tie_word_embeddings=False, **ids)


def write_miniature(
    folder: Path, tokenizer: PreTrainedTokenizerFast, vocab_size: int, scale: float = 4.0, eos_scale: float = 6.0
) -> Path:
    """A random model with weights scaled up and an untied head: a tied random model repeats one token for ever."""
    import torch
    from transformers import Qwen2VLForConditionalGeneration

    from minirft.engine.versions import Qwen2VLImageProcessorPil

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen2VLForConditionalGeneration(miniature_config(tokenizer, vocab_size))
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                weight.data.mul_(scale)
            elif name.endswith("bias"):
                weight.data.normal_(std=0.1)
        # Some rows end early and others do not.
        model.lm_head.weight.data[tokenizer.eos_token_id] *= eos_scale
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Qwen2VLImageProcessorPil(size={"shortest_edge": 28 * 28, "longest_edge": 112 * 112}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the miniature: 263 tokens in a vocabulary of 320 rows."""
    return write_miniature(tmp_path_factory.mktemp("miniature"), byte_tokenizer(), 320)


MASSIVE = [5, 40]
"""Hidden channels of `published` that carry 50 to 100 times what the others do."""


def write_published(folder: Path, miniature: Path) -> Path:
    """The miniature with weights of the size that published checkpoints have, made up, not copied.

    Query and key biases raise all raw scores by 1e4 (transformers pull request 33317).  Two channels of the residual
    stream are massive (arXiv 2402.17762): what writes to them is 110 times larger, the norms that read them are as much
    smaller.  Other norm weights are lognormal, one is 20, and those of the last norm 16 times larger: logits spread by
    1, as without.
    """
    import torch
    from transformers import Qwen2VLForConditionalGeneration

    from minirft.cost.random_weights import raise_scores

    model = Qwen2VLForConditionalGeneration.from_pretrained(miniature, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        raise_scores(name, weight.data, 16)
        if name.endswith(("o_proj.weight", "down_proj.weight", "merger.mlp.2.weight", "merger.mlp.2.bias")):
            weight.data[MASSIVE] *= 110
        elif "embed_tokens" in name:
            weight.data[:, MASSIVE] *= 110
        elif "language_model" in name and "norm" in name:
            weight.data.copy_((0.3 * torch.randn(weight.shape, generator=generator)).exp())
            weight.data[MASSIVE] /= 110
            if name.endswith("language_model.norm.weight"):
                weight.data.mul_(16)
            else:
                weight.data[11] = 20.0
    model.lm_head.weight.data[model.generation_config.eos_token_id] /= 4  # else every row ends at once
    model.save_pretrained(folder)
    for file in miniature.glob("*.json"):
        if not file.name.startswith(("config", "model")):
            shutil.copy(file, folder)
    shutil.copy(miniature / "chat_template.jinja", folder)
    return folder


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory, miniature: Path) -> Path:
    """The folder of a miniature whose weights are as large as those of published checkpoints."""
    return write_published(tmp_path_factory.mktemp("published"), miniature)


@pytest.fixture(scope="session")
def tiny_random(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded architecture with random weights."""
    from minirft.tiny.model import new_model

    folder = tmp_path_factory.mktemp("tiny_random")
    new_model(0, folder)
    return folder


# Roundings on the longest way through the miniature: in each of 2 layers sums of 64, 16 (a score), 100 (keys that are
# seen), 64, 64 and 128 terms, then the head's 64.  A backward pass goes the way twice more.
FORWARD = 2 * (64 + 16 + 100 + 64 + 64 + 128) + 64
BACKWARD = 3 * FORWARD


def rounding(terms: int) -> float:
    """Bounds the relative distance of two float32 results of `terms` roundings each: √2 λ √n u, u = 2⁻²⁴, λ = 6.

    Errors of rounding add up like a random walk: one result is off by more than λ √n u with a probability below
    2 exp(-λ²/2) = 3e-8 (Higham and Mary 2019, theorem 2.4), on any processor and in any order of the sums.
    """
    return 2**0.5 * 6 * terms**0.5 * 2**-24


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference, relative to the largest number: what `rounding` bounds."""
    return ((a - b).abs().max() / b.abs().max()).item()


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Noise: no two pictures alike."""
    import torch
    from PIL import Image

    pixels = torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(seed))
    return Image.fromarray(pixels.to(torch.uint8).numpy())


@pytest.fixture(scope="session")
def samples() -> list[Sample]:
    """Three questions about pictures of different sizes and shapes."""
    from minirft.samples import Sample

    sizes, problems = [(56, 56), (112, 60), (30, 90)], ["a cat?", "where is the red one?", "?"]
    return [
        Sample(f"s{i}", picture(*size, seed=i), "presence", problem, "<answer>yes</answer>")
        for i, (size, problem) in enumerate(zip(sizes, problems, strict=True))
    ]


@pytest.fixture
def policy(miniature: Path) -> Policy:
    """Every weight of the language model learns; the vision tower is frozen."""
    from minirft.policy import Policy

    return Policy.load(miniature)


@pytest.fixture
def lora_policy(miniature: Path) -> Policy:
    """LoRA with B off zero, so that the adapters show."""
    from minirft.policy import LoraSettings, Policy

    return shaken(Policy.load(miniature, lora=LoraSettings(r=4, alpha=8)))


def biased(policy: Policy, raw: float) -> Policy:
    """The policy with query and key biases that add `raw` to every score before it is scaled, as Qwen2's do.

    They lie on the slowest rotary pair, which hardly turns over a prompt, so that every key gets the same.
    """
    width = policy.language_model.config.hidden_size // policy.language_model.config.num_attention_heads
    for layer in policy.language_model.layers:
        for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj):
            projection.bias.data.view(-1, width)[:, width // 2 - 1] += raw**0.5
    return policy


def shaken(policy: Policy, scale: float = 0.1) -> Policy:
    """The policy with its LoRA B matrices drawn at random instead of zero."""
    import torch

    generator = torch.Generator().manual_seed(5)
    for name, weight in policy.trainable().items():
        if "lora_B" in name:
            weight.data.copy_(scale * torch.randn(weight.shape, generator=generator))
    return policy

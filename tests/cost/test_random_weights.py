"""A random model of any architecture: it loads, it is sane, and it is written tensor by tensor."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from conftest import byte_tokenizer, miniature_config
from safetensors.torch import load_file

import minirft.cost.random_weights as module
from minirft import UserError
from minirft.cost.benchmark import measure
from minirft.cost.random_weights import random_weights, write_random
from minirft.cost.request import Request
from minirft.cost.sizes import architecture
from minirft.engine.logprobs import naive_logits
from minirft.policy import LoraSettings, Policy
from minirft.sampler import sample_groups
from minirft.samples import Sample


@pytest.fixture(scope="module")
def shape(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The miniature's architecture, its vocabulary large enough for the tokens of the embedded model."""
    folder = tmp_path_factory.mktemp("shape")
    miniature_config(byte_tokenizer(), 512).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def random(tmp_path_factory: pytest.TempPathFactory, shape: str) -> Path:
    """The same with fresh random weights."""
    return write_random(tmp_path_factory.mktemp("random"), shape)


def digests(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.md5(file.read_bytes()).hexdigest() for file in folder.glob("*.safetensors")}


@pytest.mark.parametrize("name", ["tiny", "miniature"])
def test_loads_and_writes_more_than_one_token(name: str, shape: str, samples: list[Sample], tmp_path: Path) -> None:
    """Catches names that do not load (`Policy.load` refuses missing weights), and a model that repeats one token."""
    folder = write_random(tmp_path, shape if name == "miniature" else name)
    for settings in ({}, {"quantize": "nf4", "lora": LoraSettings(r=4)}):
        policy = Policy.load(folder, max_pixels=112 * 112, **settings)
        rollout = sample_groups(policy, [policy.encode(s) for s in samples], 1, max_completion_length=16, greedy=True)
        assert len(rollout.completion_ids.unique()) > 8
        assert min(len(row.unique()) for row in rollout.completion_ids) > 2
    assert any(isinstance(layer, Linear4bit) for layer in policy.core.modules())
    logits = naive_logits(policy, policy.encode(samples[1]), torch.zeros(1, 0, dtype=torch.long))
    assert logits.isfinite().all()
    assert 0.05 < logits.std() < 5


def test_names_are_those_of_the_published_models() -> None:
    """Catches a folder that this transformers reads and no other; 2B has 730 tensors, its head tied."""
    names = [name for name, _ in random_weights(architecture("tiny"), 0)]
    assert "model.layers.0.self_attn.q_proj.weight" in names
    assert "visual.blocks.0.attn.qkv.bias" in names
    assert "model.embed_tokens.weight" in names
    assert "lm_head.weight" not in names


def test_every_tensor_is_written_before_the_next_is_drawn(
    random: Path, shape: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a list of all weights, 16.6 GB of memory for 7B, and a file that the index does not name."""
    seen = []

    def watched(*settings: object) -> Iterator[tuple[str, torch.Tensor]]:
        for name, weight in random_weights(*settings):
            assert weight.dtype == torch.bfloat16
            seen.append(len(list(tmp_path.glob("*.safetensors"))))
            yield name, weight

    monkeypatch.setattr(module, "random_weights", watched)
    write_random(tmp_path, shape)
    assert seen == [*range(len(seen))]
    places = json.loads((random / "model.safetensors.index.json").read_text())["weight_map"]
    assert {name: file.name for file in random.glob("*.safetensors") for name in load_file(file)} == places


def test_the_seed_decides(random: Path, shape: str, tmp_path: Path) -> None:
    """Catches weights drawn from the global generator: two benchmarks would time two models."""
    state = torch.get_rng_state()
    again, other = (write_random(tmp_path / str(seed), shape, seed) for seed in (0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert digests(again) == digests(random)
    assert digests(other) != digests(random)


def test_only_tokens_of_the_tokenizer_are_sampled(random: Path) -> None:
    """Catches control tokens at the ids of another vocabulary, and rows without a token that a rollout could draw."""
    policy = Policy.load(random)
    config, tokenizer = policy.core.config, policy.tokenizer
    ids = {"<|image_pad|>": config.image_token_id, "<|video_pad|>": config.video_token_id}
    ids |= {"<|vision_start|>": config.vision_start_token_id, "<|im_end|>": config.text_config.eos_token_id}
    assert {token: tokenizer.convert_tokens_to_ids(token) for token in ids} == ids
    assert {*range(len(tokenizer), 512)} < {*policy.banned.tolist()} and policy.eos_ids == (ids["<|im_end|>"],)


def test_other_families_are_refused(tmp_path: Path):
    """Weights of one family under the configuration of another."""
    with pytest.raises(UserError, match=r"of Qwen2-VL alone, and qwen3-vl-2b is qwen3_vl"):
        write_random(tmp_path, "qwen3-vl-2b")
    with pytest.raises(UserError, match=r"bench are of Qwen2-VL alone, and qwen3-vl-2b is qwen3_vl"):
        measure(Request(model="qwen3-vl-2b"))

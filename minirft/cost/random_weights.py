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

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from minirft import UserError
from minirft.cost.sizes import DEFAULT_MAX_PIXELS, architecture
from minirft.engine import TINY, Qwen2VLImageProcessorPil

EMBEDDING_STD = 0.02
RAW_SCORE = 1e4
"""The biases add this to every unscaled score, on the slowest rotary pair, which hardly rotates over a prompt."""
PIXELS = {"shortest_edge": 56 * 56, "longest_edge": DEFAULT_MAX_PIXELS}  # as in Qwen2-VL's own processor


def write_random(folder: Path, name: str, seed: int = 0, device: str = "cpu") -> Path:
    """Write a random bfloat16 model of the architecture `name` into `folder`, as `Policy.load` takes it.

    `name` is what `architecture` takes ("qwen2-vl-2b": 4.4 GB on disk, "qwen2-vl-7b": 16.6 GB).  Every tensor has its
    own file.  The tokenizer is that of the embedded model: the first 477 rows of the vocabulary have a token.  Numbers
    are drawn on `device`: a processor needs two minutes for those of 7B, a card seconds.
    Raises `UserError` for an unknown architecture, or one of another family.
    """
    config, tiny = check_qwen2_vl(name), architecture("tiny")
    for part, own in ((config, tiny), (config.text_config, tiny.text_config)):
        part.update({key: value for key, value in own.to_dict().items() if key.endswith("_token_id")})
    folder.mkdir(parents=True, exist_ok=True)
    places: dict[str, str] = {}
    for tensor, weight in random_weights(config, seed, device):
        places[tensor] = f"model-{len(places) + 1:05}.safetensors"
        save_file({tensor: weight}, folder / places[tensor], metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    config.architectures, config.dtype = ["Qwen2VLForConditionalGeneration"], torch.bfloat16
    config.save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        shutil.copy(TINY / file, folder)
    vision = config.vision_config
    patches = {"patch_size": vision.patch_size, "temporal_patch_size": vision.temporal_patch_size}
    Qwen2VLImageProcessorPil(size=PIXELS, merge_size=vision.spatial_merge_size, **patches).save_pretrained(folder)
    return folder


def check_qwen2_vl(name: str) -> Qwen2VLConfig:
    """Return the configuration of a Qwen2-VL.  Raises `UserError` for another family."""
    config = architecture(name)
    if not isinstance(config, Qwen2VLConfig):
        raise UserError(f"random weights and bench are of Qwen2-VL alone, and {name} is {config.model_type}")
    return config


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


def raise_scores(name: str, weight: Tensor, width: int) -> None:
    """Change the bias of a query or key projection in place, so that every score rises by `RAW_SCORE`; others are kept.

    `weight` belongs to heads of `width` numbers.  The bias is √RAW_SCORE on the slowest rotary pair of each head,
    and the weights of its rows are divided by √RAW_SCORE.

    >>> weight = torch.ones(8, 2)
    >>> raise_scores("layers.0.self_attn.k_proj.weight", weight, width=4)
    >>> weight[:, 0].tolist()
    [1.0, 0.009999999776482582, 1.0, 1.0, 1.0, 0.009999999776482582, 1.0, 1.0]
    """
    pair = width // 2 - 1
    if name.endswith(("q_proj.bias", "k_proj.bias")):  # the tower's have other names
        weight.view(-1, width)[:, pair] = RAW_SCORE**0.5
    elif name.endswith(("q_proj.weight", "k_proj.weight")):
        weight.view(-1, width, weight.shape[1])[:, pair] /= RAW_SCORE**0.5


def _std(name: str, inputs: int) -> float:
    if "embed_tokens" in name:
        return EMBEDDING_STD
    return inputs**-0.5 * (2.0 if "q_proj" in name or "k_proj" in name else 1.0)

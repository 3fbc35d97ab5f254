"""The floor: the least number of floating-point operations (FLOPs) for the same mathematical result.

A product of (a, b) and (b, c) matrices is 2abc FLOPs; norms, softmax, rotary positions and the optimiser are not
counted, as in torch's `FlopCounterMode`.  One prompt with its group; a step is P of them.

    P, C, G    prompt tokens, completion tokens, completions         H, K    heads * d, key-value heads * d
    D, I, V    hidden size, MLP width, vocabulary                    L       layers
    n          patches of the picture                                E, M, J vision width, its MLP width, its layers

One token through the language model's linear layers, and through adapters of rank r on them:

    W = L (D (H + 2K) + H D + 3 D I)                 2W FLOPs
    A = L r (sum over linears of inputs + outputs)   2A FLOPs

Attention of q tokens over k keys is two matrix products in each layer, 4 q k H L FLOPs.

**Vision** once:  2 n (patch pixels) E + J (2 n (4 E² + 2 E M) + 4 n² E) + 2 (n / 4) ((4E)² + 4E D).
Layers with window attention (Qwen2.5-VL) are counted as if they attended to the whole picture.

**Rollout**: the prompt once and every completion token but the last once, because the last token predicts nothing:
N = P + G (C - 1) tokens.  `lm_head` runs at the places that predict: R = 1 + G (C - 1), for a prompt's last token is
one place for the whole group.

    2 N (W + A) + 2 R D V + 4 H L (P·P + G Σ_{t=1..C-1} (P + t))

**Update, forward**: the same N tokens and R places, this time with a graph.

**Update, backward**: gradients of activations through every layer, 2 N (W + A) + 2 R D V, without those of the inputs
of layer 0's q, k, v, because nothing below them is trained (unless the embeddings are); gradients of the trained
weights, 2 N A for adapters or 2 N W + 2 R D V for all; the backward pass of attention.

**Reference** (kl_coef > 0): one more forward of N tokens, without adapters.

There are two conventions for attention, so two numbers are given.  `flops` follows FlopCounterMode: causal
attention of q tokens on q counts as the full q x q square, and the backward pass as five products, one of which
computes the scores again, as every fused kernel does.  `visible_flops` counts only keys a token can see, and four
products.  Compare `flops` with counts; the difference of the two is the waste of the kernels.

The floor does not assume that the rollout's forward pass is kept for the update.  Sampling and learning are two passes
in every trainer; keeping the graph of the prompt's pass would save one more forward pass, `shared_pass_flops`.  The
floor also counts, in the last layer, prompt tokens whose output is not used: less than 1 / L of the prompt.
"""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedConfig

from minirft.cost.shapes import Shape
from minirft.cost.sizes import adapter_widths, count_weights, key_width, linears, query_width, skeleton, tower_widths


@dataclass(frozen=True)
class Floor:
    """The least FLOPs of a step: its parts, their sum, and two other sums (see the module docstring)."""

    vision: int
    rollout: int
    reference: int
    forward: int
    backward: int
    flops: int
    visible_flops: int
    shared_pass_flops: int


def floor(
    config: PreTrainedConfig, shape: Shape, rank: int = 0, reference: bool = False, see_pictures: bool = True
) -> Floor:
    """Compute the floor of one GRPO step.  `rank` is that of the adapters, or 0 if all language weights are trained."""
    counted = parts(config, shape, rank, reference, see_pictures, visible=False)
    visible = parts(config, shape, rank, reference, see_pictures, visible=True)
    kept = shape.prompts * forward_flops(config, rank, [(shape.prompt, shape.prompt)], 0)
    total = sum(counted.values())
    return Floor(**counted, flops=total, visible_flops=sum(visible.values()), shared_pass_flops=total - kept)


def parts(
    config: PreTrainedConfig, shape: Shape, rank: int, reference: bool, see_pictures: bool, visible: bool
) -> dict[str, int]:
    """Count the FLOPs of vision, rollout, reference, forward and backward of a step."""
    p, rest, g = shape.prompt, shape.completion - 1, shape.group
    places = 1 + g * rest
    prompt = (p, (p + 1) / 2 if visible else p)  # (tokens, keys a token)
    decoded = (g * rest, p + (rest + 1) / 2) if rest else (0, 0)
    packed = decoded if visible else (g * rest, p + rest)
    counts = {
        "vision": vision_flops(config, shape.patches) if see_pictures else 0,
        "rollout": forward_flops(config, rank, [prompt, decoded], places),
        "reference": forward_flops(config, 0, [prompt, packed], places) if reference else 0,
        "forward": forward_flops(config, rank, [prompt, packed], places),
        "backward": backward_flops(config, rank, [prompt, packed], places, products=4 if visible else 5),
    }
    return {name: round(shape.prompts * count) for name, count in counts.items()}


def per_token(config: PreTrainedConfig, rank: int) -> tuple[int, int]:
    """Return W and A: multiplications of one token in the linear layers, and in adapters of this rank."""
    return count_weights(config)["language linears"]["linear"], rank * adapter_widths(config)["language"]


def forward_flops(config: PreTrainedConfig, rank: int, tokens: list[tuple[float, float]], places: int) -> float:
    """Count a forward pass over `tokens`, pairs (count, keys that each attends to), with `lm_head` at `places`."""
    text = config.text_config
    linear = 2 * sum(per_token(config, rank)) * sum(count for count, _ in tokens)
    return linear + _attention(config, tokens, 2) + 2 * places * text.hidden_size * text.vocab_size


def backward_flops(
    config: PreTrainedConfig, rank: int, tokens: list[tuple[float, float]], places: int, products: int
) -> float:
    """Count the backward pass of `forward_flops`; attention has 4 `products`, or 5 if scores are computed again."""
    text = config.text_config
    count = sum(many for many, _ in tokens)
    weights, adapters = per_token(config, rank)
    head = 2 * places * text.hidden_size * text.vocab_size
    activations = 2 * count * (weights + adapters) + head + _attention(config, tokens, products)
    if not rank:
        return activations + 2 * count * weights + head
    hidden, keys = text.hidden_size, key_width(config)
    below = hidden * (query_width(config) + 2 * keys) + 3 * rank * hidden
    return activations + 2 * count * adapters - 2 * count * below


def _attention(config: PreTrainedConfig, tokens: list[tuple[float, float]], products: int) -> float:
    text = config.text_config
    return products * 2 * query_width(config) * text.num_hidden_layers * sum(count * keys for count, keys in tokens)


def vision_flops(config: PreTrainedConfig, patches: int) -> int:
    """Count the forward pass of one picture of `patches` patches through the vision tower."""
    vision, tower, (width, _) = config.vision_config, skeleton(config).model.visual, tower_widths(config)
    pixels = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    blocks, whole = (sum(layer.weight.numel() for layer in linears(part)) for part in (tower.blocks, tower))
    merged = patches // vision.spatial_merge_size**2
    return 2 * patches * (pixels * width + blocks + 2 * patches * width * vision.depth) + 2 * merged * (whole - blocks)

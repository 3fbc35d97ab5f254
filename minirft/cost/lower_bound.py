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
In a layer with window attention (Qwen2.5-VL) the sum of w² over its windows of w patches replaces n².

**Rollout**: the prompt once and every completion token but the last once, because the last token predicts nothing:
N = P + G (C - 1) tokens.  `lm_head` runs at the places that predict: R = 1 + G (C - 1), for a prompt's last token is
one place for the whole group.

    2 N (W + A) + 2 R D V + 4 H L (P·P + G Σ_{t=1..C-1} (P + t))

**Update, forward**: the same N tokens and R places, this time with a graph.

**Update, backward**: gradients of activations through every layer, 2 N (W + A) + 2 R D V, without those of the inputs
of layer 0's q, k, v, or of what it has in their place, because nothing below them is trained (unless the embeddings
are); gradients of the trained weights, 2 N A for adapters or 2 N W + 2 R D V for all; the backward pass of attention.

**Reference** (kl_coef > 0): one more forward of N tokens, without adapters.

A layer that carries a state (Qwen3.5) has no keys: a token reads its state twice and adds to it, 6 FLOPs for each
number of it, H key width * value width, and twice that in backward.

Attention is counted as FlopCounterMode counts it, and as fused kernels work: causal attention of q tokens on q is the
full q x q square, and its backward pass is five products, one of which computes the scores again.

The floor does not assume that the rollout's forward pass is kept for the update.  Sampling and learning are two passes
in every trainer; keeping the graph of the prompt's pass would save one more forward pass.  The floor also counts, in
the last layer, prompt tokens whose output is not used: less than 1 / L of the prompt.
"""

from math import prod

from torch import nn
from transformers import PreTrainedConfig

from minirft.cost import sizes
from minirft.cost.shapes import Shape


def floor(
    config: PreTrainedConfig, shape: Shape, rank: int = 0, reference: bool = False, see_pictures: bool = True
) -> dict[str, int]:
    """Compute the least FLOPs of one GRPO step: those of its parts, and "flops", their sum.

    `rank` is that of the adapters, or 0 if all language weights are trained.
    """
    p, rest, g = shape.prompt, shape.completion - 1, shape.group
    places = 1 + g * rest
    prompt, packed = (p, p), (g * rest, p + rest)  # (tokens, keys a token)
    decoded = (g * rest, p + (rest + 1) / 2)
    counts = {
        "vision": vision_flops(config, shape.picture) if see_pictures else 0,
        "rollout": forward_flops(config, rank, [prompt, decoded], places),
        "reference": forward_flops(config, 0, [prompt, packed], places) if reference else 0,
        "forward": forward_flops(config, rank, [prompt, packed], places),
        "backward": backward_flops(config, rank, [prompt, packed], places),
    }
    counts = {name: round(shape.prompts * count) for name, count in counts.items()}
    return counts | {"flops": sum(counts.values())}


def per_token(config: PreTrainedConfig, rank: int) -> tuple[int, int]:
    """Return W and A: multiplications of one token in the linear layers, and in adapters of this rank."""
    return sizes.count_weights(config)["language linears"]["linear"], rank * sizes.adapter_widths(config)["language"]


def forward_flops(config: PreTrainedConfig, rank: int, tokens: list[tuple[float, float]], places: int) -> float:
    """Count a forward pass over `tokens`, pairs (count, keys that each attends to), with `lm_head` at `places`."""
    text = config.text_config
    linear = 2 * sum(per_token(config, rank)) * sum(count for count, _ in tokens)
    return linear + _attention(config, tokens, 2) + 2 * places * text.hidden_size * text.vocab_size


def backward_flops(config: PreTrainedConfig, rank: int, tokens: list[tuple[float, float]], places: int) -> float:
    """Count the backward pass of `forward_flops`; attention has five products, because scores are computed again."""
    text = config.text_config
    count = sum(many for many, _ in tokens)
    weights, adapters = per_token(config, rank)
    head = 2 * places * text.hidden_size * text.vocab_size
    activations = 2 * count * (weights + adapters) + head + _attention(config, tokens, 5)
    if not rank:
        return activations + 2 * count * weights + head
    first = sizes.mixers(config)[0].named_children()
    inputs = [x for name, x in first if isinstance(x, nn.Linear) and name not in ("o_proj", "out_proj")]
    below = sum(layer.weight.numel() + rank * layer.in_features for layer in inputs)
    return activations + 2 * count * adapters - 2 * count * below


def _attention(config: PreTrainedConfig, tokens: list[tuple[float, float]], products: int) -> float:
    """Count products of attention, 2 forward and 5 backward, and 3 and 6 of a token with the state of such a layer."""
    carrying = [sizes.state_numbers(mixer) for mixer in sizes.mixers(config) if sizes.carries_state(mixer)]
    pairs = 2 * sizes.head_widths(config)[0] * sum(count * keys for count, keys in tokens)
    layers = len(sizes.mixers(config)) - len(carrying)
    return products * pairs * layers + 6 * (products // 2) * sum(carrying) * sum(count for count, _ in tokens)


def vision_flops(config: PreTrainedConfig, picture: tuple[int, int]) -> int:
    """Count the forward pass of one picture of (high, wide) tokens through the vision tower."""
    vision, tower, (width, _) = config.vision_config, sizes.skeleton(config).model.visual, sizes.tower_widths(config)
    pixels = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    blocks, whole = (sum(layer.weight.numel() for layer in sizes.linears(part)) for part in (tower.blocks, tower))
    tokens = prod(picture)
    patches = tokens * vision.spatial_merge_size**2
    attention = 4 * width * _pairs(vision, picture)
    return 2 * patches * (pixels * width + blocks) + attention + 2 * tokens * (whole - blocks)


def _pairs(vision: PreTrainedConfig, picture: tuple[int, int]) -> int:
    """Count the pairs of patches that attend to each other, over all layers of the tower."""
    area = vision.spatial_merge_size**2
    whole = (area * prod(picture)) ** 2
    if not hasattr(vision, "window_size"):
        return vision.depth * whole
    side = vision.window_size // (vision.patch_size * vision.spatial_merge_size)  # tokens; smaller at the far edges
    windows = area**2 * prod(n // side * side**2 + (n % side) ** 2 for n in picture)
    full = len(vision.fullatt_block_indexes)
    return full * whole + (vision.depth - full) * windows

"""The temporary memory of a step, in bytes: saved activations, working sets, logits, keys and values.

Each function lists the tensors at the fullest moment of a phase.  The lists were derived from the code and checked with
`tests/cost/fake_step.py`.  A frozen linear layer keeps nothing for the backward pass, but the adapter on it keeps its
input.  CUDA's fast attention under a mask has no grouped key heads, so keys and values of the completions are copied to
every query head, which makes them A wide.
"""

from torch import nn

from minirft.cost.sizes import Shape, adapter_weights, first_mixer, linears, skeleton, tower_learns, tower_widths
from minirft.cost.states import state_bytes, state_layer
from minirft.engine import CHUNK

LOGIT_COPIES = 5
"""float32 (chunk, V) in the backward pass: logits, the gathered gradient, and three of log-sum-exp."""


def picture(shape: Shape) -> float:
    """Count the vision tower on one picture, without a gradient: patches, and the fuller of attention and MLP."""
    vision, b, n = shape.model.vision_config, shape.b, shape.patches
    e, m = tower_widths(shape.model)
    pixels = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2 * b
    floats = 4 * (6 if b < 4 else 4)  # rotary embedding works on float32 copies of queries and keys
    attention = (2 * b + 3 * b + floats) * e  # residual, normed, queries with keys and values
    angles = 2 * 4 * e // vision.num_heads
    mlp = (2 * b) * e + 3 * b * m
    return n * (pixels + angles + max(attention, mlp))


def prefill(shape: Shape) -> dict[str, float]:
    """Count the prompts of one rollout pass, padded to the longest."""
    text, b, n = shape.model.text_config, shape.b, shape.together * shape.prompt
    mask = shape.together * shape.prompt**2 * (1 + b) if shape.together > 1 else 0
    mlp = n * b * (3 * text.hidden_size + 3 * text.intermediate_size) + mask
    layer = max(mlp, state_layer(shape).prefill + 2 * n * b * text.hidden_size)
    seen = picture(shape) if tower_learns(shape.config) else 0  # a frozen tower has run before
    fuller = {"one layer": layer} if layer > seen else {"picture": seen}
    return {
        "keys and values": 2 * n * b * shape.keys * shape.attention_layers,
        "states": shape.together * shape.state_layers * state_bytes(shape),
        "prompts": 2 * n * b * shape.embedded,
        **fuller,
    }


def decode(shape: Shape, group: int) -> dict[str, float]:
    """Count every row at its last token: keys and values of a prompt once, those of its rows in full buffers."""
    text, b = shape.model.text_config, shape.b
    rows = shape.together * group
    layers = shape.attention_layers
    kept = shape.together * shape.prompt + rows * shape.config.max_completion_length
    scores = text.num_attention_heads * (shape.prompt + shape.config.max_completion_length) * (3 * b + 12)
    # The sampler: logits, float32 log-probs, their float64 exponentials and the sum of these.
    # While the prompts' keys are widened to float32, the narrow ones are still there.
    narrow = shape.together * shape.prompt * shape.keys * layers * b if b < 4 else 0
    return {
        "keys and values": kept * shape.keys * layers * (4 + b),
        "states": rows * shape.state_layers * state_bytes(shape),
        "sampling": max(rows * text.vocab_size * (b + 20), rows * scores, narrow, 4 * rows * state_bytes(shape)),
    }


def reference(shape: Shape) -> dict[str, float]:
    """Count the packed pass without a gradient, at the fuller of two moments: a layer, or the logits of a chunk."""
    text, b = shape.model.text_config, shape.b
    d = text.hidden_size
    mlp = shape.packed * b * 3 * text.intermediate_size
    of_attention = _attention_saved(shape) + b * 2 * shape.seen * shape.keys
    logits = _chunk(shape) * text.vocab_size * 8 + 2 * shape.fresh * b * d
    layer, residual = max(mlp, of_attention, state_layer(shape).forward), {"hidden states": 3 * shape.packed * b * d}
    parts = {**_inputs(shape), **residual}
    return parts | ({"logits chunk": logits} if logits > layer else {"one layer": layer})


def update(shape: Shape) -> dict[str, float]:
    """Count the packed pass with its gradient, at the fuller of two moments: the logits, or a layer backward."""
    text, b, config = shape.model.text_config, shape.b, shape.config
    tokens, d = shape.packed, text.hidden_size
    of_attention, norms, state = _attention_saved(shape), _norms_saved(shape), state_layer(shape)
    saved = norms + 4 * tokens * b * text.intermediate_size
    inner = tokens * b * text.intermediate_size
    third = max(inner, b * d * text.intermediate_size)  # or the layer's weight, out of its 4 bits, or its gradient
    if config.checkpointing:
        kept = {"checkpoints": text.num_hidden_layers * tokens * b * d}
        mlp = max(of_attention, state.kept) + norms + 2 * tokens * b * d + 5 * inner + third
        gradients = 2 * shape.seen * (shape.queries + shape.keys) + (shape.fresh + 3 * tokens) * shape.queries
        layer = max(mlp, of_attention + norms / 2 + b * gradients, state.backward + norms / 2)
    else:
        mixers = shape.attention_layers * of_attention + shape.state_layers * state.kept
        kept = {"saved activations": text.num_hidden_layers * saved + mixers + _narrow(shape, "language")}
        layer = max(2 * tokens * b * d + inner + third, state.backward - state.kept)
    table = text.vocab_size * d * b if config.train == "full" else 0  # its gradient, one a chunk, and their sum
    hidden = tokens * d * (4 + 2 * b) + 2 * shape.fresh * d * b
    logits = max(_chunk(shape) * text.vocab_size * 4 * LOGIT_COPIES + 2 * table + hidden, 3 * table)
    parts = {**_inputs(shape), **kept, "vision activations": _tower_saved(shape)}
    return parts | ({"logits chunk": logits} if logits > layer else {"one layer": layer})


def _inputs(shape: Shape) -> dict[str, float]:
    """Count the embeddings of the packed tokens, and the attention bias, which all layers share."""
    mask = shape.seen * shape.config.max_completion_length
    return {"packed tokens": shape.b * (shape.packed * shape.embedded + mask)}


def _chunk(shape: Shape) -> int:
    return min(CHUNK, shape.fresh)


def _attention_saved(shape: Shape) -> float:
    """Count queries, keys, values and result of the two calls, and the input of the output layer."""
    text, b = shape.model.text_config, shape.b
    d, s = shape.queries, shape.prompts * shape.prompt
    numbers = 2 * (s + shape.fresh) * d + 2 * s * shape.keys + 2 * shape.seen * d + shape.packed * d
    return b * numbers + 4 * text.num_attention_heads * (s + shape.fresh)


def _norms_saved(shape: Shape) -> float:
    """Count two norms, whose results are the inputs of the next layers.

    The norms of queries and keys, if the model has them, keep the copy of their input only.
    """
    d, learning = shape.model.text_config.hidden_size, shape.config.train == "full"
    of_heads = hasattr(first_mixer(shape.model), "q_norm")
    share = shape.attention_layers / shape.model.text_config.num_hidden_layers  # the mean over all layers
    heads = of_heads * share * (shape.queries + shape.keys) * (4 + shape.b * learning)
    return shape.packed * (2 * d * _rms_norm(shape) + heads)


def _rms_norm(shape: Shape) -> int:
    """Count the bytes that an RMSNorm keeps of a number: input in float32, result, and the factor of its weight."""
    return 4 + shape.b * (2 if shape.config.train == "full" else 1)


def _tower_saved(shape: Shape) -> float:
    """Count a trained vision tower, which is never checkpointed, by the layers that its family has.

    Attention keeps queries, keys and values twice but for the values, and its result twice.  An MLP keeps the input
    and the result of its activation: QuickGELU also a sigmoid, a gated MLP also the gate's partner and the product.  A
    merger keeps three numbers of width E.
    """
    if not tower_learns(shape.config):
        return 0
    vision, block, b = shape.model.vision_config, skeleton(shape.model).model.visual.blocks[0], shape.b
    e, m = tower_widths(shape.model)
    norm = 2 * b if isinstance(block.norm1, nn.LayerNorm) else _rms_norm(shape)
    inner = 4 if len(linears(block.mlp)) == 3 else 2 + (vision.hidden_act == "quick_gelu")
    layer = 7 * e * b + 4 * vision.num_heads + 2 * e * norm + inner * m * b
    mergers = (1 + 3 * shape.embedded // shape.model.text_config.hidden_size) * e * b
    return shape.prompts * (shape.patches * (vision.depth * layer + mergers) + _narrow(shape, "vision"))


def _narrow(shape: Shape, part: str) -> float:
    """Count the copies of a part's adapters in the number format of the activations."""
    lora = shape.config.train == "lora" and shape.b < 4
    return lora * shape.b * adapter_weights(shape.model, shape.config)[part]

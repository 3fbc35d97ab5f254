"""The memory ledger: all bytes of a run on the card, computed from the model's configuration and the settings.

A step has phases that need different amounts of memory; the peak is that of the fullest phase.

    load        the weights, and one layer before its quantisation to 4 bits
    see         the vision tower on the largest picture
    prefill     the prompts of a rollout pass; only keys and values are kept
    decode      keys and values of all rows, and the sampler's numbers over the vocabulary
    reference   the packed forward pass, without a gradient
    update      the packed forward and backward pass, with the gradients of the passes before it
    optimise    gradients and moments side by side
    evaluate    the rollout of an evaluation during training

Nothing here is measured: every line counts tensors of `policy`, `decoding`, `logprobs` and transformers' Qwen2-VL, at
the worst case of the settings (longest prompt, largest picture, every completion at its limit).  The tests
run the same step on tensors without storage and count its tensors (`tests/cost/fake_step.py`).

Letters: L packed tokens of a pass, R its completions, D hidden, I the width inside the MLP,
K the width of keys, V vocabulary, E and M the same of the vision tower, b bytes of a number (2 in bfloat16).
"""

from dataclasses import dataclass, replace

from transformers import PreTrainedConfig

from minirft.cost import activations
from minirft.cost.sizes import NF4, Shape, count_weights
from minirft.runs import GRPOConfig

GIB = 2**30
Parts = dict[str, float]  # name -> bytes


@dataclass(frozen=True)
class Ledger:
    """The bytes of each phase and part."""

    phases: dict[str, Parts]

    def total(self, phase: str) -> float:
        """Return the bytes on the card in a phase."""
        return sum(self.phases[phase].values())

    @property
    def peak_phase(self) -> str:
        """Return the fullest phase."""
        return max(self.phases, key=self.total)

    @property
    def peak(self) -> float:
        """Return the bytes of tensors in the fullest phase, without the CUDA context."""
        return self.total(self.peak_phase)


def ledger(model: PreTrainedConfig, config: GRPOConfig) -> Ledger:
    """Compute the ledger of a run of `config` on `model`."""
    shape = Shape.of(model, config)
    kept, weights, text = resident(shape), count_weights(model), model.text_config
    tower, table = ({part: _stored(weights[part], shape)} for part in ("vision tower", "embedding"))
    widest = text.hidden_size * text.intermediate_size * shape.b * (config.quantize == "nf4")
    gradients = {"gradients": shape.learning * shape.weight_bytes}
    roots = shape.learning * 4 * (config.optimiser == "adamw")  # of all second moments, which AdamW takes at once
    phases = {
        # Even what is offloaded afterwards is on the card while loading.
        "load": {**kept, **tower, **table, "one layer before quantisation": widest},
        "see": {**kept, **tower, "picture": activations.picture(shape)},
        "prefill": {**kept, **activations.prefill(shape)},
        "decode": {**kept, **activations.decode(shape, config.group_size)},
        "reference": {**kept, **activations.reference(shape)},
        "update": {**kept, **gradients, **activations.update(shape)},
        "optimise": {**kept, **gradients, "optimiser scratch": roots},
    }
    if config.eval_every:
        asked = replace(shape, together=config.eval_batch)
        fuller = max(activations.prefill(asked), activations.decode(asked, 1), key=lambda parts: sum(parts.values()))
        phases["evaluate"] = {**kept, **fuller}
    del phases["load"]["optimiser state"]
    if config.kl_coef == 0:
        del phases["reference"]
    return Ledger({name: {part: n for part, n in parts.items() if n} for name, parts in phases.items()})


def _stored(kinds: dict[str, int], shape: Shape) -> float:
    linear = NF4 if shape.config.quantize == "nf4" else shape.b
    return kinds.get("linear", 0) * linear + kinds.get("other", 0) * shape.b


def resident(shape: Shape) -> Parts:
    """Return the parts that are on the card in every phase from the second step on."""
    config = shape.config
    parts: Parts = {name: _stored(kinds, shape) for name, kinds in count_weights(shape.model).items()}
    if config.offload_vision:
        parts["vision tower"] = 0
    if config.offload_embedding and not shape.model.tie_word_embeddings:
        parts["embedding"] = 0
    if config.train == "lora":
        parts["adapters"] = shape.learning * shape.weight_bytes
    elif config.kl_coef:  # a frozen copy; a frozen tower is shared
        parts["reference copy"] = shape.learning * shape.b
    # Two moments a weight: in 8 bits with a float32 scale per 256, or in float32.
    parts["optimiser state"] = shape.learning * 2 * (1 + 4 / 256 if config.optimiser == "adamw8bit" else 4)
    return parts

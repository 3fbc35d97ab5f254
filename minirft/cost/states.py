"""The memory of layers that carry a state (gated delta nets), counted by a run of one on tensors without storage.

Their arithmetic is in chunks of tokens, in float32, with a matrix per head between the chunks: too many tensors to list
by hand, and other ones in the next release of transformers.  One layer on the device "meta" computes nothing and takes
half a second.  What is counted is the path without the kernels of `flash-linear-attention`, which need less.
"""

import copy
import weakref
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from minirft.cost.sizes import Shape, first_mixer, state_numbers
from minirft.engine import family_of


class StateLayer(NamedTuple):
    """The bytes of one layer beside its weights, input and output."""

    prefill: int = 0  # the fullest moment of the prompts of a rollout pass, without a gradient
    forward: int = 0  # the same of a packed pass
    kept: int = 0  # what a packed pass keeps for its backward pass
    backward: int = 0  # the fullest moment of the two


class Allocations(TorchDispatchMode):
    """Count the bytes of all tensors that are made in this context: at present, and at the peak.

    >>> with Allocations() as made:
    ...     result = torch.empty(4, device="meta") + torch.empty(4, device="meta")
    >>> made.now, made.peak
    (16, 48)
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        given, new = ([x.untyped_storage() for x in tree_leaves(of) if isinstance(x, Tensor)] for of in (args, made))
        for storage in new:
            if all(storage is not known for known in given):  # else a view
                self._add(storage.nbytes())
                weakref.finalize(storage, self._add, -storage.nbytes())
        return made

    def _add(self, size: int) -> None:
        self.now += size
        self.peak = max(self.peak, self.now)


def state_layer(shape: Shape) -> StateLayer:
    """Count one layer in the passes of `shape`; all zeros if the model has no such layer."""
    if not shape.state_layers:
        return StateLayer()
    config = shape.config
    adapters = "none" if config.lora.targets == "vision" else "inputs"
    sizes = shape.together, shape.prompt, shape.prompts, shape.rows, config.max_completion_length
    learns = "all" if config.train == "full" else adapters
    return _counted(first_mixer(shape.model, stateful=True), shape.model.model_type, shape.b, learns, *sizes)


@lru_cache(maxsize=256)
def _counted(
    first: nn.Module, family: str, b: int, learns: str, together: int, s: int, prompts: int, rows: int, t: int
) -> StateLayer:
    """Count the layer; with adapters a linear layer keeps its input, as it does when its own weights learn."""
    layer: Any = copy.deepcopy(first)
    family_of(family, "the configuration").prepare(layer)
    dtype = {2: torch.bfloat16, 4: torch.float32}[b]
    for weight in layer.to(dtype).parameters():
        weight.requires_grad_(learns == "all" or (learns == "inputs" and weight.dim() == 2))

    def hidden(n: int, length: int) -> Tensor:
        return torch.empty(n, length, layer.hidden_size, dtype=dtype, device="meta", requires_grad=True)

    alone = hidden(together, s)
    packed = hidden(prompts, s), hidden(rows, t)
    counts = [rows - prompts + 1, *[1] * (prompts - 1)]  # how the rows are divided makes no difference
    real = torch.empty(prompts, s, dtype=torch.bool, device="meta")
    with torch.no_grad():
        with Allocations() as prefill:
            layer(alone)
        with Allocations() as forward:
            layer.begin_at_prompts(*packed, counts, real)
    with Allocations() as backward:
        results = layer.begin_at_prompts(*packed, counts, real)
        kept = backward.now - sum(result.nbytes for result in results)
        torch.autograd.backward(results, [torch.empty_like(result) for result in results])
    return StateLayer(prefill.peak, forward.peak, kept, backward.peak)


def state_bytes(shape: Shape) -> int:
    """Count the state of one row in one layer: a float32 matrix per head, and the last inputs of the convolution."""
    if not shape.state_layers:
        return 0
    layer = first_mixer(shape.model, stateful=True)
    return 4 * state_numbers(layer) + layer.conv_dim * layer.conv_kernel_size * shape.b

"""A decoder appends one token at a time to the rows of a group, which share the keys and values of their prompt.

transformers' own cache holds a copy of the prompt for every row, and concatenates: each token copies all earlier ones.
Here each row has a buffer for its completion alone, which is written in place, and with `layers.OnPrompts` the rows of
a group read one copy of their prompt.  For Qwen2-VL-2B, 16 prompts of 1,024 tokens and groups of 8, the prompts'
keys and values take 0.44 GiB instead of 3.5.  Keys are converted to float32 once, because the scores need it
(`layers`): 0.22 GiB more.

There are two decoders.  `Growing` reads only the filled part of the buffer and drops finished rows: the least
arithmetic.  `Graph` always reads the whole buffer under a mask, so that no shape changes; on CUDA one step is recorded
once and replayed, and its hundreds of small kernels are launched as one.  On a CPU it is the same step without
recording.
"""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache
from transformers.cache_utils import Cache, CacheLayerMixin, LinearAttentionLayer

from minirft.engine.layers import OnPrompts
from minirft.engine.model import Model
from minirft.samples import Prompt


@dataclass
class Prefilled:
    """`Prefilled` holds P prompts after their one pass: keys, values, and the inputs of the next token."""

    cache: DynamicCache
    hidden: Tensor  # (P, D) at each prompt's last token
    mask: Tensor  # (P, S) bool, left-padded
    position: Tensor  # (P,) rotary position of the first completion token


def prefill(model: Model, prompts: Sequence[Prompt], remembered: bool = True) -> Prefilled:
    """Run P prompts, left-padded to the longest, through the model once.

    With `remembered`, cached features replace the vision tower for known pictures.
    """
    embeds = [model.embed_prompt(prompt, None if remembered else model.run_vision_tower(prompt)) for prompt in prompts]
    positions = _left_padded([prompt.position_ids.T for prompt in prompts]).permute(2, 0, 1)
    mask = _left_padded([torch.ones(len(prompt), dtype=torch.bool) for prompt in prompts]).to(model.device)
    cache = DynamicCache(config=model.language_model.config)
    hidden = model.run(_left_padded(embeds), positions, mask, cache)
    position = torch.tensor([len(prompt) + prompt.rope_delta for prompt in prompts], device=model.device)
    return Prefilled(cache, hidden[:, -1], mask, position)


def _left_padded(rows: list[Tensor]) -> Tensor:
    return pad_sequence(rows, batch_first=True, padding_side="left")


class Buffer(CacheLayerMixin):
    """A buffer holds float32 keys and values of the completions in one layer, (B, heads, capacity, d).

    It has the interface of transformers' cache layers.  With `at`, a tensor with the index to write, `update` returns
    the whole buffer, else the filled part.
    """

    is_sliding = False

    def __init__(self, like: Tensor, group_size: int, capacity: int, at: Tensor | None = None) -> None:
        super().__init__()
        self.length, self.at, self.is_initialized = 0, at, True
        shape = len(like) * group_size, like.shape[1], capacity, like.shape[3]
        self.keys, self.values = like.new_zeros(shape, dtype=torch.float32), like.new_zeros(shape)

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Write one token's keys and values, (B, heads, 1, d); return those of the completions so far."""
        if self.at is not None:
            self.keys.index_copy_(2, self.at, key_states.float())
            self.values.index_copy_(2, self.at, value_states)
            return self.keys, self.values
        self.keys[:, :, self.length], self.values[:, :, self.length] = key_states[:, :, 0], value_states[:, :, 0]
        self.length += 1
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep only these rows."""
        self.keys, self.values = self.keys[beam_idx], self.values[beam_idx]

    def get_seq_length(self) -> int:
        """Return the number of completion tokens in a row."""
        return self.length

    def get_max_length(self) -> int:
        """Return the capacity: how many completion tokens fit."""
        return self.keys.shape[2]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return sizes that transformers requires but does not use here: `OnPrompts` replaces the mask."""
        return self.length + query_length, 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Do nothing: `__init__` has made the buffer."""


class Growing:
    """`Growing` reads only the filled part of its buffers and drops finished rows."""

    def __init__(self, model: Model, start: Prefilled, group_size: int, capacity: int) -> None:
        self.model = model
        self.position = start.position.repeat_interleave(group_size)
        self.prompts = on_prompts(start, group_size)
        self.layers = [_continued(layer, group_size, capacity) for layer in start.cache.layers]

    def step(self, tokens: Tensor) -> Tensor:
        """Append one token to each row, (B,); return the hidden states after it, (B, D)."""
        hidden = _forward(self.model, tokens, self.position, self.prompts, self.layers)
        self.position = self.position + 1
        return hidden

    def keep(self, rows: Tensor) -> None:
        """Keep only the rows at these indices, in rising order."""
        self.position = self.position[rows]
        self.prompts = self.prompts.select(rows)
        for layer in self.layers:
            layer.reorder_cache(rows)


class Graph:
    """`Graph` reads whole buffers under a mask, so that a step has one shape; on CUDA it is a recorded graph."""

    def __init__(self, model: Model, start: Prefilled, group_size: int, capacity: int) -> None:
        self.model = model
        self.position = start.position.repeat_interleave(group_size)
        self.tokens = torch.zeros_like(self.position)
        self.at = torch.zeros(1, dtype=torch.long, device=model.device)
        self.unwritten = torch.full((capacity,), -torch.inf, device=model.device)
        self.prompts = on_prompts(start, group_size, self.unwritten)
        self.layers = [_continued(layer, group_size, capacity, self.at) for layer in start.cache.layers]
        self.replay: Callable[[], None] | None = None
        self.hidden: Tensor | None = None

    def step(self, tokens: Tensor) -> Tensor:
        """Append one token to each row, as in `Growing`; the first step on CUDA records the graph."""
        self.tokens.copy_(tokens)
        if self.replay is None:
            self.replay = self._record() if tokens.is_cuda else self._run
        self.replay()
        return self.hidden

    def _run(self) -> None:
        self.unwritten.index_fill_(0, self.at, 0.0)
        self.hidden = _forward(self.model, self.tokens, self.position, self.prompts, self.layers)
        self.position += 1
        self.at += 1

    def state(self) -> list[Tensor]:
        """Return all tensors that a step changes, but keys and values: a repeated step writes those again."""
        carried = [layer for layer in self.layers if not isinstance(layer, Buffer)]
        states = [x for layer in carried for x in (*layer.conv_states.values(), *layer.recurrent_states.values())]
        return [self.position, self.at, self.unwritten, *states]

    def _record(self) -> Callable[[], None]:
        """Run twice to warm up, as torch requires, then record; the state is restored after each warm-up run."""
        state = [(x, x.clone()) for x in self.state()]
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(2):
                self._run()
                put_back(state)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):  # records without running
            self._run()
        return graph.replay


def put_back(state: list[tuple[Tensor, Tensor]]) -> None:
    """Copy the second tensor of each pair into the first."""
    for tensor, before in state:
        tensor.copy_(before)


DECODERS: dict[str, type[Growing] | type[Graph]] = {"growing": Growing, "graph": Graph}


def on_prompts(start: Prefilled, group_size: int, unwritten: Tensor | None = None) -> OnPrompts:
    """Make `OnPrompts` for P prompts that have passed the model, with G rows each."""
    rows = torch.arange(len(start.position) * group_size, device=start.mask.device)
    padding = None if start.mask.all() else torch.where(start.mask, 0.0, -torch.inf)[:, None, None]
    keys = {i: layer.keys.float() for i, layer in enumerate(start.cache.layers) if hasattr(layer, "keys")}
    values = {i: start.cache.layers[i].values for i in keys}
    return OnPrompts(keys, values, padding, unwritten, rows.unflatten(0, (-1, group_size)), rows)


def _continued(layer: Any, group_size: int, capacity: int, at: Tensor | None = None) -> Any:
    """Make a layer's cache for the rows of all groups: room for their keys, or a copy each of their prompt's state."""
    return Buffer(layer.keys, group_size, capacity, at) if hasattr(layer, "keys") else _repeated(layer, group_size)


def _repeated(layer: LinearAttentionLayer, group_size: int) -> LinearAttentionLayer:
    """Copy the state of P prompts, G times each.  The copy is moved on in place, which a recorded graph needs."""
    state = copy(layer)
    state.conv_states, state.recurrent_states = dict(layer.conv_states), dict(layer.recurrent_states)
    state.reorder_cache(torch.arange(len(layer.conv_states[0])).repeat_interleave(group_size))
    return state


def _forward(model: Model, tokens: Tensor, position: Tensor, prompts: OnPrompts, layers: list[Any]) -> Tensor:
    """Run one token per row, (B,), at its rotary position, (B,), through the language model: hidden states (B, D)."""
    embeds, positions = model.embed(tokens)[:, None], position.expand(3, -1)[..., None]
    mask, cache = model.family.unmasked, Cache(layers=layers)  # `prompts` replaces the mask
    return model.run(embeds, positions, mask, cache, on_prompts=prompts)[:, 0]

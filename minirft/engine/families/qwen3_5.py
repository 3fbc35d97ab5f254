"""Qwen3.5, 0.8B, 2B and 4B, has a tower like Qwen3-VL's, boxes in thousandths, and layers with a gated delta net.

Three of four layers have no keys and values.  They carry a state from token to token: a matrix per head, and the last
inputs of a short convolution.  In a packed pass such a state would run from one completion into the next.  Here each
completion begins with the state at the end of its prompt, which is computed once for a group.

Source: https://arxiv.org/abs/2412.06464 (gated delta networks).  Its makers advise against 4-bit weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, LinearAttentionLayer
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5GatedDeltaNet

from minirft.engine.families import LANGUAGE_LINEARS, Family
from minirft.engine.layers import Spans, copied


class State(LinearAttentionLayer):
    """`State` is what a gated delta net has after some tokens; unlike transformers' own it can pass a gradient on.

    The matrices are (n, heads, key width, value width), the inputs of the convolution (n, channels, tokens).
    """

    def __init__(self) -> None:
        super().__init__()
        self.record_past = True  # the inputs are then assigned, not copied in place

    def update_recurrent_state(self, recurrent_states: Tensor, state_idx: int = 0, **_: Any) -> Tensor:
        """Assign the matrices: a copy in place would destroy what the backward pass needs."""
        self.recurrent_states[state_idx] = recurrent_states
        return recurrent_states

    def repeated(self, counts: list[int], window: int) -> State:
        """Make the state with `counts[p]` copies of row p, and of the inputs only the last `window`."""
        state = State()
        for kept, own in ((state.conv_states, self.conv_states), (state.recurrent_states, self.recurrent_states)):
            kept[0] = copied(own[0], counts)
        state.conv_states[0] = state.conv_states[0][..., -window:]
        state.is_conv_states_initialized[0] = state.is_recurrent_states_initialized[0] = True
        state.has_previous_state[0] = True
        return state


class SharedPrefixDeltaNet(Qwen3_5GatedDeltaNet):
    """`SharedPrefixDeltaNet` is the layer; over a packed sequence it begins every completion at its prompt's state."""

    def forward(
        self,
        hidden_states: Tensor,
        *args: Any,
        spans: Spans | None = None,
        on_prompts: object = None,
        **given: Any,
    ) -> Tensor:
        """Run over (n, L, D), or with `spans` over a packed (1, L, D); the result has the same shape.

        A decoded token needs nothing of `on_prompts`: the cache has the state of its row.
        """
        if spans is None:
            return super().forward(hidden_states, *args, **given)
        # Padding on the left, so that a prompt's state is the last one.  A masked token leaves a state of 0 as it is.
        last = spans.prompts.amax(1, keepdim=True)
        places = last - torch.arange(spans.prompts.shape[1] - 1, -1, -1, device=last.device)
        real = places >= spans.prompts[:, :1]
        inputs = hidden_states[0, places.clamp(min=0)], hidden_states[0, spans.completions]
        padded = torch.cat([x.flatten(0, 1) for x in self.begin_at_prompts(*inputs, spans.counts, real)])
        kept = torch.cat([real.flatten(), spans.completions.flatten() > 0]).nonzero()[:, 0]
        return padded.index_select(0, kept)[None]

    def begin_at_prompts(
        self, prompts: Tensor, completions: Tensor, counts: list[int], real: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Run over P left-padded prompts, and over R completions from their prompts' states: the shapes of the inputs.

        `prompts` is (P, S, D), `completions` (R, T, D), `real` (P, S) marks the tokens that are no padding.
        """
        state = State()
        of_prompts = self._run(prompts, state, real)
        return of_prompts, self._run(completions, state.repeated(counts, self.conv_kernel_size - 1))

    def _run(self, x: Tensor, state: State, real: Tensor | None = None) -> Tensor:
        return super().forward(x, Cache(layers=[state] * (self.layer_idx + 1)), real)  # it asks for its own index


def _prepare(model: PreTrainedModel) -> None:
    for layer in model.modules():
        if isinstance(layer, Qwen3_5GatedDeltaNet):
            layer.__class__ = SharedPrefixDeltaNet


FAMILY = Family(
    name="Qwen3.5",
    prefix="Qwen3_5",
    language_linears=(*LANGUAGE_LINEARS, "in_proj_qkv", "in_proj_z", "in_proj_a", "in_proj_b", "out_proj"),
    vision_linears=("attn.qkv", "attn.proj", "linear_fc1", "linear_fc2"),
    layers=("full_attention", "linear_attention"),
    unmasked={"full_attention": None, "linear_attention": None},
    quantises=False,
    prepare=_prepare,
)

"""Qwen3-VL, 2B, 4B and 8B: picture tokens of 32 x 32 pixels, q/k norms, boxes in thousandths, and DeepStack.

DeepStack: what early layers of the tower saw is added to the picture's hidden states behind the first layers of the
language model.  These levels lie beside the embedding of their token, (tokens, (1 + levels) * hidden), 0 for a token of
text: so they are remembered, packed, padded and given a gradient as embeddings are.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextModel

from minirft.engine.families import Family


class DeepStackText(Qwen3VLTextModel):
    """The language model, whose `inputs_embeds` may have the levels of DeepStack beside them."""

    def forward(self, *args: Any, inputs_embeds: Tensor | None = None, **inputs: Any) -> Any:
        """(n, L, (1 + levels) * hidden) as well as (n, L, hidden); a decoded token, always text, needs no levels."""
        if inputs_embeds is not None and inputs_embeds.shape[-1] > self.config.hidden_size:
            inputs_embeds, *levels = inputs_embeds.split(self.config.hidden_size, -1)
            inputs["deepstack_visual_embeds"] = None if inputs.get("on_prompts") else levels
        return super().forward(*args, inputs_embeds=inputs_embeds, **inputs)

    def _deepstack_process(
        self, hidden_states: Tensor, visual_pos_masks: Tensor | None, visual_embeds: Tensor
    ) -> Tensor:
        if visual_pos_masks is None:  # a level for every token
            return hidden_states + visual_embeds
        return super()._deepstack_process(hidden_states, visual_pos_masks, visual_embeds)


def _prepare(model: PreTrainedModel) -> None:
    model.model.language_model.__class__ = DeepStackText


FAMILY = Family(
    name="Qwen3-VL",
    prefix="Qwen3VL",
    vision_linears=("attn.qkv", "attn.proj", "linear_fc1", "linear_fc2"),
    levels=lambda config: len(config.vision_config.deepstack_visual_indexes),
    prepare=_prepare,
)

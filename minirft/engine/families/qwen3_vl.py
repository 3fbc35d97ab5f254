"""Qwen3-VL, 2B, 4B and 8B, has picture tokens of 32 x 32 pixels, q/k norms, boxes in thousandths, and DeepStack.

DeepStack adds features from early layers of the tower to the picture's hidden states after the first layers of the
language model.  These levels are stored next to the embedding of their token, (tokens, (1 + levels) * hidden), 0 for a
text token, so they are cached, packed, padded and given a gradient with the embeddings.
"""

from typing import Any

from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextModel

from minirft.engine.families import Family


class DeepStackText(Qwen3VLTextModel):
    """`DeepStackText` is the language model; its `inputs_embeds` can have the levels of DeepStack next to them."""

    def forward(self, *args: Any, inputs_embeds: Tensor | None = None, **inputs: Any) -> Any:
        """Accept (n, L, (1 + levels) * hidden) and (n, L, hidden); a decoded token is text and needs no levels."""
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

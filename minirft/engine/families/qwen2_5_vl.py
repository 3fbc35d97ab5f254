"""Qwen2.5-VL, 3B and 7B, is Qwen2-VL with window attention in the tower and boxes in pixels of the resized picture.

The tower's MLP has the same layer names as the language model's, so LoRA must choose one of the two parts.
"""

from minirft.engine.families import Family

FAMILY = Family(
    name="Qwen2.5-VL",
    prefix="Qwen2_5_VL",
    vision_linears=("attn.qkv", "attn.proj", "gate_proj", "up_proj", "down_proj", "mlp.0", "mlp.2"),
    unmasked={"full_attention": None},
    pixel_boxes=True,
)

"""Qwen2-VL, 2B and 7B, has picture tokens of 28 x 28 pixels, a tower with full attention, and boxes in thousandths."""

from minirft.engine.families import Family

FAMILY = Family(
    name="Qwen2-VL",
    prefix="Qwen2VL",
    vision_linears=("attn.qkv", "attn.proj", "fc1", "fc2", "mlp.0", "mlp.2"),
    unmasked={"full_attention": None},
)

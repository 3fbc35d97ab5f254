"""Two layers of the libraries, computed in fewer operations: same weights, same names, same values to rounding.

adapter      y = W x + s B (A x): the last product adds onto W x as it goes, in the number format of x.  PEFT
             multiplies by s and adds in passes of their own, widens x to the adapter's float32, and copies W x
             where W is in 4 bits.
first layer  of the vision tower: a convolution whose window never overlaps is one matrix product on patches.
"""

from __future__ import annotations

import torch
from peft import PeftModel
from peft.tuners import lora
from torch import Tensor, nn
from transformers import Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.modeling_qwen2_vl import PatchEmbed


class Adapted(lora.Linear):
    """A linear layer W with one adapter (A, B, s), its dropout 0; W may be in 4 bits."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        y = self.base_layer(x)
        if self.disable_adapters or self.merged:
            return y
        (name,) = self.active_adapters
        a, b = (part[name].weight.to(x.dtype) for part in (self.lora_A, self.lora_B))
        low = nn.functional.linear(x, a).flatten(0, -2)
        return torch.addmm(y.flatten(0, -2), low, b.T, alpha=self.scaling[name]).view_as(y)


class Adapted4bit(lora.Linear4bit):
    """The same over a W in 4 bits: to PEFT a class of its own."""

    forward = Adapted.forward


class Patches(PatchEmbed):
    """Pixels of a patch times the weights of each output."""

    def forward(self, pixels: Tensor) -> Tensor:
        """(patches, pixels of a patch) -> (patches, outputs)."""
        weight = self.proj.weight.flatten(1)
        return nn.functional.linear(pixels.to(weight.dtype), weight)


def fuse_adapters(model: PeftModel) -> None:
    """Adapters add in the product and compute in the format of the activations; their weights keep their own."""
    for layer in model.modules():
        if isinstance(layer, lora.LoraLayer):
            # Nothing but `forward` differs; a new module in its place would lose what PEFT knows about this one.
            bits = isinstance(layer, lora.Linear4bit)
            layer.__class__ = Adapted4bit if bits else Adapted


def embed_patches_by_product(model: Qwen2VLForConditionalGeneration) -> None:
    """The vision tower's first layer as a matrix product."""
    model.model.visual.patch_embed.__class__ = Patches

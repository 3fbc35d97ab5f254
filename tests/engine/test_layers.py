"""The layers computed in fewer operations against the libraries' own."""

from pathlib import Path

import pytest
import torch
from conftest import shaken
from peft.tuners import lora
from torch import Tensor
from transformers.models.qwen2_vl.modeling_qwen2_vl import PatchEmbed

from minirft.engine.layers import Adapted, Adapted4bit, Patches
from minirft.policy import LoraSettings, Policy
from minirft.samples import Sample


def value_and_gradients(layer: torch.nn.Module, x: Tensor) -> list[Tensor]:
    """The output, and what an uneven loss on it says to the input and to every weight that learns."""
    x = x.clone().requires_grad_()
    y = layer(x)
    learning = [weight for weight in layer.parameters() if weight.requires_grad]
    return [y, *torch.autograd.grad((y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum(), [x, *learning])]


@pytest.mark.parametrize("quantize", ["none", "nf4"])
def test_adapters_are_pefts(miniature: Path, quantize: str):
    """A factor alpha / r lost or squared, B read the wrong way round, a gradient that stops at the product."""
    torch.manual_seed(0)
    policy = shaken(Policy.load(miniature, quantize=quantize, lora=LoraSettings(r=4, alpha=12), device="cpu"))
    layers = [layer for layer in policy.model.modules() if isinstance(layer, lora.LoraLayer)]
    assert {type(layer) for layer in layers} == {Adapted if quantize == "none" else Adapted4bit}
    for layer in layers:
        x = torch.randn(2, 3, layer.in_features)
        found = value_and_gradients(layer, x)
        layer.__class__ = type(layer).__mro__[1]
        expected = value_and_gradients(layer, x)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        assert all(gradient.any() for gradient in expected)


def test_adapters_switched_off_and_merged(miniature: Path):
    """A reference model that is not the base, or an adapter that counts twice once PEFT has merged it."""
    policy = shaken(Policy.load(miniature, lora=LoraSettings(r=4), device="cpu"))
    layer = next(layer for layer in policy.model.modules() if isinstance(layer, Adapted))
    x = torch.randn(5, layer.in_features)
    adapted = layer(x)
    with policy.without_adapters():
        assert torch.equal(layer(x), layer.base_layer(x)) and not torch.allclose(layer(x), adapted)
    policy.model.merge_adapter()
    torch.testing.assert_close(layer(x), adapted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("train_vision", [False, True])
def test_patches_are_the_convolution(miniature: Path, samples: list[Sample], train_vision: bool):
    """Channels, frames and pixels of a patch in another order than the convolution's weights."""
    policy = Policy.load(miniature, train_vision=train_vision, device="cpu")
    layer, prompt = policy.core.model.visual.patch_embed, policy.encode(samples[0])
    assert isinstance(layer, Patches)
    found = value_and_gradients(layer, prompt.pixel_values)
    layer.__class__ = PatchEmbed
    torch.testing.assert_close(found, value_and_gradients(layer, prompt.pixel_values), rtol=1e-4, atol=1e-4)
    assert len(found) == 2 + train_vision

"""4-bit weights in a rollout, counted at the operators: a token step reads each weight once, and expands none."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from torch.utils._python_dispatch import TorchDispatchMode

from minirft.engine.decoding import DECODERS
from minirft.policy import LoraSettings, Policy
from minirft.sampler import sample_groups
from minirft.samples import Sample


class Counting(TorchDispatchMode):
    """Counts bitsandbytes' operators that the package calls, not those that an operator calls inside."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, op: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if op.namespace == "bitsandbytes":
            self.calls[op._schema.name.removeprefix("bitsandbytes::")] += 1
        return op(*args, **kwargs or {})


def loaded(miniature: Path, device: str) -> Policy:
    """A 4-bit policy whose completions end by length alone."""
    policy = Policy.load(miniature, quantize="nf4", lora=LoraSettings(r=4), dtype="bfloat16", device=device)
    policy.eos_ids = (-1,)
    return policy


def four_bit(part: torch.nn.Module) -> int:
    return sum(isinstance(layer, Linear4bit) for layer in part.modules())


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_token_step_reads_each_weight_once(miniature: Path, samples: list[Sample], decoder: str):
    """A product per row; a weight that is expanded to 16 bits and multiplied, which moves 9 times its bytes.

    bitsandbytes has one operator for the product since 0.50, whatever the number of rows; what is below it is a fused
    kernel on a card, and on a processor an expansion (`docs/costs.md`).
    """
    policy, length = loaded(miniature, "cpu"), 5
    prompts = [policy.encode(sample) for sample in samples[:2]]
    with Counting() as counting:
        sample_groups(policy, prompts, 4, max_completion_length=length, seed=0, decoder=decoder)
    passes = 1 + (length - 1)  # one of both prompts, and one for each token but the last
    tower = len(prompts) * four_bit(policy.core.model.visual)
    assert four_bit(policy.language_model) == 14
    assert counting.calls == {"gemm_4bit": tower + passes * four_bit(policy.language_model)}


def test_backward_expands_each_weight_once(miniature: Path, samples: list[Sample]):
    """A count that cannot see an expansion: the gradient of a product's input needs one."""
    policy = loaded(miniature, "cpu")
    rollout = sample_groups(policy, samples[:1], 4, max_completion_length=5, seed=0)
    with Counting() as counting:
        policy.logprobs(rollout).sum().backward()
    below = 3  # q, k and v of the first layer: below them nothing learns, so their inputs need no gradient
    assert counting.calls["gemm_4bit"] == 14 and counting.calls["dequantize_4bit"] == 14 - below


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_card_expands_nothing_in_a_token_step(miniature: Path, samples: list[Sample]):
    """A 2B model whose token step moves 5.9 GB instead of 0.65.  With 4 rows every card has a fused product."""
    from minirft.cost.gpu_checks import kernels

    policy = loaded(miniature, "cuda")
    prompts = [policy.encode(sample) for sample in samples[:1]]

    def counted(length: int) -> dict[str, Any]:
        return kernels(lambda: sample_groups(policy, prompts, 4, max_completion_length=length, seed=0))

    few, many = counted(3), counted(7)
    assert many["expanded_4bit"] == few["expanded_4bit"]
    assert many["fused_4bit"] - few["fused_4bit"] == 4 * 14
    assert many["kernels"] > few["kernels"] > 0

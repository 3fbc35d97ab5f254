"""A frozen vision tower stays out of the autograd graph, under gradient checkpointing too."""

from pathlib import Path

import pytest
import torch

from minirft.cost.work import SavedActivations
from minirft.engine import logprobs
from minirft.policy import LoraSettings, Policy
from minirft.samples import Sample


def passed(policy: Policy, sample: Sample, shared: bool) -> tuple[bool, int]:
    """Score two completions and learn: does the tower's output require a gradient, and what bytes did it keep?"""
    kept, outputs = SavedActivations(policy.core.parameters()), []
    hooks, tower = kept.hooks(), policy.core.model.visual

    def after(_: torch.nn.Module, __: object, found: object) -> None:
        hooks.__exit__(None, None, None)
        outputs.append(found.pooler_output)

    handles = [tower.register_forward_pre_hook(lambda *_: hooks.__enter__()), tower.register_forward_hook(after)]
    score = logprobs.packed_logprobs if shared else logprobs.naive_logprobs
    ids = torch.tensor([5, 6, 7])
    (scored,) = score(policy, [(policy.encode(sample), [ids, ids + 1])], 1.0)
    scored.sum().backward()
    for handle in handles:
        handle.remove()
    assert any(weight.grad.abs().sum() > 0 for weight in policy.trainable().values())
    (output,) = outputs
    return output.requires_grad, kept.peak


@pytest.mark.parametrize("quantize", ["none", "nf4"])
def test_a_frozen_tower_keeps_nothing_for_backward(miniature: Path, samples: list[Sample], quantize: str):
    """A tower with a graph: its activations are kept, and the backward pass runs through it for no weight's sake.

    In transformers, and so in TRL, checkpointing of the whole model calls `enable_input_require_grads`, which gives a
    frozen tower a graph.  Ours checkpoints the language model alone, and the shared path never gives the tower one.
    """
    policy = Policy.load(miniature, lora=LoraSettings(r=4), quantize=quantize, checkpointing=True, dtype="float32")
    assert [passed(policy, samples[1], shared) for shared in (True, False)] == [(False, 0)] * 2
    policy.core.enable_input_require_grads()
    policy.cache = type(policy.cache)()
    assert passed(policy, samples[1], shared=True) == (False, 0)
    requires_grad, kept = passed(policy, samples[1], shared=False)  # so the count can see a graph
    assert requires_grad and kept > 0

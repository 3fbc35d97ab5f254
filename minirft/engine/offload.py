"""Offloading keeps a frozen vision tower, and the token embeddings of an untied model, in host memory.

The tower's weights are copied to the card while it runs, which is once per picture, because its features are cached.
Of the embeddings only the rows of the current tokens are copied, 7 KiB each for 7B.  On a CPU both memories are the
same, and nothing changes.
"""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn

from minirft import UserError
from minirft.engine.model import Model

HOST = torch.device("cpu")


def keep_in_host_memory(model: Model, vision: bool, embedding: bool) -> None:
    """Offload the frozen vision tower, the embedding, or both.  Raises `UserError` if one learns or is the head."""
    table, device = cast(nn.Embedding, model.core.get_input_embeddings()), model.device
    if vision and model.trains_vision:
        raise UserError(
            "offload_vision needs a frozen vision tower, and here it learns (train_vision, or the targets of "
            "lora): leave one of the two out"
        )
    if embedding and table.weight is model.lm_head.weight:
        raise UserError(
            f"offload_embedding: in {model.name} the embedding is also the head, which every token needs on the "
            "device; leave it out (7B has two tables)"
        )
    if embedding and table.weight.requires_grad:
        raise UserError('offload_embedding needs a frozen embedding: set train = "lora"')
    if vision:
        visit_while_running(model.core.model.visual, device)
    if embedding:
        look_up_in_host_memory(table, device)


def visit_while_running(tower: nn.Module, device: torch.device) -> None:
    """Move the weights of the frozen `tower` to host memory; each call copies them to `device` and frees them after.

    Nothing is copied back, because nothing changes.  The statistics of 4-bit weights (bitsandbytes) move with them.
    """
    weights = list(tower.parameters())
    for weight in weights:
        weight.data = weight.data.to(HOST)
        if state := getattr(weight, "quant_state", None):
            state.to(HOST)
    home: list[tuple[Tensor, Any]] = []

    def arrive(*_: Any) -> None:
        for weight in weights:
            state = getattr(weight, "quant_state", None)
            home.append((weight.data, state))
            weight.data = weight.data.to(device)
            if state is not None:
                weight.quant_state = _copied_to(state, device)

    def leave(*_: Any) -> None:
        # If the card's memory ran out, `arrive` raised in the middle of its loop, so `home` may be shorter.
        for weight, (data, state) in zip(weights, home, strict=False):
            weight.data = data
            if state is not None:
                weight.quant_state = state
        home.clear()

    tower.register_forward_pre_hook(arrive)
    tower.register_forward_hook(leave, always_call=True)


def _copied_to(state: Any, device: torch.device) -> Any:
    """Copy a bitsandbytes `QuantState` to another device; its own `to` would move the original."""
    moved = copy.copy(state)
    moved.state2 = copy.copy(state.state2)
    moved.to(device)
    return moved


def look_up_in_host_memory(embedding: nn.Embedding, device: torch.device) -> None:
    """Move the embedding table to host memory; only the rows of the current tokens are copied to `device`."""
    embedding.to(HOST)
    embedding.register_forward_pre_hook(lambda _, args: (args[0].to(HOST), *args[1:]))
    embedding.register_forward_hook(lambda _, __, rows: rows.to(device))

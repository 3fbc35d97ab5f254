"""Offloading keeps a frozen vision tower, and the token embeddings of an untied model, in host memory.

A copy of the tower is on the card while it runs, which is once per picture, because its features are cached.
Of the embeddings only the rows of the current tokens are copied, 7 KiB each for 7B.  On a CPU both memories are the
same, and nothing changes.
"""

import copy
from typing import Any, cast

import torch
from torch import nn

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
    """Move the frozen `tower` to host memory; each call runs a copy of it on `device`, which is gone afterwards.

    Nothing is copied back, because nothing changes.  The statistics of 4-bit weights (bitsandbytes) are copied too.
    """
    tower.to(HOST)

    def visit(*args: Any, **kwargs: Any) -> Any:
        return type(tower).forward(copy.deepcopy(tower).to(device), *args, **kwargs)

    tower.forward = visit


def look_up_in_host_memory(embedding: nn.Embedding, device: torch.device) -> None:
    """Move the embedding table to host memory; only the rows of the current tokens are copied to `device`."""
    embedding.to(HOST)
    embedding.register_forward_pre_hook(lambda _, args: (args[0].to(HOST), *args[1:]))
    embedding.register_forward_hook(lambda _, __, rows: rows.to(device))

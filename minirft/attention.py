"""Shared-prefix attention: every completion of a group reads one copy of the prompt.

A packed pass is one long sequence, all prompts first and then all completions at their real length.  A prompt
sees itself; a completion sees its own prompt and itself (■ whole, ◣ causal, blank: unseen):

              prompt p | prompt q | p's c1 | p's c2 | q's c1
    prompt p      ◣
    prompt q                 ◣
    p's c1        ■                    ◣
    p's c2        ■                             ◣
    q's c1                   ■                           ◣

The (L, L) mask of that picture is never built: keys are gathered into two padded batches, one of prompts and one
of completions.  Measured once on 8 groups of 8 (prompt 45, completions about 35, width 128, one CPU thread, forward and
backward of one layer): 24 ms, against 41 ms for a batch per group and 57 ms for one call per completion.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "minirft_shared_prefix"


@dataclass(frozen=True)
class Spans:
    """Who sits where in a packed sequence of length L, and sees what; padding points at position 0.

    R completions of T tokens at most belong to the prompts, `counts[p]` of them to prompt p, in order.
    """

    prompts: Tensor  # (P, S) packed positions
    completions: Tensor  # (R, T) packed positions
    counts: list[int]
    visible: Tensor  # (R, 1, T, S + T) bool: keys each completion token sees, its prompt's first
    slots: Tensor  # (L,) where each packed position lies in the two flattened batches

    @classmethod
    def of(cls, prompt_lengths: list[int], completion_lengths: list[list[int]], device: torch.device) -> Spans:
        """The layout for P prompts and, for each of them, the lengths of its completions."""
        flat = [n for lengths in completion_lengths for n in lengths]
        counts = [len(lengths) for lengths in completion_lengths]
        prompts, in_prompt = _grid(prompt_lengths, 0)
        completions, in_completion = _grid(flat, sum(prompt_lengths))
        causal = torch.ones(len(flat), max(flat), max(flat), dtype=torch.bool).tril()
        own_prompt = in_prompt.repeat_interleave(torch.tensor(counts), 0)[:, None].expand(-1, max(flat), -1)
        slots = torch.cat([in_prompt.flatten(), in_completion.flatten()]).nonzero()[:, 0]
        visible = torch.cat([own_prompt, causal], dim=-1)[:, None]
        return cls(prompts.to(device), completions.to(device), counts, visible.to(device), slots.to(device))


def _grid(lengths: list[int], start: int) -> tuple[Tensor, Tensor]:
    """Packed positions of consecutive spans as a padded matrix, and which of its entries are real."""
    starts = torch.tensor([start + sum(lengths[:i]) for i in range(len(lengths))])
    steps = torch.arange(max(lengths))
    real = steps < torch.tensor(lengths)[:, None]
    return torch.where(real, starts[:, None] + steps, 0), real


def shared_prefix_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    spans: Spans | None = None,
    **kwargs,
) -> tuple[Tensor, None]:
    """Attention over a packed sequence when `spans` are given, transformers' own sdpa otherwise.

    `query` is (1, heads, L, d), `key` and `value` (1, kv heads, L, d); the result is (1, L, heads, d).
    """
    if spans is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    q, k, v = (_gather(x, spans.prompts) for x in (query, key, value))
    of_prompts, _ = sdpa_attention_forward(module, q, k, v, None, **kwargs)
    # The copies of a prompt are made by `expand`, whose backward sums in a fixed order on any device.
    k, v = (torch.cat([x[p : p + 1].expand(n, -1, -1, -1) for p, n in enumerate(spans.counts)]) for x in (k, v))
    k, v = (torch.cat([x, _gather(own, spans.completions)], dim=2) for x, own in ((k, key), (v, value)))
    q = _gather(query, spans.completions)
    of_completions, _ = sdpa_attention_forward(module, q, k, v, spans.visible, **kwargs)
    both = torch.cat([of_prompts.flatten(0, 1), of_completions.flatten(0, 1)])
    return both.index_select(0, spans.slots)[None], None


def _gather(x: Tensor, positions: Tensor) -> Tensor:
    """(1, heads, L, d) at positions (n, t) -> (n, heads, t, d)."""
    picked = x[0].index_select(1, positions.flatten())
    return picked.unflatten(1, positions.shape).transpose(0, 1)


# A registered name is how transformers finds an attention function; without the second line it would drop the
# masks of left-padded prompts.
AttentionInterface.register(NAME, shared_prefix_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)

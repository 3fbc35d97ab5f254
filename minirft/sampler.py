"""Sampling a group of completions for each prompt.

All prompts of a step pass the model once, their keys and values are copied to G rows each, and one loop decodes all
rows together; rows that ended leave the batch.  A token is the inverse CDF of a uniform number drawn beforehand, so
what a row becomes depends on its own numbers only: not on its neighbours, nor on the path that computed the logits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .policy import Policy
from .prefix import naive_logits, prefill
from .samples import Prompt, Rollout

Choose = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]
"""(logits of some rows (R, V), those rows (R,), step t) -> their tokens (R,) and log-probs (R,)."""


@torch.no_grad()
def sample_groups(
    policy: Policy,
    prompts: Sequence[Prompt],
    group_size: int,
    *,
    temperature: float = 1.0,
    max_completion_length: int = 256,
    generator: torch.Generator | None = None,
    uniforms: Tensor | None = None,
    shared: bool = True,
    greedy: bool = False,
) -> Rollout:
    """G completions of each of P prompts, token ~ softmax(logits / temperature) over the tokens not banned.

    `uniforms` (B, T) in [0, 1) decide the tokens; without them they are drawn from `generator`.  `greedy` takes
    the likeliest token instead (log-probs stay those of `temperature`).  `shared=False` is the naive path: G copies
    of prompt and picture, no cache.  Tensors of the result lie on the policy's device.
    Raises `ValueError` for no prompt, G < 1, temperature <= 0, no token to sample, or uniforms of another shape.
    """
    started = time.perf_counter()
    if min(len(prompts), group_size, max_completion_length) < 1 or not temperature > 0:
        raise ValueError(
            f"need a prompt, group_size >= 1, max_completion_length >= 1 and temperature > 0; "
            f"got {len(prompts)}, {group_size}, {max_completion_length}, {temperature}"
        )
    shape = (len(prompts) * group_size, max_completion_length)
    uniforms = None if greedy else _checked_or_drawn(uniforms, shape, generator).to(policy.device)

    def choose(logits: Tensor, rows: Tensor, t: int) -> tuple[Tensor, Tensor]:
        return pick(logits, None if uniforms is None else uniforms[rows, t], temperature, policy.banned)

    decode = decode_shared if shared else decode_naive
    ids, logprobs, lengths = decode(policy, prompts, group_size, choose, max_completion_length)
    rollout = _rollout(policy, prompts, group_size, temperature, ids, logprobs, lengths)
    return replace(rollout, seconds=time.perf_counter() - started)


def _rollout(
    policy: Policy,
    prompts: Sequence[Prompt],
    group_size: int,
    temperature: float,
    ids: Tensor,
    logprobs: Tensor,
    lengths: Tensor,
) -> Rollout:
    ids, logprobs = ids[:, : lengths.max()], logprobs[:, : lengths.max()]
    return Rollout(
        prompts=list(prompts),
        completion_ids=ids,
        completion_mask=torch.arange(ids.shape[1], device=ids.device) < lengths[:, None],
        logprobs=logprobs,
        texts=[policy.decode(row[:n]) for row, n in zip(ids, lengths.tolist(), strict=True)],
        finished=_is_eos(ids.gather(1, lengths[:, None] - 1)[:, 0], policy),
        group_size=group_size,
        temperature=temperature,
    )


def _checked_or_drawn(uniforms: Tensor | None, shape: tuple[int, int], generator: torch.Generator | None) -> Tensor:
    if uniforms is None:
        return torch.rand(shape, generator=generator, device=generator.device if generator else "cpu")
    if uniforms.shape != shape:
        raise ValueError(f"uniforms must be {shape}, got {tuple(uniforms.shape)}")
    return uniforms


def pick(logits: Tensor, uniforms: Tensor | None, temperature: float, banned: Tensor) -> tuple[Tensor, Tensor]:
    """One token a row, the first whose cumulative probability exceeds the row's uniform number (None: the likeliest).

    `logits` (R, V), `uniforms` (R,) in [0, 1); result: tokens (R,) and their log-probs (R,) float32.  The sum runs in
    float64: over 151,936 float32 terms it would drift by more than a rare token's probability.

    >>> logits = torch.tensor([[0.0, 0.0, 9.0, 0.0]])
    >>> [pick(logits, torch.tensor([u]), 1.0, torch.tensor([2]))[0].item() for u in (0.1, 0.5, 0.9)]
    [0, 1, 3]
    """
    logprobs = (logits.float() / temperature).index_fill(-1, banned, -torch.inf).log_softmax(-1)
    if uniforms is None:
        tokens = logprobs.argmax(-1)
    else:
        cumulative = logprobs.double().exp().cumsum(-1)
        target = uniforms.double() * cumulative[:, -1]
        tokens = torch.searchsorted(cumulative, target[:, None], right=True)[:, 0]
    return tokens, logprobs.gather(-1, tokens[:, None])[:, 0]


def decode_shared(
    policy: Policy, prompts: Sequence[Prompt], group_size: int, choose: Choose, limit: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens (B, limit), log-probs (B, limit) and lengths (B,): one prefill, one cache, one loop."""
    start = prefill(policy, prompts)
    start.cache.batch_repeat_interleave(group_size)
    hidden, mask, position = (x.repeat_interleave(group_size, 0) for x in (start.hidden, start.mask, start.position))
    ids, logprobs, lengths = _empty(len(hidden), limit, policy)
    alive = torch.arange(len(hidden), device=policy.device)
    for t in range(limit):
        tokens, scores = choose(policy.lm_head(hidden), alive, t)
        ids[alive, t], logprobs[alive, t], lengths[alive] = tokens, scores, t + 1
        keep = (~_is_eos(tokens, policy)).nonzero()[:, 0]
        if t + 1 == limit or not len(keep):
            break
        if len(keep) < len(alive):
            start.cache.batch_select_indices(keep)
            alive, tokens, mask, position = alive[keep], tokens[keep], mask[keep], position[keep]
        mask = torch.nn.functional.pad(mask, (0, 1), value=True)
        hidden = policy.language_model(
            inputs_embeds=policy.embed(tokens)[:, None],
            position_ids=(position + t).expand(3, -1)[..., None],
            attention_mask=mask,
            past_key_values=start.cache,
            use_cache=True,
        ).last_hidden_state[:, 0]
    return ids, logprobs, lengths


def decode_naive(
    policy: Policy, prompts: Sequence[Prompt], group_size: int, choose: Choose, limit: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The same tokens the plain way: for each token, the whole model over G copies of prompt and picture."""
    ids, logprobs, lengths = _empty(len(prompts) * group_size, limit, policy)
    for p, prompt in enumerate(prompts):
        rows = torch.arange(p * group_size, (p + 1) * group_size, device=policy.device)
        ended = torch.zeros_like(rows, dtype=torch.bool)
        for t in range(limit):
            tokens, scores = choose(naive_logits(policy, prompt, ids[rows, :t])[:, -1], rows, t)
            going = rows[~ended]
            ids[going, t], logprobs[going, t], lengths[going] = tokens[~ended], scores[~ended], t + 1
            ended |= _is_eos(tokens, policy)
            if ended.all():
                break
    return ids, logprobs, lengths


def _empty(rows: int, limit: int, policy: Policy) -> tuple[Tensor, Tensor, Tensor]:
    ids = torch.zeros(rows, limit, dtype=torch.long, device=policy.device)
    return ids, torch.zeros(rows, limit, device=policy.device), torch.zeros_like(ids[:, 0])


def _is_eos(tokens: Tensor, policy: Policy) -> Tensor:
    return torch.isin(tokens, torch.tensor(policy.eos_ids, device=tokens.device))

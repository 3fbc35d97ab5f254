"""The shared prefix: the prompt and its picture pass the model once for a whole group.

The plain way scores G completions of a prompt as G rows, each with its own copy of the prompt (and, in other trainers,
of the picture).  Here they lie in one row, and no copy and no padding is computed:

    plain:   prompt p | c1      packed:   prompt p | prompt q | p's c1 | p's c2 | q's c1 | q's c2
             prompt p | c2
             prompt q | c1      P prompts once, then every completion at its real length
             prompt q | c2

A prompt sees itself; a completion sees its own prompt and itself, nothing of its neighbours (■ whole, ◣ causal,
blank: unseen).  Its rotary positions go on where its prompt ended, whatever lies between:

              prompt p | prompt q | p's c1 | p's c2 | q's c1 | q's c2
    prompt p      ◣
    prompt q                 ◣
    p's c1        ■                    ◣
    p's c2        ■                             ◣
    q's c1                   ■                           ◣
    q's c2                   ■                                    ◣

So a group costs S + G T tokens instead of G (S + T): with S = 512, T = 64, G = 8, 1,024 instead of 4,608.  The result
is the same to rounding, gradient included: `shared_prefix = false` in a config takes the plain way, for comparison, and
`naive_logprobs` below is that way, the oracle of the tests, and the thing to read first.

While sampling the same idea has another form: `prefill` runs the prompts of a step once, and `decoding` lets the rows
of a group read that one copy.  The keys and values of sampling are not reused for learning: under gradient
checkpointing that is silently wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor
from transformers import DynamicCache

from minirft.engine.attention import Spans
from minirft.engine.logprobs import gather_logprobs, token_logprobs
from minirft.engine.model import Model
from minirft.engine.versions import CACHE
from minirft.samples import Prompt, Rollout, pad_rows


@dataclass
class Prefilled:
    """P prompts after their one pass, ready to go on: keys and values, and what the next token needs."""

    cache: DynamicCache
    hidden: Tensor  # (P, D) at each prompt's last token
    mask: Tensor  # (P, S) bool, left-padded
    position: Tensor  # (P,) rotary position of the first completion token


def prefill(model: Model, prompts: Sequence[Prompt], remembered: bool = True) -> Prefilled:
    """Runs P prompts, left-padded to the longest, through the model once; with `remembered`, a known picture is not
    looked at again.
    """
    longest = max(map(len, prompts))
    embeds, positions, mask = [], [], []
    for prompt in prompts:
        blank = longest - len(prompt)
        embedded = model.embed_prompt(prompt, None if remembered else model.see(prompt))
        embeds.append(torch.nn.functional.pad(embedded, (0, 0, blank, 0)))
        positions.append(torch.nn.functional.pad(prompt.position_ids, (blank, 0)))
        mask.append(torch.arange(longest) >= blank)
    cache = DynamicCache(config=model.language_model.config)
    mask = torch.stack(mask).to(model.device)
    hidden = model.language_model(
        inputs_embeds=torch.stack(embeds),
        position_ids=torch.stack(positions, dim=1).to(model.device),
        attention_mask=mask,
        use_cache=True,
        **{CACHE: cache},
    ).last_hidden_state
    position = torch.tensor([len(prompt) + prompt.rope_delta for prompt in prompts], device=model.device)
    return Prefilled(cache, hidden[:, -1], mask, position)


def passes(rollout: Rollout, rows_per_pass: int | None = None, rows: Sequence[int] | None = None) -> list[list[int]]:
    """Splits the rows of a rollout (all, or those given) into packed passes of at most `rows_per_pass` completions.

    Fewer rows a pass need less memory; a group split over passes repeats its prompt.  The sum of the gradients of
    the passes does not depend on the split, as long as the loss divides by counts over the whole step.
    """
    chosen = list(range(len(rollout.texts))) if rows is None else list(rows)
    size = rows_per_pass or max(len(chosen), 1)
    if size < 1:
        raise ValueError(f"rows_per_pass must be at least 1, got {rows_per_pass}")
    return [chosen[i : i + size] for i in range(0, len(chosen), size)]


Rows = slice | Sequence[int] | None  # which rows of a rollout, in rising order; None: all


def rollout_logprobs(
    model: Model, rollout: Rollout, rows: Rows = None, *, shared: bool | None = None, entropy: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """Log-probs of the sampled tokens, log π(token | prompt, tokens before), at the rollout's temperature.

    Shape (rows, T) float32 in nats, 0 on padding, differentiable; with `entropy` also the entropy of each
    token's distribution, same shape.  `rows` must be in rising order; `shared` is the model's `shared_prefix` unless
    it is given, and False takes the naive path.
    """
    every = range(len(rollout.texts))
    chosen = list(every[rows] if isinstance(rows, slice) else every if rows is None else rows)
    shared = model.shared_prefix if shared is None else shared
    score = packed_logprobs if shared else naive_logprobs
    groups = [
        (rollout.prompts[p], [rollout.tokens(b) for b in members])
        for p, members in groupby(chosen, key=lambda b: b // rollout.group_size)
    ]
    scored = score(model, groups, rollout.temperature, entropy)
    width = rollout.completion_ids.shape[1]
    lengths = [int(n) for n in rollout.lengths[chosen]]
    padded = tuple(_padded(flat, lengths, width) for flat in scored)
    return (padded[0], padded[1]) if entropy else padded[0]


def _padded(flat: Tensor, lengths: list[int], width: int) -> Tensor:
    rows = pad_rows(list(flat.split(lengths)))
    return torch.nn.functional.pad(rows, (0, width - rows.shape[1]))


def packed_logprobs(
    model: Model, groups: list[tuple[Prompt, list[Tensor]]], temperature: float, entropy: bool = False
) -> tuple[Tensor, ...]:
    """Log-probs of all completion tokens of all groups, concatenated, (tokens,); and their entropies if asked.

    One forward pass over [prompts | completions] at real length; `lm_head` runs on completion tokens only.
    """
    prompts = [prompt for prompt, _ in groups]
    completions = [[ids.to(model.device) for ids in members] for _, members in groups]
    ids = torch.cat([ids for members in completions for ids in members])
    lengths = [[len(ids) for ids in members] for members in completions]
    embeds = [*map(model.embed_prompt, prompts)]
    spans = Spans.of([len(prompt) for prompt in prompts], lengths, embeds[0])
    with model.recomputing():
        hidden = model.language_model(
            inputs_embeds=torch.cat([*embeds, model.embed(ids)])[None],
            position_ids=_packed_positions(prompts, lengths).to(model.device),
            use_cache=False,
            spans=spans,
        ).last_hidden_state[0]
    before = _positions_before(prompts, lengths).to(model.device)
    scored = token_logprobs(
        hidden[before], model.lm_head, ids, temperature=temperature, banned=model.banned, entropy=entropy
    )
    return scored if entropy else (scored,)


def _packed_positions(prompts: list[Prompt], lengths: list[list[int]]) -> Tensor:
    """Rotary positions (3, 1, L): every completion goes on where its prompt ended, whatever lies between."""
    parts = [prompt.position_ids for prompt in prompts]
    for prompt, members in zip(prompts, lengths, strict=True):
        first = len(prompt) + prompt.rope_delta
        parts += [torch.arange(first, first + n).expand(3, -1) for n in members]
    return torch.cat(parts, dim=1)[:, None]


def _positions_before(prompts: list[Prompt], lengths: list[list[int]]) -> Tensor:
    """Where in the packed sequence each completion token is predicted: at the token before it.

    The first token of every completion of a group is predicted at the one last token of their prompt.
    """
    ends = torch.tensor([len(prompt) for prompt in prompts]).cumsum(0)
    start, parts = int(ends[-1]), []
    for end, members in zip(ends, lengths, strict=True):
        for n in members:
            parts += [end[None] - 1, torch.arange(start, start + n - 1)]
            start += n
    return torch.cat(parts)


def naive_logprobs(
    model: Model, groups: list[tuple[Prompt, list[Tensor]]], temperature: float, entropy: bool = False
) -> tuple[Tensor, ...]:
    """What `packed_logprobs` returns, from G copies of prompt and picture and the whole (G, S + T, V) logits."""
    logprobs, entropies = [], []
    for prompt, members in groups:
        padded = pad_rows(members).to(model.device)
        logits = naive_logits(model, prompt, padded)[:, len(prompt) - 1 : -1].float() / temperature
        logits[..., model.banned] = -torch.inf
        for row, ids in zip(logits, members, strict=True):
            logprobs.append(gather_logprobs(row[: len(ids)], ids.to(model.device)))
            entropies.append(torch.distributions.Categorical(logits=row[: len(ids)]).entropy())
    return (torch.cat(logprobs), torch.cat(entropies)) if entropy else (torch.cat(logprobs),)


def naive_logits(model: Model, prompt: Prompt, completions: Tensor) -> Tensor:
    """Plain forward pass over G copies of a prompt, each with its completion (G, T): logits (G, S + T, V)."""
    g, device = len(completions), model.device
    types = torch.nn.functional.pad(prompt.mm_token_type_ids.expand(g, -1), (0, completions.shape[1]))
    return model.core(
        input_ids=torch.cat([prompt.input_ids.to(device).expand(g, -1), completions], dim=1),
        mm_token_type_ids=types.to(device),
        pixel_values=prompt.pixel_values.repeat(g, 1).to(device),
        image_grid_thw=prompt.image_grid_thw.repeat(g, 1).to(device),
        use_cache=False,
    ).logits

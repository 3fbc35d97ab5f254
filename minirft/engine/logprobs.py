"""This module computes log-probabilities of a rollout's tokens; a prompt passes the model once for a whole group.

The plain way scores G completions of a prompt as G rows, each with its own copy of the prompt (and, in other trainers,
of the picture).  Here they are packed in one row, and no copy and no padding is computed:

    plain:   prompt p | c1      packed:   prompt p | prompt q | p's c1 | p's c2 | q's c1 | q's c2
             prompt p | c2
             prompt q | c1      P prompts once, then every completion at its real length
             prompt q | c2

A prompt attends to itself.  A completion attends to its own prompt and to itself, not to its neighbours (■ whole, ◣
causal, blank: masked).  Its rotary positions continue those of its prompt, whatever lies between:

              prompt p | prompt q | p's c1 | p's c2 | q's c1 | q's c2
    prompt p      ◣
    prompt q                 ◣
    p's c1        ■                    ◣
    p's c2        ■                             ◣
    q's c1                   ■                           ◣
    q's c2                   ■                                    ◣

So a group costs S + G T tokens instead of G (S + T): with S = 512, T = 64, G = 8, 1,024 instead of 4,608.  The result
and its gradient are the same up to rounding.  `naive_logprobs` below is the plain way: read it first.  The tests
compare with it, and `shared_prefix = false` in a config selects it.

`token_logprobs` computes log-probs from hidden states without keeping the (N, V) logits.  With V = 151,936 and 1,024
tokens they and their gradient take 1.7 GiB.  It needs two things, and either alone saves little: chunks, so that only
(chunk, V) exists at a time, and a checkpoint around each chunk, so that backward recomputes it instead of keeping all
of them.  The peak is then 0.3 GiB.  Logits become float32 before the softmax: in bfloat16 a sum over 151,936 terms
loses the small ones.

Sampling shares the prefix in another form (`decoding`).  Its keys and values are not reused for learning: with gradient
checkpointing the result would be wrong without an error.
"""

from collections.abc import Callable, Sequence
from itertools import groupby

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from minirft.engine.layers import Spans
from minirft.engine.model import Model
from minirft.samples import Prompt, Rollout

CHUNK = 128  # tokens whose logits exist at once


def passes(rollout: Rollout, rows_per_pass: int | None = None, rows: Sequence[int] | None = None) -> list[list[int]]:
    """Split the rows of a rollout (all, or `rows`) into packed passes of at most `rows_per_pass` completions.

    Fewer rows per pass need less memory, but a group in several passes repeats its prompt.  The sum of the gradients of
    the passes does not depend on the split, if the loss divides by counts over the whole step.
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
    """Compute log-probs of the sampled tokens, log π(token | prompt, tokens before), at the rollout's temperature.

    The shape is (rows, T), float32 in nats, 0 on padding, differentiable; with `entropy` also the entropy of each
    token's distribution, same shape.  `rows` must be in rising order.  `shared` defaults to the model's
    `shared_prefix`; False takes the naive path.
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
    mask = rollout.completion_mask[chosen].to(model.device)
    padded = [flat.new_zeros(mask.shape).masked_scatter(mask, flat) for flat in scored]
    return (padded[0], padded[1]) if entropy else padded[0]


def packed_logprobs(
    model: Model, groups: list[tuple[Prompt, list[Tensor]]], temperature: float, entropy: bool = False
) -> tuple[Tensor, ...]:
    """Compute log-probs of all completion tokens of all groups, concatenated, (tokens,); with `entropy` entropies too.

    It is one forward pass over [prompts | completions] at real length; `lm_head` runs on completion tokens only.
    """
    prompts = [prompt for prompt, _ in groups]
    lengths = [[len(ids) for ids in members] for _, members in groups]
    ids = torch.cat([ids for _, members in groups for ids in members]).to(model.device)
    embeds = [model.embed_prompt(prompt) for prompt in prompts]
    spans = Spans.of([len(prompt) for prompt in prompts], lengths, embeds[0])
    packed = torch.cat([*embeds, model.embed(ids)])[None]
    hidden = model.run(packed, _packed_positions(prompts, lengths), spans=spans)[0, _positions_before(spans)]
    scored = token_logprobs(hidden, model.lm_head, ids, temperature, model.banned, entropy=entropy)
    return scored if entropy else (scored,)


def _packed_positions(prompts: list[Prompt], lengths: list[list[int]]) -> Tensor:
    """Make rotary positions (3, 1, L): those of a completion continue its prompt's, whatever lies between."""
    parts = [prompt.position_ids for prompt in prompts]
    for prompt, members in zip(prompts, lengths, strict=True):
        first = len(prompt) + prompt.rope_delta
        parts += [torch.arange(first, first + n).expand(3, -1) for n in members]
    return torch.cat(parts, dim=1)[:, None]


def _positions_before(spans: Spans) -> Tensor:
    """Find the packed position that predicts each completion token: the position of the token before it.

    The last token of a prompt predicts the first token of all completions of its group.
    """
    ends = spans.prompts.amax(1).repeat_interleave(torch.tensor(spans.counts, device=spans.prompts.device))
    before = torch.cat([ends[:, None], spans.completions[:, :-1]], dim=1)
    return before[spans.completions > 0]


def naive_logprobs(
    model: Model, groups: list[tuple[Prompt, list[Tensor]]], temperature: float, entropy: bool = False
) -> tuple[Tensor, ...]:
    """Compute the result of `packed_logprobs` from G copies of prompt and picture and all (G, S + T, V) logits."""
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
    """Run a plain forward pass over G copies of a prompt, each with its completion (G, T): logits (G, S + T, V)."""
    g, device = len(completions), model.device
    types = torch.nn.functional.pad(prompt.mm_token_type_ids.expand(g, -1), (0, completions.shape[1]))
    return model.core(
        input_ids=torch.cat([prompt.input_ids.to(device).expand(g, -1), completions], dim=1),
        mm_token_type_ids=types.to(device),
        pixel_values=prompt.pixel_values.repeat(g, 1).to(device),
        image_grid_thw=prompt.image_grid_thw.repeat(g, 1).to(device),
        use_cache=False,
    ).logits


def gather_logprobs(logits: Tensor, token_ids: Tensor) -> Tensor:
    """Compute the log-probability of each token in the plain way: log softmax(logits)[token].

    `logits` (..., V), `token_ids` (...,) long, result (...,) float32 nats.

    >>> gather_logprobs(torch.zeros(2, 4), torch.tensor([0, 3])).exp().tolist()
    [0.25, 0.25]
    """
    return logits.float().log_softmax(-1).gather(-1, token_ids.unsqueeze(-1)).squeeze(-1)


def token_logprobs(
    hidden: Tensor,
    lm_head: Callable[[Tensor], Tensor],
    token_ids: Tensor,
    temperature: float = 1.0,
    banned: Tensor | None = None,
    chunk: int = CHUNK,
    entropy: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Compute the log-probability of each token at the sampling temperature, in chunks that backward recomputes.

        log π(token) = z[token] - log Σ_{v not banned} exp z[v],    z = lm_head(hidden) / temperature

    `hidden` (N, D), `token_ids` (N,) long, `banned` (K,) long ids that the sampler never draws; result (N,)
    float32 nats.  A banned token in `token_ids` gets -inf, the log of its probability 0.  With `entropy` the result
    has also -Σ π log π, (N,) float32, a metric without a gradient.
    Raises `ValueError` on a temperature that is not positive or shapes that do not fit.

    >>> head = torch.nn.Linear(3, 5, bias=False)
    >>> token_logprobs(torch.zeros(2, 3), head, torch.tensor([0, 1]), banned=torch.tensor([4])).exp().tolist()
    [0.25, 0.25]
    """
    if hidden.dim() != 2 or token_ids.shape != hidden.shape[:1]:
        raise ValueError(
            f"hidden (N, D) and token_ids (N,) expected, got {tuple(hidden.shape)}, {tuple(token_ids.shape)}"
        )
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")

    def one_chunk(hidden: Tensor, token_ids: Tensor) -> tuple[Tensor, Tensor | None]:
        logits = lm_head(hidden).float() / temperature
        if banned is not None:
            logits = logits.index_fill(-1, banned, -torch.inf)
        log_total = logits.logsumexp(-1)
        logprobs = logits.gather(-1, token_ids[:, None])[:, 0] - log_total
        return logprobs, _entropy(logits.detach(), log_total.detach()) if entropy else None

    pieces = [
        checkpoint(one_chunk, h, ids, use_reentrant=False, preserve_rng_state=False)
        for h, ids in zip(hidden.split(chunk), token_ids.split(chunk), strict=True)
    ]
    logprobs = torch.cat([piece[0] for piece in pieces])
    return (logprobs, torch.cat([piece[1] for piece in pieces])) if entropy else logprobs


def _entropy(logits: Tensor, log_total: Tensor) -> Tensor:
    """Compute -Σ π log π = log Σ exp z - Σ π z, (N, V) -> (N,); a banned token adds 0, not 0 * inf."""
    probabilities = (logits - log_total[:, None]).exp_()
    return log_total - (probabilities * logits.masked_fill(logits.isinf(), 0.0)).sum(-1)


def pad_rows(rows: list[Tensor], value: float = 0) -> Tensor:
    """Pad rows of unequal length on the right to one matrix: [(t_1,), ..., (t_B,)] -> (B, max t).

    >>> pad_rows([torch.tensor([1, 2]), torch.tensor([3])], value=-1).tolist()
    [[1, 2], [3, -1]]
    """
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)

"""Hidden states -> log-probabilities of given tokens, without ever keeping (N, V) logits.

With V = 151,936 and 1,024 tokens, logits and their gradient take 1.7 GiB.  Two things are needed, and either
alone saves little: chunks, so that only (chunk, V) exists at a time, and a checkpoint around each chunk, so
that backward recomputes it instead of having kept all of them.  Peak here: 0.3 GiB for the same numbers.

Logits become float32 before the softmax: in bfloat16 a sum over 151,936 terms loses the small ones.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def gather_logprobs(logits: Tensor, token_ids: Tensor) -> Tensor:
    """Log-probability of each token, the plain way: log softmax(logits)[token].

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
    chunk: int = 128,
    entropy: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Log-probability of each token at the sampling temperature, in chunks that backward recomputes.

        log π(token) = z[token] - log Σ_{v not banned} exp z[v],    z = lm_head(hidden) / temperature

    `hidden` (N, D), `token_ids` (N,) long, `banned` (K,) long ids the sampler never draws; result (N,)
    float32 nats.  A banned token in `token_ids` gets -inf, the log of its probability.  With `entropy` also
    -Σ π log π, (N,) float32, a metric that carries no gradient.
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
    """-Σ π log π = log Σ exp z - Σ π z, (N, V) -> (N,); a banned token adds 0, not 0 * inf."""
    probabilities = (logits - log_total[:, None]).exp_()
    return log_total - (probabilities * logits.masked_fill(logits.isinf(), 0.0)).sum(-1)

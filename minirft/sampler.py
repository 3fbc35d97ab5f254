"""The sampler draws a group of completions for each prompt.

All prompts of a step pass the model once.  The rows of a group share one copy of their prompt's keys and values, and
one loop decodes all rows together (`decoding` holds one step of it); finished rows leave the batch.  A token is the
inverse CDF of a uniform number drawn beforehand.  So the tokens of a row depend on its own numbers only: not on its
neighbours, nor on the path that computed the logits.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from minirft import UserError
from minirft.engine import DECODERS, Growing, prefill
from minirft.policy import Policy
from minirft.samples import Prompt, Rollout, Sample


@torch.no_grad()
def sample_groups(
    policy: Policy,
    questions: Sequence[Sample | Prompt],
    group_size: int,
    *,
    seed: int | None = None,
    temperature: float = 1.0,
    max_completion_length: int = 256,
    generator: torch.Generator | None = None,
    uniforms: Tensor | None = None,
    shared: bool | None = None,
    greedy: bool = False,
    decoder: str | None = None,
    prompts_per_decode: int | None = None,
) -> Rollout:
    """Sample G completions for each of P samples or prompts: token ~ softmax(logits / temperature).

    Banned tokens have probability 0.  `uniforms` (B, T) in [0, 1) decide the tokens; if they are None, they are drawn
    from `seed`, or from `generator`.  `greedy` takes the likeliest token instead (log-probs are still computed at
    `temperature`).  `shared` and `decoder` default to the policy's.  `shared=False` is the naive path: G copies of
    prompt and picture pass the model.  `decoder` is a name in `decoding.DECODERS`.  `prompts_per_decode` bounds how
    many prompts are decoded together, to save memory; the tokens do not depend on it.  The result is on the policy's
    device.
    Raises `ValueError` for no prompt, G < 1, temperature <= 0, no token to sample, or uniforms of another shape,
    `UserError` for logits that are not finite.
    """
    prompts = [policy.encode(asked) if isinstance(asked, Sample) else asked for asked in questions]
    generator = generator if seed is None else torch.Generator().manual_seed(seed)
    if min(len(prompts), group_size, max_completion_length) < 1 or not temperature > 0:
        raise ValueError(
            f"need a prompt, group_size >= 1, max_completion_length >= 1 and temperature > 0; "
            f"got {len(prompts)}, {group_size}, {max_completion_length}, {temperature}"
        )
    shape = (len(prompts) * group_size, max_completion_length)
    uniforms = None if greedy else _checked_or_drawn(uniforms, shape, generator).to(policy.device)
    shared, decoder = policy.shared_prefix if shared is None else shared, decoder or policy.decoder
    parts, together = [], prompts_per_decode or len(prompts)
    for first in range(0, len(prompts), together):
        part = prompts[first : first + together]
        numbers = None if uniforms is None else uniforms[first * group_size :]
        parts.append(decode(policy, part, group_size, numbers, temperature, max_completion_length, shared, decoder))
    ids, logprobs, lengths = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    ids, logprobs = ids[:, : lengths.max()], logprobs[:, : lengths.max()]
    return Rollout(
        prompts=prompts,
        completion_ids=ids,
        completion_mask=torch.arange(ids.shape[1], device=ids.device) < lengths[:, None],
        logprobs=logprobs,
        texts=[policy.decode(ids[b, :n], prompts[b // group_size]) for b, n in enumerate(lengths.tolist())],
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
    """Pick one token per row: the first whose cumulative probability exceeds the row's uniform number.

    `uniforms` None picks the likeliest token.  `logits` (R, V), `uniforms` (R,) in [0, 1); the result is tokens (R,)
    and their log-probs (R,) float32.  The sum is in float64: over 151,936 float32 terms the rounding error would exceed
    a rare token's probability.  A logit of NaN or +inf gives the row a token with log-prob NaN; a logit of -inf gives a
    token probability 0.

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
        tokens = torch.searchsorted(cumulative, target[:, None], right=True)[:, 0].clamp(max=logits.shape[-1] - 1)
    return tokens, logprobs.gather(-1, tokens[:, None])[:, 0]


def decode(
    policy: Policy,
    prompts: Sequence[Prompt],
    group_size: int,
    uniforms: Tensor | None,
    temperature: float,
    limit: int,
    shared: bool,
    decoder: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Decode all rows together after one prefill: tokens (B, limit), log-probs (B, limit) and lengths (B,).

    `uniforms` (B or more, limit) decide the tokens; None is greedy.  Raises `UserError` at the first log-prob that is
    NaN.
    """
    if not shared:  # every row is a prompt of its own
        prompts, group_size = [prompt for prompt in prompts for _ in range(group_size)], 1
    start = prefill(policy, prompts, remembered=shared)
    hidden = start.hidden.repeat_interleave(group_size, 0)
    rows = torch.arange(len(hidden), device=policy.device)  # rows in the decoder; some of them may have ended
    ids, logprobs = rows.new_zeros(len(rows), limit), torch.zeros(len(rows), limit, device=policy.device)
    lengths, ended = torch.zeros_like(rows), torch.zeros_like(rows, dtype=torch.bool)
    decoding = DECODERS[decoder](policy, start, group_size, limit - 1)
    del start  # frees memory: the decoder holds the prompts' keys and values now
    for t in range(limit):
        numbers = None if uniforms is None else uniforms[rows, t]
        tokens, scores = pick(policy.lm_head(hidden), numbers, temperature, policy.banned)
        alive = ~ended[rows]
        ids[rows, t], logprobs[rows, t] = tokens * alive, scores.where(alive, 0)
        lengths[rows] += alive
        ended[rows] |= _is_eos(tokens, policy)
        left, broken = torch.stack([(~ended).sum(), logprobs[:, t].isnan().sum()]).tolist()  # one sync with the device
        if broken:
            raise UserError(_not_finite(policy, broken, t))
        if t + 1 == limit or not left:
            break
        if isinstance(decoding, Growing) and left < len(rows):
            keep = (~ended[rows]).nonzero()[:, 0]
            decoding.keep(keep)
            rows, tokens = rows[keep], tokens[keep]
        hidden = decoding.step(tokens)
    return ids, logprobs, lengths


def _not_finite(policy: Policy, rows: int, t: int) -> str:
    dtype = str(policy.dtype).removeprefix("torch.")
    where = f"the logits of {rows} completions are not finite at token {t + 1}"
    if policy.dtype == torch.float16:
        return f'{where}: an activation overflowed float16 (65,504 at most); set dtype = "bfloat16" or "float32"'
    return f"{where} in {dtype}: a weight of {policy.name} is not finite or far too large; load an earlier checkpoint"


def _is_eos(tokens: Tensor, policy: Policy) -> Tensor:
    return torch.isin(tokens, torch.tensor(policy.eos_ids, device=tokens.device))

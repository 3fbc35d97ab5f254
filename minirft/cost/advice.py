"""What to give up so that a run fits: found by trying changes on the ledger, not written down.

The order is that of harm: first what costs time alone, then what rounds numbers, then smaller pictures and shorter
answers, smaller groups, a smaller model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache

from minirft.cost.architectures import architecture
from minirft.cost.sizes import Shape, adapted
from minirft.runs import GRPOConfig

Change = Callable[[GRPOConfig], Iterator[GRPOConfig]]
"""A setting -> the same with one thing given up, a little first; nothing where there is nothing to give."""
_model = cache(architecture)


def alternatives(config: GRPOConfig, fits: Callable[[GRPOConfig], bool]) -> Iterator[GRPOConfig]:
    """Configurations that fit, of no more harm than must be: up to three that change one thing, or one that changes
    the fewest of several; none if nothing helps.
    """
    allowed: list[Change] = []
    for tier in TIERS:
        allowed = [*allowed, *tier]
        if fits(_all(config, allowed)):
            break
    else:
        return
    single = [found for change in allowed if (found := next(filter(fits, change(config)), None))]
    yield from single[:3] or [_combination(config, allowed, fits)]


def _combination(config: GRPOConfig, allowed: list[Change], fits: Callable[[GRPOConfig], bool]) -> GRPOConfig:
    """What several changes make of `config`: those in order until it fits, without those that turn out needless."""
    taken = next(allowed[:n] for n in range(1, len(allowed) + 1) if fits(_all(config, allowed[:n])))
    for change in taken[::-1]:
        if fits(_all(config, fewer := [kept for kept in taken if kept is not change])):
            taken = fewer
    mildest = _mildest(config, taken, fits)
    return mildest if fits(mildest) else _all(config, taken)


def _all(config: GRPOConfig, changes: list[Change]) -> GRPOConfig:
    """Every change at its strongest."""
    for change in changes:
        *_, config = config, *change(config)
    return config


def _mildest(config: GRPOConfig, changes: list[Change], fits: Callable[[GRPOConfig], bool]) -> GRPOConfig:
    """Each change as weak as those before it at their strongest allow, the most harmful settled first."""
    for i in reversed(range(len(changes))):
        options = [*changes[i](config)]
        milder = (option for option in options if fits(_all(option, changes[:i])))
        config = next(milder, options[-1] if options else config)
    return config


def _halves(value: int, least: int) -> Iterator[int]:
    while value > least:
        value = max(value // 2, least)
        yield value


def _checkpointing(c: GRPOConfig) -> Iterator[GRPOConfig]:
    if not c.checkpointing:
        yield replace(c, checkpointing=True)


def _prompts_per_rollout(c: GRPOConfig) -> Iterator[GRPOConfig]:
    for n in _halves(min(c.prompts_per_rollout or c.prompts_per_step, c.prompts_per_step), 1):
        yield replace(c, prompts_per_rollout=n)


def _eval_batch(c: GRPOConfig) -> Iterator[GRPOConfig]:
    for n in _halves(c.eval_batch if c.eval_every else 1, 1):
        yield replace(c, eval_batch=n)


def _offload_vision(c: GRPOConfig) -> Iterator[GRPOConfig]:
    learns = c.train_vision or (c.train == "lora" and "vision" in adapted(c))
    if not (c.offload_vision or learns):
        yield replace(c, offload_vision=True)


def _rows_per_pass(c: GRPOConfig) -> Iterator[GRPOConfig]:
    rows = c.prompts_per_step * c.group_size
    for n in _halves(min(c.rows_per_pass or rows, rows), 1):
        yield replace(c, rows_per_pass=n)


def _offload_embedding(c: GRPOConfig) -> Iterator[GRPOConfig]:
    if c.train == "lora" and not c.offload_embedding and not _model(c.model).tie_word_embeddings:
        yield replace(c, offload_embedding=True)


def _optimiser(c: GRPOConfig) -> Iterator[GRPOConfig]:
    if c.optimiser != "adamw8bit":
        yield replace(c, optimiser="adamw8bit")


def _adapters(c: GRPOConfig) -> Iterator[GRPOConfig]:
    if c.train == "full":
        yield replace(c, train="lora", dtype="auto")
    elif c.lora.dtype != "bfloat16":
        yield replace(c, lora=replace(c.lora, dtype="bfloat16"))


def _dtype(c: GRPOConfig) -> Iterator[GRPOConfig]:
    if c.dtype == "float32" and c.train == "lora":
        yield replace(c, dtype="auto")


def _nf4(c: GRPOConfig) -> Iterator[GRPOConfig]:
    if c.quantize == "none" and c.train == "lora":
        yield replace(c, quantize="nf4")


def _max_pixels(c: GRPOConfig) -> Iterator[GRPOConfig]:
    """A smaller picture is a shorter prompt, token for token."""
    shape = Shape.of(_model(c.model), c)
    merge = shape.model.vision_config.spatial_merge_size**2
    before, text = shape.patches // merge, c.max_prompt_length - shape.patches // merge
    for tokens in _halves(before, min(before, 64)):
        pixels = tokens * merge * shape.model.vision_config.patch_size**2
        yield replace(c, max_pixels=pixels, max_prompt_length=max(tokens + text, 1))


def _completion(c: GRPOConfig) -> Iterator[GRPOConfig]:
    for n in _halves(c.max_completion_length, min(c.max_completion_length, 64)):
        yield replace(c, max_completion_length=n)


def _group(c: GRPOConfig) -> Iterator[GRPOConfig]:
    for n in _halves(c.group_size, 2):
        yield replace(c, group_size=n, rows_per_pass=min(c.rows_per_pass, n))


def _smaller_model(c: GRPOConfig) -> Iterator[GRPOConfig]:
    if _model(c.model).text_config.hidden_size > 1536:
        yield replace(c, model="qwen2-vl-2b", offload_embedding=False)


TIERS: list[list[Change]] = [
    [_checkpointing, _offload_vision, _prompts_per_rollout, _eval_batch, _rows_per_pass, _offload_embedding],
    [_optimiser, _adapters, _dtype, _nf4],
    [_max_pixels, _completion],
    [_group],
    [_smaller_model],
]

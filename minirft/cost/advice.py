"""The search for changes of settings that make a run fit: it tries changes on the ledger, the least harmful first.

First come changes that only cost time, then coarser number formats, then smaller pictures and shorter answers, smaller
groups, and a smaller model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

from minirft.cost.architectures import architecture
from minirft.cost.sizes import Shape, tower_learns
from minirft.runs import GRPOConfig

Change = Callable[[GRPOConfig], Iterator[GRPOConfig]]
"""Settings -> the same settings with one change, the weakest first; nothing if the change is impossible."""
_model = cache(architecture)


def alternatives(config: GRPOConfig, fits: Callable[[GRPOConfig], bool]) -> Iterator[GRPOConfig]:
    """Yield configurations that fit with the least harm: up to three with one change, or one with as few as possible.

    There are none if no change helps.
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
    """Apply changes in order until `config` fits, and drop those that turn out to be unnecessary."""
    taken = next(allowed[:n] for n in range(1, len(allowed) + 1) if fits(_all(config, allowed[:n])))
    for change in taken[::-1]:
        if fits(_all(config, fewer := [kept for kept in taken if kept is not change])):
            taken = fewer
    mildest = _mildest(config, taken, fits)
    return mildest if fits(mildest) else _all(config, taken)


def _all(config: GRPOConfig, changes: list[Change]) -> GRPOConfig:
    """Apply every change at its strongest."""
    for change in changes:
        *_, config = config, *change(config)
    return config


def _mildest(config: GRPOConfig, changes: list[Change], fits: Callable[[GRPOConfig], bool]) -> GRPOConfig:
    """Weaken each change as far as possible with those before it at their strongest, the most harmful first."""
    for i in reversed(range(len(changes))):
        options = [*changes[i](config)]
        milder = (option for option in options if fits(_all(option, changes[:i])))
        config = next(milder, options[-1] if options else config)
    return config


def _halves(value: int, least: int) -> Iterator[int]:
    while value > least:
        value = max(value // 2, least)
        yield value


def _set(where: Callable[[GRPOConfig], bool], **fields: Any) -> Change:
    """Set `fields` in a configuration for which `where` holds."""
    return lambda config: iter([replace(config, **fields)] if where(config) else [])


def _halve(name: str, value: Callable[[GRPOConfig], int], least: int = 1) -> Change:
    """Halve the field repeatedly, from its present `value` down to `least`."""
    return lambda config: (replace(config, **{name: smaller}) for smaller in _halves(value(config), least))


def _tower_is_idle(c: GRPOConfig) -> bool:
    return not (c.offload_vision or tower_learns(c))


def _table_is_idle(c: GRPOConfig) -> bool:
    return c.train == "lora" and not c.offload_embedding and not _model(c.model).tie_word_embeddings


def _max_pixels(c: GRPOConfig) -> Iterator[GRPOConfig]:
    """Halve the picture; the prompt gets shorter by the same number of tokens."""
    shape = Shape.of(_model(c.model), c)
    merge = shape.model.vision_config.spatial_merge_size**2
    before, text = shape.patches // merge, c.max_prompt_length - shape.patches // merge
    for tokens in _halves(before, 64):
        pixels = tokens * merge * shape.model.vision_config.patch_size**2
        yield replace(c, max_pixels=pixels, max_prompt_length=max(tokens + text, 1))


def _group(c: GRPOConfig) -> Iterator[GRPOConfig]:
    for n in _halves(c.group_size, 2):
        yield replace(c, group_size=n, rows_per_pass=min(c.rows_per_pass, n))


def _rows(c: GRPOConfig) -> int:
    every = c.prompts_per_step * c.group_size
    return min(c.rows_per_pass or every, every)


TIERS: list[list[Change]] = [
    [
        _set(lambda c: not c.checkpointing, checkpointing=True),
        _set(_tower_is_idle, offload_vision=True),
        _halve("prompts_per_decode", lambda c: min(c.prompts_per_decode or c.prompts_per_step, c.prompts_per_step)),
        _halve("eval_batch", lambda c: c.eval_batch if c.eval_every else 1),
        _halve("rows_per_pass", _rows),
        _set(_table_is_idle, offload_embedding=True),
    ],
    [
        _set(lambda c: c.optimiser != "adamw8bit", optimiser="adamw8bit"),
        _set(lambda c: c.train == "full", train="lora", dtype="auto"),
        _set(lambda c: c.dtype == "float32" and c.train == "lora", dtype="auto"),
        _set(lambda c: c.quantize == "none" and c.train == "lora", quantize="nf4"),
    ],
    [_max_pixels, _halve("max_completion_length", lambda c: c.max_completion_length, 64)],
    [_group],
    [_set(lambda c: _model(c.model).text_config.hidden_size > 1536, model="qwen2-vl-2b", offload_embedding=False)],
]

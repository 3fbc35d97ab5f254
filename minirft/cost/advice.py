"""The search for changes of settings that make a run fit: it tries changes on the ledger, the least harmful first.

First come changes that only cost time, then coarser number formats, then smaller pictures and shorter answers, smaller
groups, and a smaller model.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

from minirft.cost.sizes import Shape, architecture, tower_learns
from minirft.engine import family_of
from minirft.runs import GRPOConfig

Change = Callable[[GRPOConfig], Iterator[GRPOConfig]]
"""Settings -> the same settings with one change, the weakest first; nothing if the change is impossible."""
_model = cache(architecture)


def least_harm(config: GRPOConfig, fits: Callable[[GRPOConfig], bool]) -> GRPOConfig | None:
    """Find the configuration that fits with the least harm; return None if no change helps.

    The changes are those down to the first with which it fits.  From the most harmful up, each is made as weak as
    possible, or left out, while those above it are at their strongest.
    """
    taken = next((CHANGES[:n] for n in range(len(CHANGES) + 1) if fits(_all(config, CHANGES[:n]))), None)
    if taken is None:
        return None
    mildest = config
    for i in reversed(range(len(taken))):
        options = [mildest, *taken[i](mildest)]
        mildest = next((option for option in options if fits(_all(option, taken[:i]))), options[-1])
    return mildest if fits(mildest) else _all(config, taken)


def _all(config: GRPOConfig, changes: list[Change]) -> GRPOConfig:
    """Apply every change at its strongest."""
    for change in changes:
        *_, config = config, *change(config)
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


def _max_pixels(c: GRPOConfig) -> Iterator[GRPOConfig]:
    """Halve the picture; the prompt gets shorter by the same number of tokens."""
    shape = Shape.of(_model(c.model), c)
    vision, text = shape.model.vision_config, c.max_prompt_length - shape.pictured
    for tokens in _halves(shape.pictured, 64):
        pixels = tokens * (vision.patch_size * vision.spatial_merge_size) ** 2
        yield replace(c, max_pixels=pixels, max_prompt_length=max(tokens + text, 1))


def _group(c: GRPOConfig) -> Iterator[GRPOConfig]:
    for n in _halves(c.group_size, 2):
        yield replace(c, group_size=n, rows_per_pass=min(c.rows_per_pass, n))


def _four_bits(c: GRPOConfig) -> bool:
    family = family_of(_model(c.model).model_type, c.model)
    return c.quantize == "none" and c.train == "lora" and family.quantises


def _offload_embedding(c: GRPOConfig) -> bool:
    return c.train == "lora" and not (c.offload_embedding or _model(c.model).tie_word_embeddings)


CHANGES: list[Change] = [
    _set(lambda c: not c.checkpointing, checkpointing=True),
    _set(lambda c: not (c.offload_vision or tower_learns(c)), offload_vision=True),
    _halve("prompts_per_decode", lambda c: min(c.prompts_per_decode or c.prompts_per_step, c.prompts_per_step)),
    _halve("eval_batch", lambda c: c.eval_batch if c.eval_every else 1),
    _halve("rows_per_pass", lambda c: Shape.of(_model(c.model), c).rows),
    _set(_offload_embedding, offload_embedding=True),
    _set(lambda c: c.optimiser != "adamw8bit", optimiser="adamw8bit"),
    _set(lambda c: c.train == "full", train="lora", dtype="auto"),
    _set(lambda c: c.dtype == "float32" and c.train == "lora", dtype="auto"),
    _set(_four_bits, quantize="nf4"),
    _max_pixels,
    _halve("max_completion_length", lambda c: c.max_completion_length, 64),
    _group,
    _set(lambda c: _model(c.model).text_config.hidden_size > 1536, model="qwen2-vl-2b", offload_embedding=False),
]  # the least harmful first

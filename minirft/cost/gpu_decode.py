"""Decoding on one card: milliseconds a token step, beside the least that the card's bandwidth allows.

A token step reads every weight of the language model and all keys and values so far, and computes little with them.
The bandwidth is measured too, by a large copy, so that the floor is that of the card at hand.
"""

from __future__ import annotations

import statistics
import time
from functools import partial

import torch
from torch import Tensor

from minirft.cost.gpu_parts import Cases, Row, Sizes, endless, free, one_line, synchronise
from minirft.cost.shapes import Shape, filler, fit_shape, questions
from minirft.engine import DECODERS, LoraSettings
from minirft.policy import Policy
from minirft.sampler import sample_groups
from minirft.samples import Prompt


def decode(source: str, device: str, sizes: Sizes) -> Cases:
    """Milliseconds a token step of each decoder, beside the least that the card's bandwidth allows."""
    for quantize in ("none", "nf4"):
        name = "nf4" if quantize == "nf4" else "bfloat16"
        yield name, partial(decode_speeds, source, device, sizes, quantize)


def decode_speeds(source: str, device: str, sizes: Sizes, quantize: str) -> Row:
    """One row for each decoder and number of prompts; a decoder that fails leaves its error."""
    lora = LoraSettings(dtype="bfloat16")
    policy = endless(Policy.load(source, quantize=quantize, lora=lora, dtype="bfloat16", device=device))
    length, first, last = sizes.decode
    shape = fit_shape(policy, Shape(length, last, 8, max(sizes.decode_prompts)))
    prompts = [policy.encode(sample) for sample in questions(filler(policy, shape), shape, 0)]
    bandwidth = copy_bandwidth(torch.device(device))
    rows = []
    for count in sizes.decode_prompts:
        least = bytes_per_step(policy, count, length, 8 * count, (first + last) / 2)
        for decoder in DECODERS:
            row = {"decoder": decoder, "rows": 8 * count, "bytes_per_step": least, "floor_ms": 1e3 * least / bandwidth}
            try:
                spent = step_milliseconds(policy, prompts[:count], decoder, first, last)
                median = statistics.median(spent)
                row |= {"ms_per_step": median, "ms_spread": [min(spent), max(spent)]}
                row |= {"tokens_per_second": 8e3 * count / median, "times_floor": median / row["floor_ms"]}
            except Exception as error:  # the other decoders may work
                row["error"] = one_line(error)
            rows.append(row)
            free()
    return {"bandwidth_gb_per_second": bandwidth / 1e9, "prompt": length, "speeds": rows}


def step_milliseconds(policy: Policy, prompts: list[Prompt], decoder: str, first: int, last: int) -> list[float]:
    """Milliseconds of one more token for all rows, sampling included, three times.

    The time to `last` tokens less the time to `first`: prefill and recording a graph are in both, and cancel.
    """

    def seconds(limit: int) -> float:
        synchronise(policy.device)
        start = time.perf_counter()
        generator = torch.Generator().manual_seed(0)
        sample_groups(policy, prompts, 8, max_completion_length=limit, generator=generator, decoder=decoder)
        synchronise(policy.device)
        return time.perf_counter() - start

    seconds(first)
    return [1e3 * (seconds(last) - seconds(first)) / (last - first) for _ in range(3)]


def bytes_per_step(policy: Policy, prompts: int, prompt: int, rows: int, written: float) -> int:
    """The least a token step reads: weights once, the cache of `prompts` x `prompt` and `rows` x `written` tokens.

    A group shares its prompt's keys, so they count once.  Of the token embeddings only a few rows are read, and they
    do not count.  4-bit weights count packed, with their scales.
    """
    language = policy.language_model
    weights = [*language.layers.parameters(), *language.norm.parameters(), policy.lm_head.weight]
    config = language.config
    heads, size = config.num_key_value_heads, config.hidden_size // config.num_attention_heads
    cache = 2 * config.num_hidden_layers * heads * size * policy.dtype.itemsize
    return int(sum(map(_stored_bytes, weights)) + cache * (prompts * prompt + rows * written))


def _stored_bytes(weight: Tensor) -> int:
    state = getattr(weight, "quant_state", None)
    if state is None:
        return weight.nbytes
    return weight.nbytes + state.absmax.nbytes + (state.state2.absmax.nbytes if state.nested else 0)


def copy_bandwidth(device: torch.device) -> float:
    """Bytes per second that a large copy moves, read and written; the median of 10."""
    size = 2**31 if device.type == "cuda" else 2**26
    origin, copy = (torch.zeros(size, dtype=torch.uint8, device=device) for _ in range(2))
    speeds = []
    for _ in range(10):
        synchronise(device)
        start = time.perf_counter()
        copy.copy_(origin)
        synchronise(device)
        speeds.append(2 * size / (time.perf_counter() - start))
    return statistics.median(speeds)

"""What `gpu.py` asks of one card, and the first of its parts: the peak memory of a whole step.

A part is a generator of named cases.  A case is called, returns a row for the JSON file, and keeps nothing on the card.
On a CPU the same code runs, with None for what only a card can tell.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch

from minirft.cost.architectures import architecture
from minirft.cost.shapes import PICTURE_SHARE, Shape, filler, fit_shape, questions
from minirft.cost.steps import reward
from minirft.engine import LoraSettings
from minirft.policy import Policy
from minirft.reference import make_reference
from minirft.runs import GRPOConfig, load_policy, make_optimiser
from minirft.sampler import sample_groups
from minirft.train import grpo_step

Row = dict[str, Any]
Cases = Iterator[tuple[str, Callable[[], Row]]]
GIB = 2**30
CONTEXT_GIB = 0.6
"""Memory of a card that torch's allocator is not given in a memory case: the driver and kernels take about this."""


@dataclass(frozen=True)
class Sizes:
    """The lengths that are measured; the defaults are those of the project's goals, smaller ones are for a test."""

    shapes: Sequence[Sequence[int]] = ((512, 128, 8), (1024, 256, 8))
    """(prompt, completion, group) of the timed steps."""
    steps: int = 3
    """Timed steps of each trainer, after one that warms up."""
    decode: Sequence[int] = (512, 33, 161)
    """Prompt tokens, and the two lengths between which decoding is timed."""
    decode_prompts: Sequence[int] = (1, 4)
    """Prompts decoded together, 8 completions each."""
    check: Sequence[int] = (256, 32, 4)
    """(prompt, completion, group) of the comparisons."""
    memory_divisors: Sequence[int] = (1, 1)
    """Divide prompt and completion of the memory cases."""


# ------------------------------------------------------------------ peak memory

_LEAN = {"quantize": "nf4", "lora": LoraSettings(dtype="bfloat16"), "optimiser": "adamw8bit"}
SETTINGS: dict[str, list[tuple[int, int, int, dict[str, Any]]]] = {
    "2B": [
        (4, 1024, 256, _LEAN),
        (4, 1024, 1024, _LEAN | {"rows_per_pass": 2, "offload_vision": True}),
        (8, 1024, 1024, {"quantize": "nf4", "kl_coef": 0.04}),
        (16, 1024, 1024, {"prompts_per_step": 2, "rows_per_pass": 8}),
    ],
    "7B": [
        (8, 1024, 256, _LEAN | {"offload_vision": True, "offload_embedding": True}),
        (16, 1024, 1024, {"quantize": "nf4", "rows_per_pass": 4}),
    ],
}
"""(GiB of the card, prompt, completion, settings) by size of model; G 8, LoRA r 16, bfloat16, checkpointing in all."""


def memory(source: str, device: str, sizes: Sizes) -> Cases:
    """Whole steps at settings meant for cards of 4, 8 and 16 GB, on a card that is made as small as that."""
    large = architecture(source).text_config.hidden_size > 2000
    for card, prompt, completion, changes in SETTINGS["7B" if large else "2B"]:
        by = sizes.memory_divisors
        config = GRPOConfig(
            model=source,
            device=device,
            dtype="bfloat16",
            train="lora",
            checkpointing=True,
            max_prompt_length=prompt // by[0],
            max_pixels=int(PICTURE_SHARE * prompt / by[0]) * 28 * 28,
            max_completion_length=completion // by[1],
            **{"prompts_per_step": 1} | changes,
        )
        yield f"{card} GB card, P {prompt}, C {completion}", partial(memory_of_a_step, config, card)


def memory_of_a_step(config: GRPOConfig, card_gib: float) -> Row:
    """Peaks of loading, of a rollout, and of two steps, within `card_gib`; without that limit if they do not fit."""
    changed = {key: value for key, value in asdict(config).items() if value != asdict(GRPOConfig()).get(key)}
    row = {"card_gib": card_gib, "settings": changed, "predicted_gib": predicted_gib(config), "fits": True}
    try:
        return row | _peaks(config, card_gib - CONTEXT_GIB)
    except torch.OutOfMemoryError as error:
        row |= {"fits": False, "error": one_line(error)}
    free()
    return row | _peaks(config, None)


def _peaks(config: GRPOConfig, limit_gib: float | None) -> Row:
    device = torch.device(config.device)
    _limit(device, limit_gib)
    reset_peak(device)
    policy = endless(load_policy(config))
    found = {"limit_gib": limit_gib, "loading_gib": peak_gib(device), "weights_gib": _allocated_gib(device)}
    lengths = (config.max_prompt_length, config.max_completion_length, config.group_size, config.prompts_per_step)
    shape = fit_shape(policy, Shape(*lengths))
    text = filler(policy, shape)
    optimiser, reference = make_optimiser(policy, config), make_reference(policy, config.kl_coef)

    reset_peak(device)
    prompts = [policy.encode(sample) for sample in questions(text, shape, 0)]
    sample_groups(
        policy,
        prompts,
        config.group_size,
        max_completion_length=config.max_completion_length,
        generator=torch.Generator().manual_seed(0),
        prompts_per_pass=config.prompts_per_rollout or None,
    )
    found["rollout_gib"] = peak_gib(device)

    reset_peak(device)
    for step in (1, 2):  # the first makes the optimiser's moments
        row, _ = grpo_step(policy, reference, optimiser, questions(text, shape, step), reward, config, step)
    found |= {"step_gib": peak_gib(device), "reserved_gib": _reserved_gib(device), "context_gib": _context_gib(device)}
    return found | {key: value for key, value in row.items() if key.startswith(("seconds", "completion_length"))}


def predicted_gib(config: GRPOConfig) -> dict[str, float]:
    """What `minirft fit` says of every phase, and the largest of them."""
    from minirft.cost.memory import ledger

    account = ledger(architecture(config.model), config)
    return {phase: account.total(phase) / GIB for phase in account.phases} | {"peak": account.peak / GIB}


def _limit(device: torch.device, gib: float | None) -> None:
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(1.0 if gib is None else min(1.0, gib * GIB / total), device)


def reset_peak(device: torch.device) -> None:
    """Forget the peak so far."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)


def peak_gib(device: torch.device) -> float | None:
    """Most bytes in tensors since `reset_peak`, in GiB; None on a CPU."""
    return torch.cuda.max_memory_allocated(device) / GIB if device.type == "cuda" else None


def _allocated_gib(device: torch.device) -> float | None:
    return torch.cuda.memory_allocated(device) / GIB if device.type == "cuda" else None


def _reserved_gib(device: torch.device) -> float | None:
    return torch.cuda.max_memory_reserved(device) / GIB if device.type == "cuda" else None


def _context_gib(device: torch.device) -> float | None:
    """What the card has given away beside torch's allocator, other processes included."""
    if device.type != "cuda":
        return None
    unused, total = torch.cuda.mem_get_info(device)
    return (total - unused - torch.cuda.memory_reserved(device)) / GIB


def free() -> None:
    """Give back what the last case left."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def one_line(error: BaseException) -> str:
    """An exception as a line of JSON."""
    return f"{type(error).__name__}: " + " ".join(str(error).split())[:500]


def endless(policy: Policy) -> Policy:
    """The policy, never ending a completion by itself, and taking pictures and prompts of any size as they are."""
    policy.processor = replace(policy.processor, max_prompt_length=None)
    policy.image_processor.size = {"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 16384}
    policy.banned = torch.cat([policy.banned, torch.tensor(policy.eos_ids).to(policy.banned)])
    policy.eos_ids = (-1,)  # no token
    return policy


def synchronise(device: torch.device) -> None:
    """Wait for the card, so that a clock read next is honest."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)

"""Two parts of the GPU benchmark: the peak memory of a whole step, and its seconds.

A part is a generator of named cases.  A case is a function that returns a row for the JSON file and frees its memory.
The same code runs on a CPU, with None for numbers that need a card.

Steps of ours and of TRL are timed in turns and split into the same phases.  Both train adapters of rank 16, stored in
bfloat16, on a frozen 4-bit model with gradient checkpointing; TRL runs without vLLM.  The clock waits for the card at
every change of phase, which costs both the same few microseconds.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from transformers import Qwen2VLForConditionalGeneration

from minirft.cost.architectures import architecture
from minirft.cost.shapes import PICTURE_SHARE, Shape, endless, filler, fit_shape, questions
from minirft.cost.steps import Ours, reward, settings
from minirft.cost.trl_step import Trl
from minirft.cost.work import PHASES, timing
from minirft.engine import DECODERS, FeatureCache, LoraSettings, nf4_settings, tidy_after_quantising
from minirft.policy import Policy
from minirft.reference import make_reference
from minirft.runs import GRPOConfig, load_policy, make_optimiser
from minirft.sampler import sample_groups
from minirft.train import grpo_step

Row = dict[str, Any]
Cases = Iterator[tuple[str, Callable[[], Row]]]
GIB = 2**30
CONTEXT_GIB = 0.6
"""Memory of a card that torch's allocator may not use in a memory case; driver and kernels take about this much."""


@dataclass(frozen=True)
class Sizes:
    """The measured lengths; smaller ones than the defaults are for tests."""

    shapes: Sequence[Sequence[int]] = ((512, 128, 8), (1024, 256, 8))
    """(prompt, completion, group) of the timed steps."""
    steps: int = 3
    """Timed steps of each trainer, after one warm-up step."""
    decode: Sequence[int] = (512, 33, 161)
    """Prompt tokens, and the two lengths between which decoding is timed."""
    decode_prompts: Sequence[int] = (1, 4)
    """Prompts decoded together, 8 completions each."""
    check: Sequence[int] = (256, 32, 4)
    """(prompt, completion, group) of the comparisons."""
    memory_divisors: Sequence[int] = (1, 1)
    """Divisors of prompt and completion of the memory cases."""


# ------------------------------------------------------------------ peak memory

_LEAN = {"quantize": "nf4", "lora": LoraSettings(), "optimiser": "adamw8bit"}
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
    """Yield whole steps at settings for cards of 4, 8 and 16 GB, with the card's memory limited to that size."""
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
    """Measure peaks of loading, a rollout and two steps within `card_gib`; without the limit if they do not fit."""
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
    loaded = in_gib(device)
    found = {"limit_gib": limit_gib, "loading_gib": loaded["peak"], "weights_gib": loaded["allocated"]}
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
        prompts_per_decode=config.prompts_per_decode or None,
    )
    found["rollout_gib"] = in_gib(device)["peak"]

    reset_peak(device)
    for step in (1, 2):  # the first step allocates the optimiser's moments
        row, _ = grpo_step(policy, reference, optimiser, questions(text, shape, step), reward, config, step)
    last = in_gib(device)
    found |= {"step_gib": last["peak"], "reserved_gib": last["reserved"], "context_gib": last["context"]}
    return found | {key: value for key, value in row.items() if key.startswith(("seconds", "completion_length"))}


def predicted_gib(config: GRPOConfig) -> dict[str, float]:
    """Return the prediction of `minirft fit` for every phase, and the peak."""
    from minirft.cost.memory import ledger

    account = ledger(architecture(config.model), config)
    return {phase: account.total(phase) / GIB for phase in account.phases} | {"peak": account.peak / GIB}


def _limit(device: torch.device, gib: float | None) -> None:
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(1.0 if gib is None else min(1.0, gib * GIB / total), device)


def reset_peak(device: torch.device) -> None:
    """Reset the peak memory."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)


def in_gib(device: torch.device) -> dict[str, float | None]:
    """Return GiB in tensors, at the peak since `reset_peak` and now; the peak reserved; and the GiB used outside torch.

    The last includes other processes.  All are None on a CPU.
    """
    names = ("peak", "allocated", "reserved", "context")
    if device.type != "cuda":
        return dict.fromkeys(names)
    unused, total = torch.cuda.mem_get_info(device)
    context = total - unused - torch.cuda.memory_reserved(device)
    of_torch = (torch.cuda.max_memory_allocated, torch.cuda.memory_allocated, torch.cuda.max_memory_reserved)
    return dict(zip(names, [n / GIB for n in (*(read(device) for read in of_torch), context)], strict=True))


def free() -> None:
    """Free the memory of the last case."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def one_line(error: BaseException) -> str:
    """Format an exception as one line."""
    return f"{type(error).__name__}: " + " ".join(str(error).split())[:500]


def synchronise(device: torch.device) -> None:
    """Wait for the card, so that the next reading of the clock is correct."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# ------------------------------------------------------------------ time of a step

LORA = LoraSettings()  # ours are float32; TRL casts the adapters of a 4-bit model to bfloat16
Spent = dict[str, float]  # phase -> seconds


def times(source: str, device: str, sizes: Sizes) -> Cases:
    """Yield one case for each shape."""
    for prompt, completion, group in sizes.shapes:
        shape = Shape(prompt, completion, group)
        yield f"P {prompt}, C {completion}, G {group}", partial(step_seconds, source, device, shape, sizes.steps)


def step_seconds(source: str, device: str, shape: Shape, steps: int) -> Row:
    """Measure medians over `steps` steps of TRL and of ours with each decoder, after one warm-up step.

    If a trainer fails, its error is stored and the others continue.
    """
    trainers = new_ours(source, device, shape)
    policy = trainers["growing"].policy
    spent: dict[str, list[Spent]] = {name: [] for name in [*trainers, "trl"]}
    errors: dict[str, str] = {}
    turns_done = 0

    def ours(turn: int) -> None:
        nonlocal turns_done
        for name in [name for name in trainers if name not in errors]:
            policy.cache = FeatureCache()  # the picture of every step is new
            try:
                trainers[name].step(turn, timed(trainers[name], torch.device(device), spent[name], turn))
            except Exception as failure:
                errors[name] = one_line(failure)
        turns_done = turn + 1

    try:
        load, changes = partial(_four_bit, source, device), {"use_cpu": device == "cpu", "bf16": True}
        trl = Trl(trainers["growing"], LORA, steps + 1, load, **changes)
        trl.run(lambda turn: timed(trl, torch.device(device), spent["trl"], turn), ours)
    except Exception as failure:  # ours can still be timed
        errors["trl"] = one_line(failure)
    for turn in range(turns_done, steps + 1):
        ours(turn)
    rows = {name: summary(seconds) for name, seconds in spent.items() if name not in errors}
    whole = rows["trl"]["seconds"] if "trl" in rows else None
    ratios = {name: whole / rows[name]["seconds"] for name in trainers if name in rows} if whole else {}
    return {"seconds": rows, "trl_to_ours": ratios, "errors": errors}


def new_ours(source: str, device: str, shape: Shape) -> dict[str, Ours]:
    """Make our trainer with each decoder, with a prompt of exactly the shape's length."""
    policy = endless(
        Policy.load(source, quantize="nf4", lora=LORA, dtype="bfloat16", device=device, checkpointing=True)
    )
    shape = fit_shape(policy, shape)
    config = replace(settings(shape, checkpointing=True, kl_coef=0.0), quantize="nf4", train="lora", lora=LORA)
    text = filler(policy, shape)
    return {name: Ours(policy, None, replace(config, decoder=name), shape, text) for name in DECODERS}


def _four_bit(source: str, device: str) -> Qwen2VLForConditionalGeneration:
    """Load the model like a user of transformers, with transformers' sdpa attention."""
    model = Qwen2VLForConditionalGeneration.from_pretrained(
        source,
        dtype=torch.bfloat16,
        device_map={"": device},
        quantization_config=nf4_settings(torch.bfloat16),
    )
    tidy_after_quantising(model, torch.device(device))
    return model


@contextmanager
def timed(trainer: Ours | Trl, device: torch.device, spent: list[Spent], turn: int) -> Iterator[None]:
    """Append the seconds by phase of the step inside this context, except those of the warm-up turn 0."""

    def clock() -> tuple[float]:
        synchronise(device)
        return (time.perf_counter(),)

    with timing(trainer.marks, clock) as seconds:
        yield
    if turn:
        spent.append({phase: wall for phase, (wall,) in seconds.items()})


def summary(spent: list[Spent]) -> Row:
    """Return median and spread of the whole step, and medians by phase."""
    whole = [sum(step.values()) for step in spent]
    return {
        "seconds": statistics.median(whole),
        "spread": [min(whole), max(whole)],
        "by_phase": {phase: statistics.median(step[phase] for step in spent) for phase in PHASES},
        "steps": len(spent),
    }

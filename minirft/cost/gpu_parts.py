"""Two parts of the GPU benchmark: the peak memory of a whole step, and its seconds.

A part is a generator of named cases.  A case is a function that returns a row for the JSON file and frees its memory.
The same code runs on a CPU, with None for numbers that need a card.

Steps of ours and of TRL are timed in turns and split into the same phases.  Both train adapters of rank 16 on a frozen
4-bit model with gradient checkpointing, in float32; TRL runs without vLLM.  The clock waits for the card at every
change of phase, which costs both the same few microseconds.
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any
from unittest import mock

import torch

from minirft import train
from minirft.cost.fit import account, usable
from minirft.cost.memory import GIB
from minirft.cost.shapes import PICTURE_SHARE, Shape, endless, filler, fit_shape, load_policy, questions
from minirft.cost.sizes import architecture
from minirft.cost.steps import Ours, reward, settings
from minirft.cost.trl_step import Trl
from minirft.cost.turns import Row, one_line, summary, take_turns
from minirft.engine import DECODERS, FeatureCache, LoraSettings
from minirft.reference import make_reference
from minirft.runs import GRPOConfig, make_optimiser
from minirft.runs import load_policy as load_configured

Cases = Iterator[tuple[str, Callable[[], Row]]]
LORA = LoraSettings()


@dataclass(frozen=True)
class Sizes:
    """The measured lengths, chosen so that one run ends in 9 minutes on an H100."""

    shapes: Sequence[Sequence[int]] = ((512, 128, 8), (1024, 256, 8))
    """(prompt, completion, group) of the timed steps."""
    steps: int = 2
    """Timed steps of each trainer, after one warm-up step."""
    decode: Sequence[int] = (512, 17, 81)
    """Prompt tokens, and the two lengths between which decoding is timed."""
    decode_prompts: Sequence[int] = (1, 4)
    """Prompts decoded together, 8 completions each."""
    check: Sequence[int] = (256, 32, 4)
    """(prompt, completion, group) of the comparisons."""
    memory_divisors: Sequence[int] = (1, 1)
    """Divisors of prompt and completion of the memory cases."""


REHEARSAL = Sizes(
    shapes=((128, 6, 4),),
    steps=1,
    decode=(64, 2, 4),
    decode_prompts=(1, 2),
    check=(64, 6, 2),
    memory_divisors=(16, 128),
)

# ------------------------------------------------------------------ peak memory

_LEAN = {"quantize": "nf4", "optimiser": "adamw8bit"}
SETTINGS: dict[str, list[tuple[int, int, int, dict[str, Any]]]] = {
    "2B": [
        (4, 1024, 256, _LEAN),
        (6, 1024, 512, {"quantize": "nf4", "dtype": "float16", "rows_per_pass": 4}),
        (8, 1024, 256, {"quantize": "nf4", "kl_coef": 0.04, "prompts_per_step": 2}),
        (12, 1024, 256, {"prompts_per_step": 2, "rows_per_pass": 8}),
    ],
    "7B": [
        (8, 1024, 256, _LEAN | {"offload_vision": True, "offload_embedding": True}),
        (12, 1024, 256, {"quantize": "nf4", "rows_per_pass": 4}),
    ],
}
"""(GB of the card, prompt, completion, settings) by size of model; G 8, LoRA r 16 and checkpointing in all."""


def memory(source: str, device: str, sizes: Sizes) -> Cases:
    """Yield whole steps at settings for cards of 4 to 12 GB, with the card's memory limited to what tensors may use."""
    large = architecture(source).text_config.hidden_size > 2000
    for card, prompt, completion, changes in SETTINGS["7B" if large else "2B"]:
        by = sizes.memory_divisors
        config = GRPOConfig(
            model=source,
            device=device,
            train="lora",
            checkpointing=True,
            max_prompt_length=prompt // by[0],
            max_pixels=int(PICTURE_SHARE * prompt / by[0]) * 28 * 28,
            max_completion_length=completion // by[1],
            **{"prompts_per_step": 1, "dtype": "bfloat16"} | changes,
        )
        yield f"{card} GB card, P {prompt}, C {completion}", partial(memory_of_a_step, config, card)


def memory_of_a_step(config: GRPOConfig, card: float) -> Row:
    """Measure peaks of loading and of two steps within a card's memory; without the limit if they do not fit."""
    changed = {key: value for key, value in asdict(config).items() if value != asdict(GRPOConfig()).get(key)}
    predicted = account(config)
    phases = {phase: predicted.total(phase) / GIB for phase in predicted.phases}
    row = {"card_gb": card, "limit_gib": usable(card), "settings": changed, "fits": True}
    row |= {"predicted_gib": phases | {"peak": predicted.peak / GIB}}
    try:
        return row | _peaks(config, usable(card))
    except torch.OutOfMemoryError as error:
        row |= {"fits": False, "error": one_line(error)}
    free()
    return row | _peaks(config, None)


def _peaks(config: GRPOConfig, limit_gib: float | None) -> Row:
    device = torch.device(config.device)
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        share = 1.0 if limit_gib is None else min(1.0, limit_gib * GIB / total)
        torch.cuda.set_per_process_memory_fraction(share, device)
    found: dict[str, float | None] = {}

    def note(name: str) -> None:
        found[name] = in_gib(device)["peak"]
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def sampled(*args: Any, **kwargs: Any) -> Any:
        rollout = sample(*args, **kwargs)
        note("rollout_gib")
        return rollout

    policy, sample = endless(load_configured(config)), train.sample_groups
    note("loading_gib")
    lengths = (config.max_prompt_length, config.max_completion_length, config.group_size, config.prompts_per_step)
    shape = fit_shape(policy, Shape(*lengths))
    text = filler(policy, shape)
    optimiser, reference = make_optimiser(policy, config), make_reference(policy, config.kl_coef)
    with mock.patch.object(train, "sample_groups", sampled):
        for step in (1, 2):  # the first step allocates the optimiser's moments
            samples = questions(text, shape, step)
            row, _ = train.grpo_step(policy, reference, optimiser, samples, reward, config, step)
            note("update_gib")
    last = in_gib(device)
    found |= {"reserved_gib": last["reserved"], "context_gib": last["context"]}
    return found | {key: value for key, value in row.items() if key.startswith(("seconds", "completion_length"))}


def in_gib(device: torch.device) -> dict[str, float | None]:
    """Return GiB: the peak in tensors since the last reset, the peak reserved, and what is used outside torch.

    The last includes other processes.  All are None on a CPU.
    """
    if device.type != "cuda":
        return dict.fromkeys(("peak", "reserved", "context"))
    torch.cuda.synchronize(device)
    unused, total = torch.cuda.mem_get_info(device)
    return {
        "peak": torch.cuda.max_memory_allocated(device) / GIB,
        "reserved": torch.cuda.max_memory_reserved(device) / GIB,
        "context": (total - unused - torch.cuda.memory_reserved(device)) / GIB,
    }


def free() -> None:
    """Free the memory of the last case."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


# ------------------------------------------------------------------ time of a step


def times(source: str, device: str, sizes: Sizes) -> Cases:
    """Yield one case for each shape."""
    for lengths in sizes.shapes:
        yield "P {}, C {}, G {}".format(*lengths), partial(step_seconds, source, device, Shape(*lengths), sizes.steps)


def step_seconds(source: str, device: str, shape: Shape, steps: int) -> Row:
    """Measure medians over `steps` steps of TRL and of ours with each decoder, after one warm-up step.

    If a trainer fails, its error is stored and the others continue.
    """
    policy = load_policy(source, LORA, checkpointing=True, device=device, dtype="bfloat16", quantize="nf4")
    shape = fit_shape(policy, shape)
    config = replace(settings(shape, checkpointing=True, kl_coef=0.0), quantize="nf4", train="lora", lora=LORA)
    text, trl, errors = filler(policy, shape), None, {}
    trainers = {name: Ours(policy, None, replace(config, decoder=name), shape, text) for name in DECODERS}
    for trainer in trainers.values():
        trainer.policy.cache = FeatureCache()  # one sees the same pictures as the other
    try:
        trl = Trl(trainers["growing"], steps + 1, source, device, nf4=True)
    except Exception as error:  # ours can still be timed
        errors["trl"] = one_line(error)
    records = take_turns(trainers, trl, steps, torch.device(device))
    errors |= {name: record.error for name, record in records.items() if record.error}
    rows = {name: summary(record.seconds, processor=False) for name, record in records.items() if name not in errors}
    ratios = {name: rows["trl"]["seconds"] / rows[name]["seconds"] for name in trainers if {"trl", name} <= rows.keys()}
    return {"seconds": rows, "trl_to_ours": ratios, "errors": errors}

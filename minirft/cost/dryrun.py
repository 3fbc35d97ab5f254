"""The dry run: data, prompts, plan, memory and time of a run, from the settings and the processor, without weights.

It counts samples, prompt tokens (those of a picture from its size, so no picture is decoded), steps, epochs,
completions, arithmetic (`lower_bound`) and memory (`fit`).  It assumes the speed of the machine, and prints it.
The time is that of arithmetic and memory traffic at these rates, with every completion at its full length:

    rollout    max(FLOPs / rate, (P / prompts decoded together) * T * bytes of the weights / bandwidth)
    the rest   FLOPs / rate

Launches, Python, the optimiser, data and evaluation are not included, and short completions end earlier.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isqrt
from typing import Any, Literal

import numpy as np
import torch

from minirft import UserError
from minirft.cost import fit
from minirft.cost.lower_bound import floor
from minirft.cost.memory import resident
from minirft.cost.report import render
from minirft.cost.shapes import Shape as StepShape
from minirft.cost.sizes import Shape, architecture
from minirft.data import held_out, training_feed, training_set
from minirft.engine import Processor, family_of, load_processor, resolve
from minirft.rewards import displayed_size
from minirft.runs import GRPOConfig
from minirft.samples import Sample

Method = Literal["grpo", "sft", "eval"]
SHOWN, NAMED = 3, 5  # prompts printed, samples named in a message
GPU = (20.0, 250.0)  # achieved TFLOP/s and GB/s of an 8 GB card such as the RTX 4060
CPU = (0.05, 10.0)  # of one core


@dataclass(frozen=True)
class Rates:
    """The assumed speed of a machine: achieved 10^12 floating-point operations and 10^9 bytes per second."""

    tflops: float
    bandwidth: float

    @classmethod
    def of(cls, config: GRPOConfig, tflops: float | None, bandwidth: float | None) -> Rates:
        """Return the given rates; by default a small card's, or one core's for a CPU run or the tiny model."""
        on_gpu = config.device.startswith("cuda") or (config.device == "auto" and config.model != "tiny")
        usual = GPU if on_gpu else CPU
        rates = cls(tflops or usual[0], bandwidth or usual[1])
        if min(rates.tflops, rates.bandwidth) <= 0:
            raise UserError("--tflops and --bandwidth must be positive")
        return rates


def dry_run(config: GRPOConfig, method: Method, rates: Rates, processor: str | None = None) -> dict[str, Any]:
    """Compute the dry run as JSON data.  `processor` is the folder of a processor, by default the model's.

    Raises `UserError` for invalid data, a missing processor, and prompts longer than the limit.
    """
    samples, endless = _samples(config, method)
    family = family_of(architecture(config.model).model_type, config.model)
    reader = load_processor(processor or resolve(config.model), config.max_pixels, None, family.pixel_boxes)
    lengths = [reader.count(sample, displayed_size(sample)) for sample in samples]
    _refuse_long(config, samples, lengths)
    pool, here = None if endless else len(samples), Rates((os.cpu_count() or 1) * CPU[0], CPU[1])
    totals = np.array([text + pictured for text, pictured in lengths])
    return {
        "method": method,
        "model": config.model,
        "samples": len(samples),
        "endless": endless,
        "prompts": [_shown(reader, *pair) for pair in zip(samples[:SHOWN], lengths, strict=False)],
        "prompt_tokens": {
            "shortest": int(totals.min()),
            "mean": float(totals.mean()),
            "longest": int(totals.max()),
            "limit": config.max_prompt_length,
        },
        "plan": plan(config, method, pool),
        "memory": memory(config) if method == "grpo" else None,
        "time": estimate(config, method, np.array(lengths), pool, rates),
        "time_cpu": None if torch.cuda.is_available() else estimate(config, method, np.array(lengths), pool, here),
    }


def plan(config: GRPOConfig, method: Method, count: int | None) -> dict[str, Any]:
    """Count steps, prompts, completions, and epochs of `count` samples; None is an endless stream.

    >>> plan(GRPOConfig(steps=200, prompts_per_step=16, group_size=8), "grpo", 32)
    {'steps': 200, 'prompts': 3200, 'completions': 25600, 'epochs': 100.0}
    """
    if method == "eval" and count:
        return {"batches": -(-count // config.eval_batch), "prompts": count, "completions": count}
    steps = config.steps if method == "grpo" else config.sft_steps
    prompts = steps * config.prompts_per_step
    completions = prompts * (config.group_size if method == "grpo" else 1)
    epochs = {"epochs": prompts / count} if count else {}
    return {"steps": steps, "prompts": prompts, "completions": completions, **epochs}


def memory(config: GRPOConfig) -> dict[str, Any]:
    """Return the ledger's peak in GiB, its phase, and the smallest common card that it fits on (None: on none)."""
    found = fit.account(config)
    cards = [card for card in fit.CARDS if found.peak <= fit.usable(card) * fit.GIB]
    return {"peak_gib": found.peak / fit.GIB, "phase": found.peak_phase, "card_gb": min(cards, default=None)}


def estimate(
    config: GRPOConfig, method: Method, lengths: np.ndarray, count: int | None, rates: Rates
) -> dict[str, Any]:
    """Estimate seconds per step and in total at the assumed rates; `lengths` is (n, 2), tokens of text and picture."""
    batch = config.eval_batch if method == "eval" else config.prompts_per_step
    planned = plan(config, method, count)
    steps, rate = planned["prompts"] / batch, rates.tflops * 1e12
    text, pictured = (round(mean) for mean in lengths.mean(0))
    group = config.group_size if method == "grpo" else 1
    high = isqrt(pictured)
    shape = StepShape(text + pictured, config.max_completion_length, group, batch, (high, pictured // high))
    rank = config.lora.r if config.train == "lora" else 0
    least = floor(architecture(config.model), shape, rank, method == "grpo" and config.kl_coef > 0)
    together = batch if method == "eval" else min(config.prompts_per_decode or batch, batch)
    read = -(-batch // together) * config.max_completion_length * weight_bytes(config)
    rollout = 0.0 if method == "sft" else max(least["rollout"] / rate, read / (rates.bandwidth * 1e9))
    again = 1 + config.checkpointing  # recomputing is one more forward pass
    update = 0 if method == "eval" else least["reference"] + again * least["forward"] + least["backward"]
    once = method != "eval" and not config.train_vision  # a picture passes the frozen tower once in a run
    seen = min(planned["prompts"], count) if once and count else planned["prompts"]
    parts = {
        "vision": least["vision"] / batch * seen / rate,
        "rollout": rollout * steps,
        "learning": update / rate * steps,
    }
    return {
        "assumed_tflops": rates.tflops,
        "assumed_gb_per_second": rates.bandwidth,
        "seconds_a_step": rollout + update / rate,
        "seconds": sum(parts.values()),
        "parts": parts,
    }


def weight_bytes(config: GRPOConfig) -> float:
    """Count the bytes of the language model's weights, with the head, that every decoded token reads."""
    parts = resident(Shape.of(architecture(config.model), replace(config, offload_embedding=False)))
    return parts["language linears"] + (parts["head"] or parts["embedding"])


def _samples(config: GRPOConfig, method: Method) -> tuple[list[Sample], bool]:
    """Return the samples of the run, or those of the first step of an endless stream, and whether it is endless."""
    if method == "eval":
        return held_out(config), False
    if config.data.kind == "tiny" and not config.data.shots:
        return training_feed(config)(1), True
    return training_set(config.data), False


def _refuse_long(config: GRPOConfig, samples: Sequence[Sample], lengths: Sequence[tuple[int, int]]) -> None:
    limit = config.max_prompt_length
    long = [(s.id, sum(found)) for s, found in zip(samples, lengths, strict=True) if sum(found) > limit]
    if long:
        some = ", ".join(f"{name} ({tokens})" for name, tokens in long[:NAMED]) + (", ..." if len(long) > NAMED else "")
        raise UserError(
            f"{len(long)} of {len(samples)} prompts are longer than max_prompt_length = {limit} tokens: {some}; "
            f"lower max_pixels, or raise max_prompt_length to {max(tokens for _, tokens in long)}"
        )


def _shown(reader: Processor, sample: Sample, length: tuple[int, int]) -> dict[str, Any]:
    width, height = displayed_size(sample)
    problem, solution = reader.as_read(sample, (width, height))
    text, pictured = length
    tokens = {"text_tokens": text, "picture_tokens": pictured, "tokens": text + pictured}
    return {"id": sample.id, "width": width, "height": height, **tokens, "problem": problem, "solution": solution}


# ------------------------------------------------------------------ printing


def report(result: dict[str, Any]) -> str:
    """Write the result of `dry_run` as text."""
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return render("dryrun", **result, spell=spell, card=card, cores=os.cpu_count())


def spell(seconds: float) -> str:
    """
    >>> spell(12.3), spell(600), spell(90_000)
    ('12 s', '10 min', '25.0 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"

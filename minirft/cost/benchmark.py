"""The comparison of `minirft bench`: check that the paths agree, then count and time steps of each trainer."""

from dataclasses import asdict, replace
from math import prod
from typing import Any

import torch

from minirft import UserError
from minirft.cost.lower_bound import floor
from minirft.cost.report import TITLES
from minirft.cost.request import Request
from minirft.cost.shapes import Shape, filler, fit_shape, load_policy, model_source, questions
from minirft.cost.steps import Ours, difference, loss_and_gradients, settings, tolerance
from minirft.cost.trl_step import Trl, our_loss_over_all_tokens
from minirft.cost.turns import summary, take_turns
from minirft.engine import LoraSettings
from minirft.reference import make_reference
from minirft.runs import library_version
from minirft.sampler import sample_groups
from minirft.samples import Rollout

OWN = {"tiny": Shape(prompt=45, completion=35, group=8, prompts=8, picture=(4, 4))}
"""The shape of the embedded model in configs/tiny_detection.toml: 16 picture tokens, answers of about 35 tokens."""
USUAL = Shape(prompt=512, completion=64, group=8)


def measure(request: Request) -> dict[str, Any]:
    """Run the comparison and return it as JSON data (`report` prints it).

    Raises `UserError` for an impossible shape, and if two paths differ in loss or gradient.
    """
    for name in ("prompt", "completion", "group", "prompts", "steps", "threads"):
        least = 2 if name == "group" else 1
        if (asked := getattr(request, name)) is not None and asked < least:
            raise UserError(f"--{name} is {asked}; it must be at least {least}")
    torch.set_num_threads(request.threads)
    lora = None if request.model == "tiny" else LoraSettings()
    with model_source(request.model) as source:
        ours = new_ours(request, source, lora)
        naive = replace(ours, config=replace(ours.config, shared_prefix=False), cached=False)
        trl, why_not = new_trl(request, source, ours)
        equal = agreement(ours, trl)
        records = take_turns({"ours": ours, **({"naive": naive} if request.naive else {})}, trl, request.steps)
    least = floor(ours.policy.core.config, ours.shape, lora.r if lora else 0, request.kl_coef > 0, not request.cached)
    rows: dict[str, Any] = dict.fromkeys(TITLES)
    for name, found in records.items():
        flops = {"flops": sum(found.work.flops_by_phase.values())}
        rows[name] = flops | asdict(found.work) | summary(found.seconds, processor=request.threads == 1)
    packages = ("torch", "transformers", "peft", *(() if why_not else ("trl",)))
    return {
        "shape": asdict(ours.shape) | {"picture_tokens": prod(ours.shape.picture)},
        "setting": {
            **{name: getattr(request, name) for name in ("model", "checkpointing", "kl_coef", "cached", "threads")},
            "policy": ours.policy.describe(),
            "train": "lora" if lora else "full",
            "clock": "processor" if request.threads == 1 else "wall",
            "trl": why_not or "measured",
            "versions": {name: library_version(name) for name in packages},
        },
        **rows,
        "floor": least,
        "ratio": ratios(rows, least["flops"]),
        "equal": equal,
    }


def new_ours(request: Request, source: str, lora: LoraSettings | None) -> Ours:
    """Make our trainer for the request, with a prompt of exactly the requested length."""
    policy = load_policy(source, lora, request.checkpointing)
    policy.name = request.model
    usual = OWN.get(request.model, USUAL)
    lengths = ("prompt", "completion", "group", "prompts")
    shape = replace(usual, **{name: getattr(request, name) or getattr(usual, name) for name in lengths})
    if shape.prompt != usual.prompt or request.model not in OWN:
        shape = fit_shape(policy, shape)
    config = settings(shape, request.checkpointing, request.kl_coef)
    reference = make_reference(policy, request.kl_coef)
    ours = Ours(policy, reference, config, shape, filler(policy, shape), request.cached)
    for sample in ours.seen_before:
        ours.policy.features(ours.policy.encode(sample))  # both stay in its caches
    return ours


def new_trl(request: Request, source: str, ours: Ours) -> tuple[Trl | None, str]:
    """Make TRL's trainer; return None and the reason if there is none."""
    if not request.trl:
        return None, "left out with --no-trl"
    try:
        return Trl(ours, 1 + request.steps, source), ""
    except ImportError as error:
        return None, f"not installed ({error})"


def agreement(ours: Ours, trl: Trl | None) -> dict[str, dict[str, float]]:
    """Compare loss and gradient of naive and of TRL with ours on one rollout.  Raises `UserError` if they differ."""
    rollout = one_rollout(ours)
    allowed = tolerance(ours.policy, ours.shape.prompt + ours.shape.completion)
    plain = loss_and_gradients(ours.policy, rollout, ours.config, shared=True)
    packed = loss_and_gradients(ours.policy, rollout, ours.config, shared=False)
    found = {"naive": difference(plain, packed, allowed, "the naive path")}
    if trl is not None:
        theirs = trl.loss_and_gradients(rollout)
        found["trl"] = difference(our_loss_over_all_tokens(ours, rollout), theirs, allowed, "TRL")
    return found


def one_rollout(ours: Ours) -> Rollout:
    """Sample a rollout of the shape, with log-probs slightly changed: with a ratio of 1 all losses would be equal.

    Raises `UserError` if all its completions are the same, because nothing could be compared.
    """
    prompts = [ours.policy.encode(sample) for sample in questions(ours.text, ours.shape, seed=10**6)]
    lengths = {"group_size": ours.shape.group, "max_completion_length": ours.shape.completion}
    rollout = sample_groups(ours.policy, prompts, seed=0, **lengths)
    if len(set(rollout.texts)) == 1:
        raise UserError("the model gives one completion only, so no gradient can be compared; use another model")
    drift = 0.05 * torch.randn(rollout.logprobs.shape, generator=torch.Generator().manual_seed(1))
    return replace(rollout, logprobs=rollout.logprobs + drift)


def ratios(rows: dict[str, dict[str, Any] | None], least: int) -> dict[str, float | None]:
    """Return the cost of the others divided by ours; None for what was not measured."""
    ours = rows["ours"]
    found: dict[str, float | None] = {"flops_to_floor": ours["flops"] / least}
    for name in ("naive", "trl"):
        row = rows[name]
        for key in ("seconds", "flops", "saved_bytes"):
            found[f"{name}_to_ours_{key}"] = row and row[key] / ours[key]
        update = row and row["seconds_by_phase"]["update"] / ours["seconds_by_phase"]["update"]
        found[f"{name}_to_ours_update_seconds"] = update
    return found

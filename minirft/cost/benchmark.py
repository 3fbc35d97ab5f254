"""The comparison of `minirft bench`: check that the paths agree, then count and time steps of each trainer.

Turn 0 warms up, turn 1 is counted, and the others are timed.  In each turn every trainer does one step, so a busy
machine slows all of them alike.  The ratios of a run are therefore more reliable than its seconds.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import torch

from minirft import UserError
from minirft.cost.lower_bound import floor
from minirft.cost.request import Request
from minirft.cost.shapes import Shape, filler, fit_shape, load_policy, model_source, questions
from minirft.cost.steps import Ours, check_equal, difference, loss_and_gradients, settings, tolerance
from minirft.cost.trl_step import Trl, our_loss_over_all_tokens, plain_model
from minirft.cost.work import PHASES, Work, counting, timing
from minirft.engine import LoraSettings
from minirft.reference import make_reference
from minirft.sampler import sample_groups
from minirft.samples import Rollout

WARM_UP, COUNTED = 0, 1
OWN = {"tiny": Shape(prompt=45, completion=35, group=8, prompts=8, picture=(4, 4))}
"""The shape of the embedded model in configs/tiny_detection.toml: 16 picture tokens, answers of about 35 tokens."""
USUAL = Shape(prompt=512, completion=64, group=8)
RANK = 16


@dataclass
class Record:
    """The measurements of one trainer: its work, and [wall, processor] seconds of each phase of each timed step."""

    work: Work = field(default_factory=Work)
    seconds: list[dict[str, list[float]]] = field(default_factory=list)


def measure(request: Request) -> dict[str, Any]:
    """Run the comparison and return it as JSON data (`report` prints it).

    Raises `UserError` for an impossible shape, and if two paths differ in loss or gradient.
    """
    for name in ("prompt", "completion", "group", "prompts", "steps", "threads"):
        least = 2 if name == "group" else 1
        if (asked := getattr(request, name)) is not None and asked < least:
            raise UserError(f"--{name} is {asked}; it must be at least {least}")
    before = torch.get_num_threads()
    torch.set_num_threads(request.threads)
    try:
        with model_source(request.model) as source:
            return _measure(request, source)
    finally:
        torch.set_num_threads(before)


def _measure(request: Request, source: str) -> dict[str, Any]:
    lora = None if request.model == "tiny" else LoraSettings(r=RANK)
    ours = new_ours(request, source, lora)
    naive = replace(ours, config=replace(ours.config, shared_prefix=False), cached=False)
    trl, why_not = new_trl(request, source, ours, lora)
    equal = agreement(ours, trl)
    trainers = {"ours": ours, "naive": naive if request.naive else None, "trl": trl}
    records = {name: Record() for name, trainer in trainers.items() if trainer is not None}
    take_turns(ours, naive if request.naive else None, trl, records, request.steps)
    least = floor(ours.core.config, ours.shape, lora.r if lora else 0, request.kl_coef > 0, not request.cached)
    rows = {name: summary(records[name], request.threads) if name in records else None for name in trainers}
    return {
        "shape": _shape_row(ours.shape),
        "setting": _setting_row(request, ours, why_not),
        **rows,
        "floor": asdict(least),
        "ratio": ratios(rows, least.flops),
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
    return Ours(policy, reference, config, shape, filler(policy, shape), request.cached)


def new_trl(request: Request, source: str, ours: Ours, lora: LoraSettings | None) -> tuple[Trl | None, str]:
    """Make TRL's trainer; return None and the reason if there is none."""
    if not request.trl:
        return None, "left out with --no-trl"
    try:
        return Trl(ours, lora, COUNTED + 1 + request.steps, partial(plain_model, source)), ""
    except ImportError as error:
        return None, f"not installed ({error})"


def agreement(ours: Ours, trl: Trl | None) -> dict[str, dict[str, float]]:
    """Compare loss and gradient of naive and of TRL with ours on one rollout.  Raises `UserError` if they differ."""
    rollout = one_rollout(ours)
    allowed = tolerance(ours.policy, ours.shape.prompt + ours.shape.completion)
    plain = loss_and_gradients(ours.policy, rollout, ours.config, shared=True)
    packed = loss_and_gradients(ours.policy, rollout, ours.config, shared=False)
    found = {"naive": check_equal(difference(plain, packed), allowed, "the naive path")}
    if trl is not None:
        theirs = trl.loss_and_gradients(rollout)
        found["trl"] = check_equal(difference(our_loss_over_all_tokens(ours, rollout), theirs), allowed, "TRL")
    return found


def one_rollout(ours: Ours) -> Rollout:
    """Sample a rollout of the shape, with log-probs slightly changed: with a ratio of 1 all losses would be equal.

    Raises `UserError` if all its completions are the same, because nothing could be compared.
    """
    prompts = [ours.policy.encode(sample) for sample in questions(ours.text, ours.shape, seed=10**6)]
    rollout = sample_groups(
        ours.policy,
        prompts,
        ours.shape.group,
        max_completion_length=ours.shape.completion,
        generator=(generator := torch.Generator().manual_seed(0)),
    )
    if len(set(rollout.texts)) == 1:
        raise UserError("the model gives one completion only, so no gradient can be compared; use another model")
    drift = 0.05 * torch.randn(rollout.logprobs.shape, generator=generator)
    return replace(rollout, logprobs=rollout.logprobs + drift)


def take_turns(ours: Ours, naive: Ours | None, trl: Trl | None, records: dict[str, Record], steps: int) -> None:
    """Warm up, count and time: in each turn, one step of each trainer."""

    def others(turn: int) -> None:
        for name, trainer in (("ours", ours), ("naive", naive)):
            if trainer is not None:
                trainer.step(turn, watched(trainer, records[name], turn))

    if trl is not None:
        trl.run(lambda turn: watched(trl, records["trl"], turn), others)
        return
    for turn in range(COUNTED + 1 + steps):
        others(turn)


@contextmanager
def watched(trainer: Ours | Trl, record: Record, turn: int) -> Iterator[None]:
    """Store the measurements of a turn in the record."""
    with ExitStack() as stack:
        if turn == COUNTED:
            prompt = (trainer if isinstance(trainer, Ours) else trainer.ours).shape.prompt
            work = counting(trainer.core, trainer.image_processor, trainer.marks, prompt)
            record.work = stack.enter_context(work)
        elif turn > COUNTED:
            record.seconds.append(stack.enter_context(timing(trainer.marks)))
        yield


# ------------------------------------------------------------------ results


def summary(record: Record, threads: int) -> dict[str, Any]:
    """Summarise one trainer: counts, and medians over the timed steps.

    `seconds` are processor time on one thread, which other processes disturb least, and wall time on several.
    """
    clock = 1 if threads == 1 else 0
    by_phase = {phase: [step[phase][clock] for step in record.seconds] for phase in PHASES}
    seconds = [sum(step) for step in zip(*by_phase.values(), strict=True)]
    return {
        "flops": sum(record.work.flops_by_phase.values()),
        **asdict(record.work),
        "seconds": statistics.median(seconds),
        "seconds_spread": [min(seconds), max(seconds)],
        "seconds_by_phase": {phase: statistics.median(spent) for phase, spent in by_phase.items()},
        "wall_seconds": statistics.median(sum(step[phase][0] for phase in PHASES) for step in record.seconds),
        "steps": len(seconds),
    }


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


def _shape_row(shape: Shape) -> dict[str, Any]:
    row = asdict(shape)
    high, wide = row.pop("picture")
    return row | {"picture_tokens": high * wide}


def _setting_row(request: Request, ours: Ours, why_not: str) -> dict[str, Any]:
    from importlib import metadata

    packages = ("torch", "transformers", "peft", *(() if why_not else ("trl",)))
    return {
        **{name: getattr(request, name) for name in ("model", "checkpointing", "kl_coef", "cached", "threads")},
        "policy": ours.policy.describe(),
        "train": "lora" if ours.policy.has_lora else "full",
        "clock": "processor" if request.threads == 1 else "wall",
        "trl": why_not or "measured",
        "versions": {name: metadata.version(name) for name in packages},
    }

"""The check whether a run fits on a card, and the smallest changes that make it fit.

The ledger counts the tensors.  The CUDA context and the allocator's gaps also take memory.  Neither can be known before
the run, so there are allowances for both: `CONTEXT`, and `SLACK`, a share of the card.
"""

import re
import shlex
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from minirft import UserError
from minirft.cost.advice import least_harm
from minirft.cost.memory import GIB, Ledger, ledger
from minirft.cost.report import render
from minirft.cost.sizes import Shape, architecture
from minirft.runs import GRPOConfig, differences

CARDS = (4.0, 6.0, 8.0, 12.0, 16.0, 24.0)  # GiB
CONTEXT = 0.5
"""GiB that CUDA, its libraries and kernels take before the first tensor; an allowance, not measured here."""
SLACK = 0.05
"""Share of the card that the allocator's rounding and gaps may cost; an allowance, not measured here."""


@dataclass(frozen=True)
class Verdict:
    """The result for one card: its GiB, those for tensors, whether the peak fits, and, if not, a command that fits."""

    gpu: float
    usable: float
    fits: bool
    advice: str


def card_size(text: str) -> float:
    """Parse the GiB of a card, such as "8GB".  Raises `UserError` for anything else.

    >>> card_size("8GB"), card_size("11.5 GiB"), card_size("24")
    (8.0, 11.5, 24.0)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:g|gb|gib)?\s*", text, re.IGNORECASE)
    if not found or float(found[1]) <= CONTEXT:
        raise UserError(f"--gpu {text}: give the memory of the card, such as 8GB")
    return float(found[1])


def usable(gpu: float) -> float:
    """Return the GiB of a card that tensors can use."""
    return gpu * (1 - SLACK) - CONTEXT


def account(config: GRPOConfig) -> Ledger:
    """Compute the ledger of a configuration.  Raises `UserError` for a model or setting that cannot be counted."""
    if not config.shared_prefix:
        raise UserError("fit counts the shared path only: leave shared_prefix out")
    return ledger(architecture(config.model), config)


def judge(config: GRPOConfig, gpu: float, source: str, base: GRPOConfig) -> Verdict:
    """Judge whether `config` fits; advice is in terms of `source`, the name of the configuration `base`."""
    capacity = usable(gpu)

    def fits(candidate: GRPOConfig) -> bool:
        return account(candidate).peak <= capacity * GIB

    found = least_harm(config, fits)
    if found is None or fits(config):
        return Verdict(gpu, capacity, found is not None, "")
    return Verdict(gpu, capacity, False, f"{command(source, base, found)}  # {changes(config, found)}")


def changes(old: GRPOConfig, new: GRPOConfig) -> str:
    """Describe the changed settings in words.

    >>> changes(GRPOConfig(), GRPOConfig(rows_per_pass=2, checkpointing=True))
    'checkpointing False -> True, rows_per_pass 0 -> 2'
    """
    names = differences(old, new)
    return ", ".join(f"{name} {attrgetter(name)(old)} -> {attrgetter(name)(new)}" for name in names)


def command(source: str, base: GRPOConfig, config: GRPOConfig) -> str:
    """Write the command that trains `config`, with flags relative to the configuration `base`.

    >>> command("tiny_detection", GRPOConfig(), GRPOConfig(rows_per_pass=2, checkpointing=True))
    'minirft train tiny_detection --checkpointing --rows-per-pass 2'
    """
    words = ["minirft", "train", source]
    for name in differences(base, config):
        value, flag = attrgetter(name)(config), name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")  # no field of a nested table is a bool
        elif isinstance(value, dict):
            words += [f"--{flag}", *(str(part) for pair in value.items() for part in pair)]
        else:
            words += [f"--{flag}", *map(str, value if isinstance(value, tuple) else [value])]
    return shlex.join(words)


# ------------------------------------------------------------------ printing


def as_json(config: GRPOConfig, verdicts: list[Verdict], one: bool) -> dict[str, Any]:
    """Return all numbers in GiB; `fits` and `advice` are those of the named card, or one of each card."""
    memory = account(config)
    by_card = {f"{verdict.gpu:g}GB": verdict for verdict in verdicts}
    return {
        "model": config.model,
        "peak_gib": memory.peak / GIB,
        "peak_phase": memory.peak_phase,
        "parts": {part: size / GIB for part, size in memory.phases[memory.peak_phase].items()},
        "phases": {phase: memory.total(phase) / GIB for phase in memory.phases},
        "gpu_gib": verdicts[0].gpu if one else None,
        "usable_gib": verdicts[0].usable if one else {card: verdict.usable for card, verdict in by_card.items()},
        "context_gib": CONTEXT,
        "slack": SLACK,
        "fits": verdicts[0].fits if one else {card: verdict.fits for card, verdict in by_card.items()},
        "advice": list(dict.fromkeys(verdict.advice for verdict in verdicts if verdict.advice)),
    }


def report(config: GRPOConfig, found: dict[str, Any], verdicts: list[Verdict]) -> str:
    """Write the settings, GiB by part (down) and phase (across), and the verdicts as text."""
    memory = account(config)
    by_phase = [memory.phases["optimise"], *memory.phases.values()]  # the parts of every phase come first
    names = list(dict.fromkeys(part for parts in by_phase for part in parts))
    sizes = {"shape": Shape.of(architecture(config.model), config), "width": max(map(len, names)), "GIB": GIB}
    return render("fit", config=config, memory=memory, names=names, verdicts=verdicts, **sizes, **found)

"""The comparison as a table for people; `measure` gives the same numbers as JSON."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Found = dict[str, Any]
Cell = Callable[[Found], Any]

NAMES = ("floor", "ours", "naive", "trl")
TITLES = {"floor": "floor", "ours": "ours", "naive": "naive", "trl": "TRL"}


def table(found: Found) -> str:
    """What `measure` found, as text."""
    lines = [*heading(found), "", f"{'one step':<34}" + "".join(f"{TITLES[name]:>12}" for name in NAMES)]
    ours = found["ours"]
    for label, cell, pattern in rows(found):
        lines.append(f"{label:<34}" + "".join(f"{shown(cell, found, name, pattern):>12}" for name in NAMES))
    for key, title in (("seconds", "times our seconds"), ("flops", "times our arithmetic")):
        cells = ("" if name == "floor" or not found[name] else f"{found[name][key] / ours[key]:.2f}x" for name in NAMES)
        lines.append(f"{title:<34}" + "".join(f"{cell:>12}" for cell in cells))
    return "\n".join([*lines, "", *footing(found)])


def rows(found: Found) -> list[tuple[str, Cell, str]]:
    """(label, what to take from a trainer's record, how to write it)."""
    lines: list[tuple[str, Cell, str]] = [
        ("arithmetic, GFLOP", lambda row: row["flops"] / 1e9, ".2f"),
        ("  generate", lambda row: row["flops_by_phase"]["generate"] / 1e9, ".2f"),
        ("  score", lambda row: row["flops_by_phase"]["score"] / 1e9, ".2f"),
        ("  update", lambda row: row["flops_by_phase"]["update"] / 1e9, ".2f"),
        ("pictures through the vision tower", lambda row: row["vision_passes"], ",d"),
        ("pictures cut into patches", lambda row: row["preprocessings"], ",d"),
    ]
    for kind in ("prompt", "completion"):
        lines += [
            (f"{kind} tokens, {phase}", lambda row, k=kind, p=phase: row[f"{k}_tokens"][p], ",d")
            for phase in ("generate", "score", "update")
        ]
    lines += [
        ("activations saved, MB", lambda row: row["saved_bytes"] / 1e6, ".1f"),
        ("seconds, median", lambda row: row["seconds"], ".3f"),
        ("  fastest step", lambda row: row["seconds_spread"][0], ".3f"),
        ("  slowest step", lambda row: row["seconds_spread"][1], ".3f"),
    ]
    lines += [
        (f"  {phase}", lambda row, p=phase: row["seconds_by_phase"][p], ".3f")
        for phase in ("prepare", "generate", "score", "update")
    ]
    if not found["setting"]["kl_coef"]:  # nothing but the rewards is left of this phase
        unused = {"  score", "prompt tokens, score", "completion tokens, score"}
        lines = [line for line in lines if line[0] not in unused or line[2] == ".3f"]
    return lines


def shown(cell: Cell, found: Found, name: str, pattern: str) -> str:
    """One cell; empty where a trainer was not measured or the floor has no such number."""
    record = floor_row(found) if name == "floor" else found[name]
    try:
        return "" if record is None else format(cell(record), pattern)
    except KeyError:
        return ""


def floor_row(found: Found) -> Found:
    """The floor in the form of a trainer's record, as far as it has the numbers."""
    least, shape = found["floor"], found["shape"]
    seen, rest = shape["prompts"] * (not found["setting"]["cached"]), shape["group"] * (shape["completion"] - 1)
    phases = ["generate", "update", *(["score"] if found["setting"]["kl_coef"] else [])]
    return {
        "flops": least["flops"],
        "flops_by_phase": {
            "generate": least["vision"] + least["rollout"],
            "score": least["reference"],
            "update": least["forward"] + least["backward"],
        },
        "vision_passes": seen,
        "preprocessings": seen,
        "prompt_tokens": dict.fromkeys(phases, shape["prompts"] * shape["prompt"]),
        "completion_tokens": dict.fromkeys(phases, shape["prompts"] * rest),
    }


def heading(found: Found) -> list[str]:
    """What was measured, on what."""
    shape, setting = found["shape"], found["setting"]
    versions = ", ".join(f"{name} {version}" for name, version in setting["versions"].items())
    return [
        setting["policy"],
        f"P = {shape['prompt']} prompt tokens ({shape['picture_tokens']} of them picture), C = {shape['completion']} "
        f"completion tokens, G = {shape['group']}, {shape['prompts']} prompt{'s' * (shape['prompts'] > 1)} a step",
        f"checkpointing {'on' if setting['checkpointing'] else 'off'}, kl_coef {setting['kl_coef']}, "
        f"{setting['threads']} thread{'s' * (setting['threads'] > 1)}, {versions}"
        + (", ours has seen the pictures before" if setting["cached"] else ""),
    ]


def footing(found: Found) -> list[str]:
    """What the numbers mean."""
    setting, equal = found["setting"], found["equal"]
    lines = [
        f"Ours is {found['ratio']['flops_to_floor']:.3f} of the floor, the least arithmetic for the same mathematics.",
        "Checked first, on one rollout: "
        + ", ".join(
            f"{TITLES[name]} and ours differ by {gap['loss']:.0e} in loss, {gap['gradient']:.0e} of the gradient"
            for name, gap in equal.items()
        )
        + ".",
        f"Seconds are {setting['clock']} time, medians of {found['ours']['steps']} steps; the trainers took turns.",
    ]
    if found["trl"]:
        lines.append(
            "TRL: GRPOTrainer.train without vLLM; same weights learn, loss grpo, float32, temperature 1, "
            f"beta {setting['kl_coef']}, checkpointing {'on' if setting['checkpointing'] else 'off'} (its default: on)."
        )
    else:
        lines.append(f"TRL: {setting['trl']}.")
    return lines

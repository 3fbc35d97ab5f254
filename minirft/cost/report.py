"""The comparison as a table for people; `measure` gives the same numbers as JSON."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Template

Found = dict[str, Any]
Cell = Callable[[Found], Any]

TEXT = Path(__file__).with_name("report.txt.jinja")
NAMES = ("floor", "ours", "naive", "trl")
TITLES = {"floor": "floor", "ours": "ours", "naive": "naive", "trl": "TRL"}


def table(found: Found) -> str:
    """What `measure` found, as text."""
    lines = [f"{'one step':<34}" + "".join(f"{TITLES[name]:>12}" for name in NAMES)]
    ours = found["ours"]
    for label, cell, pattern in rows(found):
        lines.append(f"{label:<34}" + "".join(f"{shown(cell, found, name, pattern):>12}" for name in NAMES))
    for key, title in (("seconds", "times our seconds"), ("flops", "times our arithmetic")):
        cells = ("" if name == "floor" or not found[name] else f"{found[name][key] / ours[key]:.2f}x" for name in NAMES)
        lines.append(f"{title:<34}" + "".join(f"{cell:>12}" for cell in cells))
    template = Template(TEXT.read_text(encoding="utf-8"), trim_blocks=True)
    text = template.render(found=found, shape=found["shape"], setting=found["setting"], lines=lines, titles=TITLES)
    return text.removesuffix("\n")


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

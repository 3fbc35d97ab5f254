"""The texts of `bench`, `fit` and the dry run, written from the numbers of their JSON."""

from __future__ import annotations

from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

from jinja2 import Template

from minirft.cost.work import PHASES

Found = dict[str, Any]
TITLES = {"floor": "floor", "ours": "ours", "naive": "naive", "trl": "TRL"}


def render(name: str, **values: Any) -> str:
    """Fill in a template of this folder."""
    text = Path(__file__).with_name(f"{name}.txt.jinja").read_text(encoding="utf-8")
    return Template(text, trim_blocks=True).render(values).removesuffix("\n")


def table(result: Found) -> str:
    """Write the result of `measure` as text."""
    lines = [f"{'one step':<34}" + "".join(f"{title:>12}" for title in TITLES.values())]
    records = {name: floor_row(result) if name == "floor" else result[name] for name in TITLES}
    for label, path, scale, pattern in rows(result):
        cells = (shown(record, path, scale, pattern) for record in records.values())
        lines.append(f"{label:<34}" + "".join(f"{cell:>12}" for cell in cells))
    for key, title in (("seconds", "times our seconds"), ("flops", "times our arithmetic")):
        measured = {name: record for name, record in records.items() if record and name != "floor"}
        times = {name: f"{record[key] / result['ours'][key]:.2f}x" for name, record in measured.items()}
        lines.append(f"{title:<34}" + "".join(f"{times.get(name, ''):>12}" for name in TITLES))
    return render("report", result=result, shape=result["shape"], setting=result["setting"], lines=lines, titles=TITLES)


def rows(result: Found) -> list[tuple[str, tuple, float, str]]:
    """List (label, path of the number in a trainer's record, divisor, format)."""
    # Without a reference, "score" has only the rewards.
    phases = [phase for phase in PHASES[1:] if phase != "score" or result["setting"]["kl_coef"]]
    return [
        ("arithmetic, GFLOP", ("flops",), 1e9, ".2f"),
        *((f"  {phase}", ("flops_by_phase", phase), 1e9, ".2f") for phase in phases),
        ("pictures through the vision tower", ("vision_passes",), 1, ",.0f"),
        ("pictures cut into patches", ("preprocessings",), 1, ",.0f"),
        *(
            (f"{kind} tokens, {p}", (f"{kind}_tokens", p), 1, ",.0f")
            for kind in ("prompt", "completion")
            for p in phases
        ),
        ("activations saved, MB", ("saved_bytes",), 1e6, ".1f"),
        ("seconds, median", ("seconds",), 1, ".3f"),
        ("  fastest step", ("seconds_spread", 0), 1, ".3f"),
        ("  slowest step", ("seconds_spread", 1), 1, ".3f"),
        *((f"  {phase}", ("seconds_by_phase", phase), 1, ".3f") for phase in PHASES),
    ]


def shown(record: Found | None, path: tuple, scale: float, pattern: str) -> str:
    """Write one cell; it is empty if a trainer was not measured, or if the floor has no such number."""
    try:
        return "" if record is None else format(reduce(getitem, path, record) / scale, pattern)
    except KeyError:
        return ""


def floor_row(result: Found) -> Found:
    """Convert the floor to a trainer's record, with the numbers that it has."""
    least, shape = result["floor"], result["shape"]
    seen, rest = shape["prompts"] * (not result["setting"]["cached"]), shape["group"] * (shape["completion"] - 1)
    phases = PHASES[1:] if result["setting"]["kl_coef"] else ("generate", "update")
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

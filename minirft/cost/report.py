"""The texts of `bench`, `fit` and the dry run, written from the numbers of their JSON."""

from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

from jinja2 import Template

from minirft.cost.work import PHASES

TITLES = {"ours": "ours", "naive": "naive", "trl": "TRL"}


def render(name: str, **values: Any) -> str:
    """Fill in a template of this folder."""
    text = Path(__file__).with_name(f"{name}.txt.jinja").read_text(encoding="utf-8")
    return Template(text, trim_blocks=True).render(values).removesuffix("\n")


def table(result: dict[str, Any]) -> str:
    """Write the result of `measure` as text."""
    lines = [f"{'one step':<34}" + "".join(f"{title:>12}" for title in TITLES.values())]
    trainers = [result[name] for name in TITLES]
    for label, path, scale, pattern in rows(result):
        cells = ("" if of is None else format(reduce(getitem, path, of) / scale, pattern) for of in trainers)
        lines.append(f"{label:<34}" + "".join(f"{cell:>12}" for cell in cells))
    for key, title in (("seconds", "times our seconds"), ("flops", "times our arithmetic")):
        times = ("" if of is None else f"{of[key] / result['ours'][key]:.2f}x" for of in trainers)
        lines.append(f"{title:<34}" + "".join(f"{cell:>12}" for cell in times))
    return render("report", result=result, shape=result["shape"], setting=result["setting"], lines=lines, titles=TITLES)


def rows(result: dict[str, Any]) -> list[tuple[str, tuple, float, str]]:
    """List (label, path of the number in a trainer's record, divisor, format)."""
    # Without a reference, "score" has only the rewards.
    phases = [phase for phase in PHASES[1:] if phase != "score" or result["setting"]["kl_coef"]]
    return [
        ("arithmetic, GFLOP", ("flops",), 1e9, ".2f"),
        *((f"  {phase}", ("flops_by_phase", phase), 1e9, ".2f") for phase in phases),
        ("pictures through the vision tower", ("vision_passes",), 1, ",.0f"),
        ("pictures cut into patches", ("preprocessings",), 1, ",.0f"),
        *((f"prompt tokens, {phase}", ("prompt_tokens", phase), 1, ",.0f") for phase in phases),
        *((f"completion tokens, {phase}", ("completion_tokens", phase), 1, ",.0f") for phase in phases),
        ("activations saved, MB", ("saved_bytes",), 1e6, ".1f"),
        ("seconds, median", ("seconds",), 1, ".3f"),
        *((f"  {end} step", ("seconds_spread", place), 1, ".3f") for place, end in enumerate(("fastest", "slowest"))),
        *((f"  {phase}", ("seconds_by_phase", phase), 1, ".3f") for phase in PHASES),
    ]

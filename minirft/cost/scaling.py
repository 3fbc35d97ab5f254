"""The growth of a step's cost with the group, the prompt and the completion: ours, the naive path and TRL.

The measured points lie on three axes through a middle point, and on four corners that separate products of two lengths.
All arms take turns at each point (`turns`).  In G completions of C tokens and a prompt of P, the FLOPs of the language
model are a sum of nine terms, `TERMS`, with whole coefficients:

    a + b P + c P²                    the prompt once: linear layers, attention
    + G (d + e C + f C² + g P C)      completions: their tokens, and their attention on themselves and on the prompt
    + G (h P + i P²)                  the prompt once more for every completion

So h shows whether a trainer passes the prompt through the model for every completion.  Least squares find the
coefficients to rounding, because the counts are exact.  The vision tower's FLOPs are subtracted: they are known
(`lower_bound`), and the pictures' sizes are not smooth in P.
"""

import platform
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from scipy import stats

from minirft.cost.benchmark import measure
from minirft.cost.lower_bound import vision_flops
from minirft.cost.report import TITLES
from minirft.cost.request import Request
from minirft.cost.shapes import model_source
from minirft.cost.sizes import architecture
from minirft.runs import provenance

AXES = {"group": (0.5, 2, 4, 8, 16), "prompt": (0.5, 2, 4, 8, 16), "completion": (0.5, 2, 4, 8)}
"""The factors of the middle point's lengths: G = 2 to 64, P = 128 to 4,096 and C = 32 to 512 for `MIDDLE`."""
CORNERS = (
    {"prompt": 0.5, "group": 4},
    {"prompt": 4, "group": 0.5},
    {"prompt": 0.5, "completion": 4, "group": 2},
    {"prompt": 2, "completion": 0.5, "group": 4},
)
MIDDLE = {"prompt": 256, "completion": 64, "group": 4}
Lengths = dict[str, int]
Found = dict[str, Any]
TERMS = {"1": "", "P": "P", "P²": "PP", "G": "G", "GC": "GC", "GC²": "GCC", "GPC": "GPC", "GP": "GP", "GP²": "GPP"}
"""Each term with its factors."""
TIMED = ("1", "P", "GC", "GP", "GP²")
"""The terms of seconds, which are not exact: those that the points determine."""
BEFORE = 2.0
"""Turns' worth of time before the first timed step of a point: the check of equality, and the counted turn."""
ROOM = 0.5
"""Share of the free memory that a step's saved activations may take."""


def design(middle: Lengths) -> list[Lengths]:
    """List the points to measure, cheapest first.

    >>> points = design(MIDDLE)
    >>> len(points), points[0], max(point["prompt"] for point in points)
    (19, {'prompt': 256, 'completion': 64, 'group': 2}, 4096)
    """
    alone = [{name: factor} for name, factors in AXES.items() for factor in factors]
    changes = [{}, *alone, *CORNERS]
    points = [{name: round(of * change.get(name, 1)) for name, of in middle.items()} for change in changes]
    return sorted(points, key=tokens)


def tokens(point: Lengths) -> int:
    """Return the tokens of a step with a copy of the prompt for every completion; costs grow a little faster."""
    return point["group"] * (point["prompt"] + point["completion"])


def measure_scaling(request: Request, seconds: float) -> Iterator[Found]:
    """Measure the points within `seconds`; yield all results so far after each point, and at the end with the fits.

    A point has up to `request.steps` timed steps.  Points that time or memory do not admit are named with the reason.
    """
    end = time.monotonic() + seconds
    header = provenance({}, 0, "cpu") | {"processor": processor(), "model": request.model, "threads": request.threads}
    middle = {name: getattr(request, name) or usual for name, usual in MIDDLE.items()}
    found: Found = {"header": header, "middle": middle, "points": [], "not_measured": []}
    todo = design(middle)
    turn, saved, fixed = 0.0, 0.0, 0.0  # at the last point: seconds of a turn and saved bytes, by token; other seconds
    with model_source(request.model) as source:
        while todo:
            left, point, why = end - time.monotonic(), todo.pop(0), ""
            turns = (left - fixed) / (turn * tokens(point)) if turn else BEFORE + request.steps  # that time admits
            if saved * tokens(point) > ROOM * psutil.virtual_memory().available:
                why = f"would keep {saved * tokens(point) / 2**30:.1f} GiB of activations"
            elif turns < BEFORE + 1:
                needed = fixed + (BEFORE + 1) * turn * tokens(point)
                why = f"would take {needed:.0f} s, and {max(0, left):.0f} were left"
            if why:
                found["not_measured"].append(point | {"why": why})
                continue
            steps = min(request.steps, int(turns - BEFORE))
            print(f"minirft bench: {point}, {len(todo)} points after it", file=sys.stderr, flush=True)
            found["points"].append(measured(replace(request, model=source, steps=steps, **point)))
            rows = [found["points"][-1][arm] for arm in TITLES if found["points"][-1][arm]]
            turn = sum(row["wall_seconds"] for row in rows) / tokens(point)
            fixed = max(0.0, left - (end - time.monotonic()) - (BEFORE + steps) * turn * tokens(point))
            saved = max(row["saved_bytes"] for row in rows) / tokens(point)
            yield found
    yield found | {"fits": fits(found["points"])}


def measured(request: Request) -> Found:
    """Measure one point: lengths, and for each arm counts and seconds."""
    found = measure(request)
    tower = vision_flops(architecture(request.model), found["shape"]["picture"])
    kept = ("flops", "vision_passes", "saved_bytes", "seconds", "seconds_spread", "wall_seconds", "steps")
    row = {name: found["shape"][name] for name in ("prompt", "completion", "group", "picture_tokens")}
    for arm in TITLES:
        of = found[arm]
        row[arm] = of and {name: of[name] for name in kept} | {
            "language_flops": of["flops"] - tower * of["vision_passes"]
        }
    return row


def fits(points: list[Found]) -> Found:
    """Fit each arm's FLOPs and seconds; an arm whose points do not determine all coefficients is left out."""
    kinds = {"language_flops": tuple(TERMS), "seconds": TIMED}
    fitted = {key: {arm: fit(points, arm, key, terms) for arm in TITLES} for key, terms in kinds.items()}
    return {key: {arm: found for arm, found in of.items() if found} for key, of in fitted.items()}


def fit(points: list[Found], arm: str, key: str, terms: Sequence[str]) -> Found | None:
    """Fit y = sum of coefficient * term by least squares of the relative error.

    The result has for each term [coefficient, low, high], a 95% interval (Student's t), and the largest relative error.
    """
    rows = [point for point in points if point[arm]]
    if len(rows) <= len(terms):
        return None
    lengths = [{"G": row["group"], "P": row["prompt"], "C": row["completion"]} for row in rows]
    y = np.array([row[arm][key] for row in rows], dtype=float)
    x = np.array([[prod(of[factor] for factor in TERMS[term]) for term in terms] for of in lengths]) / y[:, None]
    scale = np.linalg.norm(x, axis=0)
    x = x / scale
    if np.linalg.matrix_rank(x) < len(terms):
        return None
    coefficients = np.linalg.lstsq(x, np.ones(len(y)))[0]
    error = x @ coefficients - 1
    variance = (error @ error) / (len(y) - len(terms)) * np.diag(np.linalg.inv(x.T @ x))
    half = stats.t.ppf(0.975, len(y) - len(terms)) * np.sqrt(variance)
    bounds = np.stack([coefficients, coefficients - half, coefficients + half], axis=1) / scale[:, None]
    return dict(zip(terms, bounds.tolist(), strict=True)) | {"largest_error": float(np.abs(error).max())}


def panels(found: Found) -> dict[str, dict[str, tuple[list[float], list[float]]]]:
    """Return the curves of a figure, {title: {arm: (x, y)}}: FLOPs, seconds and activations over each length."""
    middle, shown = found["middle"], {}
    for key, unit, scale in (("flops", "GFLOP", 1e9), ("seconds", "seconds", 1), ("saved_bytes", "MB kept", 1e6)):
        for name, letter in (("group", "G"), ("prompt", "P"), ("completion", "C")):
            off = [other for other in middle if other != name]
            on_axis = [p for p in found["points"] if all(p[other] == middle[other] for other in off)]
            rows = {arm: sorted((p[name], p[arm][key] / scale) for p in on_axis if p[arm]) for arm in TITLES}
            curves = {TITLES[arm]: tuple(zip(*row, strict=True)) for arm, row in rows.items() if row}
            shown[f"{unit} over {letter}"] = curves
    return shown


def processor() -> str:
    """Return the name of the processor."""
    info = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*:\s*(.+)", info.read_text(encoding="utf-8")) if info.exists() else None
    return named[1] if named else platform.processor() or platform.machine()


def scaling_table(found: Found) -> str:
    """Write the fits as a Markdown table, and under it what was not measured."""
    heads = [f"{name}, {what}" for what in ("FLOPs", "µs (95%)") for name in TITLES.values()]
    lines = [f"| term | {' | '.join(heads)} |", "|" + "---|" * (1 + len(heads))]
    flops, seconds = (found["fits"][key] for key in ("language_flops", "seconds"))
    for term in TERMS:
        cells = [f"{round(flops[arm][term][0]):,}" if arm in flops else "" for arm in TITLES]
        for arm in TITLES:
            bounds = [1e6 * bound for bound in seconds.get(arm, {}).get(term, [])]
            cells.append("{:.3g} ({:.3g} to {:.3g})".format(*bounds) if bounds else "")
        lines.append(f"| {' | '.join([term, *cells])} |")
    left = [f"P {p['prompt']}, C {p['completion']}, G {p['group']} ({p['why']})" for p in found["not_measured"]]
    measured = f"{len(found['points'])} points were measured, not {'; '.join(left) or 'one left out'}."
    return "\n".join([*lines, "", measured])

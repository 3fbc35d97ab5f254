"""The report of a run: one HTML file that needs no network and no viewer.

The only judgement in it is whether two intervals overlap.  The pictures are the first held-out samples, which nobody
chose, and the worst misses.  A model's text may be hostile: the template escapes everything, and a content security
policy forbids the page to load anything, or to run any script but that of the replay, identified by its digest.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from minirft import UserError
from minirft.runs import METRICS
from minirft.samples import Sample
from minirft.show.cells import Levels, calibration
from minirft.show.charts import curves, metric_bars
from minirft.show.pictures import Group, answer_grid, before_after, group_panel
from minirft.show.replay import SCRIPT, Replay, replay_json, script_hash
from minirft.show.style import png

Row = Mapping[str, Any]
# The metrics of each section in order; a run need not have all of them.
HEADLINE = ("ap50_pooled", "accuracy", "box_iou", "mean_iou", "parse_rate", "auc", "abstention", "acc50")
TRAINING = (
    "reward", "reward_iou", "reward_confidence", "reward_accuracy", "reward_format", "parse_rate", "degenerate_groups",
    "reward_std", "completion_length", "entropy", "kl", "grad_norm",
)  # fmt: skip
HELD_OUT = (
    "ap50_pooled", "mean_iou", "accuracy", "box_iou", "recall", "precision", "parse_rate", "auc", "ece", "abstention",
)  # fmt: skip
PICTURES = 8  # samples drawn
NOT_METRICS = {"n", "ci", "step", "mode", "seconds"}  # keys of a block that are shown elsewhere or not at all


@dataclass(frozen=True)
class ReportData:
    """The contents of a report, as plain data.

    `before`, `after` and the blocks of `beside` are what `scores.metrics` returns, on the same held-out samples;
    `runs` holds the rows of each run log (kinds "train" and "eval"); the texts answer `samples`, one each.
    """

    before: Row
    after: Row
    steps: int
    seconds: Mapping[str, float] = field(default_factory=dict)  # such as {"to_first_step": 9.0, "train": 40.0}
    beside: Mapping[str, Row] = field(default_factory=dict)  # such as {"SFT": {...}}
    runs: Mapping[str, Sequence[Row]] = field(default_factory=dict)  # such as {"RFT": rows, "SFT": rows}
    samples: Sequence[Sample] = ()
    before_texts: Sequence[str] = ()
    after_texts: Sequence[str] = ()
    group: Group | None = None
    header: Row = field(default_factory=dict)  # the first line of the run log
    title: str = "Visual reinforcement fine-tuning, before and after"
    name: str = "RFT"  # of the run that `after` is of
    levels: Mapping[str, Levels] = field(default_factory=dict)  # boxes and hits by stated confidence, for calibration
    misses: Sequence[tuple[Sample, str, float]] = ()  # the answers with the lowest scores
    replays: Sequence[Replay] = ()


def write_report(path: str | Path, data: ReportData) -> None:
    """Write the report as one HTML file.  Raises `UserError` when it cannot be written."""
    try:
        # A model can write half of a surrogate pair, which has no UTF-8.
        Path(path).write_text(render(data), encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"cannot write the report {path} ({error.strerror}); free some space or change --out") from None


def render(data: ReportData) -> str:
    """Write the report as HTML."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"number": number, "interval": interval}
    blocks = {"before": data.before, data.name: data.after, **data.beside}
    blocks = {name: block for name, block in blocks.items() if block}
    metrics = [key for key in data.before or data.after if key not in NOT_METRICS]
    tiles = [key for key in HEADLINE if data.before.get(key) is not None and data.after.get(key) is not None]
    keys = {kind: _present(data.runs, every, kind) for kind, every in (("train", TRAINING), ("eval", HELD_OUT))}
    used = dict.fromkeys([*metrics, *keys["train"], *keys["eval"], "n", "ci"])
    return environment.get_template("report.html.jinja").render(
        data=data, blocks=blocks, metrics=metrics, tiles=tiles[:4], figures=_figures(data, blocks, tiles, keys),
        verdict=verdict(data.before, data.after, tiles[0]) if tiles else "",
        answers=list(zip(data.samples, data.before_texts, data.after_texts, strict=True))[:PICTURES],
        config=json.dumps(data.header.get("config", {}), indent=1, default=str),
        facts={key: value for key, value in data.header.items() if key not in ("config", "kind")},
        glossary={key: METRICS[key] for key in used if key in METRICS},
        script=SCRIPT, script_hash=script_hash(), replay=replay_json(data.replays),
    )  # fmt: skip


def verdict(before: Row, after: Row, key: str) -> str:
    """Describe whether the intervals of a metric overlap before and after training.

    >>> verdict({"ap50": 0.2, "ci": {"ap50": [0.1, 0.3]}}, {"ap50": 0.5, "ci": {"ap50": [0.4, 0.6]}}, "ap50")
    'The 95% intervals do not overlap.'
    """
    return {
        None: "There are no intervals, so chance cannot be excluded.",
        True: "The 95% intervals do not overlap.",
        False: "The 95% intervals overlap, so this one run does not show that it changed.",
    }[intervals_apart(before, after, key)]


def intervals_apart(before: Row, after: Row, key: str) -> bool | None:
    """Return whether the two intervals of a metric do not overlap; None if one is missing.

    >>> intervals_apart({"ci": {"auc": [0.1, 0.3]}}, {"ci": {"auc": [0.4, 0.6]}}, "auc")
    True
    """
    if key not in before.get("ci", {}) or key not in after.get("ci", {}):
        return None
    (low, high), (new_low, new_high) = before["ci"][key], after["ci"][key]
    return new_low > high or new_high < low


def number(value: Any) -> str:
    """Format a number for a table; an undefined number is a dash.

    >>> number(0.12345), number(7), number(None), number(0.00002)
    ('0.123', '7', '–', '2e-05')
    """
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) and (abs(value) >= 0.001 or value == 0) else f"{value:.4g}"


def interval(block: Row, key: str) -> str:
    """Format the interval of a metric; an empty string if there is none.

    >>> interval({"ci": {"ap": [0.1, 0.2]}}, "ap"), interval({}, "ap")
    ('[0.10, 0.20]', '')
    """
    bounds = block.get("ci", {}).get(key)
    return f"[{bounds[0]:.2f}, {bounds[1]:.2f}]" if bounds else ""


def _figures(data: ReportData, blocks: Mapping[str, Row], tiles: list[str], keys: Mapping[str, Any]) -> dict[str, str]:
    """Draw the figures that have data, as data URLs."""
    asked = [of[:PICTURES] for of in (data.samples, data.before_texts, data.after_texts)]
    missed = [(sample, text, f"{score:.2f}: {sample.category}", {}) for sample, text, score in data.misses]
    figures = {
        "bars": tiles and metric_bars(blocks, tiles[:5]),
        "training": keys["train"] and curves(data.runs, keys["train"]),
        "held_out": keys["eval"] and curves(data.runs, keys["eval"], kind="eval"),
        "pictures": data.samples and before_after(*asked),
        "calibration": data.levels and calibration(data.levels),
        "misses": data.misses and answer_grid(missed),
        "group": data.group and group_panel(data.group),
    }
    pictures = {name: base64.b64encode(png(figure)).decode() for name, figure in figures.items() if figure}
    return {name: f"data:image/png;base64,{picture}" for name, picture in pictures.items()}


def _present(runs: Mapping[str, Sequence[Row]], keys: Sequence[str], kind: str) -> list[str]:
    """Return the `keys` that have a number in some row of the kind."""
    rows = [row for run in runs.values() for row in run if row.get("kind") == kind]
    return [key for key in keys if any(row.get(key) is not None for row in rows)]

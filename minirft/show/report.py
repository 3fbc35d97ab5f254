"""The report of a run: one HTML file that needs no network and no viewer.

The only judgement in it is whether two intervals overlap.  The pictures are the first held-out samples, which nobody
chose, and the worst misses.  A model's text may be hostile: the template escapes everything, and a content security
policy forbids the page to load anything, or to run any script but that of the replay, identified by its digest.

The replay shows one group of completions for each of some steps.  Its script, `replay.js`, draws the boxes, and
recomputes the advantages from the reward parts when a weight or the scale changes.
"""

import base64
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from minirft import UserError
from minirft.rewards import true_boxes
from minirft.runs import METRICS
from minirft.samples import Sample
from minirft.show.cells import Levels, calibration
from minirft.show.charts import Row, curves, metric_bars
from minirft.show.pictures import MAX_DRAWN, Group, answer_grid, before_after, boxes_of, group_panel
from minirft.show.style import png

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
SCRIPT = (Path(__file__).parent / "replay.js").read_text(encoding="utf-8")
SIDE = 320  # pixels of the longer side of a picture in the replay
LONGEST = 4000  # characters of a completion in the replay


@dataclass(frozen=True)
class Moment:
    """One group of a step, with the reward parts of all B completions of the batch, which the scale "batch" needs.

    `parts` has B numbers for each part; those of the group begin at `first`.
    """

    group: Group
    parts: Mapping[str, Sequence[float]]
    first: int = 0


@dataclass(frozen=True)
class Replay:
    """Some steps of a run, with the weights of the reward parts and the scaling of the advantages."""

    name: str
    moments: Sequence[Moment]
    weights: Mapping[str, float]
    scale: str
    eps: float


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
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}  # the reward parts keep their order
    blocks = {"before": data.before, data.name: data.after, **data.beside}
    blocks = {name: block for name, block in blocks.items() if block}
    metrics = [key for key in data.before or data.after if key not in NOT_METRICS]
    tiles = [key for key in HEADLINE if data.before.get(key) is not None and data.after.get(key) is not None]
    keys = {kind: _present(data.runs, every, kind) for kind, every in (("train", TRAINING), ("eval", HELD_OUT))}
    used = dict.fromkeys([*metrics, *keys["train"], *keys["eval"], "n", "ci"])
    return environment.get_template("report.html.jinja").render(
        data=data, blocks=blocks, metrics=metrics, tiles=tiles[:4], figures=_figures(data, blocks, tiles, keys),
        apart=intervals_apart(data.before, data.after, tiles[0]) if tiles else None,
        answers=list(zip(data.samples, data.before_texts, data.after_texts, strict=True))[:PICTURES],
        config=json.dumps(data.header.get("config", {}), indent=1, default=str),
        facts={key: value for key, value in data.header.items() if key not in ("config", "kind")},
        glossary={key: METRICS[key] for key in used if key in METRICS},
        script=SCRIPT, script_hash=script_hash(),
        replays=[vars(replay) | {"moments": list(map(moment_row, replay.moments))} for replay in data.replays],
    )  # fmt: skip


def script_hash() -> str:
    """Return the digest of the script in the form of a content security policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()


def moment_row(moment: Moment) -> dict[str, Any]:
    """Return what the script draws of a moment, ready for JSON."""
    group = moment.group
    return {
        "step": group.step,
        "sample": f"{group.sample.id} {group.sample.category}".strip(),
        "question": group.sample.problem,
        "picture": _small_picture(group),
        "truth": true_boxes(group.sample).tolist(),
        "texts": [text[:LONGEST] for text in group.texts],
        "boxes": [boxes_of(group.sample.task, text)[0][:MAX_DRAWN].tolist() for text in group.texts],
        "parts": {name: list(values) for name, values in moment.parts.items()},
        "first": moment.first,
        "failures": group.failures or [None] * len(group.texts),
        "advantages": group.advantages,
    }


def _small_picture(group: Group) -> str | None:
    """Encode the picture as a small JPEG or PNG in a data URL, whichever is smaller; None if the file is missing."""
    try:
        picture = group.sample.picture()
    except UserError:
        return None
    picture.thumbnail((SIDE, SIDE))
    written = []
    for kind, options in (("jpeg", {"quality": 82}), ("png", {"optimize": True})):
        buffer = io.BytesIO()
        picture.save(buffer, kind, **options)
        written.append(_data_url(kind, buffer.getvalue()))
    return min(written, key=len)


def _data_url(kind: str, picture: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


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
    figures = {
        "bars": tiles and metric_bars(blocks, tiles[:5]),
        "training": keys["train"] and curves(data.runs, keys["train"]),
        "held_out": keys["eval"] and curves(data.runs, keys["eval"], kind="eval"),
        "pictures": data.samples and before_after(*asked),
        "calibration": data.levels and calibration(data.levels),
        "misses": data.misses and answer_grid([(s, text, f"{x:.2f}: {s.category}", {}) for s, text, x in data.misses]),
        "group": data.group and group_panel(data.group),
    }
    return {name: _data_url("png", png(figure)) for name, figure in figures.items() if figure}


def _present(runs: Mapping[str, Sequence[Row]], keys: Sequence[str], kind: str) -> list[str]:
    """Return the `keys` that have a number in some row of the kind."""
    rows = [row for run in runs.values() for row in run if row.get("kind") == kind]
    return [key for key in keys if any(row.get(key) is not None for row in rows)]

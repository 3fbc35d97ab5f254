"""This module holds the command that writes a page about one run, or about several for comparison."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from minirft import UserError, data, evaluation, rewards, runs, show
from minirft.commands.flags import Switch, parse, print_result
from minirft.samples import Sample

MOMENTS, MOMENTS_OF_ALL = 24, 48  # steps in the replay of one run, and of all runs together; each holds a picture
WORST = 8


@dataclass(frozen=True)
class ReportFlags:
    """`ReportFlags` are the flags of `report`."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs, or of a demo, whose two runs are shown."""
    out: Path | None = None
    """HTML file to write; the default is report.html in the folder of the first run."""
    json: Switch = False
    """Print one JSON object."""


def report(args: list[str]) -> None:
    """Write a page about runs: curves, misses, a replay of the steps: RUN [RUN ...] [--out FILE.html]."""
    flags = parse(ReportFlags, args, "minirft report")
    folders = [run for folder in flags.runs for run in runs_in(folder)]
    if not folders:
        raise UserError("minirft report: name the folder of a run, as in `minirft report runs/train`")
    histories = [runs.read_history(folder) for folder in folders]
    for history in histories:
        if not history.samples:
            why = "no answers to held-out pictures are kept in it, or their data has moved"
            print(f"minirft: {history.folder}: {why}; minirft eval {history.folder} makes some", file=sys.stderr)
    out = flags.out or folders[0] / "report.html"  # does not overwrite the report of a demo
    show.write_report(out, report_data(histories))
    print_result({"report": str(out)}, flags.json)


def runs_in(folder: Path) -> list[Path]:
    """Return the folder itself, or the two runs in the folder of a demo."""
    inner = [folder / name for name in ("rft", "sft") if (folder / name / "config.toml").is_file()]
    return inner if inner and not (folder / "config.toml").is_file() else [folder]


def report_data(histories: Sequence[runs.History]) -> show.ReportData:
    """Return the content of the page: the first run in full, and the others for comparison."""
    names = unique([history.name for history in histories])
    first, texts = histories[0], newest(histories[0])
    before, after = first_and_last(first)
    score = rewards.reading(first.config.data.task, "strict")
    scored = [(s, text, score(text, s.solution).total) for s, text in zip(first.samples, texts, strict=False)]
    early = list(first.answers[min(first.answers)]) if len(first.answers) > 1 else []
    beside = {name: first_and_last(history)[1] for name, history in zip(names[1:], histories[1:], strict=True)}
    train = [row["seconds"] for row in first.rows if row.get("kind") == "train" and row.get("seconds")]
    return show.ReportData(
        before=before,
        after=after,
        steps=first.steps,
        seconds={"train": sum(train)} if train else {},
        beside={name: block for name, block in beside.items() if block},
        runs={name: history.rows for name, history in zip(names, histories, strict=True)},
        samples=first.samples if early else (),
        before_texts=early,
        after_texts=texts if early else (),
        header=first.header,
        title=("Runs " if len(names) > 1 else "Run ") + ", ".join(names),
        name=names[0],
        levels=levels(first, early, texts),
        misses=sorted(scored, key=lambda answer: answer[2])[:WORST],
        replays=replays(names, histories),
    )


def first_and_last(history: runs.History) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the metrics before and after, {} if there are none; a later `minirft eval` replaces missing ones."""
    rows = history.evaluations
    if len(rows) > 1:
        return rows[0], rows[-1]
    if rows or not history.samples:
        return {}, rows[0] if rows else {}
    return {}, evaluation.metrics(history.samples[0].task, newest(history), history.samples)


def newest(history: runs.History) -> list[str]:
    """Return the answers of the last evaluation to the held-out samples."""
    return list(history.answers[max(history.answers)]) if history.answers else []


def levels(history: runs.History, early: Sequence[str], texts: Sequence[str]) -> dict[str, show.Levels]:
    """Return boxes and hits by stated confidence, before and after; {} for other tasks than detection."""
    if not texts or history.samples[0].task != "detection":
        return {}
    trained = "sft" if history.header.get("config", {}).get("method") == "sft" else "rft"
    pairs = (("base", early), (trained, texts))
    return {name: evaluation.confidence_levels(answers, history.samples) for name, answers in pairs if answers}


def replays(names: Sequence[str], histories: Sequence[runs.History]) -> list[show.Replay]:
    """Return the replay of each run that has rewards."""
    each, result = min(MOMENTS, MOMENTS_OF_ALL // len(histories) or 1), []
    for name, history in zip(names, histories, strict=True):
        config, shown = history.config, moments(history, each)
        parts = dict.fromkeys(part for moment in shown for part in moment.parts)
        weights = {part: config.reward_weights.get(part, 1.0) for part in parts}
        if shown:
            result.append(show.Replay(name, shown, weights, config.advantage_scale, config.advantage_eps))
    return result


def moments(history: runs.History, count: int) -> list[show.Moment]:
    """Return, for at most `count` steps spread over the run, the group whose rewards differ most.

    A step whose samples cannot be loaded is left out.
    """
    scored = history.scored
    try:
        feed = data.training_feed(history.config) if scored else None
    except UserError:
        return []
    steps, size = _spread(sorted(scored), count), history.config.group_size
    found = (_widest(step, scored[step], feed(step), size) for step in steps)
    return [moment for moment in found if moment]


def _widest(step: int, rows: list[dict[str, Any]], samples: Sequence[Sample], size: int) -> show.Moment | None:
    """Return the group of a step whose rewards differ most, among those whose sample is known."""
    groups = [rows[first : first + size] for first in range(0, len(rows), size)]
    # A group with a failed reward was not part of the update.
    groups = [group for group in groups if len(group) == size and all(row["reward"] is not None for row in group)]
    rows = [row for group in groups for row in group]
    names = dict.fromkeys(name for row in rows for name in row["parts"])
    parts = {name: [row["parts"].get(name, 0.0) for row in rows] for name in names}
    by_id = {sample.id: sample for sample in samples}
    known = [i for i, group in enumerate(groups) if group[0]["sample"] in by_id]
    if not known:
        return None
    best = max(known, key=lambda i: np.std([row["reward"] for row in groups[i]]))
    texts, totals, advantages, failures = (
        [row[key] for row in groups[best]] for key in ("text", "reward", "advantage", "failure")
    )
    own = {name: values[best * size :][:size] for name, values in parts.items()}
    note = f"Of step {step}, the group whose rewards differ most."
    sample = by_id[groups[best][0]["sample"]]
    return show.Moment(show.Group(sample, texts, totals, advantages, own, note, failures, step), parts, best * size)


def _spread(steps: Sequence[int], count: int) -> list[int]:
    """Return at most `count` of the steps, at equal distances.

    >>> _spread(range(1, 101), 3), _spread([1, 2], 3)
    ([1, 51, 100], [1, 2])
    """
    places = sorted({round(place) for place in np.linspace(0, len(steps) - 1, min(count, len(steps)))})
    return [steps[place] for place in places]


def unique(names: Sequence[str]) -> list[str]:
    """Number repeated names, so that all are different.

    >>> unique(["a", "b", "a"])
    ['a', 'b', 'a (2)']
    """
    return [name if name not in names[:i] else f"{name} ({names[: i + 1].count(name)})" for i, name in enumerate(names)]

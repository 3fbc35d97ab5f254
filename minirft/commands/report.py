"""The command that shows runs: one page for one of them, or for several side by side.

Imports are inside the command: torch and matplotlib take seconds, and `minirft --help` needs neither.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from minirft.commands.flags import Json, parse, quieten_libraries, show

if TYPE_CHECKING:
    from minirft.runs import History
    from minirft.show import Levels, Replay, ReportData

MOMENTS, MOMENTS_OF_ALL = 24, 48  # steps in the replay: of a run, of all runs of a page; each holds a picture
WORST = 8


@dataclass(frozen=True)
class ReportFlags:
    """What `report` takes."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs, or of a demo, whose two runs are shown."""
    out: Path | None = None
    """HTML file to write; report.html in the folder of the first run if left out."""
    json: Json = False
    """Print one JSON object."""


def report(args: list[str]) -> None:
    """A page for any run: curves, misses, a replay of its steps: RUN [RUN ...] [--out FILE.html]."""
    flags = parse(ReportFlags, args, "minirft report")
    quieten_libraries()
    from minirft import UserError
    from minirft.runs import read_history
    from minirft.show import write_report

    folders = [run for named in flags.runs for run in runs_in(named)]
    if not folders:
        raise UserError("minirft report: name the folder of a run, as in `minirft report runs/train`")
    histories = [read_history(folder) for folder in folders]
    for history in histories:
        if not history.samples:
            why = "no answers to held-out pictures are kept in it, or their data has moved"
            print(f"minirft: {history.folder}: {why}; minirft eval {history.folder} makes some", file=sys.stderr)
    out = flags.out or folders[0] / "report.html"  # a demo keeps the report that it wrote itself
    write_report(out, report_data(histories))
    show({"report": str(out)}, flags.json)


def runs_in(folder: Path) -> list[Path]:
    """The folder itself, or the two runs in that of a demo."""
    inner = [folder / name for name in ("rft", "sft") if (folder / name / "config.toml").is_file()]
    return inner if inner and not (folder / "config.toml").is_file() else [folder]


def report_data(histories: Sequence[History]) -> ReportData:
    """What the page shows: the first run in full, the others beside it."""
    from minirft.rewards import reading
    from minirft.show import ReportData, worst

    names = unique([history.name for history in histories])
    first, texts = histories[0], newest(histories[0])
    before, after = first_and_last(first)
    score = reading(first.config.data.task, "strict")
    early = list(first.answers[min(first.answers)]) if len(first.answers) > 1 else []
    beside = {name: first_and_last(history)[1] for name, history in zip(names[1:], histories[1:], strict=True)}
    train = [row["seconds"] for row in first.rows if row.get("kind") == "train" and row.get("seconds")]
    return ReportData(
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
        misses=worst(first.samples, texts, lambda *pair: score(*pair).total, WORST) if texts else (),
        replays=replays(names, histories),
    )


def first_and_last(history: History) -> tuple[dict[str, Any], dict[str, Any]]:
    """The metrics before and after, {} where there are none; of a later `minirft eval` where the run has none."""
    from minirft.evaluation import metrics

    found = history.evaluations
    if len(found) > 1:
        return found[0], found[-1]
    if found or not history.samples:
        return {}, found[0] if found else {}
    return {}, metrics(history.samples[0].task, newest(history), history.samples)


def newest(history: History) -> list[str]:
    """The answers of the last evaluation to the held-out samples."""
    return list(history.answers[max(history.answers)]) if history.answers else []


def levels(history: History, early: Sequence[str], texts: Sequence[str]) -> dict[str, Levels]:
    """Boxes and hits by stated confidence, before and after; of detection alone."""
    from minirft.evaluation import confidence_levels

    if not texts or history.samples[0].task != "detection":
        return {}
    trained = "sft" if history.header.get("config", {}).get("method") == "sft" else "rft"
    found = {name: answers for name, answers in (("base", early), (trained, texts)) if answers}
    return {name: confidence_levels(answers, history.samples) for name, answers in found.items()}


def replays(names: Sequence[str], histories: Sequence[History]) -> list[Replay]:
    """The replay of each run that has rewards."""
    from minirft.runs import groups_of
    from minirft.show import Group, Moment, Replay

    each, found = min(MOMENTS, MOMENTS_OF_ALL // len(histories) or 1), []
    for name, history in zip(names, histories, strict=True):
        moments = []
        for group in groups_of(history, each):
            texts, rewards, advantages, failures = (
                [row[key] for row in group.rows] for key in ("text", "reward", "advantage", "failure")
            )
            shown = Group(group.sample, texts, rewards, advantages)
            moments.append(Moment(group.step, shown, group.parts, group.first, failures))
        if moments:
            config = history.config
            parts = dict.fromkeys(part for moment in moments for part in moment.parts)
            weights = {part: config.reward_weights.get(part, 1.0) for part in parts}
            scale, eps = config.advantage_scale, config.advantage_eps
            found.append(Replay(name, moments, weights, scale, eps))
    return found


def unique(names: Sequence[str]) -> list[str]:
    """Names that can be told apart.

    >>> unique(["a", "b", "a"])
    ['a', 'b', 'a (2)']
    """
    return [name if name not in names[:i] else f"{name} ({names[: i + 1].count(name)})" for i, name in enumerate(names)]

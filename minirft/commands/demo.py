"""This module runs the demo: evaluate, train by GRPO, evaluate again, compare with SFT, and write a report.

OUT/summary.json   the numbers                    OUT/rft/   the GRPO run: log, completions, checkpoints, policy
    report.html    the numbers and the pictures       sft/   the supervised run, on as many pictures
    pictures/      the report's figures as files
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minirft import STARTED, UserError, data, evaluation, runs, show
from minirft.commands.report import report_data

if TYPE_CHECKING:
    from minirft.policy import Policy
    from minirft.samples import Sample

HEADLINE = ("ap50_pooled", "mean_iou", "parse_rate", "ece", "auc", "abstention", "boxes_per_image", "ap50")


def run_demo(config: runs.GRPOConfig, out: Path) -> dict[str, Any]:
    """Run the demo into `out` and return the content of `summary.json`.

    Raises `UserError` when `out` is not empty, because nothing is overwritten.
    """
    from minirft.train import run as run_grpo  # imports torch

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} already holds something: remove it, or choose another --out")
    config = replace(config, sft_steps=config.steps)  # as many pictures as GRPO sees
    samples = data.held_out(config)  # the evaluations during training use other questions, by which settings are chosen
    say(f"the base answers {len(samples)} held-out questions")
    before, before_texts = assess(runs.load_policy(config), config, samples)
    say(f"GRPO, {config.steps} steps of {config.prompts_per_step} pictures x {config.group_size} completions")
    done, first_step, rft_seconds = follow(run_grpo(replace(config, out=out / "rft"), progress=True))
    config = replace(config, steps=done, sft_steps=done)
    after, after_texts = assess(runs.load_run_policy(out / "rft", config), config, samples)
    say(f"SFT on the {config.sft_target}, as many pictures")
    follow(runs.sft(replace(config, out=out / "sft"), progress=True))
    beside, _ = assess(runs.load_run_policy(out / "sft", config), config, samples)
    seconds = {"to_first_step": first_step, "train": rft_seconds, "total": process_seconds()}
    summary = {"seed": config.seed, "steps": config.steps, "seconds": seconds}
    summary |= {"before": before, "after": after, "sft": beside}
    write_page(summary, out, samples, before_texts, after_texts)
    (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return summary


def assess(policy: Policy, config: runs.GRPOConfig, samples: list[Sample]) -> tuple[dict[str, Any], list[str]]:
    """Return the metrics of greedy answers, with those of sampled ones under "sampled", and the greedy answers."""
    greedy, sampled = (runs.generate(policy, config, samples, mode) for mode in ("greedy", "sampled"))
    task = samples[0].task
    return {**evaluation.metrics(task, greedy, samples), "sampled": evaluation.metrics(task, sampled, samples)}, greedy


def follow(rows: Iterable[dict[str, Any]]) -> tuple[int, float, float]:
    """Run all steps; return their number, the age of the process after the first one, and the seconds of all steps.

    A run that Ctrl-C has stopped and saved counts as finished; a second Ctrl-C stops the demo too.
    """
    done, first_step, seconds = 0, 0.0, 0.0
    try:
        for row in rows:
            if row["kind"] == "train":
                done, first_step = row["step"], first_step or process_seconds()
                seconds += row["seconds"]
    except KeyboardInterrupt as stop:
        if not stop.args:  # nothing was saved
            raise
        say(f"stopped after step {done}, goes on to the report; Ctrl-C again stops the demo")
    return done, first_step, seconds


def process_seconds() -> float:
    """Return the seconds since `minirft` was imported, which is the first thing that the process does."""
    return time.monotonic() - STARTED


def say(text: str) -> None:
    """Print a line of progress to stderr, where the progress bar is too."""
    print(f"[{process_seconds():5.1f} s] {text}", file=sys.stderr)


def write_page(summary: dict[str, Any], out: Path, samples: list[Sample], before: list[str], after: list[str]) -> None:
    """Write `report.html`, the page of `minirft report` with the answers to the test questions, and its pictures."""
    histories = [replace(runs.read_history(out / name), name=name.upper()) for name in ("rft", "sft")]
    histories[0] = replace(histories[0], samples=samples, answers={0: before, summary["steps"]: after})
    blocks = {name: {k: v for k, v in summary[name].items() if k != "sampled"} for name in ("before", "after", "sft")}
    page = report_data(histories)
    page = replace(
        page,
        before=blocks["before"],
        after=blocks["after"],
        beside={"SFT": blocks["sft"]},
        seconds=summary["seconds"],
        title=show.ReportData.title,
        group=page.replays[0].moments[0].group,
    )
    show.write_report(out / "report.html", page)
    (out / "pictures").mkdir()
    figures = {
        "before_after": show.before_after(samples[:8], before[:8], after[:8]),
        "group": show.group_panel(page.group),
    }
    for name, figure in figures.items():
        (out / "pictures" / f"{name}.png").write_bytes(show.png(figure))


def headline(summary: dict[str, Any]) -> str:
    """Return the summary as a small table, with the meaning of each row below it.

    >>> block = {"ap50_pooled": 0.25, "n": 300}
    >>> print(headline({"before": block, "after": {"ap50_pooled": 0.5}, "sft": block}))
    300 questions         before     RFT     SFT
    ap50_pooled            0.250   0.500   0.250
    <BLANKLINE>
    ap50_pooled: AP at IoU .50 of all boxes in one ranking, whatever their category; compared between runs
    """
    meanings = [""]
    lines = [f"{summary['before']['n']} questions".ljust(20) + f"{'before':>8}{'RFT':>8}{'SFT':>8}"]
    for key in HEADLINE:
        values = [summary[block].get(key) for block in ("before", "after", "sft")]
        if any(value is not None for value in values):
            lines.append(f"{key:<20}" + "".join(f"{'-' if v is None else format(v, '.3f'):>8}" for v in values))
            meanings.append(f"{key}: {runs.METRICS[key]}")
    return "\n".join(lines + meanings)

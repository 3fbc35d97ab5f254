"""The tables of README and docs that are made of files in `results/`; tests hold the pages against them.

results_table   README: the demo's summaries, a row for each seed
benches         docs/costs.md: the measurements of `minirft bench`
growth          docs/costs.md: the fits of `minirft bench --scaling`; growth_figure: README, docs/figures/growth.png
experiments     docs/replication.md: every experiment beside the paper
effects         docs/replication.md: effect by effect what held
"""

import json
import re
from collections.abc import Iterable, Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from minirft.cost.scaling import TERMS, fits, scaling_table
from minirft.experiments.board import Board
from minirft.experiments.settings import CONTROLS, EXPERIMENTS, METHODS, find
from minirft.experiments.statistics import Estimate
from minirft.experiments.summary import MODES, lines
from minirft.show import METHODS as LOOKS
from minirft.show import lines as lines_of
from minirft.show.style import BLUE, VERMILION, png

LABELS = {method: label for method, (label, *_) in LOOKS.items()}
MAIN = ("rft - base", "rft - sft", "rft - sft-reasoning")
AGAINST_CONTROLS = ("rft - sft-quick", "rft-official - rft")
Tables = dict[str, Any]
Found = dict[tuple[str, str, int, str, str], Estimate]  # (part, test, shots, mode, what)


def results_table(summaries: list[dict[str, Any]]) -> str:
    """Several demos as one Markdown table, a row for each seed: how the README shows `results/demo/`.

    >>> block = {"ap50_pooled": 0.25, "auc": None, "abstention": 0.5, "sampled": {"parse_rate": 0.8}}
    >>> summary = {"seed": 0, "steps": 9, "before": block, "after": block, "sft": block}
    >>> print(results_table([summary]).splitlines()[-1])
    | 0 | 9 | 0.25 | 0.25 | **+0.00** | 0.25 | 0.80 | - | 0.50 |
    """
    names = ["seed", "steps", "pooled AP50 before", "after RFT", "gain", "after SFT"]
    rows = [[*names, "sampled parse rate", "AUC", "abstention"], ["---"] * 9]
    for summary in summaries:
        before, after, beside = (summary[name] for name in ("before", "after", "sft"))
        counts = [summary["seed"], summary["steps"]]
        gain = f"**{after['ap50_pooled'] - before['ap50_pooled']:+.2f}**"
        shares = [*(block["ap50_pooled"] for block in (before, after, beside)), after["sampled"]["parse_rate"]]
        first, second, third, *rest = [
            "-" if v is None else f"{v:.2f}" for v in (*shares, after["auc"], after["abstention"])
        ]
        rows.append([*map(str, counts), first, second, gain, third, *rest])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def benches(folder: Path) -> str:
    """The JSON files in a folder as a Markdown table, one measurement a row."""
    lines = [
        "| command | FLOPs / floor | TRL / ours, FLOPs | seconds | update alone | memory saved | ours, s | TRL, s |",
        "|" + "---|" * 8,
    ]
    for file in sorted(folder.glob("*.json")):
        found = json.loads(file.read_text(encoding="utf-8"))
        if "ratio" not in found:  # of `bench --scaling`
            continue
        ratio, trl = found["ratio"], found["trl"]
        cells = [f"`{command(found)}`", f"{ratio['flops_to_floor']:.3f}"]
        keys = ("flops", "seconds", "update_seconds", "saved_bytes")
        cells += [f"{ratio[f'trl_to_ours_{key}']:.2f}" if trl else "" for key in keys]
        lines.append("| " + " | ".join([*cells, spread(found["ours"]), spread(trl) if trl else ""]) + " |")
    return "\n".join(lines)


def growth(folder: Path) -> str:
    """The fits over the points of all runs of `bench --scaling`, and what that of scaling.json did not measure."""
    runs = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("scaling*.json"))}
    points = [point for run in runs.values() for point in run["points"]]
    return scaling_table({"points": points, "not_measured": runs["scaling"]["not_measured"], "fits": fits(points)})


def growth_figure(folder: Path) -> bytes:
    """docs/figures/growth.png: the fitted FLOPs over the whole range of each length, and the counted points."""
    found = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("scaling*.json"))]
    points, middle = [point for run in found for point in run["points"]], found[-1]["middle"]
    laws = fits(points)["language_flops"]
    drawn = {}
    for name, (letter, reach) in {"group": ("G", 64), "prompt": ("P", 4096), "completion": ("C", 512)}.items():
        curves = {}
        for arm, label in (("ours", "ours"), ("trl", "TRL, naive")):
            lengths = {other: np.full(50, float(middle[other])) for other in middle} | {name: np.linspace(2, reach, 50)}
            of = {other[0].upper(): values for other, values in lengths.items()}
            law = sum(laws[arm][term][0] * prod(of[factor] for factor in TERMS[term]) for term in TERMS) / 1e9
            on_axis = [p for p in points if all(p[other] == middle[other] for other in middle if other != name)]
            curves[label] = lengths[name], law
            curves[f"_{label}"] = [p[name] for p in on_axis], [p[arm]["language_flops"] / 1e9 for p in on_axis]
        drawn[f"GFLOP over {letter}"] = curves
    colours = {"ours": BLUE, "_ours": BLUE, "TRL, naive": VERMILION, "_TRL, naive": VERMILION}
    style = {"_ours": "o", "_TRL, naive": "o"}
    return png(lines_of(drawn, colours=colours, style=style, size=(2.9, 2.2), xlim=(0, None), ylim=(0, None)))


def command(found: dict[str, Any]) -> str:
    """The command line that measures this again."""
    shape, setting = found["shape"], found["setting"]
    words = ["minirft bench", f"--model {setting['model']}"]
    words += [f"--{name} {shape[name]}" for name in ("prompt", "completion", "group", "prompts")]
    words += [f"--{name}" for name in ("checkpointing", "cached") if setting[name]]
    words += [f"--kl-coef {setting['kl_coef']}"] if setting["kl_coef"] else []
    words += [f"--threads {setting['threads']}"] if setting["threads"] > 1 else []
    return " ".join(words)


def spread(row: dict[str, Any]) -> str:
    """Median seconds and, in brackets, the fastest and the slowest step."""
    low, high = row["seconds_spread"]
    return f"{row['seconds']:.3g} ({low:.3g} to {high:.3g})"


def experiments(folder: Path, paper: Path) -> str:
    """Every finished row of every experiment in `folder`, Qwen2-VL-2B's numbers of the paper in the last column.

    Ours are shares in [0, 1], the paper's percent; of a difference in bold both intervals exclude zero.
    """
    tables = read_paper(paper)
    blocks = [block for name, board in boards(folder) for block in _blocks(name, board, tables)]
    return "\n\n".join([_comparisons("\n".join(blocks)), *blocks])


def effects(folder: Path, paper: Path) -> str:
    """Table by table, in how many rows a difference of the paper has the same sign here, as a Markdown table."""
    tables, rows = read_paper(paper), []
    for name, board in boards(folder):
        found = _found(board, name)
        for number in _numbers(name):
            for gap in ("rft - base", "rft - sft", "sft - base"):
                cells = [*_signs(name, number, gap, found, tables)]
                if cells:
                    rows.append("| " + " | ".join([number, _label(gap), *cells]) + " |")
    head = "| table | difference | the paper | ours, greedy | ours, sampled |"
    return "\n".join([head, "|" + "---|" * 5, *rows])


def boards(folder: Path) -> Iterator[tuple[str, Board]]:
    """The experiments that have a file in `folder`."""
    for name in EXPERIMENTS:
        if (folder / f"{name}.json").exists():
            yield name, Board.open(folder / f"{name}.json", name)


def read_paper(path: Path) -> Tables:
    """The paper's tables by number."""
    return json.loads(path.read_text(encoding="utf-8"))["tables"]


def of_paper(tables: Tables, name: str, part: str, test: str, shots: int) -> dict[str, float]:
    """The paper's numbers for base, SFT and RFT on 2B, percent; empty where the row has no counterpart there."""
    number, column = find(name).parts[part].columns.get(test, ("", ""))
    rows = [row for row in tables.get(number, {"rows": []})["rows"] if row["model"] == "2B" and column in row]
    wanted = {"base": rows[0]["shots"] if rows else 0, "sft": shots or "all", "rft": shots or "all"}
    return {
        row["method"]: row[column] for row in rows if row["method"] in wanted and wanted[row["method"]] == row["shots"]
    }


# ------------------------------------------------------------------ one experiment


def _blocks(name: str, board: Board, tables: Tables) -> Iterator[str]:
    found = _found(board, name)
    finished = [*_finished(name, found)]
    if not finished:
        return
    experiment = find(name)
    metric = ", ".join(sorted({part.metric for part in experiment.parts.values()}))
    yield f"## {experiment.title}"
    yield f"In the paper: {experiment.paper}. Ours: {metric}."
    yield from _on_the_paper(name, tables)
    methods = ("base", *METHODS)
    for mode in MODES:
        with_paper = mode == "greedy" and any(of_paper(tables, name, *row) for row in finished)
        columns = [*(LABELS[method] for method in methods), *map(_label, MAIN), *["paper: base, SFT, RFT"] * with_paper]
        rows = []
        for row in finished:
            numbers = of_paper(tables, name, *row)
            paper = [", ".join(f"{value:.1f}" for value in numbers.values())] * with_paper
            rows.append((row, [*_means(found, row, mode, methods), *_gaps(found, row, mode, MAIN), *paper]))
        yield _table(f"{mode.capitalize()} answers", columns, rows)
    if CONTROLS[0] in experiment.methods:
        columns = [*(f"{LABELS[c]}, {mode}" for mode in MODES for c in CONTROLS)]
        columns += [f"{_label(gap)}, {mode}" for mode in MODES for gap in AGAINST_CONTROLS]
        rows = [
            (
                row,
                [cell for mode in MODES for cell in _means(found, row, mode, CONTROLS)]
                + [cell for mode in MODES for cell in _gaps(found, row, mode, AGAINST_CONTROLS)],
            )
            for row in finished
        ]
        yield _table("Controls", columns, rows)
    yield _costs(board, name)


def _comparisons(tables: str) -> str:
    """How many differences the tables show, how many in bold, and how many bold ones chance alone would make.

    >>> _comparisons("| **+0.05 [+0.02, +0.08]** | -0.01 [-0.02, +0.00] |")
    'The tables show 2 differences, 1 of them in bold. At 95% one in twenty is expected in bold where nothing differs.'
    """
    shown = re.findall(r"(\**)[+-]\d\.\d\d \[", tables)
    bold = sum(map(bool, shown))
    return (
        f"The tables show {len(shown)} differences, {bold} of them in bold. "
        "At 95% one in twenty is expected in bold where nothing differs."
    )


def _numbers(name: str) -> list[str]:
    """The paper's tables that an experiment re-enacts."""
    return list(dict.fromkeys(table for part in find(name).parts.values() for table, _ in part.columns.values()))


def _on_the_paper(name: str, tables: Tables) -> Iterator[str]:
    """What the paper measured, and where its numbers do not fit together."""
    for number in _numbers(name):
        notes = " ".join(tables[number]["notes"])
        yield f"Table {number} of the paper: {tables[number]['metric']}. {notes}".strip()


def _table(title: str, columns: Iterable[str], rows: Iterable[tuple[tuple[str, str, int], list[str]]]) -> str:
    head = ["part", "test", "shots", *columns]
    lines = [f"*{title}*", "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for (part, test, shots), cells in rows:
        lines.append("| " + " | ".join([part, test, str(shots or "all"), *cells]) + " |")
    return "\n".join(lines)


def _found(board: Board, name: str) -> Found:
    return {(line.part, line.test, line.shots, line.mode, line.what): line.found for line in lines(board, name)}


def _finished(name: str, found: Found) -> Iterator[tuple[str, str, int]]:
    """The rows of which every method has as many seeds."""
    for part, test, shots in dict.fromkeys(key[:3] for key in found if key[4] == "rft"):
        seen = [found.get((part, test, shots, "greedy", method)) for method in find(name).methods]
        if (part, test, 0, "greedy", "base") in found and None not in seen and len({x.seeds for x in seen if x}) == 1:
            yield part, test, shots


def _means(found: Found, row: tuple[str, str, int], mode: str, methods: Iterable[str]) -> list[str]:
    part, test, shots = row
    return [f"{found[part, test, shots * (what != 'base'), mode, what].mean:.2f}" for what in methods]


def _gaps(found: Found, row: tuple[str, str, int], mode: str, gaps: Iterable[str]) -> list[str]:
    return [_gap(found[(*row, mode, gap)]) for gap in gaps]


def _gap(found: Estimate) -> str:
    text = f"{found.mean:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"
    return f"**{text}**" if found.excludes_zero else text


def _label(gap: str) -> str:
    return " - ".join(LABELS[method] for method in gap.split(" - "))


def _costs(board: Board, name: str) -> str:
    """What a run of each method cost on average, over its tested cells."""
    said = []
    for method in find(name).methods:
        cells = [cell for key, cell in board.cells.items() if key.method == method and not key.tunes]
        seconds, seen, sampled = (
            sum(cell[what] for cell in cells) / len(cells)
            for what in ("seconds_training", "pictures_seen", "completions_sampled")
        )
        completions = f", {sampled:.0f} completions" if sampled else ""
        said.append(f"{LABELS[method]} {seconds:.0f} s, {seen:.0f} pictures{completions}")
    return "Training took on average: " + "; ".join(said) + "."


# ------------------------------------------------------------------ effect by effect


def _signs(name: str, number: str, gap: str, found: Found, tables: Tables) -> Iterator[str]:
    """The paper's differences in points, and in how many rows ours is surely that, not sure, surely the opposite."""
    one, other = gap.split(" - ")
    parts = find(name).parts
    rows = [row for row in _finished(name, found) if parts[row[0]].columns.get(row[1], ("",))[0] == number]
    papers = [of_paper(tables, name, *row) for row in rows]
    if not rows:
        return
    points = [paper[one] - paper[other] for paper in papers]
    yield f"{points[0]:+.1f}" if len(points) == 1 else f"{min(points):+.1f} to {max(points):+.1f}"
    for mode in MODES:
        ours = [found[(*row, mode, gap)] for row in rows]
        same = sum(x.excludes_zero and (x.mean > 0) == (point > 0) for x, point in zip(ours, points, strict=True))
        unsure = sum(not x.excludes_zero for x in ours)
        means = [x.mean for x in ours]
        span = f"{means[0]:+.2f}" if len(ours) == 1 else f"{min(means):+.2f} to {max(means):+.2f}"
        counts = {"same sign": same, "not sure": unsure, "opposite": len(ours) - same - unsure}
        yield f"{span}: " + ", ".join(f"{count} {what}" for what, count in counts.items() if count)

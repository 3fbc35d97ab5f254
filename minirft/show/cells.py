"""Figures of the cells of an experiment: answers of every method, calibration, and the setting that each method chose.

A cell is a mapping of an experiment's file: "key" with the method, part, shots, seed, rate and steps; and its results.
"""

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from minirft.rewards import extract, reading
from minirft.samples import Sample
from minirft.show.pictures import answer_grid
from minirft.show.plots import lines
from minirft.show.replication import METHODS, settled, top_of
from minirft.show.style import BLUE, GREEN, INK, ORANGE, PINK, QUIET, SKY, VERMILION

FIRST = ("base", "sft", "sft-reasoning", "rft")
WRAP, THOUGHT = 34, 130  # characters of a line, and of a thought before it is cut
Cell = Mapping[str, Any]
Levels = Mapping[str, Sequence[int]]  # stated confidence -> [boxes, hits at IoU .5]
BINS = 10
RING = {"marker": "o", "markersize": 12, "markerfacecolor": "none", "markeredgewidth": 2, "linestyle": ""}


def answers_of(
    cells: Iterable[Cell], part: str, shots: int, test: str = "same", methods: Sequence[str] = FIRST
) -> dict[str, list[str]]:
    """Return method -> the answers that its cell of seed 1 kept, in the order of `methods`; without missing cells."""
    tested = {method: tests[test] for method, tests in _tested(cells, part, shots) if "answers" in tests.get(test, ())}
    return {method: list(tested[method]["answers"]) for method in methods if method in tested}


def _tested(cells: Iterable[Cell], part: str, shots: int) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield method and tests of each tested cell of a part, with that number of shots; the base has none."""
    for cell in cells:
        key = cell["key"]
        if "tests" in cell and key["part"] == part and key["shots"] == (0 if key["method"] == "base" else shots):
            yield key["method"], cell["tests"]


def answers_by_method(
    samples: Sequence[Sample], answers: Mapping[str, Sequence[str]], rows: Sequence[int] = range(3)
) -> Figure:
    """Draw a row for each of these `samples`, with the answer of each method, {"base": [texts], "rft": ...}.

    Boxes are drawn on the picture.  Below are whether a label or a yes is right, and the thought, shortened.
    """
    rows = [row for row in rows if row < min([len(samples), *map(len, answers.values())])]
    columns, size = max(1, len(answers)), 9.0 / max(3, len(answers))
    shown = []
    for row in rows:
        for method, texts in answers.items():
            label, colour, _ = METHODS[method]
            shown.append((samples[row], texts[row], label, {"color": colour, "fontweight": "bold"}))
    figure = answer_grid(shown, columns, (size, size + 0.7))
    for number, (axes, (sample, text, *_)) in enumerate(zip(figure.axes, shown, strict=True)):
        note = " ".join(filter(None, (axes.get_xlabel(), verdict(sample, text))))
        axes.set_xlabel("\n".join(filter(None, (note, thought(text)))), fontsize=7.5, color=INK, parse_math=False)
        if number % columns == 0:
            question = "\n".join(textwrap.wrap(sample.category, 26))
            axes.set_ylabel(question, fontsize=9, color=INK, fontweight="bold", parse_math=False)
    return settled(figure)


def verdict(sample: Sample, text: str) -> str:
    """Describe whether a label or a yes is right; an empty string for boxes, which are drawn."""
    if sample.task not in ("classification", "presence"):
        return ""
    truth = f": {sample.category}" if sample.task == "classification" else ""
    right = reading(sample.task, "strict")(text, sample.solution).parts["accuracy"]
    return "(right)" if right else f"(wrong{truth})"


def thought(text: str) -> str:
    """Return the thought of an answer, shortened, in lines of 34 characters.

    >>> thought("<think>long ears</think> <answer>cat</answer>")
    'long ears'
    """
    text = textwrap.shorten(extract(text)[0] or "no thought", THOUGHT, placeholder=" ...")
    return "\n".join(textwrap.wrap(text, WRAP))


def levels_of(cells: Iterable[Cell], part: str, shots: int) -> dict[str, Levels]:
    """Return method -> boxes and hits by stated confidence, summed over seeds; the base, which has no shots, included.

    >>> key = {"part": "p", "method": "rft", "shots": 4, "seed": 1}
    >>> cells = [{"key": key, "tests": {"same": {"greedy": {"levels": {"0.85": [3, 2]}}}}}] * 2
    >>> levels_of(cells, "p", 4)
    {'rft': {'0.85': [6, 4]}}
    """
    found: dict[str, dict[str, list[int]]] = {}
    for method, tests in _tested(cells, part, shots):
        for level, counts in tests["same"]["greedy"].get("levels", {}).items():
            of_level = found.setdefault(method, {})
            of_level[level] = np.add(of_level.get(level, [0, 0]), counts).tolist()
    return {method: found[method] for method in METHODS if method in found}


def reliability(levels: Levels) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean stated confidence, share of hits and number of boxes, for each of 10 equal bins that has a box.

    >>> [x.tolist() for x in reliability({"0.80": [1, 1], "0.85": [1, 0], "1.00": [2, 2]})]
    [[0.825, 1.0], [0.5, 1.0], [2.0, 2.0]]
    """
    stated = np.array([float(level) for level in levels])
    boxes, hits = np.array([*levels.values()], dtype=float).reshape(-1, 2).T
    bins = np.minimum((stated * BINS + 1e-9).astype(int), BINS - 1)
    count, total, right = (np.bincount(bins, weights, BINS) for weights in (boxes, boxes * stated, hits))
    full = count > 0
    return total[full] / count[full], right[full] / count[full], count[full]


def calibration(levels: Mapping[str, Levels]) -> Figure:
    """Draw the share of boxes that hit over the stated confidence, in 10 bins, with one panel for each method.

    The area of a point is its share of the boxes.  On the diagonal a confidence of .8 is right in 8 of 10 cases; below
    the diagonal the model is too sure.
    """
    found = {METHODS[method][0]: reliability(counts) for method, counts in levels.items()}
    diagonal = {"a true confidence": ([0, 1], [0, 1])}
    colours = {f"_{name}": colour for name, colour, _ in METHODS.values()}
    figure = lines(
        {name: diagonal | {f"_{name}": (stated, right)} for name, (stated, right, _) in found.items()},
        style={"a true confidence": "--"}, colours=colours | {"a true confidence": QUIET}, **_columns(len(found), 0.35),
        xlabel="stated confidence; area: share of boxes", ylabel="share of boxes that hit",
        xlim=(-0.05, 1.08), ylim=(-0.05, 1.05), aspect="equal",
    )  # fmt: skip
    for axes, (name, (stated, right, boxes)) in zip(figure.axes, found.items(), strict=True):
        areas = 12 + 240 * boxes / boxes.sum()
        axes.scatter(stated, right, s=areas, color=colours[f"_{name}"], alpha=0.75, linewidth=0)
    figure.get_layout_engine().set(rect=(0, 0, 1, 0.95))  # square panels are placed without their titles
    return settled(figure)


def learning_choice(cells: Iterable[Cell], part: str, shots: int, metric: str) -> Figure:
    """Draw validation over the length of training: a panel for each method, a line for each learning rate.

    A ring marks the rate and length of the method's test cells; there is no ring before the method is tested.
    """
    cells = [cell for cell in cells if (cell["key"]["part"], cell["key"]["shots"]) == (part, shots)]
    rates = sorted({cell["key"]["rate"] for cell in cells if "validation" in cell})
    shown, ticks = {}, {}
    for method, rate in product(METHODS, rates):
        here = [cell for cell in cells if (cell["key"]["method"], cell["key"]["rate"]) == (method, rate)]
        tested = {cell["key"]["steps"] for cell in here if "tests" in cell}
        for cell in [cell for cell in here if "validation" in cell]:
            curve, title = sorted((int(step), value) for step, value in cell["validation"].items()), METHODS[method][0]
            chosen, of_method = [point for point in curve if point[0] in tested], shown.setdefault(title, {})
            ticks[title] = [step for step, _ in curve]
            of_method[f"learning rate {rate:g}"] = tuple(zip(*curve, strict=True))
            of_method |= {"chosen": tuple(zip(*chosen, strict=True))} if chosen else {}
    names = [f"learning rate {rate:g}" for rate in rates]
    figure = lines(
        shown,
        style=dict(zip(names, ("v-", "^-", "o-", "s-", "D-", "P-"), strict=False)) | {"chosen": RING},
        colours=dict(zip(names, (SKY, BLUE, INK, GREEN, ORANGE, PINK), strict=False)) | {"chosen": VERMILION},
        xscale="log", xticks=ticks, xticklabels=ticks, xlabel="steps of training", ylabel=f"{metric}, validation",
        ylim=(0, 1.12 * top_of(shown, shown)), **_columns(len(shown), -0.5),
    )  # fmt: skip
    return settled(figure)


def _columns(count: int, taller: float) -> dict[str, Any]:
    columns = max(1, count) if count < 5 else 3
    return {"wide": columns, "size": (9.0 / max(3, columns), 9.0 / max(3, columns) + taller)}

"""A figure of the answers of every method to the same test questions: picture, boxes, and the thought below.

A row is a question and a column is a method, so a reader compares the methods from left to right.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from minirft.rewards import ParseFailure, extract, normalise, parse, parse_solution
from minirft.samples import Sample
from minirft.show.pictures import answer_grid
from minirft.show.replication import METHODS, settled
from minirft.show.style import INK

FIRST = ("base", "sft", "sft-reasoning", "rft")
WRAP, THOUGHT = 34, 130  # characters of a line, and of a thought before it is cut


def answers_of(
    cells: Iterable[Mapping[str, Any]], part: str, shots: int, test: str = "same", methods: Sequence[str] = FIRST
) -> dict[str, list[str]]:
    """Return method -> the answers that its cell of seed 1 kept, in the order of `methods`; without missing cells."""
    found = {}
    for cell in cells:
        key = cell["key"]
        if key["part"] == part and key["shots"] == (0 if key["method"] == "base" else shots):
            kept = cell.get("tests", {}).get(test, {}).get("answers")
            if kept:
                found[key["method"]] = list(kept)
    return {method: found[method] for method in methods if method in found}


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
    answer, truth = parse(sample.task, text), parse_solution(sample.task, sample.solution)
    if isinstance(answer, ParseFailure):
        return "(wrong)"
    same = normalise(answer) == normalise(truth) if isinstance(answer, str) else answer is truth
    return "(right)" if same else f"(wrong: {sample.category})" if isinstance(answer, str) else "(wrong)"


def thought(text: str) -> str:
    """Return the thought of an answer, shortened, in lines of 34 characters.

    >>> thought("<think>long ears</think> <answer>cat</answer>")
    'long ears'
    """
    text = textwrap.shorten(extract(text)[0] or "no thought", THOUGHT, placeholder=" ...")
    return "\n".join(textwrap.wrap(text, WRAP))

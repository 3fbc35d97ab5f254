"""Figures of the experiments: the numbers drawn are the numbers given, and a board half done gives what is there."""

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex

from minirft.experiments.statistics import Estimate
from minirft.show.cells import (
    answers_by_method,
    answers_of,
    calibration,
    learning_choice,
    levels_of,
    reliability,
    verdict,
)
from minirft.show.knowledge import knowledge_map
from minirft.show.replication import METHODS, Line, differences, method_dots, of_paper, shot_curves
from minirft.tiny import world

PAPER = json.loads((Path(__file__).parents[2] / "results" / "paper.json").read_text(encoding="utf-8"))["tables"]
FAMILIES = {"flower": "Flower102", "pet": "Pets37", "aircraft": "FGVC-Aircraft", "car": "Cars196"}
ORDER = ("sft", "sft-reasoning", "rft")


def estimated(mean: float, low: float, high: float) -> Estimate:
    return Estimate(mean, low, high, seeds=5)


def value(method: str, shots: int) -> float:
    return 0.1 + 0.2 * ORDER.index(method) + 0.01 * shots


def lines(parts=("flower",), shots=(1, 2, 4, 8, 16), tests=("same",), mode="greedy"):
    for part in parts:
        for test in tests:
            yield Line(part, test, 0, mode, "base", estimated(0.1, 0.05, 0.15))
            for k in shots:
                for method in ORDER:
                    mean = value(method, k)
                    yield Line(part, test, k, mode, method, estimated(mean, mean - 0.02, mean + 0.03))
                yield Line(part, test, k, mode, "rft - sft", estimated(0.4, 0.3, 0.5))
                yield Line(part, test, k, mode, "rft - sft-reasoning", estimated(-0.01, -0.03, 0.02))


def colour_of(line) -> str:
    return to_hex(line.get_color())


def nothing_leaves(figure) -> None:
    """All text that is seen lies in the figure."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    width, height = canvas.get_width_height()
    for axes in figure.axes:
        box = axes.get_tightbbox(canvas.get_renderer())
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1, axes.get_title("left")


def test_curves_draw_the_numbers_and_the_papers():
    """A line in another method's colour, shots in the order of text, a paper's column under the wrong title."""
    paper = {column: of_paper(PAPER["2"], column) for column in FAMILIES.values()}
    figure = shot_curves(lines(FAMILIES), "accuracy", paper=paper)
    nothing_leaves(figure)
    assert [axes.get_title("left") for axes in figure.axes] == [*FAMILIES, *(f"paper: {x}" for x in paper)]
    for axes in figure.axes[:4]:
        drawn = {colour_of(line): list(line.get_ydata()) for line in axes.lines}
        assert drawn[METHODS["rft"][1]] == [value("rft", k) for k in (1, 2, 4, 8, 16)]
        assert set(drawn[METHODS["base"][1]]) == {0.1}
        assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "2", "4", "8", "16"]
    pets = {colour_of(line): list(line.get_ydata()) for line in figure.axes[5].lines}
    assert pets[METHODS["sft"][1]] == [54.7, 65.6, 55.5, 71.4, 71.6]


def test_dots_are_at_their_numbers_greedy_above_sampled():
    """Modes swapped, an interval of another method, the paper's base left out because it has no shots."""
    both = [*lines(shots=(10,)), *lines(shots=(10,), mode="sampled")]
    figure = method_dots(both, "AP50", shots=10, paper={"average": of_paper(PAPER["4"], "average")})
    nothing_leaves(figure)
    ours, paper = figure.axes
    dots = [line for line in ours.lines if len(line.get_xdata()) == 1 and colour_of(line) == METHODS["rft"][1]]
    assert [float(dot.get_xdata()[0]) for dot in dots] == [value("rft", 10)] * 2
    greedy, sampled = sorted(dots, key=lambda dot: dot.get_ydata()[0])
    assert greedy.get_markerfacecolor() != "white" and sampled.get_markerfacecolor() == "white"
    bars = [line.get_xdata() for line in ours.lines if len(line.get_xdata()) == 2]
    assert any(np.allclose(bar, [value("sft", 10) - 0.02, value("sft", 10) + 0.03]) for bar in bars)
    rows = {row["method"]: row["average"] for row in PAPER["4"]["rows"] if row["model"] == "2B"}
    assert sorted(float(line.get_xdata()[0]) for line in paper.lines) == sorted(rows.values())


def test_a_difference_is_filled_only_when_its_interval_leaves_zero_out():
    """A chance difference drawn as if it held; rows of one experiment under another's title."""
    figure = differences({"One": lines(shots=(4,)), "Two": lines(("pet",), (16,)), "None yet": []})
    nothing_leaves(figure)
    against_sft, against_reasoning, against_base = figure.axes
    assert [x.get_text() for x in against_sft.get_yticklabels()] == [
        "One", "flower, 4 shots", "Two", "pet, 16 shots",
    ]  # fmt: skip
    for axes, mean, sure in ((against_sft, 0.4, True), (against_reasoning, -0.01, False)):
        dots = [line for line in axes.lines if len(line.get_xdata()) == 1]
        assert [(float(x.get_xdata()[0]), float(x.get_ydata()[0])) for x in dots] == [(mean, 1), (mean, 3)]
        assert axes.get_xlim() == against_sft.get_xlim()
        assert all((dot.get_markerfacecolor() != "white") == sure for dot in dots)
    assert not [line for line in against_base.lines if len(line.get_xdata()) == 1]


def test_the_map_hatches_what_may_be_chance():
    """Rows and columns swapped, a sure cell hatched, a missing cell drawn as zero."""
    figure = knowledge_map({"quick": lines(shots=(1, 16)), "embedded": lines(shots=(1, 4, 16))})
    nothing_leaves(figure)
    sft, reasoning = figure.axes
    assert {text.get_text() for text in sft.texts} == {"+0.40"}
    assert sorted(text.get_position() for text in sft.texts) == [(0, 0), (0, 1), (1, 1), (2, 0), (2, 1)]
    hatched = {patch.get_xy() for patch in reasoning.patches if patch.get_hatch()}
    assert not sft.patches and hatched == {(x - 0.5, y - 0.5) for x, y in ((0, 0), (0, 1), (1, 1), (2, 0), (2, 1))}
    image = sft.images[0]
    red, _, blue, _ = image.cmap(image.norm(image.get_array()[0, 0]))
    assert blue > red  # RFT ahead is purple


def test_one_rule_says_what_may_be_zero():
    """A mark filled because the bootstrap alone excludes zero, where the t interval over the seeds holds it."""
    found = Estimate(0.2, 0.1, 0.3, seeds=5, over_seeds=(-0.05, 0.45))
    unsure = [Line("flower", "same", 4, "greedy", "rft - sft", found)]
    (dot,) = [line for line in differences({"One": unsure}).axes[0].lines if len(line.get_xdata()) == 1]
    assert dot.get_markerfacecolor() == "white"
    (patch,) = knowledge_map({"quick": unsure}).axes[0].patches
    assert patch.get_hatch() == "////"


def test_a_row_of_the_map_is_one_part():
    """The cells of one part drawn over those of another, as if they were its own."""
    with pytest.raises(ValueError, match="a row is one part: got"):
        knowledge_map({"sketches": lines(("outlines", "sketches"))})


def test_shots_are_spaced_by_doublings():
    """1 and 16 shots as near as 1 and 2: another slope than the paper's panel beside it."""
    (axes,) = shot_curves(lines(shots=(1, 2, 16)), "AP50").axes
    rft = next(line for line in axes.lines if colour_of(line) == METHODS["rft"][1])
    assert list(rft.get_xdata()) == [0, 1, 4] == list(axes.get_xticks())


def cell(method, seed=1, shots=4, **found):
    key = {"part": "p", "method": method, "shots": 0 if method == "base" else shots, "seed": seed}
    return {"key": key | {"rate": 1e-4, "steps": 20}, **found}


def done(method, seed=1, **found):
    return cell(method, seed, tests={"same": {"greedy": {"levels": {"0.85": [4, 3], "1.00": [2, 2]}}, **found}})


def test_calibration_sums_seeds_and_reads_the_share_of_hits():
    """Seeds averaged without their boxes, a confidence of 1 in a bin of its own, hits taken for boxes."""
    levels = levels_of([done("rft"), done("rft", 2), done("base")], "p", 4)
    assert list(levels) == ["base", "rft"] and levels["rft"]["0.85"] == [8, 6]
    figure = calibration(levels)
    nothing_leaves(figure)
    (dots,) = figure.axes[1].collections
    assert dots.get_offsets().tolist() == [[0.85, 0.75], [1.0, 1.0]]
    small, large = sorted(dots.get_sizes())
    assert (large - 12) / (small - 12) == pytest.approx(2)
    stated, right, boxes = reliability({"0.30": [1, 1], "0.35": [3, 0], "0.40": [1, 1]})
    assert boxes.tolist() == [4, 1] and right.tolist() == [0.25, 1.0]  # .3 is not lost to rounding
    assert stated == pytest.approx([0.3375, 0.4])


def test_the_ring_is_at_what_was_tested():
    """A setting marked that no test used; steps in the order of text."""
    tuning = cell("rft", 1000, validation={"5": 0.1, "20": 0.6, "10": 0.3})
    figure = learning_choice([tuning, done("rft")], "p", 4, "AP50")
    nothing_leaves(figure)
    curve, ring = figure.axes[0].lines
    assert list(curve.get_xdata()) == [5, 10, 20] and list(curve.get_ydata()) == [0.1, 0.3, 0.6]
    assert (ring.get_xdata()[0], ring.get_ydata()[0]) == (20, 0.6)
    assert len(learning_choice([tuning], "p", 4, "AP50").axes[0].lines) == 1


def test_the_gallery_has_a_row_for_a_question_and_a_column_for_a_method():
    """An answer under another question's picture, a cell of another seed, a thought that runs out of its column."""
    samples = world.detection(3, 7)
    long = "<think>" + "i see a star, " * 40 + "</think>"
    kept = {m: [f"{long} {s.solution}" if m == "rft" else s.solution for s in samples] for m in ("rft", "base")}
    cells = [done(method, answers=texts) for method, texts in kept.items()] + [done("rft", 2)]
    answers = answers_of(cells, "p", 4)
    assert list(answers) == ["base", "rft"] and answers["rft"] == kept["rft"]
    figure = answers_by_method(samples, answers, rows=range(2))
    nothing_leaves(figure)
    assert [axes.get_title("left") for axes in figure.axes] == ["base", "RFT"] * 2
    assert figure.axes[2].get_ylabel().replace("\n", " ") == samples[1].category
    assert "no thought" in figure.axes[0].get_xlabel() and "..." in figure.axes[1].get_xlabel()


def test_a_label_says_whether_it_is_right():
    """A right answer called wrong for its capital letter; an unreadable one called right."""
    (sample,) = world.classification(1, 3, "flower")
    assert verdict(sample, f"<answer>{sample.category.upper()}</answer>") == "(right)"
    assert verdict(sample, "<answer>a mouse</answer>") == f"(wrong: {sample.category})"
    assert verdict(sample, "") == f"(wrong: {sample.category})"
    (there,) = world.presence(1, 3)
    assert verdict(there, there.solution) == "(right)" and verdict(there, "<answer>perhaps</answer>") == "(wrong)"


@pytest.mark.parametrize(
    "draw",
    [
        lambda: shot_curves([], "AP50"),
        lambda: method_dots([], "AP50"),
        lambda: differences({}),
        lambda: knowledge_map({}),
        lambda: calibration({}),
        lambda: learning_choice([], "p", 4, "AP50"),
        lambda: answers_by_method([], {}),
    ],
    ids=["curves", "dots", "differences", "map", "calibration", "choice", "gallery"],
)
def test_nothing_yet_is_an_empty_figure(draw):
    """A notebook that fails because its experiment has only begun."""
    FigureCanvasAgg(draw()).draw()

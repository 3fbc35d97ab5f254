"""Figures and the report: what is drawn where, and that hostile text stays text.  All numbers here are made up."""

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from minirft import UserError
from minirft.evaluation.scores import metrics
from minirft.rewards import prompts
from minirft.samples import Sample
from minirft.show.charts import curves, metric_bars, running_mean
from minirft.show.pictures import Group, before_after, draw_boxes, group_panel
from minirft.show.report import ReportData, number, render, write_report
from minirft.show.style import VERMILION, png

WIDE = Image.new("RGB", (200, 100), "teal")
BOX, OTHER = [100, 200, 500, 600], [600, 600, 900, 900]
HOSTILE = (
    "<script>alert(1)</script></pre></td><img src=https://evil.example/x> $\\frac{ \x00 \u202e \ud800 {{ 7*7 }} 你好"
)


def text(*boxes):
    items = ", ".join(f"{{'Position': {box}, 'Confidence': {c}}}" for box, c in boxes)
    return f"<think>a look</think> <answer>{f'[{items}]' if items else 'No Objects'}</answer>"


def sample(name="0", category="cat"):
    return Sample(name, WIDE, "detection", prompts.detection(category), prompts.detection_solution([BOX]), category)


def rectangles(axes):
    return [patch for patch in axes.patches if isinstance(patch, Rectangle)]


def labels(axes):
    return [item.get_text() for item in axes.texts]


# ------------------------------------------------------------------ pictures


def test_boxes_are_drawn_in_pixels_of_the_picture():
    """Catches swapped width and height, model units drawn as pixels, and the half pixel that imshow shifts by."""
    (axes,) = draw_boxes(WIDE, true=[BOX]).axes
    assert {patch.get_bbox().extents.round(6).tolist().__repr__() for patch in rectangles(axes)} == {
        str([100 * 0.2 - 0.5, 200 * 0.1 - 0.5, 500 * 0.2 - 0.5, 600 * 0.1 - 0.5])
    }


def test_true_and_predicted_boxes_differ_in_more_than_colour():
    """Catches a figure that a colour-blind reader cannot use."""
    (axes,) = draw_boxes(WIDE, true=[BOX], predicted=[OTHER]).axes
    true, predicted = rectangles(axes)[1], rectangles(axes)[3]
    assert true.get_linestyle() != predicted.get_linestyle()
    assert predicted.get_edgecolor() == pytest.approx([0xD5 / 255, 0x5E / 255, 0, 1]) and VERMILION == "#d55e00"


def test_labels_say_confidence_and_matched_iou():
    """Catches a duplicate that is labelled with the IoU of an object already taken by a surer box."""
    (axes,) = draw_boxes(WIDE, true=[BOX], predicted=[BOX, [100, 200, 500, 520]], confidence=[0.3, 0.95]).axes
    assert labels(axes) == [".30  miss", ".95  IoU .80"]


@pytest.mark.parametrize("left", range(0, 960, 60))
def test_labels_stay_inside_a_small_picture(left):
    """Catches a label that the picture's right side cuts: an object at the edge, on a panel of a row of 4."""
    box = [left, 300, min(1000, left + 200), 700]
    figure = Figure(figsize=(1.85, 1.85))
    axes = figure.add_axes((0, 0, 1, 1))
    draw_boxes(Image.new("RGB", (56, 56)), [box], [box], [1.0], axes=axes)
    (label,) = axes.texts
    drawn = label.get_window_extent(FigureCanvasAgg(figure).get_renderer())
    assert axes.bbox.x0 <= drawn.x0 + 2 and drawn.x1 <= axes.bbox.x1 + 2  # 2 pixels: the frame's half and more


def test_group_panel_shows_every_completion():
    """Catches a reward under the wrong picture, an unreadable answer that looks like an empty one, and "-0.00"."""
    texts = [text((BOX, 0.9)), text(), "<answer>[{", text((OTHER, 0.2))]
    figure = group_panel(Group(sample(), texts, [3.0, 1.0, 0.0, 0.5], [1.4, -0.1, -0.8, -0.001]))
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles[0] == "1:  r = 3.00   A = +1.40" and titles[3] == "4:  r = 0.50   A = 0.00"
    notes = [axes.get_xlabel() for axes in figure.axes]
    assert notes == ["", "No Objects", "unreadable: no answer block", ""]
    assert [labels(axes) for axes in figure.axes] == [[".90  IoU 1.0"], [], [], [".20  miss"]]


def test_before_is_above_after():
    """Catches answers under the wrong picture when the last row is not full."""
    samples = [sample(str(i), f"c{i}") for i in range(3)]
    figure = before_after(samples, [text()] * 3, [text((BOX, 0.9))] * 3, columns=2)
    shown = {axes.get_title(loc="left"): axes for axes in figure.axes if axes.axison}
    assert sorted(shown) == [f"{name}: c{i}" for name in ("after", "before") for i in range(3)]
    for i in range(3):
        above, below = (shown[f"{name}: c{i}"].get_subplotspec() for name in ("before", "after"))
        assert above.colspan.start == below.colspan.start == i % 2
        assert above.rowspan.start + 1 == below.rowspan.start
    assert labels(shown["before: c2"]) == [] and labels(shown["after: c2"]) == [".90  IoU 1.0"]


@pytest.mark.parametrize(
    ("task", "solution", "answer", "note"),
    [
        ("classification", "<answer>cat</answer>", "<answer>a $\\frac{$ dog</answer>", "a $\\frac{$ dog"),
        ("presence", "<answer>no</answer>", "<answer>yes</answer>", "yes"),
        ("grounding", "<answer>(1,2),(3,4)</answer>", "<answer>(1,2),(3,4)</answer>", ""),
    ],
)
def test_every_task_can_be_drawn(task, solution, answer, note):
    """Catches a figure that knows detection alone, and a label read as a formula."""
    question = Sample("0", WIDE, task, "?", solution, "$\\frac{$ 你好")
    figure = before_after([question], [answer], [answer])
    assert figure.axes[0].get_xlabel() == note
    assert Image.open(io.BytesIO(png(figure))).width > 100


# ------------------------------------------------------------------ curves


def test_curves_show_the_rows_of_their_kind():
    """Catches held-out points in the training curve, a null plotted as a number, and a run in another's colour."""
    rows = [{"kind": "train", "step": s, "reward": float(s), "kl": None} for s in range(1, 7)]
    rows += [{"kind": "eval", "step": 6, "reward": 99.0, "ci": {"reward": [90.0, 110.0]}}]
    reward, kl = curves({"RFT": rows, "SFT": []}, ["reward", "kl"]).axes
    assert reward.lines[0].get_xydata().tolist() == [[s, s] for s in range(1, 7)]
    assert reward.lines[1].get_ydata() == pytest.approx(running_mean(range(1, 7)))
    assert not kl.lines
    (points,) = curves({"RFT": rows}, ["reward"], kind="eval").axes
    assert points.lines[0].get_xydata().tolist() == [[6, 99]]
    assert points.collections[0].get_datalim(points.transData).intervaly.tolist() == [90, 110]


def test_running_mean_of_a_constant_is_the_constant():
    """Catches a mean that sags at the ends, where the window is not full."""
    for count in (1, 2, 5, 20):
        assert running_mean([3.0] * count) == pytest.approx([3.0] * count)


def test_bars_have_the_heights_of_the_metrics():
    """Catches an undefined metric drawn as 0."""
    (axes,) = metric_bars({"before": {"auc": None}, "after": {"auc": 0.7, "ci": {"auc": [0.6, 0.8]}}}, ["auc"]).axes
    assert [patch.get_height() for patch in axes.patches] == [0.0, 0.7]
    assert labels(axes) == ["–", "0.70"]
    assert axes.collections[0].get_segments()[-1][:, 1] == pytest.approx([0.6, 0.8])


def test_figures_leave_no_global_state():
    """Catches pyplot, whose figures pile up and need a display."""
    assert draw_boxes(WIDE).canvas.manager is None


# ------------------------------------------------------------------ the report


class Page(HTMLParser):
    """Open tags, attributes and text of a page; unbalanced tags are an error."""

    VOID = ("meta", "img", "br")

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def data():
    samples = [sample(str(i)) for i in range(3)]
    before, after = [text(), text((OTHER, 0.5)), HOSTILE], [text((BOX, 0.9))] * 3
    rows = [{"kind": "train", "step": s, "reward": s / 5, "reward_iou": s / 9} for s in range(1, 5)]
    rows += [{"kind": "eval", "step": s, "ap50_pooled": s / 9, "ci": {}} for s in (0, 4)]
    return ReportData(
        before=metrics("detection", before, samples, resamples=20),
        after=metrics("detection", after, samples, resamples=20),
        steps=4,
        seconds={"to_first_step": 1.5, "train": 12.3},
        beside={"SFT": metrics("detection", before, samples, resamples=0)},
        runs={"RFT": rows, "SFT": []},
        samples=samples,
        before_texts=before,
        after_texts=after,
        group=Group(
            samples[0], [after[0], HOSTILE], [2.5, 0.25], [0.7, -0.7], {"iou": [1.0, 0.0]}, "The first of step 1."
        ),
        header={"seed": 3, "commit": HOSTILE, "config": {"note": HOSTILE}, "versions": {"torch": "2"}},
    )


def test_hostile_text_stays_text(data, tmp_path):
    """Catches a completion that runs in the reader's browser, loads from the network, or breaks the page."""
    path = tmp_path / "report.html"
    write_report(path, data)
    page = Page(path.read_text(encoding="utf-8"))
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "iframe", "link", "object", "form", "a"})
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        if tag == "img":
            assert attributes["src"].startswith("data:image/png;base64,") and attributes["alt"]
    policy = next(a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv"))
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    words = "".join(page.words)
    assert words.count("<script>alert(1)</script>") == 4  # completions, group, commit, config
    assert "{{ 7*7 }}" in words


def test_report_shows_what_it_was_given(data):
    """Catches a table with columns swapped, a figure left out, or a metric nobody explains."""
    page = Page(render(data))
    words = re.sub(r"\s+", " ", " ".join(page.words))
    assert (
        f"In 4 steps, 12 seconds of training, held-out ap50_pooled went from {number(data.before['ap50_pooled'])}"
        in words
    )
    assert "RFT beside SFT" in words and "One group of 2 completions" in words
    pictures = [a["src"].split(",")[1] for t, a in page.tags if t == "img"]
    assert len(pictures) == 5  # bars, held out, training, before and after, group
    assert all(np.asarray(Image.open(io.BytesIO(base64.b64decode(p)))).std() > 5 for p in pictures)
    for name in ("ap75", "false_abstention", "reward_iou", "seconds train", "torch 2", "The first of step 1."):
        assert name in words
    assert f"precision {number(data.before['precision'])}" in words
    assert "one to one at IoU .50; malformed ones count" in words  # the glossary's precision


def test_report_without_anything_optional(data):
    """Catches a report that fails after the training, for want of a group, a log, or a single defined metric."""
    bare = ReportData(before={"auc": None, "n": 1}, after={"auc": None, "n": 1}, steps=1)
    assert "no metric is defined" in " ".join(Page(render(bare)).words)
    Page(render(replace(data, samples=(), before_texts=(), after_texts=(), group=None, runs={}, beside={})))


def test_verdict_claims_no_more_than_the_intervals():
    """Catches an improvement claimed from overlapping intervals, or missed in a fall."""
    low, mid, high = ({"auc": m, "n": 9, "ci": {"auc": [m - 0.1, m + 0.1]}} for m in (0.2, 0.35, 0.6))

    def verdict(before, after):
        return " ".join(Page(render(ReportData(before, after, steps=1))).words)

    assert "do not overlap" in verdict(low, high) and "do not overlap" in verdict(high, low)
    assert "does not show" in verdict(low, mid) and "do not overlap" not in verdict(low, mid)
    assert "no intervals" in verdict({"auc": 0.1, "n": 9}, high)


def test_unwritable_report_is_a_user_error(data, tmp_path):
    """Catches a traceback at the very end of a run."""
    with pytest.raises(UserError, match="cannot write the report"):
        write_report(tmp_path / "missing" / "report.html", ReportData(before={}, after={}, steps=1))

"""Playgrounds: a moved control must change picture and words to what the package's functions give."""

import io
import re
import time
from contextlib import contextmanager
from statistics import median

import ipywidgets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from minirft.advantages import group_advantages
from minirft.loss import LOSSES
from minirft.rewards.detection import CONFIDENCE_RULES, iou, match_greedy
from minirft.rewards.readings import reading
from minirft.show import play as live
from minirft.show.play import Playground
from minirft.show.play_advantages import LIT, AdvantagePlayground
from minirft.show.play_boxes import MOST, BoxPlayground
from minirft.show.play_confidence import GRID, ConfidenceExplorer, best_confidence, expected_score
from minirft.show.play_kl import KLExplorer
from minirft.show.play_ratio import ClipExplorer, gradients, one_token
from minirft.show.style import signed

REWARDS = [2.83, 2.55, 1.29, 0.0, 2.9, 1.84, 0.32, 3.0]
TRUE = [[107, 71, 464, 500], [571, 36, 964, 357]]
BOXES, SURE = [[71, 71, 464, 536], [500, 100, 900, 400]], [0.85, 0.3]
PICTURE = Image.new("RGB", (56, 40), "teal")
PLAYGROUNDS = {
    "advantages": lambda: AdvantagePlayground([2.8268, *REWARDS[1:]]),
    "boxes": lambda: BoxPlayground(PICTURE, TRUE, BOXES, SURE),
    "confidence": ConfidenceExplorer,
    "clip": ClipExplorer,
    "kl": KLExplorer,
}


@pytest.fixture(params=PLAYGROUNDS, scope="module")
def playground(request) -> Playground:
    return PLAYGROUNDS[request.param]()


def controls(widget: ipywidgets.Widget) -> list[ipywidgets.Widget]:
    """All controls under a box that hold a value or can be clicked."""
    if isinstance(widget, ipywidgets.Box):
        return [one for child in widget.children for one in controls(child)]
    passive = ipywidgets.Image | ipywidgets.HTML | ipywidgets.Label
    return [] if isinstance(widget, passive) else [widget]


def press(play: Playground, words: str) -> None:
    """Click the button with these words."""
    (button,) = [c for c in controls(play.widget) if isinstance(c, ipywidgets.Button) and c.description == words]
    button.click()


def heights(axes, count: int, start: int = 0) -> list[float]:
    return [patch.get_height() for patch in axes.patches[start : start + count]]


def numbers(text: str) -> list[float]:
    """The numbers in a text, the true minus read as one, the tags left out."""
    return [float(n) for n in re.findall(r"-?\d+\.\d+", re.sub(r"<[^>]*>", " ", text).replace("−", "-"))]


@contextmanager
def undrawn():
    """Only numbers are asked for: no picture is drawn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Playground, "redraw", lambda self, change=None: None)
        yield


# ------------------------------------------------------------------ what all have


def test_a_picture_stands_in_where_no_kernel_runs(playground, monkeypatch):
    """GitHub and the site show widgets as nothing at all; the bundle must carry a PNG beside the widget."""
    shown = []
    monkeypatch.setattr(live, "display", lambda bundle, raw: shown.append(bundle))
    playground._ipython_display_()
    assert set(shown[0]) == {"application/vnd.jupyter.widget-view+json", "image/png", "text/plain"}
    model = shown[0]["application/vnd.jupyter.widget-view+json"]["model_id"]
    assert model == playground.widget.model_id


def test_every_control_redraws_at_once_and_in_place(playground):
    """A control that is not watched, or read nowhere; a picture that changes its size, so that the page jumps under
    the mouse; a redraw so slow that the slider sticks.

    The bound is in processor time, and in figures with four empty parts that matplotlib lays out and draws: a redraw
    keeps its places, so it costs less than one (.3 to .7 were measured).  Both are medians: a busy machine makes
    single ones slow.
    """
    one = median(cost_of_a_plain_figure() for _ in range(3))
    size, spent = playground.image.value[16:24], []  # width and height stand in a PNG's header
    found = [control for control in controls(playground.widget) if not isinstance(control, ipywidgets.Button)]
    for control in sorted(found, key=lambda control: isinstance(control, ipywidgets.Dropdown)):
        before, start = (playground.image.value, playground.readout.value), time.process_time()
        if isinstance(control, ipywidgets.IntRangeSlider):
            control.value = (control.value[0] + 50, control.value[1])
        elif isinstance(control, ipywidgets.FloatLogSlider):
            control.value = 0.1
        elif isinstance(control, ipywidgets.FloatSlider):
            control.value += 0.2 if control.value < control.min + 0.2 else -0.2
        elif isinstance(control, ipywidgets.Checkbox):
            control.value = not control.value
        else:
            control.value = other(control)
        spent.append(time.process_time() - start)
        assert (playground.image.value, playground.readout.value) != before, control.description
    assert playground.image.value[16:24] == size
    assert median(spent) < 1.5 * one


def cost_of_a_plain_figure() -> float:
    """Processor seconds of a figure with four bar charts of five bars, laid out."""
    start = time.process_time()
    figure = Figure(figsize=(8, 5.4), layout="constrained")
    for axes in figure.subplots(2, 2).flat:
        axes.bar(range(5), range(5))
        axes.set(title="title", xlabel="across")
        axes.legend(handles=axes.containers, labels=["bars"])
    figure.savefig(io.BytesIO(), format="png", dpi=100)
    return time.process_time() - start


def other(control) -> object:
    options = control.options
    values = options.values() if isinstance(options, dict) else options
    return next(value for value in values if value != control.value)


def test_buttons_draw_once_never_raise_and_stay_on_the_sliders_steps(playground, monkeypatch):
    """Eight sliders moved by a button would draw eight times; a callback that raises is silent in a browser."""
    for button in [c for c in controls(playground.widget) if isinstance(c, ipywidgets.Button)]:
        drawn, draw = [], type(playground).figure
        with monkeypatch.context() as patch:
            patch.setattr(
                type(playground), "figure", lambda self, drawn=drawn, draw=draw: drawn.append(1) or draw(self)
            )
            button.click()
        assert len(drawn) <= 1, button.description
        for slider in [c for c in controls(playground.widget) if isinstance(c, ipywidgets.FloatSlider)]:
            steps = (slider.value - slider.min) / slider.step  # between two steps a browser moves the slider back
            assert steps == pytest.approx(round(steps), abs=1e-6), (button.description, slider.description)


@pytest.mark.parametrize(("number", "text"), [(0.0, "0.00"), (-0.001, "0.00"), (0.5, "+0.50"), (-1.25, "−1.25")])
def test_signed_numbers(number, text):
    """'-0.00' in a readout makes a reader look for a sign that is not there."""
    assert signed(number) == text


# ------------------------------------------------------------------ advantages


def test_each_slider_of_a_reward_stands_below_its_name():
    """Catches names in another order than the bars, and a name that the handle of a full reward covers."""
    with undrawn():
        play = AdvantagePlayground(REWARDS)
    columns = play.widget.children[2].children
    assert [label.value for label, _ in (column.children for column in columns)] == [f"o{d}" for d in "₁₂₃₄₅₆₇₈"]
    assert [slider for _, slider in (column.children for column in columns)] == play.sliders
    assert not any(slider.description for slider in play.sliders)


@pytest.mark.parametrize("scale", ["std", "mean", "batch", "none"])
@pytest.mark.parametrize("ddof", [0, 1])
def test_advantages_are_those_of_the_package(scale, ddof):
    """Catches a control that is not handed on, bars in another order, and a readout that says other numbers."""
    with undrawn():
        play = AdvantagePlayground(torch.tensor([REWARDS]), others=[[0.0, 3.0] * 4, [1.0] * 8])
        play.scale.value, play.ddof.value, play.eps.value = scale, ddof, 0.01
        play.sliders[2].value = 2.0
    rewards = [*REWARDS[:2], 2.0, *REWARDS[3:]]
    batch = torch.tensor([rewards, [0.0, 3.0] * 4, [1.0] * 8], dtype=torch.float64)
    expected = group_advantages(batch, scale, ddof, 0.01)[0].tolist()
    left, right = play.figure().axes
    assert heights(left, 8) == pytest.approx(rewards)
    assert heights(right, 8) == pytest.approx(expected)
    assert [text.get_text() for text in right.texts] == [signed(a) for a in expected]
    assert numbers(play.words())[-8:] == pytest.approx(expected, abs=0.0051)


def test_a_degenerate_group_lights_up_and_goes_out():
    """The point of the playground: eight equal rewards teach nothing, and must look like it, for "none" too."""
    play = AdvantagePlayground(REWARDS)
    grounds = lambda: {to_hex(axes.get_facecolor()) for axes in play.figure().axes}  # noqa: E731
    assert "degenerate" not in play.readout.value and grounds() == {"#ffffff"}
    press(play, "all equal")
    assert play.degenerate() and grounds() == {LIT} and play.advantages().abs().max() == 0
    assert "degenerate group" in play.readout.value and "adds nothing to the gradient" in play.readout.value
    play.scale.value = "none"
    assert "no baseline" in play.readout.value and play.advantages().min() > 0 and grounds() == {LIT}
    press(play, "the group of the lesson")
    assert play.rewards().tolist() == REWARDS and "degenerate" not in play.readout.value


def test_a_near_tie_is_blown_up_by_std_alone():
    """Shows what the button is for: a hundredth of a reward is worth 2.4 under std, a hundredth under mean."""
    play = AdvantagePlayground(REWARDS)
    press(play, "near tie")
    assert not play.degenerate() and play.advantages()[0] > 2.4
    play.scale.value = "mean"
    assert play.advantages()[0] < 0.01


# ------------------------------------------------------------------ boxes


def test_sliding_a_box_moves_iou_matching_and_all_three_rewards():
    """Catches x and y exchanged, numbers of the first state kept, and a reading scored with another's rule."""
    play = BoxPlayground(PICTURE, TRUE, BOXES, SURE)
    assert "IoU 0.84" in play.readout.value
    play.rows[0].x.value, play.rows[0].y.value, play.rows[1].confidence.value = (107, 464), (71, 286), 0.9
    boxes = [[107, 71, 464, 286], BOXES[1]]
    assert play.predicted().tolist() == boxes
    assert play.overlap().tolist() == iou(boxes, TRUE).tolist()
    assert f"IoU {iou(boxes, TRUE)[0, 0]:.2f}" in play.readout.value
    text = (
        "<think>a look at the picture</think> <answer>[{'Position': [107, 71, 464, 286], 'Confidence': 0.85}, "
        "{'Position': [500, 100, 900, 400], 'Confidence': 0.90}]</answer>"
    )
    items = [f"{{'Position': {box}, 'Confidence': 1}}" for box in TRUE]
    solution = f"<answer>[{', '.join(items)}]</answer>"
    assert play.completion() == text
    drawn = np.array([patch.get_width() for patch in play.figure().axes[-1].patches]).reshape(3, 3)
    widths = iter(drawn.T.ravel())  # part by part, each with its readings
    for name, score in play.scores().items():
        assert score == reading("detection", name)(text, solution)
        assert f"<b>{score.total:.2f}</b>" in play.readout.value
        assert [next(widths) for _ in score.parts] == pytest.approx(list(score.parts.values()))


def test_the_readings_differ_where_they_should():
    """A copy costs in two readings and not in the official one, which drops it; silence is paid by none but strict."""
    play = BoxPlayground(PICTURE, TRUE, BOXES, SURE)
    before = play.scores()
    play.copy.click()
    after = play.scores()
    assert after["strict"].total < before["strict"].total and after["paper"].total < before["paper"].total
    assert after["official"] == before["official"] and len(play.rows) == 3
    play.set_boxes([play.start[0], *play.start])
    assert sorted(play.pairs()["official"]) == [(0, 0), (2, 1)]  # rows of the list, not of what is left of it
    for _ in range(3):
        play.rows[0].remove.click()
    assert "No Objects" in play.completion() and "the answer cannot be read" in play.readout.value
    assert {name: score.parts["confidence"] for name, score in play.scores().items()} == {
        "strict": 0.5, "paper": 0.0, "official": 0.0,
    }  # fmt: skip


def test_adding_and_removing_boxes():
    """Catches the wrong box removed, controls that no longer answer, and rows without end."""
    play = BoxPlayground(PICTURE, TRUE, BOXES, SURE)
    play.rows[0].remove.click()
    assert play.predicted().tolist() == [BOXES[1]] and play.confidence().tolist() == [0.3]
    play.rows[0].confidence.value = 0.6
    assert "0.60" in play.readout.value
    with undrawn():
        while not play.add.disabled:
            play.add.click()
    assert len(play.rows) == MOST and play.copy.disabled
    press(play, "as it began")
    assert play.predicted().tolist() == BOXES and not play.add.disabled


coordinate = st.integers(0, 1000)
side = st.tuples(coordinate, coordinate).map(sorted).map(tuple)
box = st.tuples(side, side, st.integers(0, 100).map(lambda c: c / 100))


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(box, max_size=4), twice=st.booleans())
def test_the_pairs_on_show_are_those_that_were_paid(rows, twice):
    """Pairs are matched beside the reward: where they drift apart, the table explains a number that is not paid."""
    with undrawn():
        play = BoxPlayground(PICTURE, TRUE, [], [])
        play.set_boxes(rows * 2 if twice and len(rows) <= 3 else rows)
    pairs, overlap, count = play.pairs(), play.overlap(), len(play.rows)
    distinct = len({tuple(box) for box in play.predicted().tolist()})
    slots = {"strict": max(count, 2), "paper": count or 1, "official": max(distinct, 2)}
    for name, score in play.scores().items():
        paid = sum(overlap[n, m] for n, m in pairs[name]) / slots[name]
        assert score.parts["iou"] == pytest.approx(paid, abs=1e-6), name


def test_exactly_half_is_a_match_in_the_paper_only():
    """The released code asks for more than 0.5; the picture must not say that it matched."""
    with undrawn():
        play = BoxPlayground(PICTURE, [[0, 0, 400, 400]], [[0, 0, 400, 200]], [0.8])
    assert play.overlap().tolist() == [[0.5]]
    assert play.pairs() == {"strict": [(0, 0)], "paper": [(0, 0)], "official": []}
    assert match_greedy(play.overlap(), [0.8]) == [(0, 0)]


def test_no_true_box():
    """A picture without the object: the matrix is empty and silence is right."""
    play = BoxPlayground(PICTURE, [], [], [])
    assert play.scores()["strict"].total == 3.0 and "none" in play.readout.value
    play.add.click()  # drawn, which a matrix without columns must not break
    assert play.overlap().shape == (1, 0) and play.scores()["strict"].total < 3.0


# ------------------------------------------------------------------ confidence


@pytest.mark.parametrize("rule", CONFIDENCE_RULES)
@pytest.mark.parametrize("chance", [0.0, 0.31, 0.5, 0.77, 1.0])
def test_expected_scores_against_a_count(rule, chance):
    """Catches hit and miss exchanged: the mean over 100 boxes of which `chance` hit, scored one by one."""
    score, hits = CONFIDENCE_RULES[rule], round(100 * chance)
    for c in (0.0, 0.4, 1.0):
        each = [score(np.array([c]), np.array([float(i < hits)]), truths=1) for i in range(100)]
        assert expected_score(rule, chance)[int(100 * c)] == pytest.approx(np.mean(each))


@given(st.integers(0, 100).map(lambda p: p / 100))
def test_the_best_confidence(chance):
    """Proper rules are won by honesty alone, the linear one by certainty; at p = 1/2 it does not care."""
    assert best_confidence("shifted", chance) == pytest.approx([chance])
    assert best_confidence("brier", chance) == pytest.approx([chance])
    linear = best_confidence("linear", chance).tolist()
    assert linear == (GRID.tolist() if chance == 0.5 else [float(chance > 0.5)])


def test_the_confidence_explorer_says_what_it_draws():
    """Catches a star at the wrong place, and a readout of another p."""
    with undrawn():
        play = ConfidenceExplorer(chance=0.6)
        play.chance.value, play.confidence.value, play.brier.value = 0.3, 0.9, True
    play.redraw()
    pays, best = (next(line for line in axes.lines if line.get_marker() == "*") for axes in play.figure().axes)
    tops = [expected_score(rule, 0.3).max() for rule in ("linear", "shifted", "brier")]
    assert pays.get_xydata() == pytest.approx(np.transpose([(0.0, 0.3, 0.3), tops]))
    assert best.get_xydata() == pytest.approx(np.transpose([(0.3, 0.3, 0.3), (0.0, 0.3, 0.3)]))
    said = numbers(play.readout.value)
    assert said[:2] == [0.3, 0.9]
    lost = [[0.0, 0.7, 0.34, 0.36], [0.3, 0.545, 0.365, 0.18], [0.3, 0.79, 0.43, 0.36]]
    assert np.reshape(said[2:], (3, 4)) == pytest.approx(np.array(lost), abs=6e-4)
    press(play, "state c = p")
    assert play.confidence.value == 0.3
    play.chance.value = 0.5
    assert ">any<" in play.words()


# ------------------------------------------------------------------ ratio


@pytest.mark.parametrize("kind", sorted(set(LOSSES) - {"dr_grpo"}))
@pytest.mark.parametrize("advantage", [-1.5, 0.7])
@pytest.mark.parametrize("ratio", [0.5, 1.0, 1.1, 1.9])
def test_gradient_of_one_token_is_the_slope(kind, ratio, advantage):
    """Finite differences catch a sign, or a mean over rows left in.  CISPO's weight is no part of its gradient."""
    here = one_token(kind, ratio, advantage, (0.2, 0.28))
    step = 1e-6
    if kind == "cispo":
        slope = min(ratio, 1.28) * advantage
    else:
        up, down = (one_token(kind, ratio * np.exp(s), advantage, (0.2, 0.28))["objective"] for s in (step, -step))
        slope = (up - down) / (2 * step)
    assert here["gradient"] == pytest.approx(slope, abs=1e-6)
    many = gradients(kind, torch.tensor([0.3, ratio, 2.0]), torch.tensor([1.0, advantage, -1.0]), (0.2, 0.28))
    assert many[1].item() == pytest.approx(slope, abs=1e-5)


@pytest.mark.parametrize(
    ("ratio", "advantage", "objective", "gradient", "branch"),
    [
        (0.5, 1.0, 0.5, 0.5, "ρ A"),
        (1.5, 1.0, 1.2, 0.0, "clip(ρ) A"),
        (0.5, -1.0, -0.8, 0.0, "clip(ρ) A"),
        (1.5, -1.0, -1.5, -1.5, "ρ A"),
        (1.1, -1.0, -1.1, -1.1, "both agree"),
        (1.0, 1.0, 1.0, 1.0, "both agree"),
    ],
)
def test_the_four_quadrants(ratio, advantage, objective, gradient, branch):
    """By hand; catches min exchanged for max where A < 0, the commonest slip in other people's notebooks."""
    with undrawn():
        play = ClipExplorer()
        play.ratio.value, play.advantage.value = ratio, advantage
    assert play.state()["objective"] == pytest.approx(objective)
    assert play.state()["gradient"] == pytest.approx(gradient)
    assert play.branch().startswith(branch) and branch in play.words()
    assert numbers(play.words())[:4] == pytest.approx([ratio, advantage, objective, gradient])
    marks = [line.get_ydata()[0] for axes in play.figure().axes for line in axes.lines if line.get_marker() == "o"]
    assert marks == pytest.approx([objective, gradient, advantage])


def test_controls_without_effect_are_off():
    """A slider that moves and changes nothing reads as a broken one."""
    off = {}
    with undrawn():
        play, clip = AdvantagePlayground(REWARDS), ClipExplorer()
        for scale in ("std", "mean", "batch", "none"):
            play.scale.value = scale
            off[scale] = play.eps.disabled
        clip.kind.value = "cispo"
    assert off == {"std": False, "mean": True, "batch": False, "none": True}
    assert clip.eps_low.disabled and not clip.eps_high.disabled


def test_where_the_gradient_dies_is_drawn():
    """The grey of the map must be the two corners and no more, and none for CISPO."""
    play = ClipExplorer()
    press(play, "DAPO's bounds: 0.20, 0.28")
    assert (play.eps_low.value, play.eps_high.value) == (0.2, 0.28)
    dead = lambda: np.ma.getmaskarray(play.figure().axes[2].images[0].get_array())  # noqa: E731
    ratio, advantage = np.meshgrid(np.linspace(0.005, 2, 400), np.linspace(-2, 2, 80))
    assert (dead() == ((advantage > 0) & (ratio > 1.28)) | ((advantage < 0) & (ratio < 0.8))).all()
    play.kind.value = "cispo"
    assert not dead().any() and "keeps its gradient" in play.readout.value


# ------------------------------------------------------------------ KL


logits = st.lists(st.floats(-3, 3).map(lambda x: round(x, 1)), min_size=4, max_size=4)


@settings(max_examples=25, deadline=None)
@given(policy=logits, reference=st.integers(0, 2))
def test_kl_explorer_against_sums_by_hand(policy, reference):
    """Naive sums and the gradients in closed form: catches π and π_ref exchanged, and a gradient through the sampling.

    With p = softmax(z), ∂KL(p‖q)/∂z = p (log p/q - KL), and ∂KL(q‖p)/∂z = p - q.
    """
    with undrawn():
        play = KLExplorer()
        play.move(play.logits, policy)
        play.reference.value = play.reference.options[reference]
    p = np.exp(policy) / np.exp(policy).sum()
    q = play.references[play.reference.value].softmax(-1).numpy()
    log_ratio = np.log(p / q)
    kl = (p * log_ratio).sum()
    means = {"k1": kl, "k2": (p * log_ratio**2).sum() / 2, "k3": (p * (q / p - 1 + log_ratio)).sum()}
    assert play.divergence().item() == pytest.approx(kl, abs=1e-9)
    for kind, mean in means.items():
        assert play.expectation(kind).item() == pytest.approx(mean, abs=1e-9)
    forward = p * (log_ratio - kl)
    for kind, expected in {"k1": 0 * p, "k2": forward, "k3": p - q}.items():
        assert play.gradient(kind).numpy() == pytest.approx(expected, abs=1e-9)
    assert [gradient.numpy() for gradient in play.true_gradients().values()] == [
        pytest.approx(expected, abs=1e-9) for expected in (0 * p, forward, p - q)
    ]


def test_kl_explorer_says_whose_gradient_each_is():
    """The lesson of notebook 07 in one table; and no false claim where policy and reference are the same."""
    play = KLExplorer()
    rows = re.findall(r"<td[^>]*>(k\d)</td>.*?([^>]*)</td></tr>", play.readout.value)
    assert rows == [("k1", "0"), ("k2", "∇KL(π ‖ ref)"), ("k3", "∇KL(ref ‖ π)")]
    means = play.figure().axes[2]
    assert heights(means, 3) == pytest.approx([play.expectation(kind).item() for kind in ("k1", "k2", "k3")])
    press(play, "policy = reference")
    assert play.divergence().item() == pytest.approx(0, abs=1e-12)
    assert play.readout.value.count("0, as all are") == 3
    press(play, "as it began")
    assert [slider.value for slider in play.logits] == [1.4, 0.4, -0.4, -1.4]

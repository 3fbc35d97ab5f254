"""Rollout browser, reward lab and dashboard: what a click changes, and that the numbers shown are the right ones."""

import asyncio
import math
import time
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import small_runs
import torch
from PIL import Image

from minirft import UserError
from minirft import train as train_module
from minirft.advantages import group_advantages
from minirft.lessons import the_group
from minirft.lessons.practice import Practice
from minirft.lessons.record import records, records_written, token_weights, written_again
from minirft.rewards import prompts
from minirft.rewards.readings import Reward, reading
from minirft.rewards.redteam import audit
from minirft.runs.config import GRPOConfig
from minirft.runs.step import written
from minirft.samples import Sample
from minirft.show import play, style
from minirft.show import play as live
from minirft.show.dashboard import Dashboard, Probe
from minirft.show.lab import RewardLab, red_team_bars
from minirft.show.pictures import Group
from minirft.show.rescoring import BEHAVIOURS, average, pushes, red_team, rescore, reversed_pairs
from minirft.show.rollouts import ALL, DEGENERATE, FAILURE, TEACH, Record, RolloutBrowser, kinds
from minirft.show.tokens import COLUMNS, MARGIN, layout, shade

BOX, OTHER = [100, 200, 500, 600], [600, 600, 900, 900]
SAMPLE = Sample("0", Image.new("RGB", (40, 40)), "detection", "?", prompts.detection_solution([BOX]), "cat")


@pytest.fixture
def undrawn(monkeypatch):
    """Widgets whose figures are not turned into PNG files, which is what takes the time."""
    monkeypatch.setattr(play, "png", lambda figure, dpi: b"")


def text(*boxes, thought="a look"):
    items = ", ".join(f"{{'Position': {box}, 'Confidence': {c}}}" for box, c in boxes)
    return f"<think>{thought}</think> <answer>{f'[{items}]' if items else 'No Objects'}</answer>"


TEXTS = [text((BOX, 0.9)), text((BOX, 0.4), (OTHER, 0.8), thought="a long look at it"), text((OTHER, 0.7)), "nothing"]


def record(rewards, failures=(), **changes):
    advantages = group_advantages(torch.tensor([rewards]))[0].tolist()
    return Record(SAMPLE, [f"<b>{r}" for r in rewards], rewards, advantages, failures=list(failures), **changes)


@pytest.fixture(scope="module")
def lesson():
    return the_group()


@pytest.fixture(scope="module")
def of_lesson(lesson):
    return records(lesson.policy, lesson.rollout, lesson.scores, group_advantages(lesson.rewards))


# ------------------------------------------------------------------ records


def test_gradient_weight_is_the_advantage_over_rows_and_tokens(lesson):
    """Catches a heat map with the sign of the loss, padding counted as tokens, or one length for all completions."""
    advantages = group_advantages(lesson.rewards)
    found = token_weights(lesson.rollout, advantages, lesson.rollout.logprobs, GRPOConfig())
    expected = advantages[0, :, None] / (8 * lesson.rollout.lengths[:, None]) * lesson.rollout.completion_mask
    torch.testing.assert_close(found, expected)


def test_a_clipped_token_has_no_gradient_weight(lesson):
    """Catches weights taken at the old policy, where nothing is ever clipped."""
    advantages = group_advantages(lesson.rewards)
    far = lesson.rollout.logprobs + 0.5 * lesson.rollout.completion_mask  # ratio 1.65 everywhere
    found = token_weights(lesson.rollout, advantages, far, GRPOConfig())
    good = advantages[0] > 0
    assert not found[good].any() and (found[~good & (advantages[0] < 0)].sum(1) < 0).all()


def test_records_cut_the_padding_and_keep_the_order(lesson, of_lesson):
    """Catches numbers under the token of another completion, or of padding."""
    (only,) = of_lesson
    for b in range(8):
        assert "".join(only.tokens[b]).startswith(lesson.texts[b])
        for name, rows in only.heat.items():
            assert len(rows[b]) == len(only.tokens[b]) == lesson.rollout.lengths[b], name
    assert only.heat["log-prob"][2] == lesson.rollout.logprobs[2, : lesson.rollout.lengths[2]].tolist()
    assert set(only.heat["ratio"][0]) == {1.0} and set(only.heat["KL"][0]) == {0.0}
    assert only.parts["iou"][7] == 1.0 and only.failures[3] == "no answer block"


def test_ratio_and_kl_are_those_of_the_policy_now(lesson):
    """Catches a ratio turned round, and a KL taken against the sampling policy instead of the reference."""
    old = lesson.rollout.logprobs
    (only,) = records(
        lesson.policy,
        lesson.rollout,
        lesson.scores,
        group_advantages(lesson.rewards),
        now=old + 0.1,
        reference=old - 0.2,
    )
    assert only.heat["ratio"][0] == pytest.approx([math.exp(0.1)] * 27, rel=1e-4)
    assert only.heat["KL"][0] == pytest.approx([math.exp(-0.3) - 1 + 0.3] * 27, rel=1e-4)


def test_written_rows_become_the_same_tokens_again(lesson):
    """Catches a missing end-of-turn token, or log-probs of other tokens than were written."""
    rows = written(lesson.rollout, lesson.scores, group_advantages(lesson.rewards))
    again = written_again(lesson.policy, [lesson.sample], rows)
    assert torch.equal(again.completion_ids, lesson.rollout.completion_ids)
    torch.testing.assert_close(again.logprobs, lesson.rollout.logprobs)
    (only,) = records_written(lesson.policy, lesson.policy, [lesson.sample], rows, step=3)
    assert only.step == 3 and not any(map(any, only.heat["change"])) and only.rewards[7] == pytest.approx(2.99875)


# ------------------------------------------------------------------ browser


def test_select_by_kind_and_reward(undrawn):
    """Catches a filter that looks at the first completion only, or that loses the ends of the range."""
    groups = [record([0.0, 0.0]), record([0.5, 2.0], [None, "no answer block"]), record([1.0, 3.0])]
    found = {ALL: [0, 1, 2], TEACH: [1, 2], DEGENERATE: [0], FAILURE + "no answer block": [1]}
    assert kinds(groups) == found
    browser = RolloutBrowser(groups)
    for kind, places in found.items():
        browser.kind.value = kind
        assert browser.selected() == places
    browser.kind.value = ALL
    browser.worth.value = (2.0, 2.5)
    assert browser.selected() == [1]
    browser.worth.value = (3.0, 3.0)
    assert browser.selected() == [2]


def test_next_previous_and_filters_change_the_group(undrawn):
    """Catches a button that moves past the filter, or a filter that leaves the old place out of range."""
    browser = RolloutBrowser([record([0.0, 0.0], step=4), record([0.5, 2.0]), record([1.0, 3.0])])
    assert "group 1 of 3" in browser.readout.value and "degenerate group" in browser.readout.value
    assert "step 4" in browser.readout.value
    browser.next.click()
    assert "group 2 of 3" in browser.readout.value and "degenerate group" not in browser.readout.value
    browser.previous.click()
    browser.previous.click()
    assert "group 3 of 3" in browser.readout.value
    browser.kind.value = TEACH
    assert "group 1 of 2" in browser.readout.value and "mean reward 1.25" in browser.readout.value
    browser.worth.value = (0.0, 0.1)
    assert "no group fits" in browser.readout.value and browser.record() is None
    browser.drawing()


def test_choosing_a_completion_changes_the_picture(of_lesson):
    """Catches a picture that always shows the first answer."""
    browser = RolloutBrowser(of_lesson)
    before = browser.image.value
    browser.which.value = 2
    assert browser.image.value != before
    assert browser.figure().axes[0].get_title(loc="left").startswith("o₃")
    browser.which.value = 3
    assert browser.figure().axes[0].get_xlabel() == "unreadable: no answer block"


def test_colours_follow_the_chosen_number(of_lesson):
    """Catches colours of another number, of the wrong sign, or a neutral token that is not white."""
    browser = RolloutBrowser(of_lesson, heat="ratio")
    assert set(browser.readout.value.split("background:rgb(")[1].split(")")[0].split(",")) == {"255"}
    browser.heat.value = "gradient weight"
    colours = [browser._colour(of_lesson[0], g, 0) for g in (7, 6)]  # A > 0, A < 0
    assert colours[0][2] > colours[0][0] and colours[1][0] > colours[1][2]
    assert shade(0.5, 0.5, 1.0) == (1, 1, 1) and shade(9.0, 0.0, 1.0) == shade(1.0, 0.0, 1.0)


def test_hostile_tokens_stay_text():
    """Catches a completion that runs in the reader's page."""
    bad = "<script>alert(1)</script>"
    group = record([0.0, 1.0], [bad, None], tokens=[[bad], ["$\\frac{"]], heat={"log-prob": [[-1.0], [-2.0]]}, note=bad)
    browser = RolloutBrowser([group])
    assert "<script>" not in browser.readout.value and "&lt;script&gt;" in browser.readout.value
    style.small_png(browser.drawing())
    assert "<b>0.0" not in RolloutBrowser([record([0.0, 1.0])]).readout.value  # plain texts are escaped too


def test_tokens_are_laid_out_without_overlap():
    """Catches tokens drawn over each other, or over the right edge."""
    placed = layout([["word "] * 90, ["x" * 300], ["y" * 70] * 30], ["a", "b", "c"])
    for (_, t, token, column, line), (_, _, _, after, below) in pairwise(placed):
        assert column + len(token) <= COLUMNS and (below > line or after >= column + len(token) or t < 0)
    assert min(column for _, t, _, column, _ in placed if t >= 0) == MARGIN
    assert placed[-1][2] == "…"


def test_what_stands_in_for_the_browser_is_a_small_picture(of_lesson, monkeypatch):
    """Catches a notebook whose widget shows nothing on GitHub, or whose picture has half a megabyte."""
    shown = []
    monkeypatch.setattr(live, "display", lambda bundle, raw: shown.append(bundle))
    RolloutBrowser(of_lesson)._ipython_display_()
    assert {"image/png", "application/vnd.jupyter.widget-view+json"} <= set(shown[0])
    assert len(shown[0]["image/png"]) < 90_000


# ------------------------------------------------------------------ the same rollouts again

GROUPS = [Group(SAMPLE, TEXTS, [], []), Group(SAMPLE, TEXTS[::-1], [], [])]


def test_rescore_is_the_reward_and_its_advantages():
    """Catches scores under another text, or a total without its weights."""
    reward = reading("detection", weights={"format": 0.5})
    found = rescore(GROUPS, reward)
    assert found.rewards[0].tolist() == pytest.approx([reward(t, SAMPLE.solution).total for t in TEXTS])
    torch.testing.assert_close(found.advantages, group_advantages(found.rewards))
    assert found.dead == 0 and found.best == [0, 3]
    assert rescore(GROUPS, lambda completion, solution: 1.0).dead == 2


def test_push_is_the_first_order_change_under_a_tilt():
    """Catches a push that is not the direction in which exp(ηA) moves a behaviour, the claim that it rests on."""
    found = rescore(GROUPS[:1], reading("detection"))
    words = np.array([len(t.split()) for t in TEXTS], dtype=float)
    step = 1e-6
    tilted = np.exp(step * found.advantages[0].numpy())
    change = ((tilted / tilted.sum()) @ words - words.mean()) / step
    spread = found.advantages[0].std(correction=0).item() * words.std()
    assert pushes(GROUPS[:1], found.advantages, BEHAVIOURS)["words"] == pytest.approx(change / spread, rel=1e-4)


def test_push_ignores_what_does_not_vary_or_is_not_there():
    """Catches NaN from an unreadable answer, and a group's level taken for a push."""
    advantages = torch.tensor([[1.0, -1.0, 0.0, 0.0]] * 2, dtype=torch.float64)
    found = pushes(GROUPS, advantages, BEHAVIOURS | {"same": lambda text, solution: 5.0})
    assert found["same"] == 0.0 and all(map(math.isfinite, found.values()))
    values = [0.9, 0.6, 0.7]  # mean confidence of the readable ones
    centred = np.array(values) - np.mean(values)
    expected = centred @ [1, -1, 0] / math.sqrt(2 * (centred**2).sum())
    assert pushes(GROUPS[:1], advantages[:1], BEHAVIOURS)["confidence"] == pytest.approx(expected)


def test_reversed_pairs_against_enumeration():
    """Catches ties counted as reversals, and pairs across groups."""
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(5, 6, generator=generator).round() for _ in range(2))
    pairs = [(p, i, j) for p in range(5) for i in range(6) for j in range(i)]
    ordered = [(p, i, j) for p, i, j in pairs if first[p, i] != first[p, j]]
    turned = sum((first[p, i] - first[p, j]) * (second[p, i] - second[p, j]) < 0 for p, i, j in ordered)
    assert reversed_pairs(first, second) == pytest.approx(float(turned) / len(ordered))
    assert reversed_pairs(torch.ones(1, 3), torch.randn(1, 3)) == 0.0


def test_behaviours_of_answers():
    """Catches a behaviour that is read off an unreadable answer."""
    found = average(TEXTS, [SAMPLE.solution] * 4, BEHAVIOURS)
    assert found == pytest.approx(
        {"boxes": 4 / 3, "found": 0.5, "confidence": 2.2 / 3, "words": found["words"], "readable": 0.75}
    )
    assert average([text()], [prompts.detection_solution([])], {"found": lambda *_: 1.0}) == {"found": 1.0}


def test_red_team_pays_what_the_audit_pays():
    """Catches an answer left out or scored on another solution: `redteam.audit` is the oracle."""
    audited = {row["answer"]: row for row in audit("detection", "paper")}
    found = {row["answer"]: row for row in red_team(reading("detection", "paper"))}
    assert found.keys() == audited.keys()
    for name, row in found.items():
        assert row["total"] == pytest.approx(audited[name]["total"]) and row["kind"] == audited[name]["kind"]
        assert row["share"] == pytest.approx(audited[name]["share"])
    assert len(red_team_bars({"paper": list(found.values())}, worst=4).axes[0].patches) == 5


def test_a_reward_of_ones_own_that_fails_says_why():
    """A reader's own function whose mistake becomes a NaN in every figure of the lab."""
    with pytest.raises(UserError, match=r"the reward failed: .*ZeroDivisionError"):
        rescore(GROUPS, lambda completion, sample: 1 / 0)


# ------------------------------------------------------------------ the lab's widget


def strict_and(**more):
    return RewardLab(GROUPS, {"strict": reading("detection"), **more}, BEHAVIOURS)


def test_weights_move_the_readout(undrawn):
    """Catches sliders that are drawn but not read, and a reward whose own weights are changed by them."""
    lab = strict_and()
    assert "dead groups: 0 of 2 → 0 of 2" in lab.readout.value and "0% of the ordered pairs" in lab.readout.value
    for slider in lab.weights.values():
        slider.value = 0.0
    assert "dead groups: 0 of 2 → 2 of 2" in lab.readout.value
    lab.weights["iou"].value = -1.0
    assert "100% of" not in lab.readout.value and "0% of the ordered" not in lab.readout.value.split("·")[1][:5]
    assert lab.rewards["strict"].weights == {"iou": 1.0, "confidence": 1.0, "format": 1.0}


def test_groups_with_another_winner_are_named(undrawn):
    """Catches numbers that are not those of the group slider, and a line that grows with the number of groups."""
    lab = RewardLab(
        GROUPS * 4, {"strict": reading("detection"), "short": lambda text, solution: -float(len(text))}, BEHAVIOURS
    )
    assert "another best completion in 8 of 8 groups (0, 1, 2, 3, 4, 5, …)" in lab.readout.value
    lab.group.value = 5
    assert lab.figure().axes[0].get_title(loc="left") == "order of group 5"
    one = rescore(GROUPS[1:], reading("detection")), rescore(GROUPS[1:], lambda text, solution: -float(len(text)))
    assert f"group 5: {reversed_pairs(*(x.rewards for x in one)):.0%} of its pairs reversed" in lab.readout.value
    lab.trial.value = "strict"
    assert "another best completion in 0 of 8 groups<br>" in lab.readout.value


def test_a_reward_goes_on_trial_with_its_own_sliders(undrawn):
    """Catches sliders of the reward before."""
    lab = strict_and(paper=reading("detection", "paper"), mine=lambda completion, solution: float(len(completion)))
    assert lab.trial.value == "mine" and list(lab.weights) == ["own"] and len(lab.sliders.children) == 1
    first = lab.readout.value
    lab.trial.value = "paper"
    assert lab.readout.value != first
    assert list(lab.weights) == ["iou", "confidence", "format"] and lab.base.value == "strict"


def test_the_red_team_comes_at_a_click(undrawn):
    """Catches a button that does nothing, or sends the red team against the reward before the sliders moved."""
    lab = strict_and()
    assert lab.report.value == ""
    lab.attack.click()
    before = lab.report.value
    assert "<table" in before and "%" in before
    lab.weights["iou"].value = lab.weights["confidence"].value = 0.0
    lab.attack.click()
    assert lab.report.value != before and "100%" in lab.report.value
    lab.group.value = 1
    assert len(lab.figure().axes) == 2


# ------------------------------------------------------------------ the dashboard


def until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.005)


def test_a_run_ends_by_itself_and_leaves_a_picture():
    """Catches steps counted from 0, a probe that is forgotten at the start or the end, and a wait that never ends."""
    asked = []

    def probe():
        asked.append(len(dashboard.rows))
        return Probe([SAMPLE], [TEXTS[0]], {"probe IoU": 1.0})

    dashboard = Dashboard(lambda k, rate: {"reward": k / 10}, probe, steps=5, learning_rate=1e-3, every=2)
    assert "not started" in dashboard.readout.value
    picture = dashboard.start().wait()
    assert [row["step"] for row in dashboard.rows] == [1, 2, 3, 4, 5] and asked == [0, 2, 4]
    assert picture._repr_png_()[1:4] == b"PNG"
    assert dashboard.readout.value.startswith(
        "step 5 of 5 · ended · learning rate 1.0e-03 · reward 0.50 · probe IoU 1.00"
    )
    assert dashboard.bar.value == 5 and dashboard.image.value[1:4] == b"PNG"


def test_a_probe_without_a_box_says_why(undrawn):
    """Catches an answer "No Objects" that looks like one that cannot be read."""
    answers = [TEXTS[0], text(), "nothing"]
    dashboard = Dashboard(lambda k, rate: {}, lambda: Probe([SAMPLE] * 3, answers), steps=1, learning_rate=1e-3)
    dashboard.start().wait()
    notes = ["", "No Objects", "unreadable: no answer block"]
    assert [axes.get_xlabel() for axes in dashboard.figure().axes[-3:]] == notes


def test_what_is_stored_shows_the_answers_before_training(undrawn, monkeypatch):
    """Catches a page whose dashboard is a sentence, and a run that begins although the probe fails."""
    stored = []
    monkeypatch.setattr("minirft.show.dashboard.live", lambda widget, static, small: stored.append(static))
    slow = lambda: time.sleep(0.1) or Probe([SAMPLE], TEXTS[:1])  # noqa: E731
    Dashboard(lambda k, rate: {}, slow, steps=1, learning_rate=1e-3).start()._ipython_display_()
    assert [[axes.get_title(loc="left")[:6] for axes in figure.axes[2:]] for figure in stored] == [["step 0"]]
    failing = Dashboard(lambda k, rate: {}, lambda: 1 / 0, steps=1, learning_rate=1e-3)
    with pytest.raises(ZeroDivisionError):
        failing.start()
    assert not failing.running and not failing.rows


def test_the_learning_rate_reaches_the_next_step(undrawn):
    """Catches a slider that only changes the readout."""
    dashboard = Dashboard(lambda k, rate: {"reward": rate}, steps=2, learning_rate=1e-3)
    dashboard.start().wait()
    dashboard.rate.value = 1e-4
    assert "learning rate 1.0e-04" in dashboard.readout.value
    dashboard.more.click()
    dashboard.wait()
    assert len(dashboard.rows) == 22 and dashboard.rows[1]["lr"] == pytest.approx(1e-3)
    assert dashboard.rows[-1]["reward"] == dashboard.rows[-1]["lr"] == pytest.approx(1e-4)


def test_pause_holds_and_resume_goes_on(undrawn):
    """Catches a pause that lets steps through, and one that blocks for ever."""
    dashboard = Dashboard(lambda k, rate: time.sleep(0.01) or {"reward": 1.0}, steps=10_000, learning_rate=1e-3)
    dashboard.start()
    until(lambda: len(dashboard.rows) > 2)
    dashboard.pausing.click()
    assert dashboard.pausing.description == "resume"
    held = len(dashboard.rows)
    time.sleep(0.2)
    assert len(dashboard.rows) <= held + 1  # the step in progress may end
    assert "paused" in dashboard.readout.value and dashboard.running
    dashboard.pausing.click()
    until(lambda: len(dashboard.rows) > held + 1)
    dashboard.stopping.click()
    dashboard.wait()
    assert len(dashboard.rows) < 10_000 and not dashboard.running


def test_stop_ends_a_paused_run_and_start_goes_on(undrawn):
    """Catches a paused thread that outlives the notebook, and a restart that begins from step 1."""
    dashboard = Dashboard(lambda k, rate: time.sleep(0.01) or {}, steps=10_000, learning_rate=1e-3)
    dashboard.start().pause()
    dashboard.stop()
    until(lambda: not dashboard.running)
    done = len(dashboard.rows)
    dashboard.start()
    until(lambda: len(dashboard.rows) > done)
    dashboard.stop()
    dashboard.wait()
    assert [row["step"] for row in dashboard.rows] == list(range(1, len(dashboard.rows) + 1))


def test_a_failing_step_is_said_and_raised(undrawn):
    """Catches an exception that dies with its thread, so that a failed notebook passes."""

    def step(k, rate):
        raise ValueError(f"step {k} <broke>")

    dashboard = Dashboard(step, steps=3, learning_rate=1e-3).start()
    with pytest.raises(ValueError, match="step 1 <broke>"):
        dashboard.wait()
    assert "stopped by ValueError: step 1 &lt;broke&gt;" in dashboard.readout.value


def test_an_awaiting_cell_leaves_the_kernel_free(undrawn):
    """Catches buttons that are dead while a cell waits for the end: whatever else the loop has to do must run."""
    dashboard = Dashboard(lambda k, rate: time.sleep(0.01) or {}, steps=10_000, learning_rate=1e-3).start()

    async def cell():
        waiting = asyncio.create_task(dashboard.done())
        await asyncio.sleep(0.05)
        dashboard.stopping.click()
        return await waiting

    assert asyncio.run(cell())._repr_png_()[1:4] == b"PNG" and len(dashboard.rows) < 10_000


def test_while_a_cell_awaits_every_message_of_a_widget_is_answered(undrawn, monkeypatch):
    """Catches a slider of which only the first change arrives: the page waits for "idle" before it sends another."""
    said = []
    kernel = SimpleNamespace(
        shell_handlers={"comm_msg": lambda *message: said.append(message)},
        iopub_socket="iopub",
        send_response=lambda socket, kind, content: said.append((socket, kind, content["execution_state"])),
    )
    hear = kernel.shell_handlers["comm_msg"]
    monkeypatch.setattr(live, "get_ipython", lambda: SimpleNamespace(kernel=kernel))
    dashboard = Dashboard(lambda k, rate: time.sleep(0.01) or {}, steps=10_000, learning_rate=1e-3).start()

    async def cell():
        waiting = asyncio.create_task(dashboard.done())
        await asyncio.sleep(0.05)
        kernel.shell_handlers["comm_msg"]("stream", "ident", "a change")
        dashboard.stop()
        await waiting

    asyncio.run(cell())
    assert said == [("stream", "ident", "a change"), ("iopub", "status", "idle"), ("iopub", "status", "busy")]
    with pytest.raises(KeyError), live.answering():
        raise KeyError
    assert kernel.shell_handlers["comm_msg"] is hear


# ------------------------------------------------------------------ practice


def test_practice_is_the_run_that_train_does(tiny_random, tmp_path, monkeypatch):
    """Catches a lesson that trains on other samples, another stream, or another reward than `minirft train`."""
    monkeypatch.setattr(train_module, "reward_for", small_runs.earnable)
    config = small_runs.small_config(tiny_random, tmp_path / "run", steps=3)
    logged = [row for row in train_module.run(config) if row["kind"] == "train"]
    run = Practice(config, small_runs.earnable()).run()
    for mine, theirs in zip(run.rows, logged, strict=True):
        assert {k: v for k, v in mine.items() if "second" not in k} == {
            k: v for k, v in theirs.items() if "second" not in k
        }
    assert [len(rows) for rows in run.written] == [8, 8, 8]
    other = Practice(config, Reward({"zero": lambda text, solution: 0.0}, {"zero": 1.0}))
    assert other.step(1, rate=5e-4)["lr"] == 5e-4

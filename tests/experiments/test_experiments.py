"""The comparison of methods: streams that never meet, a board that loses nothing, statistics that are right."""

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from result_tables import effects, experiments

from minirft import UserError
from minirft.data.shots import is_present
from minirft.evaluation.scores import metrics
from minirft.experiments import bases, cells, settings
from minirft.experiments.bases import RECIPES, fresh_policy
from minirft.experiments.board import Board, choose, keys_to_test, keys_to_tune, run_cells
from minirft.experiments.cells import TUNING_SEED, Key, run_cell, training
from minirft.experiments.gate import FORCED, THINKS_CAREFULLY, answers
from minirft.experiments.settings import EXPERIMENTS, METHODS, find
from minirft.experiments.statistics import difference, estimate
from minirft.experiments.summary import lines, table
from minirft.runs.loop import generate
from minirft.samples import Sample

NAME = "coco-fewshot"
PART = "8 categories"


def pixels(samples: list[Sample]) -> set[bytes]:
    return {sample.image.tobytes() for sample in samples}


# ------------------------------------------------------------------ what is asked


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_training_validation_and_test_never_meet(name: str, monkeypatch: pytest.MonkeyPatch):
    """A picture that is trained on or chosen by, and tested on."""
    monkeypatch.setattr(settings, "CHOOSE_BY", 20)
    for part in find(name).parts.values():
        seen = pixels(part.train(min(part.shots), TUNING_SEED)) | pixels(part.train(min(part.shots), 1))
        asked = pixels(part.validation())
        assert asked and not seen & asked
        for test in part.tests:
            assert not (seen | asked) & pixels(part.test(test, 20))


def test_shots_are_nested_and_counted():
    """Another split at every number of shots, or k shots of some categories only."""
    part = find(NAME).parts[PART]
    few, more = part.train(2, 1), part.train(4, 1)
    shown = [sample.category for sample in few if is_present(sample)]
    assert {shown.count(name) for name in part.names} == {2}
    assert pixels([s for s in few if is_present(s)]) <= pixels(more)
    assert pixels(few) != pixels(part.train(2, 2))


def test_tests_ask_for_what_they_say():
    """The novel categories among the base ones, named questions among those to reason out."""
    novel = find("open-vocabulary").parts["65 base"]
    trained = {sample.category for sample in novel.train(0, 1)}
    assert not trained & {sample.category for sample in novel.test("novel", 40)}
    grounding = find("grounding").parts["239 pictures"]
    assert len(grounding.train(0, 1)) == 239
    kinds = [
        {s.category in settings.world.EXTREMES for s in grounding.test(kind, 30)} for kind in ("named", "reasoned")
    ]
    assert kinds == [{False}, {True}]


def test_unknown_experiment_is_named():
    """A typing error that runs nothing and says nothing."""
    with pytest.raises(UserError, match="no experiment coco; choose from classification"):
        find("coco")


# ------------------------------------------------------------------ the board


def fake(key: Key) -> dict:
    """A cell in no time: validation is best at 20 steps and the middle rate, tests grow with the seed."""
    if key.tunes:
        rates = settings.RATES[key.method]
        return {"validation": {str(s): float(s == 20) - abs(rates.index(key.rate) - 1) for s in (10, 20, 40, 80)}}
    cost = {"seconds_training": 2.0, "pictures_seen": 160, "completions_sampled": 1280 * (key.method == "rft")}
    value = 0.1 * METHODS.index(key.method) + 0.002 * key.seed if key.method != "base" else 0.05
    found = {"ap50_pooled": value, "draws": [value, value]}
    return {"tests": {name: {"greedy": found, "sampled": found} for name in ("same", "other")}, **cost}


def fails_on_the_third(key: Key) -> dict:
    if key == keys_to_tune(NAME)[2]:
        raise UserError("no more")
    return fake(key)


def test_a_run_goes_on_where_it_was(tmp_path: Path):
    """Cells done twice, or lost, when a run is stopped; a rate chosen by another method's validation."""
    board = Board.open(tmp_path / "x.json", NAME)
    with pytest.raises(UserError, match="no more"):
        run_cells(board, keys_to_tune(NAME), "", 1, False, fails_on_the_third)
    assert 1 <= len(board.cells) <= 3
    again = Board.open(tmp_path / "x.json", NAME)
    assert again.cells == board.cells
    done = []
    again.add = lambda key, found, add=again.add: (done.append(key), add(key, found))
    run_cells(again, keys_to_tune(NAME), "", 1, False, fake)
    assert not set(done) & set(board.cells) and set(again.cells) == set(keys_to_tune(NAME))
    assert choose(again, NAME, PART, "rft", 4) == (1e-4, 20)
    run_cells(again, keys_to_test(again, NAME, 2), "", 1, False, fake)
    found = {(line.test, line.shots, line.mode, line.what): line.found for line in lines(again, NAME)}
    assert found["same", 4, "greedy", "rft"].mean == pytest.approx(0.203)
    assert found["other", 1, "sampled", "rft - sft-reasoning"].mean == pytest.approx(0.1)
    assert found["same", 2, "greedy", "rft - base"].low == pytest.approx(0.152)
    assert found["same", 0, "greedy", "base"].seeds == 1
    assert table(lines(again, NAME)).count("\n") == len(found)
    json.loads((tmp_path / "x.json").read_text())


@pytest.mark.slow
def test_processes_side_by_side_do_the_same(tmp_path: Path):
    """A cell that a process cannot be sent, or whose result goes to another key."""
    for workers in (1, 2):
        run_cells(Board.open(tmp_path / f"{workers}.json", NAME), keys_to_tune(NAME)[:6], "", workers, False, fake)
    one, two = (json.loads((tmp_path / f"{workers}.json").read_text())["cells"] for workers in (1, 2))
    assert one == two and len(one) == 6


def waits(key: Key) -> dict:
    """A cell that never ends, in a process that says which it is."""
    (Path(os.environ["MINIRFT_TEST_PIDS"]) / str(os.getpid())).touch()
    time.sleep(600)
    return {}


def run_two_that_wait(folder: Path) -> None:
    run_cells(Board.open(folder / "x.json", NAME), keys_to_tune(NAME)[:2], "", 2, False, waits)


@pytest.mark.slow
def test_no_worker_outlives_a_killed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Workers of a run that was killed stay, hold a gigabyte each, and slow down the run that goes on."""
    monkeypatch.setenv("MINIRFT_TEST_PIDS", str(tmp_path))
    run = multiprocessing.get_context("spawn").Process(target=run_two_that_wait, args=(tmp_path,))
    run.start()
    try:
        wait_until(lambda: len(pids(tmp_path)) == 2, seconds=300)  # a busy machine starts two processes in over 60 s
        os.kill(run.pid, signal.SIGKILL)
        wait_until(lambda: not any(is_running(pid) for pid in pids(tmp_path)))
    finally:
        for pid in pids(tmp_path):
            if is_running(pid):
                os.kill(pid, signal.SIGKILL)
        run.kill()


def pids(folder: Path) -> list[int]:
    return [int(path.name) for path in folder.iterdir() if path.name.isdigit()]


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")  # a dead child that nobody has asked about is no process any more
    return not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def wait_until(happened: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.1)


def test_a_file_of_other_settings_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Cells of two protocols in one table."""
    file = tmp_path / "x.json"
    Board.open(file, NAME).add(keys_to_tune(NAME)[0], {"validation": {}})
    Board.open(file, NAME)
    with pytest.raises(UserError, match="made with other settings"):
        Board.open(file, "grounding")
    file.write_text("{}")
    with pytest.raises(UserError, match="not the file of an experiment"):
        Board.open(file, NAME)


def test_of_equals_the_shorter_training_is_chosen(tmp_path: Path):
    """Steps that bring nothing and are paid for."""
    board = Board(tmp_path / "x.json")
    for key in keys_to_tune(NAME):
        board.cells[key] = {"validation": {"10": 0.5, "20": 0.5}}
    assert choose(board, NAME, PART, "sft", 1) == (3e-5, 10)


# ------------------------------------------------------------------ a cell


def test_a_cell_starts_from_the_base(monkeypatch: pytest.MonkeyPatch):
    """What a cell learnt, met again by the next one in the same process; a cell that is not a function of its key."""
    part = find(NAME).parts[PART]
    questions = part.test("same", 6)
    monkeypatch.setattr(settings, "CHOOSE_BY", 6)

    def texts() -> list[str]:
        return generate(fresh_policy(), settings.config(0), questions, "sampled")

    before = texts()
    learnt = []
    for _ in range(2):
        *_, (_, policy) = training(part, Key(NAME, PART, "sft-reasoning", 1, 1, 1e-3, 2))
        learnt.append(generate(policy, settings.config(0), questions, "sampled"))
    assert learnt[0] == learnt[1] != before
    assert texts() == before


def test_a_cell_of_every_kind(monkeypatch: pytest.MonkeyPatch):
    """A method that trains on the wrong target, or a record without what the summary reads."""
    monkeypatch.setattr(settings, "CHOOSE_BY", 4)
    monkeypatch.setattr(settings, "TEST_ON", 4)
    monkeypatch.setattr(settings.Part.test, "__defaults__", (4,))
    monkeypatch.setattr(cells, "STOPS", dict.fromkeys(settings.STOPS, (1, 2)))
    cells.asked.cache_clear()
    tuned = run_cell(Key("classification", "pet", "rft", 1, TUNING_SEED, 1e-4))
    assert list(tuned["validation"]) == ["1", "2"]
    tested = run_cell(Key("classification", "pet", "sft-quick", 1, 1, 1e-4, 1))
    assert tested["pictures_seen"] == 8 and tested["completions_sampled"] == 0
    assert len(tested["tests"]["same"]["sampled"]["draws"]) == cells.DRAWS
    assert len(tested["tests"]["same"]["answers"]) == 4 and tested["tests"]["same"]["greedy"]["careful"] < 1
    base = run_cell(Key("classification", "pet", "base", 0, 1))
    assert base["pictures_seen"] == 0
    cells.asked.cache_clear()


# ------------------------------------------------------------------ statistics


def test_interval_covers_both_kinds_of_chance():
    """Seeds or questions left out of the interval: it would be too narrow to be honest.  400 simulated experiments."""
    generator, covered = np.random.default_rng(0), 0
    for _ in range(400):
        seeds, questions = generator.normal(0, 0.03, 5), generator.normal(0, 0.02)
        resampled = generator.normal(0, 0.02, 200)
        values = 0.5 + seeds + questions
        found = estimate(values, values[:, None] + resampled, resamples=400)
        covered += found.low <= 0.5 <= found.high
    assert 0.85 < covered / 400 < 0.98  # five seeds: a percentile bootstrap is somewhat narrow


def test_difference_is_paired():
    """Two methods that share questions and seeds compared as if they were strangers."""
    draws = np.random.default_rng(0).normal(0.5, 0.1, (5, 200))
    found = difference((draws.mean(1) + 0.02, draws + 0.02), (draws.mean(1), draws))
    assert found.low == pytest.approx(0.02) and found.high == pytest.approx(0.02) and found.excludes_zero
    with pytest.raises(ValueError, match="one row of draws per seed"):
        estimate([0.1, 0.2], [[0.1]])


def test_five_seeds_that_scatter_make_no_star():
    """A difference called sure by a bootstrap of five seeds, where a t interval over them holds zero: +.07 ± .09.

    The row is kept: RFT less SFT on aircraft, two pictures of each class, sampled answers.
    """
    board = Board.open(Path(__file__).parents[2] / "results" / "tiny" / "classification.json", "classification")
    keys = [("aircraft", 2, "sampled", "rft - sft"), ("aircraft", 1, "sampled", "rft - sft")]
    unsure, sure = (
        next(x.found for x in lines(board, "classification") if (x.part, x.shots, x.mode, x.what) == key)
        for key in keys
    )
    assert unsure.low > 0 > unsure.over_seeds[0] and not unsure.excludes_zero
    assert sure.low > 0 and sure.over_seeds[0] > 0 and sure.excludes_zero


def test_a_table_shows_what_is_finished(tmp_path: Path):
    """A row of a method with two seeds beside one with five, or a difference with the wrong sign or column."""
    board = Board.open(tmp_path / f"{NAME}.json", NAME)
    run_cells(board, keys_to_tune(NAME), "", 1, False, fake)
    paper = Path(__file__).parents[2] / "results" / "paper.json"
    assert experiments(tmp_path, paper).startswith("The tables show 0 differences")
    left = keys_to_test(board, NAME, 2)
    run_cells(
        board, [key for key in left if key.shots < 16 or key.seed == 1 or key.method != "rft"], "", 1, False, fake
    )
    text = experiments(tmp_path, paper)
    rows = [row for row in text.splitlines() if row.startswith(f"| {PART}")]
    expected = [[test, k] for _ in ("greedy", "sampled") for test in ("same", "other") for k in "1248"]
    assert [row.split(" | ")[1:3] for row in rows] == expected
    gaps = "**+0.15 [+0.15, +0.15]** | **+0.20 [+0.20, +0.20]** | **+0.10 [+0.10, +0.10]**"
    assert rows[0] == f"| {PART} | same | 1 | 0.05 | 0.00 | 0.10 | 0.20 | {gaps} | 19.6, 19.5, 33.6 |"
    assert rows[8] == f"| {PART} | same | 1 | 0.05 | 0.00 | 0.10 | 0.20 | {gaps} |"
    assert "SFT 2 s, 160 pictures; SFT, reasoning 2 s, 160 pictures; RFT 2 s, 160 pictures, 1280 completions." in text


def test_effects_are_counted_by_their_sign(tmp_path: Path):
    """An effect opposite to the paper's, or one that is not sure, counted as one that held."""
    board = Board.open(tmp_path / f"{NAME}.json", NAME)
    run_cells(board, keys_to_tune(NAME), "", 1, False, fake)
    run_cells(board, keys_to_test(board, NAME, 2), "", 1, False, fake)
    rows = effects(tmp_path, Path(__file__).parents[2] / "results" / "paper.json").splitlines()[2:]
    assert [row.split(" | ")[1] for row in rows] == ["RFT - base", "RFT - SFT", "SFT - base"]
    assert "+0.20 to +0.20: 5 same sign | +0.20 to +0.20: 5 same sign" in rows[1]
    assert "opposite" in rows[2] and "same sign" in rows[2]  # ours falls behind the base, the paper's not at all shots


# ------------------------------------------------------------------ other bases


@pytest.mark.parametrize("steps", [15, pytest.param(60, marks=pytest.mark.slow)])
def test_bases_differ_in_habit_only(steps: int, monkeypatch: pytest.MonkeyPatch):
    """A base whose habit the recipe did not move, or whose ability it spoilt; the embedded base changed on the way.

    A quarter of the recipe's steps moves the habit most of the way.
    """
    assert RECIPES["quick"].steps == RECIPES["careful"].steps == 60
    monkeypatch.setattr(bases, "_weights", cache(bases._weights.__wrapped__))
    for base in ("quick", "careful"):
        monkeypatch.setitem(RECIPES, base, replace(RECIPES[base], steps=steps))
    questions = find("bases").parts["quick"].test("same", 40)
    shares, able = {}, {}
    for base in ("embedded", "quick", "careful"):
        policy = fresh_policy(base)
        sampled = answers(policy, questions, greedy=False)
        forced = answers(policy, questions, greedy=True, forced=FORCED)
        shares[base] = sum(THINKS_CAREFULLY in text for text in sampled) / len(questions)
        able[base] = metrics("detection", forced, questions, resamples=0)["ap50_pooled"]
    assert 0.15 < shares["embedded"] < 0.6
    if steps == 60:
        assert shares["quick"] <= 0.05 and shares["careful"] > 0.9
    assert shares["quick"] + 0.1 <= shares["embedded"] <= shares["careful"] - 0.3
    assert 0.4 < min(able.values()) > max(able.values()) - 0.15

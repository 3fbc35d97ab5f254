"""A reward of one's own: its form, what a mistake in it says, what a failure costs, and what a resume holds it to."""

import contextlib
import json
import math
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from small_runs import small_config, trace

import minirft
from minirft import UserError
from minirft.commands.cli import main
from minirft.data import training_feed
from minirft.rewards import OwnReward, Score, audit, fingerprint, from_trl, load_function, reading, reward_for, to_trl
from minirft.runs import GRPOConfig, load_config, load_policy, make_optimiser
from minirft.samples import Sample, Task
from minirft.train import grpo_step, run

CAT = Sample("cat-7", Image.new("RGB", (4, 3)), "classification", "What is it?", "<answer>cat</answer>", "cat")
TEXT = "<think>ears</think> <answer>cat</answer>"
DIGITS = "def digits(completion, sample):\n    return sum(c.isdigit() for c in completion) / (len(completion) + 1)\n"


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.fixture
def config(tiny_random: Path, tmp_path: Path) -> GRPOConfig:
    """A run of six small steps with a reward from a file."""
    reward = write(tmp_path / "mine.py", DIGITS) + ":digits"
    return small_config(tiny_random, tmp_path / "run", reward=reward)


# ------------------------------------------------------------------ the form


def test_a_number_is_a_part_and_a_dict_is_parts_with_weights():
    """A dict whose entries are added without their weights, or a part that the log cannot name."""

    def short(completion: str, sample: Sample) -> float:
        return 1 - len(completion) / 100

    assert OwnReward(short)(TEXT, CAT) == Score(0.6, {"short": 0.6}, None)
    two = OwnReward(lambda completion, sample: {"a": 2, "b": torch.tensor(3.0)}, {"b": 0.5})
    assert two(TEXT, CAT) == Score(3.5, {"a": 2.0, "b": 3.0}, None)
    assert two("<think>", CAT).failure == "no answer block"  # the parse rate goes on being measured


def test_it_sees_picture_question_truth_and_answer():
    """A reward that is handed texts only: nobody could pay for what is in the picture."""
    seen: dict[str, Any] = {}

    def look(completion: str, sample: Sample) -> float:
        seen.update(size=sample.picture().size, question=sample.problem, truth=sample.solution, task=sample.task)
        return 1.0

    OwnReward(look)(TEXT, CAT)
    assert seen == {"size": (4, 3), "question": CAT.problem, "truth": CAT.solution, "task": "classification"}


@pytest.mark.parametrize("variant", ["strict", "paper", "official"])
@pytest.mark.parametrize("task", ["detection", "classification", "grounding"])
def test_the_packages_own_rewards_have_the_same_form(task: Task, variant: str):
    """Two kinds of reward: a function of one's own could not start from a reading, or be wrapped round one."""
    rows = audit(task, reward_for(task, variant))
    built = reading(task, variant)  # type: ignore[arg-type]
    assert rows == audit(task, OwnReward(built)) or variant == "official"  # whose NaN fails in a reward of one's own
    answer = "<answer>cat</answer>"
    sample = replace(CAT, task=task) if task == "classification" else replace(CAT, task=task, solution=_truth(task))
    assert built(answer, sample) == built(answer, sample.solution)


def _truth(task: Task) -> str:
    box = {"detection": "[{'Position': [0, 0, 9, 9], 'Confidence': 1}]", "grounding": "(0,0),(9,9)"}[task]
    return f"<answer>{box}</answer>"


# ------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("text", "name", "what"),
    [
        ("def a(completion, sample): return 1\n", "b", "mine.py has no function b; it has a"),
        ("def a(completion): return 1\n", "a", "cannot be called as a(completion, sample)"),
        ("x = 1\ndef a(:\n", "a", "mine.py does not run: line 2: "),
        ("import no_such_thing\n", "a", "mine.py does not run: mine.py line 1: ModuleNotFoundError: No module named"),
        ("exit()\n", "a", "does not run: mine.py line 1: SystemExit"),
        ("a = 3\n", "a", "mine.py has no function a; it has none"),
    ],
)
def test_a_file_that_cannot_be_used_says_so_before_training(tmp_path: Path, text: str, name: str, what: str):
    """A traceback, or a mistake that shows only after the model is loaded."""
    with pytest.raises(UserError) as refused:
        load_function(f"{write(tmp_path / 'mine.py', text)}:{name}")
    assert what in str(refused.value) and "\n" not in str(refused.value)


def test_a_missing_file_and_a_wrong_name(tmp_path: Path):
    """A typo in `--reward` that is taken for a reading, or the other way round."""
    with pytest.raises(UserError, match=r"no reward file at \S+nowhere.py; give FILE.py:NAME or one of strict, paper"):
        load_function(f"{tmp_path}/nowhere.py:a")
    with pytest.raises(UserError, match="reward = 'lenient': use strict, paper, official, or a function"):
        GRPOConfig(reward="lenient")


def test_a_file_can_import_its_neighbour(tmp_path: Path):
    """Helpers beside the reward's file that are not found, or a path that stays on sys.path for good."""
    write(tmp_path / "words_of_mine.py", "def count(text): return len(text.split())\n")
    source = write(tmp_path / "mine.py", "from words_of_mine import count\ndef a(completion, sample):\n")
    Path(source).write_text(Path(source).read_text() + "    return count(completion)\n")
    assert OwnReward(load_function(source + ":a"))("one two", CAT).parts == {"a": 2.0}


# ------------------------------------------------------------------ failures


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (math.nan, "ValueError: part own is nan"),
        (math.inf, "ValueError: part own is inf"),
        ("0.5", "TypeError: part own is str '0.5', which is no number"),
        (None, "TypeError: part own is NoneType"),
        ([1.0], "TypeError: part own is list"),
        ({"a": 1, "b": None}, "TypeError: part b is NoneType"),
        (1j, "TypeError: part own is complex"),
    ],
)
def test_what_is_no_number_fails_alone(value: object, what: str):
    """A NaN that poisons the group's advantages and then the weights; a text that is added up."""
    score = OwnReward(lambda completion, sample: value)(TEXT, CAT)
    assert math.isnan(score.total) and score.parts == {} and f"the reward failed: {what}" in str(score.failure)


def test_a_weight_for_a_part_that_is_not_there_fails():
    """A typo in `reward_weights` that silently leaves the weight at 1."""
    assert "names shrot; the parts are short" in str(
        OwnReward(lambda completion, sample: {"short": 1.0}, {"shrot": 0.5})(TEXT, CAT).failure
    )


def test_a_failure_names_the_line(tmp_path: Path):
    """'division by zero' without the place where the user has to look."""
    source = write(tmp_path / "mine.py", "def a(completion, sample):\n    x = 0\n    return 1 / x\n")
    failure = OwnReward(load_function(source + ":a"))(TEXT, CAT).failure
    assert failure == "the reward failed: mine.py line 3: ZeroDivisionError: division by zero"


@pytest.mark.parametrize("how", ["loop", "sleep", "pattern"])
def test_a_call_that_takes_too_long_is_cut_off(how: str):
    """An endless loop, a server that does not answer, or a regular expression that backtracks, that hangs the run."""

    def slow(completion: str, sample: Sample) -> float:
        if how == "sleep":
            time.sleep(60)
        if how == "pattern":
            re.match(r"(a+)+$", "a" * 60 + "b")
        while True:
            pass

    start = time.monotonic()
    failure = OwnReward(slow, timeout=0.2)(TEXT, CAT).failure
    assert "TimeoutError: it took longer than reward_timeout = 0.2 s" in str(failure)
    assert time.monotonic() - start < 30


def test_a_reward_that_swallows_the_alarm_is_late_all_the_same():
    """`except Exception: pass` in the user's code that hides the time-out."""

    def stubborn(completion: str, sample: Sample) -> float:
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            with contextlib.suppress(Exception):
                time.sleep(0.3)
        return 1.0

    assert "reward_timeout" in str(OwnReward(stubborn, timeout=0.1)(TEXT, CAT).failure)


def failing_at(*calls: int) -> OwnReward:
    """The digits of an answer, but for the calls of these numbers, which raise."""
    count = iter(range(10**6))

    def digits(completion: str, sample: Sample) -> float:
        if next(count) in calls:
            raise KeyError("no box")
        return sum(c.isdigit() for c in completion) / (len(completion) + 1)

    return OwnReward(digits)


def test_a_failure_costs_its_group_and_no_other(config: GRPOConfig):
    """A failed score counted as 0 is punished; one skipped alone moves the mean that its siblings are compared with."""
    samples, weights = training_feed(config)(1), []
    for reward in (failing_at(5), OwnReward(load_function(config.reward))):
        policy = load_policy(replace(config, skip_degenerate=True))
        given = samples if reward.name == "digits" and not weights else samples[:1]
        row, written = grpo_step(policy, None, make_optimiser(policy, config), given, reward, config, 1)
        weights.append({name: weight.detach().clone() for name, weight in policy.trainable().items()})
        if not weights[1:]:
            assert [line["advantage"] for line in written[4:]] == [0.0] * 4 and written[5]["reward"] is None
            assert any(line["advantage"] for line in written[:4])
            assert re.fullmatch(r"the reward failed: \S+ line \d+: KeyError: 'no box'", written[5]["failure"])
            scored = [line["reward"] for line in written if line["reward"] is not None]
            assert len(scored) == 7 and row["reward"] == pytest.approx(sum(scored) / 7, rel=1e-6)
    # The first prompt's completions are those it would have had alone, so its update is the step's.
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("scale", ["std", "mean", "batch", "none"])
def test_all_failures_change_nothing(config: GRPOConfig, scale: Any):
    """A step without a single score that divides by zero, or moves the weights."""
    config = replace(config, advantage_scale=scale)
    policy = load_policy(config)
    before = {name: weight.detach().clone() for name, weight in policy.trainable().items()}
    row, _ = grpo_step(
        policy, None, make_optimiser(policy, config), training_feed(config)(1), failing_at(*range(99)), config, 1
    )
    assert all(torch.equal(before[name], weight) for name, weight in policy.trainable().items())
    assert math.isnan(row["reward"])


def test_one_failure_is_told_and_many_stop_the_run(config: GRPOConfig, capsys: pytest.CaptureFixture[str]):
    """One bad completion that ends a night's training, or a broken reward that trains on nothing until the morning."""
    rows = list(run(config, reward=failing_at(3)))
    assert [row.get("reward_failed") for row in rows] == [1, None, None, None, None, None]
    told = capsys.readouterr().err
    assert told.count("its group is left out") == 1 and "KeyError: 'no box'" in told and "sample detection" in told
    with pytest.raises(UserError, match=r"the reward failed for 8 completions in 1 steps.*first was step 1, sample"):
        list(run(replace(config, out=config.out.with_name("broken")), reward=failing_at(*range(99))))
    with pytest.raises(UserError, match="the reward failed for 1 completions in 2 steps"):
        strict = replace(config, out=config.out.with_name("strict"), data=replace(config.data, on_bad="stop"))
        list(run(strict, reward=failing_at(9)))


# ------------------------------------------------------------------ runs


def test_a_run_with_an_own_reward_resumes_bit_for_bit(config: GRPOConfig, tmp_path: Path):
    """A resumed run that goes on with `strict`, silently: the reward fell from 1.37 to 0."""
    whole = list(run(config))
    assert all("reward_digits" in row for row in whole)
    short = replace(config, out=tmp_path / "stopped")
    stopped = run(short)
    for _ in range(3):
        next(stopped)
    stopped.close()
    list(run(short, resume=short.out))
    a, b = trace(config.out), trace(short.out)
    assert all(a[key] == b[key] for key in a)


def test_a_changed_reward_is_no_resume(config: GRPOConfig, capsys: pytest.CaptureFixture[str]):
    """Half a run with one reward and half with another under one name."""
    list(run(config))
    assert main(["train", "--resume", str(config.out), "--steps", "7"]) == 0
    file = Path(config.reward.rpartition(":")[0])
    file.write_text(DIGITS + "# and a word more\n")
    assert main(["train", "--resume", str(config.out), "--steps", "8"]) == 2
    assert "began with another reward" in capsys.readouterr().err


def test_a_function_from_a_notebook_must_be_given_again(config: GRPOConfig):
    """`minirft.run(config, reward=f)` that resumes without f."""
    config, longer = replace(config, reward="strict", steps=2), replace(config, reward="strict", steps=3)
    parts = reading("detection", weights={"format": 0.0})
    for n, reward in enumerate((lambda completion, sample: len(completion) % 5 / 5, parts)):
        out = config.out.with_name(f"run-{n}")
        list(minirft.run(replace(config, out=out), reward=reward))
        with pytest.raises(UserError, match="began with another reward"):
            list(minirft.run(replace(longer, out=out), resume=out))
        list(minirft.run(replace(longer, out=out), resume=out, reward=reward))


def test_what_a_reward_is_known_by(tmp_path: Path):
    """Another weight, another function of TRL's form, or another file that passes for the same reward."""
    text = "def a(completions, **columns):\n    return [float(len(c[0]['content'])) for c in completions]\n"
    wrapped = "from minirft.rewards import from_trl\n" + text + "b = from_trl(a)\n"
    one, two = (load_function(write(tmp_path / f"m{n}.py", wrapped + f"# {n}\n") + ":b") for n in (1, 2))
    prints = [fingerprint(OwnReward(f, weights)) for f in (one, two) for weights in ({}, {"a": 2.0})]
    assert len(set(prints)) == 4
    assert fingerprint(reading("detection")) == fingerprint(reading("detection"))
    assert fingerprint(reading("detection")) != fingerprint(reading("detection", weights={"iou": 2.0}))


def test_from_the_command_line(tiny_random: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A flag that takes three names only; weights that the parts of one's own never see."""
    source = write(tmp_path / "mine.py", DIGITS + "def two(c, s): return {'a': 0.5, 'digits': digits(c, s)}\n") + ":two"
    line = f"train tiny_detection --model {tiny_random} --reward {source} --out {tmp_path / 'r'} --steps 1 --json"
    line += " --prompts-per-step 2 --group-size 2 --max-completion-length 6 --eval-every 0 --reward-weights a 0"
    assert main(line.split()) == 0
    (row,) = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert row["reward_a"] == 0.5 and row["reward"] == pytest.approx(row["reward_digits"], abs=1e-6)


# ------------------------------------------------------------------ the red team, and TRL


def test_the_red_team_attacks_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """An own reward that pays for boxes wherever they are: the audit must show that junk earns as much."""
    text = "from minirft.rewards import parse\ndef boxes(completion, sample):\n"
    text += "    found = parse(sample.task, completion)\n    return float(hasattr(found, 'boxes') and len(found) > 0)\n"
    source = write(tmp_path / "mine.py", text) + ":boxes"
    assert main(["audit", source, "--task", "detection", "--json"]) == 0
    rows = {row["answer"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert rows["junk box at confidence 0"]["share"] >= 1 > rows["abstain"]["share"] == 0
    assert main(["audit", source, "--task", "detection", "--config", "tiny_detection", "--json"]) == 0
    assert main(["audit", write(tmp_path / "bad.py", "def f(c, s): return 1 / 0\n") + ":f", "--task", "presence"]) == 2
    assert "bad.py line 1: ZeroDivisionError: division by zero; that was an honest answer" in capsys.readouterr().err


def test_to_trl_and_back_is_the_same_reward():
    """A column that arrives at the wrong completion; a conversation scored as the list that it is."""
    samples = [replace(CAT, id=str(n), solution=f"<answer>{name}</answer>") for n, name in enumerate(("cat", "dog"))]
    strict = reading("classification")
    batch = to_trl(strict, "classification")
    talk = [[{"role": "assistant", "content": TEXT}] for _ in samples]
    columns = {"solution": [s.solution for s in samples], "image": [s.image for s in samples]}
    assert batch(talk, **columns) == batch([TEXT] * 2, **columns) == [2.0, 1.0]
    back = OwnReward(from_trl(batch))
    assert [back(TEXT, sample).total for sample in samples] == [2.0, 1.0]
    assert to_trl(failing_at(0), "classification")([TEXT, TEXT], **columns)[0] is None
    assert OwnReward(from_trl(lambda completions, **columns: [None]))(TEXT, CAT).total == 0


def test_a_shipped_config_takes_it(tmp_path: Path):
    """A reward in TOML that the reader of configs refuses."""
    path = tmp_path / "mine.toml"
    path.write_text('reward = "mine.py:digits"\nreward_timeout = 2.5\n', encoding="utf-8")
    assert (load_config(path).reward, load_config(path).reward_timeout) == ("mine.py:digits", 2.5)

"""Detection in two stages: a no hides a picture's objects, everything else is asked where."""

from pathlib import Path

import pytest
from small_runs import small_config

from minirft import UserError
from minirft.evaluation.scores import metrics
from minirft.experiments.settings import find
from minirft.rewards import prompts
from minirft.rewards.answers import parse
from minirft.runs import predictions, two_stages
from minirft.runs.folder import load_policy
from minirft.runs.two_stages import NO, answers_in_two_stages, presence_question
from minirft.samples import Sample
from minirft.tiny import world


def perfect(answers: dict[str, str], asked: list[str]):
    """A policy that says of each question what `answers` has for its task, and writes down what it was asked."""

    def generate(policy, config, samples: list[Sample], mode: str, first: int) -> list[str]:
        asked.extend(f"{sample.task} {sample.id}" for sample in samples)
        return [f"<think>x</think> {answers.get(sample.task, sample.solution)}" for sample in samples]

    return generate


def test_a_perfect_policy_is_perfect_in_two_stages(monkeypatch: pytest.MonkeyPatch):
    """Answers in another order than the questions, once a no has left one out."""
    samples, asked = world.detection(40, 5, absent=0.5), []
    monkeypatch.setattr(two_stages, "generate", perfect({}, asked))
    found = metrics("detection", answers_in_two_stages(None, None, samples), samples, resamples=0)
    assert found["ap50"] > 0.999 and found["abstention"] == 1 and found["parse_rate"] == 1
    present = [sample for sample in samples if "No Objects" not in sample.solution]
    assert asked == [f"presence {s.id}" for s in samples] + [f"detection {s.id}" for s in present]
    assert 10 < len(present) < 30


@pytest.mark.parametrize(
    "said, asked_where", [("<answer>no</answer>", 0), ("<answer>yes</answer>", 6), ("I cannot tell", 6)]
)
def test_only_a_no_hides_an_object(said: str, asked_where: int, monkeypatch: pytest.MonkeyPatch):
    """An unreadable first answer counted as a no: a policy that cannot spell would look cautious."""
    samples, asked = world.detection(6, 5), []
    monkeypatch.setattr(two_stages, "generate", perfect({"presence": said}, asked))
    answers = answers_in_two_stages(None, None, samples)
    assert sum(line.startswith("detection") for line in asked) == asked_where
    assert [answer == NO for answer in answers] == [asked_where == 0] * 6
    assert len(parse("detection", NO)) == 0


def test_an_evaluation_in_two_stages_goes_on_after_a_stop(tiny_random: Path, tmp_path: Path):
    """Answers to one question and to two in one file, or batches that depend on where the run was stopped."""
    config = small_config(tiny_random, tmp_path, eval_batch=2)
    policy, samples = load_policy(config), world.detection(5, 5, absent=0.5)
    made_with = predictions.settings(policy, config, samples, "sampled", trained=False) | {"two_stages": True}
    path = tmp_path / "predictions.jsonl"
    whole = predictions.predict(policy, config, samples, path, made_with)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:4]))
    assert predictions.predict(policy, config, samples, path, made_with) == whole
    batches = [answers_in_two_stages(policy, config, samples[n : n + 2], "sampled", n) for n in (0, 2, 4)]
    assert [text for batch in batches for text in batch] == whole
    at_once = predictions.settings(policy, config, samples, "sampled", trained=False)
    with pytest.raises(UserError, match="two_stages True -> None"):
        predictions.predict(policy, config, samples, path, at_once)
    with pytest.raises(UserError, match="two stages are for detection"):
        answers_in_two_stages(policy, config, world.grounding(1, 0))


def test_the_first_question_is_the_world_s_own():
    """Another wording than the one the base was trained on, or a yes where nothing is there."""
    for sample in world.detection(12, 3, absent=0.5):
        question = presence_question(sample)
        assert question.problem == prompts.presence(sample.category)
        assert ("yes" in question.solution) == ("No Objects" not in sample.solution)


def test_staged_tests_are_asked_about_the_same_pictures():
    """Two protocols compared on different questions."""
    part = find("presence").parts["where"]
    at_once, staged = (part.test(name, 8) for name in ("asked at once", "asked in two stages"))
    assert [s.id for s in at_once] == [s.id for s in staged] and part.staged == ["asked in two stages"]
    known = part.test("category known", 8)
    assert all("No Objects" not in sample.solution for sample in known)
    assert all("No Objects" not in sample.solution for sample in part.train(1, 1))

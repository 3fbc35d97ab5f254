"""`minirft fit`: verdicts, advice that is true, and what it prints."""

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minirft import UserError
from minirft.commands.cli import run
from minirft.commands.fit import FitFlags
from minirft.commands.fit import fit as command
from minirft.commands.flags import parse_config
from minirft.cost import fit
from minirft.cost.advice import _max_pixels, least_harm
from minirft.runs.config import GRPOConfig, load_config
from minirft.runs.toml import differences

COCO = load_config("coco_8cate_4shot")
SMALLEST = ["--max-completion-length", "32", "--max-prompt-length", "200", "--prompts-per-decode", "1"]


def said(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert run(command, list(args)) == 0
    return capsys.readouterr().out


def asked(capsys: pytest.CaptureFixture[str], *args: str) -> dict:
    return json.loads(said(capsys, *args, "--json"))


def pasted(line: str) -> GRPOConfig:
    """The configuration that a line of advice trains, read as the shell and the CLI read it."""
    words = shlex.split(line, comments=True)
    assert words[:2] == ["minirft", "train"]
    return parse_config(words[2:], FitFlags(), "minirft train")[0]


# ------------------------------------------------------------------ what it says


def test_json_adds_up(capsys: pytest.CaptureFixture[str]) -> None:
    """Catches parts of another phase than the peak's, bytes for GiB, and text on stdout beside the JSON."""
    found = asked(capsys, "coco_8cate_4shot", "--gpu", "8GB")
    assert sum(found["parts"].values()) == pytest.approx(found["peak_gib"])
    assert found["phases"][found["peak_phase"]] == max(found["phases"].values()) == pytest.approx(found["peak_gib"])
    assert found["fits"] is True and found["advice"] == [] and found["gpu_gib"] == 8
    assert found["usable_gib"] == pytest.approx(8 * (1 - fit.SLACK) - fit.CONTEXT)


def test_without_a_card_every_size_is_judged(capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a verdict that does not follow the size of the card."""
    found = asked(capsys, "coco_8cate_4shot")
    assert list(found["fits"]) == ["4GB", "6GB", "8GB", "12GB", "16GB", "24GB"] and found["gpu_gib"] is None
    assert list(found["fits"].values()) == sorted(found["fits"].values())
    for card, fits in found["fits"].items():
        assert fits == (found["peak_gib"] <= found["usable_gib"][card])


def test_text_has_the_table_then_the_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a total that is not the sum of its column as printed, and a star on another phase than the peak."""
    text = said(capsys, "coco_8cate_4shot", "--gpu", "4GB", "--prompts-per-decode", "1")
    rows = {row[:30].strip(): row[30:] for row in text.splitlines()}
    assert re.search(r"\*\s+2\.\d+", rows["total"])
    assert text.index("total") < text.index("4 GB card") < text.index("fits: the peak is 2.")


def test_a_model_takes_the_settings_of_the_paper(capsys: pytest.CaptureFixture[str], miniature: Path) -> None:
    """Catches a model's name or folder taken for a config, and a folder that needs weights."""
    seven = asked(capsys, "qwen2-vl-7b")
    assert seven == asked(capsys, "coco_8cate_4shot", "--model", "qwen2-vl-7b")
    assert asked(capsys, str(miniature))["model"] == str(miniature)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["qwen2-vl-9b"], "no config qwen2-vl-9b"),
        (["coco_8cat_4shot"], "did you mean coco_8cate_4shot"),
        (["coco_8cate_4shot", "--gpu", "huge"], "--gpu huge: give the memory"),
        (["coco_8cate_4shot", "--gpu", "0GB"], "--gpu 0GB"),
        (["coco_8cate_4shot", "--max-prompt-length", "0"], "max_prompt_length"),
        (["coco_8cate_4shot", "--no-shared-prefix"], "shared path"),
        (["coco_8cate_4shot", "--rows", "2"], "--rows"),
        ([], "name a config"),
    ],
)
def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str], args: list[str], words: str) -> None:
    """Catches a traceback, and a message without what to do."""
    assert run(command, args) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


# ------------------------------------------------------------------ advice


@pytest.mark.parametrize("gpu", [3.0, 4.0, 6.0, 8.0])
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"checkpointing": False, "rows_per_pass": 0},
        {"model": "qwen2-vl-7b"},
        {"model": "qwen2-vl-7b", "max_completion_length": 1024},
        {"train": "full", "quantize": "none", "kl_coef": 0.0},
        {"quantize": "none", "eval_every": 10},
    ],
    ids=lambda change: "-".join(map(str, change)) or "as shipped",
)
def test_advice_fits_when_it_is_pasted(gpu: float, change: dict[str, object]) -> None:
    """Catches a flag that the CLI does not have, a change lost on the way, and advice that was not re-run."""
    config = replace(COCO, **change)
    verdict = fit.judge(config, gpu, "coco_8cate_4shot", COCO)
    assert verdict.fits == (not verdict.advice) or verdict.gpu < 4
    if verdict.advice:
        chosen = pasted(verdict.advice)
        assert fit.judge(chosen, gpu, "coco_8cate_4shot", COCO).fits
        changed = {name.split(" ")[0] for name in verdict.advice.split("  # ")[1].split(", ")}
        assert changed == set(differences(config, chosen))


def test_harmless_changes_come_first() -> None:
    """Catches a smaller group, or a smaller model, where fewer rows a pass would do."""
    harm = {"group_size", "model", "max_pixels", "max_completion_length", "quantize", "optimiser"}
    seven = replace(COCO, model="qwen2-vl-7b", max_completion_length=1024)
    room = fit.usable(8.0) * fit.GIB
    found = least_harm(seven, lambda candidate: fit.account(candidate).peak <= room)
    assert found and not harm & set(differences(seven, found))


def test_several_changes_are_the_fewest() -> None:
    """Catches a change that was tried on the way and kept though it is not needed."""
    config = replace(COCO, model="qwen2-vl-7b", max_completion_length=1024)
    room = fit.usable(8.0) * fit.GIB
    found = least_harm(config, lambda candidate: fit.account(candidate).peak <= room)
    changed = differences(config, found)
    assert len(changed) >= 2
    for name in changed:
        without = replace(found, **{name: getattr(config, name)})
        assert fit.account(without).peak > room, name


def test_no_advice_where_nothing_helps() -> None:
    """Catches an endless search, and advice that does not fit."""
    assert fit.judge(COCO, 1.0, "coco_8cate_4shot", COCO).advice == ""


def test_a_picture_is_cut_with_its_prompt() -> None:
    """Catches max_pixels lowered alone, which leaves the longest prompt as long as it was."""
    smaller = [*_max_pixels(COCO)]
    assert smaller
    for found in smaller:
        tokens = (COCO.max_pixels - found.max_pixels) // 784
        assert COCO.max_prompt_length - found.max_prompt_length == tokens > 0


@settings(max_examples=25, deadline=None)
@given(
    st.floats(2.5, 24),
    st.integers(64, 2048),
    st.sampled_from(["qwen2-vl-2b", "qwen2-vl-7b"]),
    st.booleans(),
    st.integers(0, 64),
)
def test_advice_always_fits(gpu: float, length: int, model: str, checkpointing: bool, rows: int) -> None:
    """The search over random settings: what it yields fits, and a run that fits gets no advice."""
    config = replace(COCO, max_completion_length=length, model=model, checkpointing=checkpointing, rows_per_pass=rows)
    room = fit.usable(gpu) * fit.GIB
    verdict = fit.judge(config, gpu, "coco_8cate_4shot", COCO)
    assert verdict.fits == (fit.account(config).peak <= room)
    assert not verdict.advice or fit.account(pasted(verdict.advice)).peak <= room


def test_naive_path_is_refused() -> None:
    """Catches a ledger of the shared path shown for the other one."""
    with pytest.raises(UserError, match="shared path"):
        fit.account(replace(COCO, shared_prefix=False))

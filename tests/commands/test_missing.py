"""What a machine that lacks something gets: one line with what is missing and what to type; and help that helps."""

import ast
import sys
from pathlib import Path

import pytest
import torch

import minirft
from minirft import UserError
from minirft.commands.cli import COMMANDS, main
from minirft.engine import need_bitsandbytes, pick_device
from minirft.policy import LoraSettings, Policy
from minirft.runs.config import GRPOConfig
from minirft.runs.step import make_optimiser

PACKAGE = Path(minirft.__file__).parent


@pytest.mark.parametrize(("device", "what"), [("cuda:7", "finds 1 CUDA cards here"), ("gpu", "choose auto, cpu, cuda")])
def test_a_device_that_is_not_here(device: str, what: str, monkeypatch: pytest.MonkeyPatch):
    """ "Torch not compiled with CUDA enabled", with forty lines above it."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert pick_device("cuda:0").index == 0
    with pytest.raises(UserError, match=what) as caught:
        pick_device(device)
    assert "\n" not in str(caught.value)


def test_bitsandbytes_is_wanted_for_few_bits_only(miniature: Path, monkeypatch: pytest.MonkeyPatch):
    """A run in 16 bits refused, or a traceback, for a package that it does not use."""
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # as if it were not installed
    policy = Policy.load(miniature)
    make_optimiser(policy, GRPOConfig())
    with pytest.raises(UserError, match="pip install bitsandbytes, or set optimiser = adamw"):
        make_optimiser(policy, GRPOConfig(optimiser="adamw8bit"))
    with pytest.raises(UserError, match=r'bitsandbytes does not load .* or set quantize = "none"'):
        Policy.load(miniature, quantize="nf4", lora=LoraSettings())
    monkeypatch.undo()
    assert need_bitsandbytes("").__name__ == "bitsandbytes"
    for path in [*PACKAGE.glob("*.py"), *(PACKAGE / "engine").glob("*.py"), *(PACKAGE / "runs").glob("*.py")]:
        top = [node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.ImportFrom)]
        assert not any(str(node.module).startswith("bitsandbytes") for node in top), path


def test_a_stop_while_loading_has_words(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """`minirft: ` and nothing more after Ctrl-C while torch or a model loads."""
    monkeypatch.setitem(COMMANDS, "version", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main(["version"]) == 130
    assert capsys.readouterr().err == "minirft: stopped\n"


def test_a_package_that_is_missing_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """A traceback for a half-finished installation; and a mistake in this package taken for one."""

    def command(args: list[str]) -> None:
        raise ModuleNotFoundError(f"No module named {args[0]!r}", name=args[0])

    monkeypatch.setitem(COMMANDS, "version", command)
    assert main(["version", "peft"]) == 2
    assert capsys.readouterr().err == "minirft: the package peft is missing: pip install peft\n"
    with pytest.raises(ModuleNotFoundError):
        main(["version", "minirft.nowhere"])


def test_help_names_the_config_and_lists_the_shipped_ones(capsys: pytest.CaptureFixture[str]):
    """A usage line without the one word that the command cannot do without."""
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = capsys.readouterr().out
    assert "minirft train CONFIG" in text and "own_coco_4shot" in text and "the folder of a run" in text
    assert "Released (" in text and "Measured (" in text, "words of the settings' help that nothing explains"


def test_the_first_word_comes_before_anything_heavy(monkeypatch: pytest.MonkeyPatch, capsys):
    """Seconds in front of an empty terminal, and Ctrl-C."""
    said = []
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setitem(COMMANDS, "fit", lambda args: said.append(capsys.readouterr().err))
    assert main(["fit"]) == 0 and said == ["minirft fit: loading\n"]

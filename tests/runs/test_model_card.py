"""The card of an export is true, its lines run as they stand, and any PEFT adapter can be evaluated."""

import contextlib
import io
import json
import re
from pathlib import Path

import pytest
import torch
from peft import IA3Config, PromptTuningConfig, get_peft_model
from PIL import Image
from small_runs import small_config
from transformers import AutoImageProcessor, Qwen2VLForConditionalGeneration

from minirft import UserError
from minirft.commands.cli import main
from minirft.data import question_of
from minirft.policy import LoraSettings, Policy
from minirft.runs.asking import Asking, ask
from minirft.runs.config import GRPOConfig
from minirft.runs.exports import export_run
from minirft.runs.folder import adapted_policy, load_run_policy, open_run, run_config
from minirft.tiny import CHECKPOINT, world

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
PIXELS = 112 * 112  # the one size of the embedded model


def finished(folder: Path, model: str | Path = "tiny", **changes: object) -> Path:
    """A run whose adapters were moved a little, with two evaluations in its log."""
    changes = {"train": "lora", "lora": LoraSettings(r=4), "device": "cpu", "dtype": "float32"} | changes
    config = small_config(model, folder, **changes)
    run = open_run("grpo", config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in run.policy.trainable().items():
            if "lora_B" in name:
                weight.copy_(2e-2 * torch.randn(weight.shape, generator=generator))
    for step, score in ((0, 0.12), (6, 0.75)):
        run.log.row("eval", step=step, mode="greedy", ap50=score, n=40, ci={"ap50": [score - 0.1, score + 0.1]})
    run.step = 6
    run.save()
    return folder


@pytest.mark.parametrize("to", ["adapter", "merged"])
def test_the_lines_on_the_card_give_the_policys_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str):
    """Lines that do not run, another question, an adapter left out, or the base's size of pictures.

    Oracle: plain transformers and PEFT, as the card says, against our own decoding; both in float32.
    """
    run = finished(tmp_path / "run", max_completion_length=48, max_pixels=PIXELS)
    folder = tmp_path / "exported"
    export_run(run, to, folder)
    picture = world.detection(1, seed=4)[0].picture()
    picture.save(tmp_path / "photo.jpg", quality=95)
    monkeypatch.chdir(tmp_path)
    card = (folder / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {})
    policy, config = load_run_policy(run, run_config(run)), run_config(run)
    how = Asking(max_completion_length=48)
    photo = [tmp_path / "photo.jpg"]
    (wanted,) = (answered.answer.text for answered in ask(policy, photo, question_of(config.data), how))
    (base,) = (answered.answer.text for answered in ask(Policy.load("tiny"), photo, question_of(config.data), how))
    assert printed.getvalue().strip() == wanted != base


@pytest.mark.parametrize("to", ["adapter", "merged"])
def test_the_card_says_what_the_run_was(tmp_path: Path, to: str):
    """PEFT's blank template, a score without its interval, or a setting of another run."""
    run = finished(tmp_path / "run", seed=7, reward_weights={"confidence": 0.5}, max_pixels=PIXELS)
    folder = tmp_path / "exported"
    export_run(run, to, folder)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "More Information Needed" not in card and "text-generation" not in card
    for said in (
        f"library_name: {'peft' if to == 'adapter' else 'transformers'}",
        "| seed | 7 |",
        f"| max_pixels | {PIXELS} |",
        'pip install "minirft[torchvision]"',
        "| dtype | float32 |",
        "strict, weights: confidence 0.5",
        "| ap50 | 0.120 [0.02, 0.22] | 0.750 [0.65, 0.85] |",
        "on 40 held-out questions",
        question_of(run_config(run).data),
    ):
        assert said in card, said


@pytest.mark.parametrize("to", ["adapter", "merged"])
def test_the_whole_processor_is_there(tmp_path: Path, miniature: Path, to: str):
    """An adapter without a tokenizer, or a picture processor that lets larger pictures in than the run did."""
    limit = 28 * 28 * 9  # below the miniature's own
    folder = tmp_path / "exported"
    export_run(finished(tmp_path / "run", miniature, max_pixels=limit), to, folder)
    names = {file.name for file in folder.iterdir()}
    assert {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "preprocessor_config.json"} <= names
    seen = AutoImageProcessor.from_pretrained(folder)(images=[Image.new("RGB", (400, 400))], return_tensors="pt")
    assert int(seen["image_grid_thw"].prod()) * 14 * 14 <= limit
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    assert settings["processor_class"] == "Qwen2VLProcessor" and settings["max_pixels"] == limit


def foreign(folder: Path, kind: object) -> Path:
    """An adapter as other trainers leave it."""
    model = get_peft_model(Qwen2VLForConditionalGeneration.from_pretrained(CHECKPOINT), kind)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "ia3" in name:
                weight.mul_(0.5)
    model.save_pretrained(folder)
    return folder


def test_an_adapter_of_another_kind_is_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """`--adapter` that reads our own adapters only, or scores the base under the adapter's name."""
    kind = IA3Config(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"])
    folder = foreign(tmp_path / "ia3", kind)
    small = ["--eval-samples", "3", "--max-completion-length", "24", "--json"]
    assert main(["eval", "tiny_detection", "--adapter", str(folder), *small]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["n"] == 3 and Path(row["predictions"]).is_relative_to(folder)
    config = GRPOConfig()
    adapted, base = adapted_policy(folder, config), Policy.load("tiny")
    prompt = base.encode(world.detection(1, seed=4)[0])
    plain = {"input_ids": prompt.input_ids[None], "mm_token_type_ids": prompt.mm_token_type_ids[None]}
    plain |= {"pixel_values": prompt.pixel_values, "image_grid_thw": prompt.image_grid_thw}
    with torch.no_grad():
        found, without = adapted.model(**plain).logits, base.model(**plain).logits
        halved = Qwen2VLForConditionalGeneration.from_pretrained(CHECKPOINT)
        for name, weight in halved.named_parameters():  # IA3 scales what these layers give; down_proj what it takes
            if any(part in name for part in ("language_model", "visual")) and re.search(r"[kv]_proj|down_proj", name):
                weight.mul_(0.5)
        wanted = halved(**plain).logits
    assert (found - wanted).abs().max() < 1e-3 < 1e-1 < (found - without).abs().max()


def test_what_is_no_adapter_is_refused(tmp_path: Path, tiny_random: Path, capsys: pytest.CaptureFixture[str]):
    """A traceback of PEFT for a folder without an adapter, one for another model, or one that adds tokens."""
    assert main(["eval", "tiny_detection", "--adapter", str(tmp_path)]) == 2
    assert "holds no PEFT adapter" in capsys.readouterr().err
    prompt = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    (tmp_path / "prompt").mkdir()
    prompt.save_pretrained(tmp_path / "prompt")
    with pytest.raises(UserError, match="puts tokens before the prompt"):
        adapted_policy(tmp_path / "prompt", GRPOConfig())

"""A user's own GPU, acted out on a CPU: real processor, real vocabulary, real photographs, small random weights.

Skipped where Qwen2-VL's processor and COCO128 are not beside the repository.
"""

import json
from pathlib import Path

import pytest
import torch
from conftest import SHARED_DATA, write_miniature
from peft import PeftModel
from transformers import AutoTokenizer, Qwen2VLForConditionalGeneration

from minirft.commands.cli import main
from minirft.engine.versions import Qwen2VLImageProcessorPil
from minirft.runs.folder import load_run_policy, run_config

PROCESSOR = SHARED_DATA / "qwen2vl_processor"
COCO = SHARED_DATA / "coco128"
VOCABULARY = 151_936

pytestmark = pytest.mark.skipif(not PROCESSOR.exists() or not COCO.exists(), reason="no ../shared/data")


@pytest.fixture(scope="module")
def small_qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of 2 layers with Qwen2-VL's own tokenizer, chat template, vocabulary and picture processor."""
    tokenizer = AutoTokenizer.from_pretrained(PROCESSOR)
    folder = write_miniature(tmp_path_factory.mktemp("small_qwen"), tokenizer, VOCABULARY, eos_scale=1.0)
    Qwen2VLImageProcessorPil.from_pretrained(PROCESSOR).save_pretrained(folder)
    return folder


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT's, with transformers 5.23
@pytest.mark.parametrize("quantize", ["nf4", pytest.param("none", marks=pytest.mark.slow)])  # as shipped, and without
def test_coco_8cate_4shot_on_a_cpu(small_qwen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], quantize: str):
    """The shipped real config failing on its first step, on somebody's rented GPU."""
    run = tmp_path / "run"
    data = ["--data.annotations", str(COCO / "annotations" / "instances_train2017.json")]
    data += ["--data.images", str(COCO / "train2017"), "--data.shots", "1"]
    short = ["--steps", "2", "--prompts-per-step", "2", "--group-size", "2", "--max-completion-length", "6"]
    short += ["--max-pixels", "12544", "--eval-samples", "2", "--eval-batch", "2", "--dtype", "float32"]
    command = ["train", "coco_8cate_4shot", "--model", str(small_qwen), "--quantize", quantize, *data, *short]
    assert main([*command, "--out", str(run), "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["step"] for row in rows] == [1, 2] and all(row["kl"] is not None for row in rows)
    assert main(["eval", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n"] == 2
    assert main(["export", str(run), "--to", "adapter"]) == 0
    adapter_gives_the_same(small_qwen, run)


def adapter_gives_the_same(small_qwen: Path, run: Path) -> None:
    """Plain PEFT, which knows nothing of minirft, reads the exported adapter as our policy has it."""
    plain = PeftModel.from_pretrained(Qwen2VLForConditionalGeneration.from_pretrained(small_qwen), run / "adapter")
    weights = {name: weight for name, weight in plain.named_parameters() if "lora_" in name}
    ours = load_run_policy(run, run_config(run)).trainable()
    assert weights.keys() == ours.keys() and weights
    assert all(torch.equal(weights[name].float(), ours[name].float()) for name in weights)

"""The processor: what it refuses, and the real Qwen2-VL files where they are at hand."""

from pathlib import Path

import pytest
import torch
from conftest import FORWARD, SHARED_DATA, apart, picture, rounding, write_miniature
from PIL import Image
from transformers import AutoTokenizer

from minirft import UserError
from minirft.engine.processor import load_processor
from minirft.policy import LoraSettings, Policy
from minirft.sampler import sample_groups
from minirft.samples import Sample

REAL = SHARED_DATA / "qwen2vl_processor"
COCO = SHARED_DATA / "coco128" / "train2017"
needs_real = pytest.mark.skipif(not REAL.exists(), reason="the real Qwen2-VL processor is not on this machine")


def question(image: Image.Image, problem: str = "what?") -> Sample:
    return Sample("q7", image, "presence", problem, "<answer>yes</answer>")


@pytest.mark.parametrize("size", [(112, 112), (300, 90), (40, 400), (2000, 28)])
def test_too_long_a_prompt_is_refused_with_what_fits(size: tuple[int, int], miniature: Path) -> None:
    """Catches silent truncation, and advice that does not help: the advised max_pixels must fit."""
    sample = question(picture(*size))
    whole = len(load_processor(str(miniature), None, None)(sample)["input_ids"])
    limit = whole - 1
    with pytest.raises(UserError, match=f"prompt is {whole} tokens and the limit is {limit}") as caught:
        load_processor(str(miniature), None, limit)(sample)
    advised = int(str(caught.value).split("set max_pixels to ")[1].split()[0])
    assert len(load_processor(str(miniature), advised, limit)(sample)["input_ids"]) <= limit
    assert len(load_processor(str(miniature), None, whole)(sample)["input_ids"]) == whole


def test_text_too_long_by_itself(miniature: Path) -> None:
    """Catches advice to shrink a picture when the text is what does not fit."""
    with pytest.raises(UserError, match=r"sample q7: .* its text alone is [0-9]+ tokens"):
        load_processor(str(miniature), None, 50)(question(picture(56, 56), "why " * 20))


@pytest.mark.parametrize(("size", "message"), [((0, 5), "0x5"), ((5, 0), "5x0"), ((2100, 10), "aspect ratio")])
def test_pictures_without_a_shape(size: tuple[int, int], message: str, miniature: Path) -> None:
    """Catches a division by zero, or a traceback from deep inside, for a picture that has no area."""
    with pytest.raises(UserError, match=message) as caught:
        load_processor(str(miniature), None, None)(question(Image.new("RGB", size)))
    assert "q7" in str(caught.value)


def test_control_tokens_in_the_question(miniature: Path) -> None:
    """Catches data that ends the turn or forges a picture."""
    for token in ("<|image_pad|>", "<|im_end|>"):
        with pytest.raises(UserError, match="control token"):
            load_processor(str(miniature), None, None)(question(picture(56, 56), f"a {token} cat?"))


def test_chat_template_without_pictures(miniature: Path) -> None:
    """Catches a text-only template: the model would answer without seeing."""
    processor = load_processor(str(miniature), None, None)
    processor.tokenizer.chat_template = "{{ messages[0]['content'][1]['text'] }}"
    with pytest.raises(UserError, match="no place to the picture"):
        processor(question(picture(56, 56)))


def test_max_pixels_is_honoured(miniature: Path) -> None:
    """Catches a limit that never reaches the picture processor."""
    for limit in (1000, 5000, 50_000):
        grid = load_processor(str(miniature), limit, None)(question(picture(300, 200)))["image_grid_thw"]
        assert grid.prod() * 14 * 14 <= limit
    assert grid.prod() * 14 * 14 > 40_000


@needs_real
def test_real_processor_golden_values() -> None:
    """Catches another tokenizer, template or resize than Qwen2-VL's own."""
    processor = load_processor(str(REAL), 401_408, None)
    encoded = processor.tokenizer("Hello World! (123, 45) <box>你好</box>", add_special_tokens=False).input_ids
    assert encoded == [9707, 4337, 0, 320, 16, 17, 18, 11, 220, 19, 20, 8, 366, 2011, 29, 108386, 522, 2011, 29]
    tensors = processor(Sample("74", COCO / "000000000074.jpg", "detection", "Where is the dog?", ""))
    assert tensors["image_grid_thw"].tolist() == [[1, 30, 46]]
    assert tensors["pixel_values"].shape == (1380, 1176)
    assert tensors["mm_token_type_ids"].sum() == (tensors["input_ids"] == 151_655).sum() == 345
    text = processor.tokenizer.decode(tensors["input_ids"]).replace("<|image_pad|>" * 345, "#")
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        "<|vision_start|>#<|vision_end|>Where is the dog?<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.fixture(scope="module")
def real_vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random miniature with the real 151,936 rows and the real processor."""
    folder = tmp_path_factory.mktemp("real")
    write_miniature(folder, AutoTokenizer.from_pretrained(REAL), 151_936, eos_scale=1.0)
    for file in folder.glob("*"):
        if "token" in file.name or "template" in file.name or "processor" in file.name:
            file.unlink()
    for file in REAL.glob("*.json"):
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@needs_real
@pytest.mark.parametrize("quantize", ["none", "nf4"])
def test_real_vocabulary_end_to_end(quantize: str, real_vocabulary: Path) -> None:
    """Catches what only the real vocabulary shows: empty rows, several ends of turn, float32 cumulative sums."""
    policy = Policy.load(real_vocabulary, max_pixels=40_000, quantize=quantize, lora=LoraSettings(r=4))
    assert policy.eos_ids == (151_645,)
    assert {151_643, 151_655, 151_656, 151_657, 151_935} <= set(policy.banned.tolist())
    samples = [
        Sample(name, COCO / f"{name}.jpg", "detection", "Detect all dogs.", "")
        for name in ("000000000074", "000000000009")
    ]
    prompts = [policy.encode(sample) for sample in samples]
    rollout = sample_groups(policy, prompts, 2, max_completion_length=4, generator=torch.Generator().manual_seed(0))
    assert not torch.isin(rollout.completion_ids[rollout.completion_mask], policy.banned).any()
    logprobs = policy.logprobs(rollout)
    assert apart(logprobs, rollout.logprobs) < rounding(FORWARD + 2 * 500)  # 500 keys more are seen
    logprobs.sum().backward()
    assert all(weight.grad.isfinite().all() for weight in policy.trainable().values())

"""The embedded folder is a real Qwen2-VL: TRL's own GRPO trainer can train it."""

import warnings
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, ProcessorMixin, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl import Qwen2VLProcessor

from minirft.engine.versions import Qwen2VLImageProcessorPil
from minirft.rewards.readings import reading
from minirft.tiny import CHECKPOINT, world


class PictureProcessor(Qwen2VLProcessor):
    """Qwen2-VL's processor without the video part, which needs torchvision."""

    def __init__(self, image_processor, tokenizer, chat_template=None):
        self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    @classmethod
    def get_attributes(cls):
        return ["image_processor", "tokenizer"]


@pytest.mark.filterwarnings("ignore")
def test_trl_takes_one_step_on_the_tiny_model(tmp_path: Path):
    """A folder, tokenizer or chat template that only our own code understands."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trl = pytest.importorskip("trl")
        datasets = pytest.importorskip("datasets")
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
    processor = PictureProcessor(
        Qwen2VLImageProcessorPil.from_pretrained(CHECKPOINT), tokenizer, tokenizer.chat_template
    )
    samples = world.detection(2, seed=0)
    rows = [
        {"prompt": [{"role": "user", "content": s.problem}], "image": s.picture(), "solution": s.solution}
        for s in samples
    ]
    seen: list[str] = []

    def strict(completions, solution, **_):
        texts = [completion[0]["content"] for completion in completions]
        seen.extend(texts)
        return [reading("detection")(text, truth).total for text, truth in zip(texts, solution, strict=True)]

    model = Qwen2VLForConditionalGeneration.from_pretrained(CHECKPOINT)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    arguments = trl.GRPOConfig(
        output_dir=str(tmp_path),
        per_device_train_batch_size=4,
        num_generations=4,
        max_completion_length=48,
        max_steps=1,
        learning_rate=1e-3,
        report_to=[],
        use_cpu=True,
        save_strategy="no",
        gradient_checkpointing=False,
        disable_tqdm=True,
    )
    trainer = trl.GRPOTrainer(
        model=model,
        reward_funcs=strict,
        args=arguments,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=processor,
    )
    trainer.train()
    assert len(seen) == 4 and any("<answer>" in text for text in seen), seen
    assert any(not torch.equal(before[name], weight) for name, weight in model.named_parameters())

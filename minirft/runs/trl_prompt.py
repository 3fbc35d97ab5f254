"""A sample as TRL reads it: Qwen2-VL's processor as transformers has it, and the check that it makes our prompt."""

from __future__ import annotations

from typing import Any

from transformers import ProcessorMixin
from transformers.models.qwen2_vl import Qwen2VLProcessor

from minirft import UserError
from minirft.engine import CHAT
from minirft.policy import Policy
from minirft.samples import Sample


class PictureProcessor(Qwen2VLProcessor):
    """Qwen2-VL's processor without the video part, which needs torchvision."""

    def __init__(self, image_processor: Any, tokenizer: Any, chat_template: str | None = None) -> None:
        self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        # TRL pads token ids on the left itself, and takes the places of the picture as the processor pads them.
        tokenizer.padding_side = "left"
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    @classmethod
    def get_attributes(cls) -> list[str]:
        """Name the parts a processor is made of, for transformers."""
        return ["image_processor", "tokenizer"]

    @classmethod
    def of(cls, policy: Policy, sample: Sample) -> PictureProcessor:
        """Make TRL's processor for a policy; raises `UserError` where it reads `sample` as another prompt than ours."""
        if policy.family.pixel_boxes:
            raise UserError(f"TRL scores {policy.family.name}'s boxes in pixels as thousandths: leave TRL out")
        made = cls(policy.image_processor, policy.tokenizer, policy.tokenizer.chat_template)
        content = [{"type": "image", "image": sample.picture()}, {"type": "text", "text": sample.problem}]
        theirs = made.apply_chat_template(
            [[{"role": "user", "content": content}]],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            **CHAT,
        )["input_ids"][0]
        mine = policy.encode(sample).input_ids.tolist()
        if list(theirs) != mine:
            raise UserError(f"TRL reads {len(theirs)} prompt tokens where we read {len(mine)}: leave TRL out")
        return made

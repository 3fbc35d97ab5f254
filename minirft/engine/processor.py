"""A processor turns text and picture into the input tensors of a model, once per sample in a run.

The tokenizer and the PIL picture processor are loaded directly, because `AutoProcessor` needs torchvision for a video
processor that is not used here.
"""

import json
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import cached_file

from minirft import UserError, as_user_error
from minirft.engine.versions import Qwen2VLImageProcessorPil, smart_resize
from minirft.samples import WITH_BOXES, Prompt, Sample

PICTURE_TOKEN = "<|image_pad|>"
# Some templates begin the answer with <think>; the answers' format has its own, which the model must write.
CHAT = {"enable_thinking": False}
T = TypeVar("T")


@dataclass(frozen=True)
class Processor:
    """A processor has the two halves of a model's processor, and a limit on the prompt's length (tokens, or None).

    `asked` makes the problem of a sample, for a picture resized to a size, if the family has its own words.
    """

    tokenizer: PreTrainedTokenizerBase
    image_processor: Qwen2VLImageProcessorPil
    max_prompt_length: int | None = None
    asked: Callable[[Sample, tuple[int, int]], str] | None = None

    @property
    def picture_id(self) -> int:
        """Return the token id of one merged picture patch."""
        return self.tokenizer.convert_tokens_to_ids(PICTURE_TOKEN)

    def __call__(self, sample: Sample) -> dict[str, Tensor]:
        """Encode: `input_ids` (S,), `mm_token_type_ids` (S,), `pixel_values` (patches, D), `image_grid_thw` (1, 3).

        Raises `UserError` for a picture or a text that cannot be encoded, and for a prompt over the limit.
        """
        picture = sample.picture()
        pictured = self._picture_tokens(sample, picture.size)
        text = self._text_ids(sample, picture.size)
        if self.max_prompt_length is not None and pictured + len(text) - 1 > self.max_prompt_length:
            raise UserError(self._too_long(sample, picture.size, pictured, len(text) - 1, self.max_prompt_length))
        at = text.index(self.picture_id)
        input_ids = torch.tensor(text[:at] + [self.picture_id] * pictured + text[at + 1 :])
        pixels = self.image_processor(images=[picture], return_tensors="pt")
        return {
            "input_ids": input_ids,
            "mm_token_type_ids": (input_ids == self.picture_id).long(),
            "pixel_values": pixels["pixel_values"],
            "image_grid_thw": pixels["image_grid_thw"].long(),
        }

    def count(self, sample: Sample, size: tuple[int, int]) -> tuple[int, int]:
        """Count the tokens of the prompt without its picture, and of a picture of `size`, (width, height), unopened.

        Raises `UserError` as `Processor(sample)` does.
        """
        return len(self._text_ids(sample, size)) - 1, self._picture_tokens(sample, size)

    def resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """Compute the size, (width, height), to which a picture of `size` is scaled for the model."""
        width, height = size
        factor, limits = self.image_processor.patch_size * self.image_processor.merge_size, self.image_processor.size
        high, wide = smart_resize(height, width, factor, limits["shortest_edge"], limits["longest_edge"])
        return wide, high

    def _picture_tokens(self, sample: Sample, size: tuple[int, int], max_pixels: int | None = None) -> int:
        width, height = size
        if not width or not height:
            raise UserError(f"sample {sample.id}: the picture is {width}x{height}; remove it or repair the file")
        limit = {} if max_pixels is None else {"max_pixels": max_pixels}
        try:
            patches = self.image_processor.get_number_of_image_patches(height, width, limit)
        except ValueError as error:
            raise UserError(f"sample {sample.id}: picture of {width}x{height}: {error}; crop or remove it") from None
        return int(patches) // self.image_processor.merge_size**2

    def rescaled(self, text: str, prompt: Prompt, *, written: bool) -> str:
        """Rescale the boxes of a text to pixels if it was `written` for a model of pixels, else to thousandths."""
        high, wide = (prompt.image_grid_thw[0, 1:] * self.image_processor.patch_size).tolist()
        return self._rescale(text, prompt.sample, (wide, high), written)

    def as_read(self, sample: Sample, size: tuple[int, int]) -> tuple[str, str]:
        """Return problem and solution with boxes in the model's own frame, for a picture of `size`, (width, height)."""
        resized = self.resized(size)
        problem = self.asked(sample, resized) if self.asked else sample.problem
        return problem, self._rescale(sample.solution, sample, resized, written=True)

    def _rescale(self, text: str, sample: Sample, pixels: tuple[int, int], written: bool) -> str:
        from minirft.engine.families.pixel_boxes import THOUSAND, rescale  # here: few models need it

        if self.asked is None or sample.task not in WITH_BOXES:
            return text
        return rescale(text, THOUSAND, pixels) if written else rescale(text, pixels, THOUSAND)

    def _text_ids(self, sample: Sample, size: tuple[int, int]) -> list[int]:
        """Tokenize the question in the chat format, with one picture token in the place of a picture of `size`."""
        control = [t.content for t in self.tokenizer.added_tokens_decoder.values() if t.special]
        if found := [token for token in control if token in sample.problem]:
            raise UserError(f"sample {sample.id}: the problem holds the control token {found[0]}; remove it")
        problem = self.asked(sample, self.resized(size)) if self.asked else sample.problem
        content = [{"type": "image"}, {"type": "text", "text": problem}]
        ids = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, return_dict=False, **CHAT
        )
        if ids.count(self.picture_id) != 1:
            raise UserError(f"the chat template of {self.tokenizer.name_or_path} gives no place to the picture")
        return ids

    def _too_long(self, sample: Sample, size: tuple[int, int], pictured: int, text: int, limit: int) -> str:
        area = (self.image_processor.patch_size * self.image_processor.merge_size) ** 2
        least = -(-self.image_processor.size["shortest_edge"] // area)
        fits = (n * area for n in range(limit - text, least - 1, -1))
        best = next((p for p in fits if self._picture_tokens(sample, size, p) + text <= limit), None)
        advice = f"set max_pixels to {best} or less" if best else f"its text alone is {text} tokens: shorten it"
        return (
            f"sample {sample.id}: the prompt is {pictured + text} tokens and the limit is {limit}; "
            f"{advice}, or raise max_prompt_length"
        )


def load_processor(
    source: str, max_pixels: int | None, max_prompt_length: int | None, pixel_boxes: bool = False
) -> Processor:
    """Load the processor of a model folder or hub id.  Raises `UserError` when a file is missing or does not fit.

    `max_pixels` replaces the folder's own upper limit on the area of the resized picture, in pixels; `pixel_boxes` is
    that of the model's `Family`.
    """
    from minirft.engine.families.pixel_boxes import question
    from minirft.engine.model_folder import check_processor, check_tokens, how_to_fetch  # here: a step loads nothing

    check_processor(source)
    advice = "copy them there" if Path(source).is_dir() else how_to_fetch(source)
    with as_user_error(f"{source}: no usable tokenizer and picture processor ({{why}}); {advice}", OSError, ValueError):
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        image_processor = Qwen2VLImageProcessorPil.from_pretrained(source)
    check_tokens(source, tokenizer)
    if tokenizer.chat_template is None:
        tokenizer.chat_template = _legacy_chat_template(source)
    if PICTURE_TOKEN not in tokenizer.get_vocab():
        raise UserError(f"{source}: the tokenizer has no {PICTURE_TOKEN}; it is not the tokenizer of such a model")
    if max_pixels is not None:
        least = image_processor.size["shortest_edge"]
        if max_pixels < least:
            raise UserError(f"max_pixels is {max_pixels}, below the {least} pixels {source} needs; raise it")
        image_processor.size = {"shortest_edge": least, "longest_edge": max_pixels}
    return Processor(tokenizer, image_processor, max_prompt_length, question if pixel_boxes else None)


def _legacy_chat_template(source: str) -> str:
    """Load the template from a file that the tokenizer does not read: Qwen2-VL's first releases kept it there."""
    message = f"{source}: no chat template; add the chat_template.json of the base model"
    with as_user_error(message, OSError, ValueError, KeyError, TypeError):
        found = cached_file(source, "chat_template.json")
        return json.loads(Path(found).read_text())["chat_template"]


class ByteCache(Generic[T]):
    """A byte cache keeps the most recently used values, at most `budget` bytes of them.

    >>> cache = ByteCache(budget=5)
    >>> for text in ("abc", "de", "abc", "f", "de"):
    ...     _ = cache.remember(text, lambda: print("made", text) or text, len)
    made abc
    made de
    made f
    made de
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.used = 0
        self._entries: OrderedDict[Hashable, tuple[T, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def remember(self, key: Hashable, make: Callable[[], T], nbytes: Callable[[T], int]) -> T:
        """Return the value of `key`; make it if it is not cached.  A value larger than the budget is not kept."""
        if key in self._entries:
            self._entries.move_to_end(key)
            return self._entries[key][0]
        value = make()
        if (size := nbytes(value)) <= self.budget:
            self._entries[key] = value, size
            self.used += size
        while self.used > self.budget:
            _, (_, oldest) = self._entries.popitem(last=False)
            self.used -= oldest
        return value


class FeatureCache(ByteCache[Tensor]):
    """A feature cache keeps picture features in host memory.

    The key is the picture itself (patches and grid), so two samples about one picture share an entry.
    A picture of 401,408 pixels takes 1.5 MB in bf16 for Qwen2-VL-2B.
    """

    def __init__(self, budget: int = 2**29) -> None:
        super().__init__(budget)

    def get(self, prompt: Prompt, compute: Callable[[], Tensor]) -> Tensor:
        """Return the features of the prompt's picture; compute them if they are not cached."""
        return self.remember(prompt.picture_key, lambda: compute().cpu(), lambda features: features.nbytes)


class PromptCache(ByteCache[tuple[Sample, Prompt]]):
    """A prompt cache keeps encoded samples, so that a picture is opened, resized and cut into patches once in a run.

    The key is `id(sample)`: every epoch of a training set has the same objects.  The sample is stored too, because
    Python may reuse the id of a deleted object.  A picture of 401,408 pixels takes 9.6 MB.
    """

    def __init__(self, budget: int = 2**28) -> None:
        super().__init__(budget)

    def get(self, sample: Sample, encode: Callable[[], Prompt]) -> Prompt:
        """Return the prompt of the sample; encode it if it is not cached."""
        return self.remember(id(sample), lambda: (sample, encode()), lambda pair: pair[1].pixel_values.nbytes)[1]

"""This module defines the nouns of the package, the glossary of shapes, and the random stream of a step.

    Sample -> Prompt -> sample_groups -> Rollout -> rewards (P, G) -> advantages (P, G) -> loss

Every docstring and comment uses these letters:

    P   prompts in a step                    S   prompt tokens (picture tokens included)
    G   completions of one prompt: a group   T   completion tokens
    B   rows, B = P * G, group-major:        V   vocabulary
        row b is completion b % G of prompt b // G
    N   predicted boxes                      M   true boxes

Boxes are float `xyxy` with y pointing down, in the units of a `Frame`.  Log-probabilities are natural logarithms,
computed after dividing the logits by the sampling temperature.  Each part of a reward lies in [0, 1] before its weight.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from minirft import UserError

if TYPE_CHECKING:  # rewards need no torch
    from torch import Tensor

Task = Literal["detection", "classification", "grounding", "presence"]
WITH_BOXES = ("detection", "grounding")  # the tasks whose answers hold boxes


@dataclass(frozen=True)
class Frame:
    """A frame is a coordinate system with a name and an extent along x and y.

    >>> Frame("thumbnail", 64, 48).width
    64
    """

    name: str
    width: float
    height: float

    def __post_init__(self) -> None:
        if not (0 < self.width < math.inf and 0 < self.height < math.inf):
            raise ValueError(f"frame {self.name!r} must have a positive, finite size, got {self.width} x {self.height}")


@dataclass(frozen=True)
class TrueBoxes:
    """True boxes are the objects of one category in one picture, exactly as in the annotation file.

    They are neither rounded nor clipped.

    `boxes` are (M, 4) and `crowds` (C, 4), xyxy in the units of `frame`.  A crowd is one box around many objects: COCO
    counts a prediction inside it neither as a hit nor as a false box.
    """

    frame: Frame
    boxes: NDArray[np.float64]
    crowds: NDArray[np.float64]
    labels: tuple[str, ...] = ()  # of boxes, then crowds; only for questions about several categories


@dataclass(frozen=True)
class Sample:
    """A sample is one question about one picture, with an answer that can be checked.

    `image` is a picture, or the path of a picture that is opened only when it is needed.  `problem` and `solution`
    are texts in the format of the published Visual-RFT sets: the solution of a detection sample is
    ``<answer>[{'Position': [x1, y1, x2, y2], 'Confidence': 1}]</answer>`` in the model's 0-1000 frame.

    >>> Sample("s0", Image.new("RGB", (4, 3)), "presence", "Is there a cat?", "<answer>yes</answer>").picture().size
    (4, 3)
    """

    id: str
    image: Image.Image | Path
    task: Task
    problem: str
    solution: str
    category: str = ""  # the category in the question, the true label, or the instruction
    asked: tuple[str, ...] = ()  # the categories of a detection question about several categories
    reasoning: str = ""  # reasoning that an expert wrote; only SFT can use it
    upright: bool = False  # apply the camera's rotation (EXIF); boxes then belong to the rotated picture
    # Evaluation scores detection against these boxes if they are given: the solution is rounded to thousandths.
    exact: TrueBoxes | None = field(default=None, repr=False, compare=False)

    def picture(self) -> Image.Image:
        """Return the picture in RGB, shape (height, width, 3), converted by `pictures.to_rgb`.

        Raises `UserError` when the picture cannot be opened.
        """
        if isinstance(self.image, Image.Image) and self.image.mode == "RGB" and not self.image.info:
            return self.image.copy()  # a drawn picture: there is no metadata to apply
        from minirft.pictures import UNREADABLE, open_picture, to_rgb  # here, because a drawn picture needs none of it

        if isinstance(self.image, Image.Image):
            return to_rgb(self.image, self.upright)
        try:
            with open_picture(self.image) as opened:
                return to_rgb(opened, self.upright)
        except FileNotFoundError:
            raise UserError(f"sample {self.id}: no picture at {self.image}; check the path") from None
        except UNREADABLE as error:
            raise UserError(
                f"sample {self.id}: {self.image} will not open as a picture ({error}); repair or remove it"
            ) from None


@dataclass(frozen=True)
class Prompt:
    """A prompt is a sample as the input of the model: token ids, picture patches, and three-axis positions.

    `position_ids` are Qwen2-VL's (time, height, width) rotary positions; `rope_delta` is the position
    of the first completion token minus S (negative, because a picture's tokens share positions).
    """

    sample: Sample
    input_ids: Tensor  # (S,) long
    mm_token_type_ids: Tensor  # (S,) long, 1 on picture tokens
    pixel_values: Tensor  # (patches, 3 * temporal * patch * patch)
    image_grid_thw: Tensor  # (1, 3) long: patches along time, height, width
    position_ids: Tensor  # (3, S) long
    rope_delta: int

    def __len__(self) -> int:
        return self.input_ids.numel()

    @cached_property
    def picture_key(self) -> bytes:
        """Return a digest of the patches and their grid, 16 bytes; equal pictures have equal keys."""
        digest = hashlib.blake2b(self.pixel_values.numpy().tobytes(), digest_size=16)
        digest.update(self.image_grid_thw.numpy().tobytes())
        return digest.digest()


@dataclass(frozen=True)
class Rollout:
    """A rollout holds all completions of one step, right-padded and group-major.

    `completion_mask` is 1 up to and including the end-of-turn token and 0 on padding.  `logprobs` come from
    the policy that sampled, at `temperature`; tokens that may not be sampled have probability 0.
    """

    prompts: list[Prompt]  # P
    completion_ids: Tensor  # (B, T) long
    completion_mask: Tensor  # (B, T) bool
    logprobs: Tensor  # (B, T) float32, 0 on padding
    texts: list[str]  # B, without the end-of-turn token
    finished: Tensor  # (B,) bool: ended with an end-of-turn token, not at the length limit
    group_size: int
    temperature: float

    def __post_init__(self) -> None:
        rows = len(self.prompts) * self.group_size
        if self.completion_ids.shape[0] != rows or len(self.texts) != rows:
            raise ValueError(
                f"{len(self.prompts)} prompts x group size {self.group_size} is {rows} rows, "
                f"got completion_ids {tuple(self.completion_ids.shape)} and {len(self.texts)} texts"
            )

    @property
    def samples(self) -> list[Sample]:
        """Return the P samples of the prompts."""
        return [prompt.sample for prompt in self.prompts]

    @property
    def lengths(self) -> Tensor:
        """Count the completion tokens of each row, shape (B,), including the end-of-turn token."""
        return self.completion_mask.sum(-1)

    def sample_of(self, b: int) -> Sample:
        """Return the sample that row `b` answers."""
        return self.prompts[b // self.group_size].sample

    def rows(self, p: int) -> slice:
        """Return the rows of prompt `p`."""
        return slice(p * self.group_size, (p + 1) * self.group_size)

    def tokens(self, b: int) -> Tensor:
        """Return the token ids of row `b` without padding, shape (lengths[b],)."""
        return self.completion_ids[b, : int(self.completion_mask[b].sum())]


def step_seed(seed: int, step: int) -> int:
    """Derive a 63-bit seed from (seed, step); neighbouring steps get unrelated seeds.

    >>> step_seed(0, 1) == step_seed(0, 1), step_seed(0, 1) == step_seed(1, 0)
    (True, False)
    """
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> 1)

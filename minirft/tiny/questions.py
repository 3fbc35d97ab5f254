"""A question about the tiny world, with everything that a perfect annotator knows about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from minirft.rewards import boxes, prompts
from minirft.samples import Task
from minirft.tiny.lookalikes import render_lookalike
from minirft.tiny.scenes import SIDE, Scene, Thing, render

# Task -> its question; classification asks by family instead.
PROMPTS = {"detection": prompts.detection, "grounding": prompts.grounding, "presence": prompts.presence}


@dataclass(frozen=True)
class Question:
    """A question with everything a perfect annotator knows about it.

    `things` are the objects that answer it (none for an absent category); a look-alike question has a
    `family`, its class as `subject`, and no scene.
    """

    task: Task
    subject: str  # the category, the class, or the instruction
    seed: int
    scene: Scene | None = None
    things: tuple[Thing, ...] = ()
    family: str = ""

    def image(self) -> Image.Image:
        """The picture, RGB, 112 x 112."""
        return render(self.scene) if self.scene else render_lookalike(self.family, self.subject, self.seed)

    def problem(self) -> str:
        """The question as the paper asks it."""
        if self.task == "classification":
            return prompts.classification(self.family)
        return PROMPTS[self.task](self.subject)

    def solution(self) -> str:
        """The checkable answer, in the text format of the published sets."""
        if self.task == "classification":
            return prompts.label_solution(self.subject)
        if self.task == "presence":
            return prompts.presence_solution(bool(self.things))
        in_model_frame = model_boxes(self.things)
        if self.task == "grounding":
            return prompts.grounding_solution(in_model_frame[0])
        # With two decimals, as the prompt asks: the published sets write 1, which the embedded model never met, and
        # whoever imitates these solutions would have to learn to spell first.
        return prompts.detection_solution(in_model_frame, 1.0)


def model_boxes(things: Sequence[Thing]) -> np.ndarray:
    """Boxes of objects as the model writes them: integers 0-1000, shape (N, 4)."""
    xyxy = np.array([thing.box for thing in things], dtype=float).reshape(-1, 4)
    return boxes.convert(xyxy, boxes.pixels(SIDE, SIDE), boxes.MODEL).round()

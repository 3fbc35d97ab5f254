"""A question about the tiny world has a picture, a text, and the facts that a perfect annotator would know."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from minirft.rewards import boxes, prompts
from minirft.samples import Task
from minirft.tiny.lookalikes import render_lookalike
from minirft.tiny.scenes import SIDE, Scene, Thing, render


@dataclass(frozen=True)
class Question:
    """A question holds everything that a perfect annotator would know about it.

    `things` are the right objects (none for an absent category).  A look-alike question has a `family`, its class as
    `subject`, and no scene.
    """

    task: Task
    subject: str  # the category, the class, or the instruction
    seed: int
    scene: Scene | None = None
    things: tuple[Thing, ...] = ()
    family: str = ""

    def image(self) -> Image.Image:
        """Draw the picture, RGB, 112 x 112."""
        return render(self.scene) if self.scene else render_lookalike(self.family, self.subject, self.seed)

    def problem(self) -> str:
        """Write the question in the paper's words: about the subject, or for classification about the family."""
        return str(getattr(prompts, self.task)(self.family or self.subject))

    def solution(self) -> str:
        """Write the checkable answer, in the text format of the published sets."""
        if self.task == "classification":
            return prompts.label_solution(self.subject)
        if self.task == "presence":
            return prompts.presence_solution(bool(self.things))
        in_model_frame = model_boxes(self.things)
        if self.task == "grounding":
            return prompts.grounding_solution(in_model_frame[0])
        # Two decimals, as the prompt requires.  The published sets write 1, which is not in the base's pretraining
        # texts: SFT on these solutions would first have to teach it a new way to write a number.
        return prompts.detection_solution(in_model_frame, 1.0)


def model_boxes(things: Sequence[Thing]) -> np.ndarray:
    """Convert the boxes of objects to the model frame: integers 0-1000, shape (N, 4)."""
    xyxy = np.array([thing.box for thing in things], dtype=float).reshape(-1, 4)
    return boxes.convert(xyxy, boxes.pixels(SIDE, SIDE), boxes.MODEL).round()

"""Where the coordinates of answers are looked at: in every evaluation, and in training while it earns little.

`minirft.rewards.frames` says which frame a batch of answers is in; here is when it is asked, and whom it is told.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from minirft.policy import Policy
from minirft.rewards import check_frames
from minirft.runs.folder import Row, Run
from minirft.samples import Sample

LOW_IOU = 0.2
"""Mean IoU reward of a step below which the coordinates of its answers are looked at."""
WITH_BOXES = ("detection", "grounding")


def frame_warning(policy: Policy, texts: Sequence[str], samples: Sequence[Sample]) -> str | None:
    """What `check_frames` says of answers about boxes; None where nothing is wrong, or no boxes are asked for."""
    if samples[0].task not in WITH_BOXES:
        return None
    return check_frames(texts, samples, policy.processor.resized).warning


@dataclass
class FrameWatch:
    """Looks at the coordinates of a run's answers while they earn little, and says once on stderr what is wrong.

    A look at training opens the step's pictures again, so it is taken at steps 1, 2, 4, 8, ... while the reward is low.
    """

    run: Run
    said: bool = False

    def training(self, row: Row, completions: list[Row], samples: list[Sample]) -> Row:
        """What to add to the row of a training step: `frame_warning`, or nothing."""
        step, task = self.run.step, self.run.config.data.task
        low = row.get("reward_iou", LOW_IOU) < LOW_IOU
        if not low or self.said or step & (step - 1) or task not in WITH_BOXES:
            return {}
        by_id = {sample.id: sample for sample in samples}
        asked = [by_id[completion["sample"]] for completion in completions]
        warning = frame_warning(self.run.policy, [completion["text"] for completion in completions], asked)
        self.tell(warning)
        return {"frame_warning": warning} if warning else {}

    def tell(self, warning: str | None) -> None:
        """The warning on stderr, the first time."""
        if warning and not self.said:
            self.said = True
            print(f"minirft: {warning}", file=sys.stderr)

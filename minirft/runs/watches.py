"""Three watches look at the steps of a run and warn: of boxes in a wrong frame, of idle steps, of failing rewards.

Each starts from the rows that are already in the log, so that a resumed run warns when an uninterrupted one would.
"""

import sys
from collections import Counter, deque
from collections.abc import Iterable, Sequence

from minirft import UserError
from minirft.policy import Policy
from minirft.rewards import check_frames
from minirft.runs.config import GRPOConfig
from minirft.runs.folder import Row, Run
from minirft.samples import WITH_BOXES, Sample

LOW_IOU = 0.2
"""Mean IoU reward of a step below which the coordinates of its answers are checked."""
PATIENCE = 5
"""Idle steps in a row before a warning; one or two can be chance."""
WINDOW = 20
"""Steps over which failures of a reward are counted."""


def frame_warning(policy: Policy, texts: Sequence[str], samples: Sequence[Sample]) -> dict[str, str]:
    """Return {"frame_warning": that of `check_frames`}; {} if the boxes of the answers are right or there are none."""
    if samples[0].task not in WITH_BOXES:
        return {}
    warning = check_frames(texts, samples, policy.processor.resized, policy.family.pixel_boxes).warning
    return {"frame_warning": warning} if warning else {}


class FrameWatch:
    """A `FrameWatch` checks the coordinates of a run's answers while the reward is low, and warns once.

    The check opens the step's pictures again, so it is done at steps 1, 2, 4, 8, ... only.
    """

    def __init__(self, run: Run, logged: Iterable[Row] = ()) -> None:
        self.run, self.warned = run, any("frame_warning" in row for row in logged)

    def training(self, row: Row, completions: list[Row], samples: list[Sample]) -> Row:
        """Return what to add to the row of a training step: `frame_warning`, or nothing."""
        low = row.get("reward_iou", LOW_IOU) < LOW_IOU
        if not low or self.warned or self.run.step & (self.run.step - 1):
            return {}
        by_id = {sample.id: sample for sample in samples}
        rows = [by_id[completion["sample"]] for completion in completions]
        return self.warn(frame_warning(self.run.policy, [completion["text"] for completion in completions], rows))

    def warn(self, row: Row) -> Row:
        """Print the `frame_warning` in a row, if any, to stderr, the first time; return the row."""
        if "frame_warning" in row and not self.warned:
            self.warned = True
            print(f"minirft: {row['frame_warning']}", file=sys.stderr)
        return row


def idle(row: Row, config: GRPOConfig) -> dict[str, str]:
    """Return the reasons why a training step teaches nothing, each with a cure; empty if it teaches something.

    >>> idle({"step": 3, "truncated": 1.0, "parse_rate": 0.4, "degenerate_groups": 0.5}, GRPOConfig())
    {'truncated': 'every completion was cut off at 96 tokens: raise max_completion_length, such as to 192'}
    >>> idle({"step": 3, "loss": 0.5}, GRPOConfig())  # supervised
    {}
    """
    reasons, length = {}, config.max_completion_length
    if row.get("truncated") == 1:
        reasons["truncated"] = (
            f"every completion was cut off at {length} tokens: raise max_completion_length, such as to {2 * length}"
        )
    if row.get("parse_rate") == 0:
        reasons["parse_rate"] = (
            "no answer could be read, because the model does not keep to the tags or was cut off: read "
            "completions.jsonl, say how to answer in data.question, or begin with minirft sft"
        )
    if row.get("degenerate_groups") == 1 and config.advantage_scale != "none":
        # All rewards are equal: no answer is ever right, or every answer is.
        cause = "nothing earns a reward" if row.get("reward", 0) <= 0 else "all answers to a picture are alike"
        reasons["degenerate_groups"] = (
            f"the rewards within every group were equal, likely because {cause}: raise temperature or group_size, "
            f"or train on easier or harder data"
        )
    return reasons


class IdleWatch:
    """An `IdleWatch` counts the steps in a row that teach nothing, and warns once for each reason."""

    def __init__(self, config: GRPOConfig, logged: Iterable[Row] = ()) -> None:
        self.config, self.warned = config, set[str]()
        self.count: Counter[str] = Counter()
        for row in logged:
            if row["kind"] == "train":
                self._due(row)

    def training(self, row: Row) -> Row:
        """Return what to add to the row of a training step, `warning` or nothing, and print it to stderr."""
        due = [f"{PATIENCE} steps in a row {text}" for text in self._due(row)]
        for text in due:
            print(f"minirft: {text}", file=sys.stderr)
        return {"warning": "; ".join(due)} if due else {}

    def _due(self, row: Row) -> list[str]:
        reasons = idle(row, self.config)
        self.count = Counter({name: self.count[name] + 1 for name in reasons})
        due = [name for name in reasons if self.count[name] >= PATIENCE and name not in self.warned]
        self.warned.update(due)
        return [reasons[name] for name in due]


class FailedRewards:
    """`FailedRewards` counts completions whose reward failed, and stops a run with too many of them.

    The limit is the share `data.max_bad` of 20 steps' completions; the default, 5%, is as many as one step has.  With
    `data.on_bad = "stop"` the first failure stops the run.
    """

    def __init__(self, run: Run, logged: Iterable[Row] = ()) -> None:
        self.run, self.first = run, ""
        self.counts = deque((row.get("reward_failed", 0) for row in logged if row["kind"] == "train"), WINDOW)

    def training(self, completions: list[Row]) -> Row:
        """Return what to add to the row of a training step.  Raises `UserError` when too many rewards failed."""
        failed = [completion for completion in completions if completion.get("reward", 0) is None]
        self.counts.append(len(failed))
        if not failed:
            return {}
        if not self.first:
            reason = failed[0]["failure"] or "the reward is not finite"
            self.first = f"step {self.run.step}, sample {failed[0]['sample']}: {reason}"
            print(f"minirft: {self.first}; its group is left out of the update", file=sys.stderr)
        data = self.run.config.data
        if data.on_bad == "stop" or sum(self.counts) >= data.max_bad * WINDOW * len(completions):
            raise UserError(
                f"the reward failed for {sum(self.counts)} completions in {len(self.counts)} steps, and data.max_bad = "
                f"{data.max_bad:g} allows no more; the first was {self.first}; mend the reward and start a new run"
            )
        return {"reward_failed": len(failed)}

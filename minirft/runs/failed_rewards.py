"""A reward of one's own that fails costs a group; one that keeps failing stops the run, with the first error shown."""

from __future__ import annotations

import sys
from collections import deque

from minirft import UserError
from minirft.runs.folder import Row, Run
from minirft.runs.log import read_log

WINDOW = 20  # steps


class FailedRewards:
    """Counts completions whose reward failed, and stops a run when they reach `data.max_bad` of 20 steps' completions.

    With the default of 5% that is as many as one step has.  `data.on_bad = "stop"` stops at the first.
    """

    def __init__(self, run: Run) -> None:
        self.run, self.first = run, ""
        rows = read_log(run.log.path)[1] if run.step else []
        self.counts = deque((row.get("reward_failed", 0) for row in rows if row["kind"] == "train"), WINDOW)

    def look(self, step: int, completions: list[Row]) -> Row:
        """Count the failures of a step, for its row.  Raises `UserError` where there are too many."""
        failed = [completion for completion in completions if completion.get("reward", 0) is None]
        self.counts.append(len(failed))
        if not failed:
            return {}
        told = f"step {step}, sample {failed[0]['sample']}: {failed[0]['failure'] or 'the reward is not finite'}"
        if not self.first:
            self.first = told
            print(f"minirft: {told}; its group is left out of the update", file=sys.stderr)
        data = self.run.config.data
        if data.on_bad == "stop" or sum(self.counts) >= data.max_bad * WINDOW * len(completions):
            raise UserError(
                f"the reward failed for {sum(self.counts)} completions in {len(self.counts)} steps, and data.max_bad = "
                f"{data.max_bad:g} allows no more; the first was {self.first}; mend the reward and start a new run"
            )
        return {"reward_failed": len(failed)}

"""A run that learns nothing: said at the fifth such step in a row, with the likely cause and the setting to change."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable

from minirft.runs.config import GRPOConfig
from minirft.runs.folder import Row

PATIENCE = 5
"""Steps in a row before it is said; one or two such steps are chance."""


def idle(row: Row, config: GRPOConfig) -> dict[str, str]:
    """What keeps a step of training from teaching anything, each with its cause and cure; empty where it teaches.

    >>> idle({"step": 3, "truncated": 1.0, "parse_rate": 0.4, "degenerate_groups": 0.5}, GRPOConfig())
    {'truncated': 'every completion was cut off at 96 tokens: raise max_completion_length, such as to 192'}
    >>> idle({"step": 3, "loss": 0.5}, GRPOConfig())  # supervised
    {}
    """
    found, length = {}, config.max_completion_length
    if row.get("truncated") == 1:
        found["truncated"] = (
            f"every completion was cut off at {length} tokens: raise max_completion_length, such as to {2 * length}"
        )
    if row.get("parse_rate") == 0:
        found["parse_rate"] = (
            "no answer could be read, because the model does not keep to the tags or was cut off: read "
            "completions.jsonl, say how to answer in data.question, or begin with minirft sft"
        )
    if row.get("degenerate_groups") == 1 and config.advantage_scale != "none":
        # The same reward for all: nothing is ever right, or everything is.
        cause = "nothing earns a reward" if row.get("reward", 0) <= 0 else "all answers to a picture are alike"
        found["degenerate_groups"] = (
            f"the rewards within every group were equal, likely because {cause}: raise temperature or group_size, "
            f"or train on easier or harder data"
        )
    return found


class IdleWatch:
    """Counts the steps in a row that teach nothing and says each kind once.

    `logged` are the rows of training so far, so that a resumed run says what one that never stopped would.
    """

    def __init__(self, config: GRPOConfig, logged: Iterable[Row] = ()) -> None:
        self.config, self.said = config, set[str]()
        self.count: Counter[str] = Counter()
        for row in logged:
            self._due(row)

    def training(self, row: Row) -> Row:
        """What to add to the row of a training step: `warning`, or nothing; said on stderr too."""
        due = [f"{PATIENCE} steps in a row {text}" for text in self._due(row)]
        for text in due:
            print(f"minirft: {text}", file=sys.stderr)
        return {"warning": "; ".join(due)} if due else {}

    def _due(self, row: Row) -> list[str]:
        found = idle(row, self.config)
        self.count = Counter({name: self.count[name] + 1 for name in found})
        due = [name for name in found if self.count[name] >= PATIENCE and name not in self.said]
        self.said.update(due)
        return [found[name] for name in due]

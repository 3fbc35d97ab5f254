"""Trainers take turns: in each turn every trainer does one step, so a busy machine or card slows all of them alike.

Turn 0 warms up, and its work is counted; the others are timed.  The ratios of a run are therefore more reliable than
its seconds.
"""

import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from minirft.cost.steps import Ours
from minirft.cost.trl_step import Trl
from minirft.cost.work import PHASES, Phases, Spent, Work, clock, counting

Read = Callable[[], tuple[float, float]]
Row = dict[str, Any]


@dataclass
class Record:
    """The measurements of one trainer: its work, and [wall, processor] seconds of each phase of each timed step.

    A trainer that failed has an `error` of one line.
    """

    work: Work | None = None
    seconds: list[Spent] = field(default_factory=list)
    error: str = ""


def take_turns(
    trainers: Mapping[str, Ours], trl: Trl | None, steps: int, device: torch.device | None = None
) -> dict[str, Record]:
    """Warm up, counting the work of a step, and time `steps` steps of each trainer.

    With a `device` the clock waits for it, nothing is counted, and an error ends only the trainer that raises it.
    """
    survive, read = (Exception,) if device else (), partial(clock, device or torch.device("cpu"))
    records = {name: Record() for name in [*trainers, *(["trl"] if trl else [])]}
    done = 0

    def ours(turn: int) -> None:
        nonlocal done
        for name in [name for name in trainers if not records[name].error]:
            try:
                trainers[name].step(turn, watched(trainers[name], records[name], turn, read, not device))
            except survive as error:
                records[name].error = one_line(error)
        done = turn + 1

    if trl is not None:
        try:
            trl.run(lambda turn: watched(trl, records["trl"], turn, read, not device), ours)
        except survive as error:
            records["trl"].error = one_line(error)
    for turn in range(done, steps + 1):
        ours(turn)
    return records


@contextmanager
def watched(trainer: Ours | Trl, record: Record, turn: int, read: Read, counted: bool) -> Iterator[None]:
    """Store the measurements of a turn in the record."""
    with ExitStack() as stack:
        if turn:
            record.seconds.append(stack.enter_context(Phases(read).running(trainer.marks)))
        elif counted:
            record.work = stack.enter_context(counting(trainer.policy, trainer.marks, trainer.shape.prompt))
        yield


def summary(seconds: list[Spent], processor: bool) -> Row:
    """Return medians over the timed steps, of `processor` time or of wall time."""
    by_phase = {phase: [float(step[phase][int(processor)]) for step in seconds] for phase in PHASES}
    whole = [sum(step) for step in zip(*by_phase.values(), strict=True)]
    return {
        "seconds": statistics.median(whole),
        "seconds_spread": [min(whole), max(whole)],
        "seconds_by_phase": {phase: statistics.median(spent) for phase, spent in by_phase.items()},
        "wall_seconds": statistics.median(float(sum(step[phase][0] for phase in PHASES)) for step in seconds),
        "steps": len(seconds),
    }


def one_line(error: BaseException) -> str:
    """Format an exception as one line."""
    return f"{type(error).__name__}: " + " ".join(str(error).split())[:500]

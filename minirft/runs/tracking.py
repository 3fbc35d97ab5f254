"""This module sends the rows of a run to a tracker through the tracker's own client; it is off by default.

The run's log stays the complete record; a tracker gets every number in it, under `train/` and `eval/`, and no text.
"""

import importlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from minirft import as_user_error
from minirft.runs.config import GRPOConfig
from minirft.runs.log import plain

Tracker = Literal["none", "tensorboard", "trackio", "wandb"]
MODULES = {"tensorboard": "torch.utils.tensorboard"}
Row = Mapping[str, Any]
Write = tuple[Callable[[dict[str, float], int], None], Callable[[], None]]  # log the numbers of a step; end the run


def tracked(rows: Iterable[dict[str, Any]], tracker: Tracker, config: GRPOConfig, folder: Path) -> Iterator[dict]:
    """Yield the rows unchanged, and send their numbers to the tracker.

    Raises `UserError`, before the first step, if the tracker's package is not installed.
    """
    if tracker == "none":
        yield from rows
        return
    name, advice = MODULES.get(tracker, tracker), f"pip install 'minirft[{tracker}]', or leave --track out"
    with as_user_error(f"--track {tracker} needs its package ({{why}}): {advice}", ImportError):
        client = importlib.import_module(name)
    started = None
    try:
        for row in rows:
            started = started or _START[tracker](client, config, folder)  # not before the run is known to start
            started[0](numbers(row), int(row["step"]))
            yield row
    finally:
        if started:
            started[1]()


def numbers(row: Row) -> dict[str, float]:
    """Return the finite numbers of a row, with the row's kind in their names.

    >>> numbers({"kind": "train", "step": 3, "reward": 0.5, "kl": None, "ci": {}})
    {'train/reward': 0.5}
    """
    values = {key: value for key, value in plain(row).items() if key != "step" and type(value) in (int, float)}
    return {f"{row['kind']}/{key}": float(value) for key, value in values.items() if math.isfinite(value)}


def _tensorboard(client: ModuleType, config: GRPOConfig, folder: Path) -> Write:
    writer = client.SummaryWriter(str(folder / "tensorboard"))

    def write(values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    return write, writer.close


def _runs(client: ModuleType, config: GRPOConfig, folder: Path) -> Write:
    """Begin a run of trackio or of wandb, whose calls trackio repeats."""
    own = {"resume": "allow"} if client.__name__ == "trackio" else {"dir": str(folder)}
    folder.mkdir(parents=True, exist_ok=True)
    client.init(project="minirft", name=folder.name, config=plain(asdict(config)), **own)
    return (lambda values, step: client.log(values, step=step)), client.finish


_START = {"tensorboard": _tensorboard, "trackio": _runs, "wandb": _runs}

"""This module converts rewards to the forms of other trainers: TRL's, both ways, and verl's.

TRL (`GRPOTrainer(reward_funcs=...)`) scores a batch, `reward_func(completions, **columns) -> list[float | None]`: every
column of the data set is a list as long as `completions`, a completion is a text or a conversation of one message, and
None means that this reward does not apply.

verl scores one completion, `compute_score(data_source, solution_str, ground_truth, extra_info) -> dict[str, float]`.
`minirft data export --to verl` writes a `reward.py` that calls `to_verl`.  verl needs an older transformers than this
package, so nothing that this room imports may import transformers or torch.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from minirft.rewards.own import OwnFunction, OwnReward, reward_for
from minirft.rewards.readings import RewardFn
from minirft.samples import Sample, Task

TrlReward = Callable[..., list[float | None]]
COLUMNS = ("solution", "problem", "category", "id")  # of a sample, for a reward of TRL's form
GREY = Image.new("RGB", (1, 1), "grey")  # for a row without a picture


def to_trl(reward: RewardFn, task: Task) -> TrlReward:
    """Convert a reward of this package to a reward for TRL's trainer.

    It uses the column `solution`, and `problem`, `image`, `category` and `id` if they exist.  A score that is not
    finite becomes None.

    >>> from minirft.rewards import reading
    >>> score = to_trl(reading("classification"), "classification")
    >>> score(["<think>ears</think> <answer>cat</answer>", "dog"], solution=["<answer>cat</answer>"] * 2)
    [2.0, 0.0]
    """

    def reward_func(completions: list[Any], **columns: Any) -> list[float | None]:
        totals = []
        for n, completion in enumerate(completions):
            text = completion if isinstance(completion, str) else completion[-1]["content"]
            row = {name: column[n] for name, column in columns.items() if isinstance(column, list) and n < len(column)}
            sample = _sample({"id": n} | row, task, row.get("image") or GREY, row["solution"])
            totals.append(reward(text, sample).total)
        return [total if math.isfinite(total) else None for total in totals]

    reward_func.__name__ = getattr(reward, "name", task)  # TRL logs it under this name
    return reward_func


def from_trl(function: TrlReward, conversational: bool = True) -> OwnFunction:
    """Convert a reward for TRL to one of this package, a function of one completion and one sample.

    If `conversational`, the function gets [{"role": "assistant", "content": text}] in place of the text.  It gets the
    columns `prompts`, `solution`, `problem`, `category`, `id`, and `image` if it has a parameter of that name.

    >>> def long_enough(completions, solution, **columns): return [float(len(c[0]["content"]) > 3) for c in completions]
    >>> sample = Sample("s0", Image.new("RGB", (4, 3)), "classification", "What?", "<answer>cat</answer>")
    >>> from_trl(long_enough)("a cat", sample)
    {'long_enough': 1.0}
    """
    name, parameters = function.__name__, inspect.signature(function).parameters
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())

    def reward(completion: str, sample: Sample) -> Mapping[str, float]:
        message = [{"role": "assistant", "content": completion}] if conversational else completion
        row = {"prompts": sample.problem} | {key: getattr(sample, key) for key in COLUMNS}
        if "image" in parameters:
            row["image"] = sample.picture()
        known = {key: [value] for key, value in row.items() if takes_all or key in parameters}
        (value,) = function(completions=[message], **known)
        return {} if value is None else {name: value}

    reward.__name__, reward.__wrapped__ = name, function  # type: ignore[attr-defined]  # for `inspect.unwrap`
    return reward


@dataclass(frozen=True)
class RowPicture:
    """A `RowPicture` is the picture in a row of a parquet file; it is read only if a reward opens it."""

    file: Path
    row: int

    def read_bytes(self) -> bytes:
        """Read the bytes of the picture's file, as `Path.read_bytes` does."""
        from pyarrow.parquet import ParquetFile

        with ParquetFile(self.file) as stored:
            group, place = divmod(self.row, stored.metadata.row_group(0).num_rows)
            return stored.read_row_group(group, columns=["images"])["images"][place].as_py()[0]["bytes"]


def to_verl(
    task: Task, source: str, weights: Mapping[str, float] | None = None, timeout: float = 10.0, folder: Path = Path()
) -> Callable[..., dict[str, float]]:
    """Convert a reading, or a function of your own (FILE.py:NAME), to a `compute_score` for verl.

    `folder` holds the parquet files, from which a function of your own gets its picture.  A reward that fails (NaN)
    becomes 0, and `failed` is then 1: verl cannot leave a group out.  Parts are returned for readings only, because
    verl needs the same keys for every completion.  Raises `UserError` as `reward_for` does.

    >>> compute_score = to_verl("classification", "strict")
    >>> compute_score("minirft/classification", "<think>ears</think> <answer>cat</answer>", "<answer>cat</answer>")
    {'score': 2.0, 'failed': 0.0, 'accuracy': 1.0, 'format': 1.0}
    """
    reward = reward_for(task, source, weights, timeout)

    def compute_score(
        data_source: str, solution_str: str, ground_truth: str, extra_info: Mapping[str, Any] | None = None, **_: Any
    ) -> dict[str, float]:
        row = extra_info or {}
        image = RowPicture(folder / f"{row.get('split')}.parquet", int(row.get("index", 0)))
        score = reward(solution_str, _sample(row, task, image, ground_truth))
        parts = {} if isinstance(reward, OwnReward) else score.parts
        failed = {"failed": float(not math.isfinite(score.total))}
        return {name: v if math.isfinite(v) else 0.0 for name, v in ({"score": score.total} | failed | parts).items()}

    return compute_score


def _sample(row: Mapping[str, Any], task: Task, image: Any, solution: str) -> Sample:
    """Convert a row of another trainer's data set to a sample."""
    name, problem, category = (str(row.get(key, "")) for key in ("id", "problem", "category"))
    return Sample(name, image, task, problem, solution, category, tuple(row.get("asked", ())))

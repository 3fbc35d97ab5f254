"""This module converts a reward to verl's form: a function that scores one completion, `compute_score`.

`minirft data export --to verl` writes a `reward.py` that calls `to_verl`.  verl needs an older transformers than this
package, so nothing that this room imports may import transformers or torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minirft.rewards.own import OwnReward, reward_for
from minirft.samples import Sample, Task

VerlReward = Callable[..., dict[str, float]]


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
) -> VerlReward:
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
        image: Any = RowPicture(folder / f"{row.get('split')}.parquet", int(row.get("index", 0)))
        name, problem, category = (str(row.get(key, "")) for key in ("id", "problem", "category"))
        sample = Sample(name, image, task, problem, ground_truth, category, tuple(row.get("asked", ())))
        score = reward(solution_str, sample)
        parts = {} if isinstance(reward, OwnReward) else score.parts
        failed = {"failed": float(not math.isfinite(score.total))}
        return {name: v if math.isfinite(v) else 0.0 for name, v in ({"score": score.total} | failed | parts).items()}

    return compute_score

"""The log of a run: JSON lines, the first of which says where the numbers come from.

The header holds configuration, seed, commit, versions and device.  Every other line is one row, and every
key of a row is defined in `METRICS`, the metrics glossary.  Checkpoints are in `checkpoints`.
"""

from __future__ import annotations

import json
import math
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from minirft import UserError

# Every key a row may have.  To log something new, define it here; shapes and letters are those of `samples`.
METRICS: dict[str, str] = {
    # where in the run
    "step": "training steps done when the row was written; 0 is before the first update",
    "mode": "how completions were drawn for this row: greedy, or sampled at the run's temperature",
    # the data
    "bad_samples": "rows and pictures left out before the first step; bad_samples.jsonl in the run's folder lists them",
    "mended": "what was put right in the data or noted about it, and how often: {what: count}",
    # rewards and advantages
    "reward": "mean over the B completions of the weighted sum of reward parts: Σₖ wₖ rₖ",
    "reward_iou": "mean of R_IoU before its weight: Σ matched IoU / max(predicted, true boxes); paper: / predicted",
    "reward_confidence": "mean of R_conf before its weight: (1 + mean of 2cy - c²) / 2, y = 1 on a hit; paper: eq. 7-8",
    "reward_format": "mean of R_format before its weight: 1 when the tags are right and (strict) the answer readable",
    "reward_accuracy": "mean of R_acc before its weight: 1 when the answer is the right one, else 0",
    "reward_std": "mean over groups of the standard deviation (ddof 1) of the reward within a group",
    "degenerate_groups": "share of the P groups whose G rewards are all equal, and so teach nothing",
    # loss and update
    "loss": "the scalar that was differentiated, summed over passes; not a measure of progress (see loss.py)",
    "ratio_mean": "mean over completion tokens of ρ = π(token) / π_old(token); over rows for GSPO",
    "clip_fraction": "clip_fraction_low + clip_fraction_high",
    "clip_fraction_low": "share of tokens (rows for GSPO) with A < 0 and ρ below its lower bound: no gradient",
    "clip_fraction_high": "share of tokens (rows for GSPO) with A > 0 and ρ above its upper bound",
    "mismatch": "mean over completion tokens of |log π learning computes - log π sampling computed|, before any update",
    "kl": "mean over completion tokens of the KL estimate (k1, k2 or k3) of policy to reference, in nats",
    "entropy": "mean over completion tokens of -Σ π log π at the sampling temperature, in nats",
    "grad_norm": "L2 norm of the gradient of all trainable weights, before clipping",
    "lr": "learning rate used by the update",
    "tokens": "target tokens in the step's loss (supervised fine-tuning)",
    # completions
    "completion_length": "mean completion tokens per row, the end-of-turn token counted",
    "frame_warning": "what is wrong with the coordinates of the answers, in words (frames.py); absent where nothing is",
    "truncated": "share of completions that hit the length limit before their end-of-turn token",
    "parse_rate": "share of completions whose answer could be read; in an evaluation it must keep to the tags too",
    # time
    "seconds": "wall time of the step, or of the evaluation",
    "seconds_prepare": "wall time of turning samples into token ids and picture patches",
    "seconds_rollout": "wall time of sampling the completions",
    "seconds_score": "wall time of rewards and of reference log-probabilities",
    "seconds_update": "wall time of forward, backward and optimiser",
    "tokens_per_second": "completion tokens of the step / seconds",
    # evaluation: detection
    "ap": "COCO AP: mean over IoU .50:.05:.95 and categories (pycocotools); too high with few questions a category",
    "ap50": "COCO AP at IoU .50, mean over categories (pycocotools); too high where a category has few questions",
    "ap75": "COCO AP at IoU .75, mean over categories (pycocotools); too high where a category has few questions",
    "ap50_pooled": "AP at IoU .50 of all boxes in one ranking, whatever their category; compared between runs",
    "ar": "recall with at most 100 boxes, mean over IoU thresholds .50:.05:.95 and categories (COCO's AR)",
    "recall": "true boxes matched one to one at IoU .50 / true boxes",
    "precision": "matched / predicted boxes, one to one at IoU .50; malformed ones count, those on a crowd do not",
    "mean_iou": "mean over pictures with the category of Σ IoU of matched boxes / max(predicted, true boxes)",
    "boxes_per_image": "mean number of predicted boxes, malformed ones included",
    "ece": "expected calibration error of confidence c: Σ over 10 bins of (n_bin / n) |mean c - share of hits|",
    "auc": "chance that a box that hits at IoU .50 has a higher confidence than one that misses, ties half",
    "abstention": "share of the pictures without the category that are answered with no box",
    "false_abstention": "share of the pictures with the category that are answered with no box",
    # evaluation: classification, presence, grounding
    "accuracy": "share of answers that are the true label after normalisation",
    "accuracy_substring": "share of answers that contain the true label or are contained in it (released code)",
    "box_iou": "mean IoU of the predicted and the true box, 0 when no box could be read",
    "giou": "mean generalised IoU of the predicted and the true box, -1 when no box could be read",
    "acc50": "share of predicted boxes with IoU at least .50",
    "n": "samples evaluated",
    "ci": "bootstrap 95% interval over samples, {name: [low, high]}; none for ap, ap50, ap75",
}

LIBRARIES = ("minirft", "torch", "transformers", "peft", "bitsandbytes", "safetensors", "numpy")


def provenance(config: Mapping[str, Any], seed: int, device: str) -> dict[str, Any]:
    """Where a run's numbers come from: the first line of its log."""
    return {
        "kind": "header",
        "config": dict(config),
        "seed": seed,
        "commit": _commit(),
        "versions": {name: library_version(name) for name in LIBRARIES},
        "python": sys.version.split()[0],
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "threads": torch.get_num_threads(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
    }


def _commit() -> str:
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():  # installed: a repository further up is not ours
        return "unknown"
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def library_version(library: str) -> str:
    """The installed version of a library, or "absent".

    >>> library_version("no-such-library")
    'absent'
    """
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "absent"


def plain(value: Any) -> Any:
    """A value as JSON can hold it: 0-d tensors and arrays as numbers, NaN and infinities as null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


class RunLog:
    """An append-only JSON-lines file: a header, then rows `{"kind": ..., "step": ..., ...}` in order of time.

    A fresh log refuses a file that is already there; `resume=True` goes on with it.  Each row is one write
    of one whole line, so a killed process leaves at most its last line torn, and resuming cuts that line.
    Raises `UserError` when the file exists, cannot be written or is damaged, `ValueError` on a key that
    `METRICS` does not define.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     log = RunLog(Path(folder) / "log.jsonl", config={"group_size": 8}, seed=0)
    ...     log.row("train", step=1, reward=0.25)
    ...     header, rows = read_log(log.path)
    >>> header["seed"], rows
    (0, [{'kind': 'train', 'step': 1, 'reward': 0.25}])
    """

    def __init__(self, path: Path, *, config: Mapping[str, Any], seed: int, device: str = "cpu", resume: bool = False):
        self.path = Path(path)
        if self.path.exists() and not resume:
            raise UserError(f"{self.path} already holds a run; resume it or choose another output folder")
        if self.path.exists():
            self.truncate_after(math.inf)  # a torn last line
        if not self.path.exists() or self.path.stat().st_size == 0:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._append(provenance(config, seed, device))

    def row(self, kind: str, **values: Any) -> None:
        """Append one row; numbers that are not finite are written as null."""
        unknown = sorted(values.keys() - METRICS.keys())
        if unknown or kind == "header":
            raise ValueError(f"row of kind {kind!r} with undefined keys {unknown}; define them in runlog.METRICS")
        self._append({"kind": kind, **values})

    def truncate_after(self, step: float) -> None:
        """Cut everything from the first row beyond `step` on: what a resumed run redoes."""
        truncate_after(self.path, step)

    def _append(self, row: dict[str, Any]) -> None:
        line = json.dumps(plain(row), allow_nan=False) + "\n"
        try:
            with self.path.open("ab") as file:
                file.write(line.encode())
        except OSError as error:
            raise UserError(f"cannot write the run log {self.path} ({error.strerror}); free some space") from error


def truncate_after(path: Path, step: float) -> None:
    """Cut a file of JSON lines from the first row beyond `step` on, and any torn line.

    A step's rows must be written before its checkpoint; then the file ends as if the run never stopped.
    Raises `UserError` on a line that is not a row.
    """
    end = 0
    with Path(path).open("r+b") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n") or parse_row(line, path, number).get("step", step) > step:
                break
            end += len(line)
        file.truncate(end)


def read_log(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The header and the rows of a run log.  A torn last line, left by a killed process, is dropped.

    Raises `UserError` on a missing file, a missing header, or a line that is not a row.
    """
    try:
        lines = Path(path).read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise UserError(f"cannot read the run log {path} ({error.strerror}); check the path") from None
    rows = [parse_row(line, path, number) for number, line in enumerate(lines, start=1)]
    if not rows or rows[0].get("kind") != "header":
        raise UserError(f"{path} does not start with a header, so it is not a run log of minirft; check the path")
    return rows[0], rows[1:]


def parse_row(
    line: bytes, path: Path, number: int, wanted: str = "a row of a run log; remove that line"
) -> dict[str, Any]:
    """A line of JSON as a row.  Raises `UserError` for anything but an object: the line is not `wanted`."""
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise UserError(f"{path} line {number} is not {wanted}")
    return row

"""This module writes and reads the log of a run: a file of JSON lines that begins with a header.

The header holds configuration, seed, commit, versions and device, that is, the origin of the numbers.  Every other line
is one row, and every key of a row is defined in `METRICS`, the metrics glossary.
"""

import json
import math
import os
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import torch

from minirft import UserError, as_user_error
from minirft.runs.toml import read_toml

METRICS: dict[str, str] = read_toml(Path(__file__).with_name("metrics.toml"))
"""All keys that a row may have, with their meaning.  To log something new, define it in `metrics.toml`."""

ROW = "a row of a run log; remove that line"
LIBRARIES = ("minirft", "torch", "transformers", "peft", "bitsandbytes", "safetensors", "numpy")


def provenance(config: Mapping[str, Any], seed: int, device: str) -> dict[str, Any]:
    """Return the origin of a run's numbers, which is the first line of its log."""
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
    if not (root / ".git").exists():  # the package is installed, so a repository above it is not ours
        return "unknown"
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def library_version(library: str) -> str:
    """Return the installed version of a library, or "absent".

    >>> library_version("no-such-library")
    'absent'
    """
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "absent"


def plain(value: Any) -> Any:
    """Convert a value for JSON: 0-d tensors and arrays become numbers, NaN and infinities become None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


class RunLog:
    """A `RunLog` is an append-only JSON-lines file: a header, then rows `{"kind": ..., "step": ..., ...}`.

    An existing file is continued.  Each row is one write of one whole line, so only the last line of a killed process
    can be incomplete, and that line is removed.
    Raises `UserError` when the file cannot be written or is damaged, and `ValueError` for a key that is neither in
    `METRICS` nor a part of a reward, reward_NAME.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     log = RunLog(Path(folder) / "log.jsonl", config={"group_size": 8}, seed=0)
    ...     row = log.row("train", step=1, reward=0.25)
    ...     header, rows = read_log(log.path)
    >>> header["seed"], rows == [row], rows
    (0, True, [{'kind': 'train', 'step': 1, 'reward': 0.25}])
    """

    def __init__(self, path: Path, *, config: Mapping[str, Any], seed: int, device: str = "cpu") -> None:
        self.path = Path(path)
        if self.path.exists():
            truncate_after(self.path, math.inf)  # removes an incomplete last line
        if not self.path.exists() or self.path.stat().st_size == 0:
            write_rows(self.path, [plain(provenance(config, seed, device))], "the run log ")

    def row(self, kind: str, **values: Any) -> dict[str, Any]:
        """Append one row and return it; infinite numbers and NaN are written as null."""
        unknown = sorted(key for key in values.keys() - METRICS.keys() if not key.startswith("reward_"))
        if unknown or kind == "header":
            raise ValueError(f"row of kind {kind!r} with undefined keys {unknown}; define them in runs/metrics.toml")
        row = {"kind": kind, **values}
        write_rows(self.path, [plain(row)], "the run log ")
        return row


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]], what: str = "", mode: Literal["ab", "wb"] = "ab") -> None:
    """Append rows to a file of JSON lines in one write, or replace the file.  Raises `UserError` when this fails.

    `what` precedes the file's name in the error.
    """
    text = "".join(json.dumps(row, allow_nan=False, ensure_ascii=False) + "\n" for row in rows)
    with as_user_error(f"cannot write {what}{path} ({{why}}); free some space, or choose another place", OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open(mode) as file:
            file.write(text.encode("utf-8", "replace"))  # UTF-8 cannot encode one half of a surrogate pair


def truncate_after(path: Path, step: float) -> None:
    """Cut a file of JSON lines before the first row beyond `step`, or before an incomplete line.

    A step's rows must be written before its checkpoint; then the file is as if the run had never stopped.
    Raises `UserError` for a line that is not a row.
    """
    end = 0
    with Path(path).open("r+b") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n") or parse_row(line, path, number).get("step", step) > step:
                break
            end += len(line)
        file.truncate(end)


def read_log(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Read the header and the rows of a run log, without an incomplete last line of a killed process.

    Raises `UserError` on a missing file, a missing header, or a line that is not a row.
    """
    with as_user_error(f"cannot read the run log {path} ({{why}}); check the path", OSError):
        rows = read_rows(Path(path))
    if not rows or rows[0].get("kind") != "header":
        raise UserError(f"{path} does not start with a header, so it is not a run log of minirft; check the path")
    return rows[0], rows[1:]


def read_rows(path: Path, wanted: str = ROW) -> list[dict[str, Any]]:
    """Read the rows of a file of JSON lines, without an incomplete last one.  Raises as `parse_row` and `open` do."""
    lines = path.read_bytes().split(b"\n")[:-1]
    return [parse_row(line, path, number, wanted) for number, line in enumerate(lines, 1)]


def parse_row(line: bytes, path: Path, number: int, wanted: str = ROW) -> dict[str, Any]:
    """Parse a line of JSON as a row.  Raises `UserError` if it is not an object: the line is not `wanted`."""
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise UserError(f"{path} line {number} is not {wanted}")
    return row

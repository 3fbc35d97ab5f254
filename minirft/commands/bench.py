"""This module holds the command that measures a GRPO step beside the naive path, TRL and the least possible.

Imports are inside the command, because torch and transformers take seconds to load and `minirft --help` needs neither.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from minirft.commands.flags import Json, Switch, parse
from minirft.cost import Request
from minirft.engine import quieten_libraries


@dataclass(frozen=True)
class BenchFlags(Request):
    """`BenchFlags` are the flags of `bench`."""

    gpu: Switch = False
    """Measure memory and time of 2B and 7B on a CUDA card instead, and write files to OUT (results/gpu)."""
    parts: tuple[Literal["memory", "time", "decode", "correct"], ...] = ("memory", "time", "decode", "correct")
    """With --gpu: the parts to measure, in this order."""
    seconds: float = 1500.0
    """With --gpu: stop after this many seconds; the files of later parts say that they were not measured."""
    json: Json = False
    """Print one JSON object instead of a table."""
    out: Path | None = None
    """Also write the JSON object to this file."""


def bench(args: list[str]) -> None:
    """Count and time one GRPO step: ours, the naive path, TRL, and the least arithmetic possible."""
    flags = parse(BenchFlags, args, "minirft bench")
    quieten_libraries()
    if flags.gpu:
        from minirft.cost import run_gpu_bench

        models = ("qwen2-vl-2b", "qwen2-vl-7b") if flags.model == "tiny" else (flags.model,)
        run_gpu_bench(flags.out or Path("results/gpu"), models, parts=flags.parts, seconds=flags.seconds)
        return
    from minirft.cost import measure, table

    measured = measure(flags)
    if flags.out:
        flags.out.parent.mkdir(parents=True, exist_ok=True)
        flags.out.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(measured) if flags.json else table(measured))

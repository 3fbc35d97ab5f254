"""This module holds the command that measures a GRPO step beside the naive path, TRL and the least possible."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

import tyro

from minirft import cost, show
from minirft.commands.flags import parse
from minirft.data import write_whole

Part = Literal["correct", "memory", "decode", "time", "demo"]


@dataclass(frozen=True)
class BenchFlags(cost.Request):
    """`BenchFlags` are the flags of `bench`."""

    scaling: bool = False
    """Measure how the cost grows with G, P and C around a middle point (256, 64 and 4); write OUT and a figure."""
    gpu: bool = False
    """Measure Qwen2-VL of real size on a CUDA card instead; write a file for each part to OUT (results/gpu)."""
    models: tuple[str, ...] = ("qwen2-vl-2b",)
    """With --gpu: the models, one after another, such as qwen2-vl-2b qwen2-vl-7b."""
    parts: tuple[Part, ...] = get_args(Part)
    """With --gpu: the parts to measure, in this order."""
    device: Literal["cuda", "cpu"] = "cuda"
    """With --gpu: cpu rehearses the run with a small model and short lengths."""
    seconds: float = 500.0
    """With --gpu or --scaling: stop after this many seconds; the files name what was not measured."""
    json: bool = False
    """Print one JSON object instead of a table."""
    out: Path | None = None
    """Also write the JSON object to this file."""
    figure: Path | None = None
    """With --scaling: the file of the figure; by default beside OUT."""


def bench(args: list[str]) -> None:
    """Count and time one GRPO step: ours, the naive path, TRL, and the least arithmetic possible."""
    flags = parse(Annotated[BenchFlags, tyro.conf.FlagCreatePairsOff], args, "minirft bench")
    if flags.gpu:
        out = flags.out or Path("results/gpu")
        cost.run_gpu_bench(out, flags.models, flags.device, parts=flags.parts, seconds=flags.seconds)
        return
    if flags.scaling:
        _scaling(flags, flags.out or Path("results/bench/scaling.json"))
        return
    measured = cost.measure(flags)
    if flags.out:
        write_whole(flags.out, json.dumps(measured, indent=1) + "\n")
    print(json.dumps(measured) if flags.json else cost.table(measured))


def _scaling(flags: BenchFlags, out: Path) -> None:
    for found in cost.measure_scaling(flags, flags.seconds):
        write_whole(out, json.dumps(found, indent=1) + "\n")
    figure = show.lines(cost.panels(found), style="o-", size=(2.9, 1.9), xlim=(0, None), ylim=(0, None))
    (flags.figure or out.with_suffix(".png")).write_bytes(show.png(figure))
    print(json.dumps(found) if flags.json else cost.scaling_table(found))

"""The command that measures: what a GRPO step costs, beside the naive path, TRL and the least possible.

Imports are inside the command: torch and transformers take seconds, and `minirft --help` needs neither.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from minirft.commands.flags import Json, Switch, parse
from minirft.engine import quieten_libraries

NoNaive = Annotated[bool, tyro.conf.arg(name="no-naive"), tyro.conf.FlagCreatePairsOff]
NoTrl = Annotated[bool, tyro.conf.arg(name="no-trl"), tyro.conf.FlagCreatePairsOff]


@dataclass(frozen=True)
class BenchFlags:
    """What `bench` takes."""

    model: str = "tiny"
    """tiny, small or mid (random weights), or a folder or name of a Qwen2-VL; all but tiny train LoRA, r = 16."""
    prompt: int | None = None
    """P, prompt tokens; the model's own if left out: 45 for tiny, else 512."""
    completion: int | None = None
    """C, completion tokens; 35 for tiny, else 64."""
    group: int | None = None
    """G, completions of a prompt; 8."""
    prompts: int | None = None
    """Prompts in a step; 8 for tiny, as in its shipped config, else 1."""
    steps: int = 5
    """Steps that are timed, after one that warms up and one that is counted."""
    checkpointing: Switch = False
    """Recompute activations in the backward pass, ours, naive and TRL (whose default it is)."""
    kl_coef: float = 0.0
    """beta; above 0 there is a reference to score with."""
    cached: Switch = False
    """Ours has seen the pictures before, as in any epoch but the first."""
    no_naive: NoNaive = False
    """Leave the naive path out."""
    no_trl: NoTrl = False
    """Leave TRL out."""
    threads: int = 1
    """CPU threads.  With 1, seconds are processor time, which neighbours disturb least; else wall time."""
    gpu: Switch = False
    """Measure memory and time of 2B and 7B on a CUDA card instead; files go to OUT (results/gpu)."""
    parts: tuple[Literal["memory", "time", "decode", "correct"], ...] = ("memory", "time", "decode", "correct")
    """With --gpu: what to measure, in this order."""
    seconds: float = 1500.0
    """With --gpu: stop after this long; what was not reached says so in its file."""
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
    from minirft.cost import Request, measure, table

    found = measure(
        Request(
            model=flags.model,
            prompt=flags.prompt,
            completion=flags.completion,
            group=flags.group,
            prompts=flags.prompts,
            steps=flags.steps,
            checkpointing=flags.checkpointing,
            kl_coef=flags.kl_coef,
            cached=flags.cached,
            naive=not flags.no_naive,
            trl=not flags.no_trl,
            threads=flags.threads,
        )
    )
    if flags.out:
        flags.out.parent.mkdir(parents=True, exist_ok=True)
        flags.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found) if flags.json else table(found))

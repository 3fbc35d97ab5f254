"""`minirft bench --gpu`: the cost of Qwen2-VL-2B and 7B on this card, one JSON file for each part in `results/gpu`.

    memory    peak of a whole step at settings for cards of 4, 8 and 16 GB, beside the prediction of `minirft fit`
    time      seconds of a step by phase, ours and TRL's in turns: NF4 + LoRA, bfloat16, checkpointing
    decode    milliseconds per token step of each decoder, beside (bytes of weights and cache read) / bandwidth
    correct   packed against naive log-probs and gradients, NF4 after a rollout, decoders against the naive loop

The models have random weights of real size (`random_weights`), so nothing is downloaded.  On CUDA every part runs in a
separate process.  A failure, such as out of memory or a broken CUDA context, ends only that part, and its file keeps
the error and the earlier rows.  The same code runs on a CPU with a small model; fields that need a card are then null.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from minirft import UserError
from minirft.cost.gpu_checks import correct, decode
from minirft.cost.gpu_parts import Cases, Sizes, free, memory, one_line, times
from minirft.cost.random_weights import write_random
from minirft.engine import quieten_libraries
from minirft.runs import library_version, provenance

MODELS = ("qwen2-vl-2b", "qwen2-vl-7b")
PARTS: dict[str, Callable[[str, str, Sizes], Cases]] = {
    "memory": memory,
    "time": times,
    "decode": decode,
    "correct": correct,
}


@dataclass(frozen=True)
class Job:
    """One part of the benchmark on one model."""

    part: str
    model: str
    source: str
    """Folder of the random weights."""
    device: str
    file: Path
    """The file of the rows."""
    command: str
    """The user's command line."""
    sizes: Sizes


def run_gpu_bench(
    out: Path,
    models: tuple[str, ...] = MODELS,
    device: str = "cuda",
    parts: Sequence[str] = tuple(PARTS),
    seconds: float = 1500.0,
    sizes: Sizes | None = None,
) -> None:
    """Measure `parts` of `models`, one after another, for at most `seconds` in total; write `out`/MODEL-PART.json.

    The file of a part that ran out of time has an error.  Raises `UserError` for an unknown part, or without a card.
    """
    if unknown := [part for part in parts if part not in PARTS]:
        raise UserError(f"--parts {unknown[0]}: choose from {', '.join(PARTS)}")
    on_card = device.startswith("cuda")
    if on_card and not torch.cuda.is_available():
        raise UserError("--gpu needs a CUDA card, and torch sees none here: check nvidia-smi and the torch build")
    out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + seconds
    command = shlex.join(sys.argv)
    for model in models:
        with tempfile.TemporaryDirectory(prefix="minirft-gpu-") as folder:
            _print(f"{model}: writing random weights")
            source = str(write_random(Path(folder), model))
            for part in parts:
                file = out / f"{Path(model).name}-{part}.json"
                job = Job(part, model, source, device, file, command, sizes or Sizes())
                run_job(job, end - time.monotonic(), apart=on_card)


def run_job(job: Job, seconds: float, apart: bool) -> None:
    """Run a part within `seconds`, in a separate process if `apart`; write its error, if any, into its file."""
    _write(job.file, {"part": job.part, "model": job.model, "command": job.command, "rows": []})
    error = None
    if seconds <= 0:
        error = "not started: the time for all parts was spent"
    elif apart:
        error = _in_own_process(job, seconds)
    else:
        run_part(job)
    if error:
        _write(job.file, json.loads(job.file.read_text()) | {"error": error})


def _in_own_process(job: Job, seconds: float) -> str | None:
    """Run the part; return its error, if any."""
    if job.device.startswith("cuda"):  # one card, also for TRL, which would use all visible cards
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", job.device.partition(":")[2] or "0")
        job = replace(job, device="cuda:0")
    process = multiprocessing.get_context("spawn").Process(target=run_part, args=(job,))
    process.start()
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
        return f"stopped after {seconds:.0f} s: the time for all parts was spent"
    return f"its process ended with code {process.exitcode}" if process.exitcode else None


def run_part(job: Job) -> None:
    """Run the cases of a part, and write the file after each."""
    quieten_libraries()
    start = time.perf_counter()
    record: dict[str, Any] = {"part": job.part, "model": job.model, "header": header(job), "rows": []}
    for name, case in PARTS[job.part](job.source, job.device, job.sizes):
        _print(f"{job.model}: {job.part}: {name}")
        begun = time.perf_counter()
        try:
            row = case()
        except Exception as error:  # the other cases must still run
            row = {"error": one_line(error)}
        free()
        record["rows"].append({"case": name, **row, "wall_seconds": time.perf_counter() - begun})
        _write(job.file, record)
    _write(job.file, record | {"wall_seconds": time.perf_counter() - start})


def header(job: Job) -> dict[str, Any]:
    """Return the origin of the numbers: versions, commit, date, command, card and driver."""
    found = provenance(asdict(job.sizes), 0, job.device) | {"command": job.command, "trl": library_version("trl")}
    if job.device.startswith("cuda"):
        card = torch.cuda.get_device_properties(job.device)
        found |= {"memory_gib": card.total_memory / 2**30, "capability": f"{card.major}.{card.minor}"}
        found |= {"cuda": torch.version.cuda, "driver": _driver()}
    return found


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return "unknown"


def _write(file: Path, record: dict[str, Any]) -> None:
    file.write_text(json.dumps(record, indent=1, default=str) + "\n")


def _print(line: str) -> None:
    print(f"minirft bench: {line}", file=sys.stderr, flush=True)

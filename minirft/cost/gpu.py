"""`minirft bench --gpu`: what a step of Qwen2-VL-2B costs on this card, one JSON file for each part, in this order.

    correct   packed against naive log-probs and gradients in each number format, decoders against the naive loop
    memory    peak of a whole step at settings for cards of 4, 6, 8 and 12 GB, beside the prediction of `minirft fit`
    decode    milliseconds per token step of each decoder, its parts, and (bytes read) / bandwidth beside them
    time      seconds of a step by phase, ours and TRL's in turns: NF4 + LoRA, bfloat16, checkpointing
    demo      `minirft demo` of the embedded model on the card

The models have random weights of real size (`random_weights`), so nothing is downloaded.  On CUDA every part runs in a
separate process, and its file is written after every case: what is cut or fails costs nothing that came before.  A part
may take twice its equal share of the time that is left, so that the next ones get some too.

With `device` cpu the same code rehearses the run on a small model: lengths are short, and what needs a card is null.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from minirft import UserError
from minirft.cost.architectures import architecture
from minirft.cost.gpu_checks import correct, decode
from minirft.cost.gpu_parts import REHEARSAL, Cases, Sizes, free, memory, times
from minirft.cost.random_weights import write_random
from minirft.cost.turns import one_line
from minirft.engine import quieten_libraries
from minirft.runs import library_version, provenance

PARTS: dict[str, Callable[[str, str, Sizes], Cases]] = {
    "correct": correct,
    "memory": memory,
    "decode": decode,
    "time": times,
}
DEMO = "demo"
STAND_IN = "a rehearsal on a CPU with a small model and short lengths: no number here is a card's"


def run_gpu_bench(
    out: Path,
    models: Sequence[str],
    device: str = "cuda",
    parts: Sequence[str] = (*PARTS, DEMO),
    seconds: float = 500.0,
) -> None:
    """Measure `parts` of `models`, one after another, for at most `seconds` in total; write `out`/PART.json.

    A part that ran out of time has an error in its file.  Raises `UserError` without a card.
    """
    on_card = device == "cuda"
    if on_card and not torch.cuda.is_available():
        raise UserError("--gpu needs a CUDA card, and torch sees none here: check nvidia-smi and the torch build")
    out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + seconds
    for part in parts:
        _write(out / f"{part}.json", {"part": part, "rows": []} | ({} if on_card else {"stand_in": STAND_IN}))
    of_a_model = [part for part in PARTS if part in parts]
    waiting = len(models) * len(of_a_model) + (DEMO in parts)
    for model in models if of_a_model else ():
        with tempfile.TemporaryDirectory(prefix="minirft-gpu-") as folder:
            _print(f"{model}: writing random weights")
            _write_weights(Path(folder), model, device, end - time.monotonic())
            for part in of_a_model:
                share = (end - time.monotonic()) * min(1.0, 2 / waiting)
                run_job(part, model, folder, device, out / f"{part}.json", share)
                waiting -= 1
    if DEMO in parts:
        _add_row(out / f"{DEMO}.json", demo(device, max(0.0, end - time.monotonic())))
    _print(f"wrote {', '.join(f'{part}.json' for part in parts)} in {out}" + ("" if on_card else f": {STAND_IN}"))


def _write_weights(folder: Path, model: str, device: str, seconds: float) -> None:
    architecture(model)  # an error of the name, before a process starts
    if device != "cuda":
        write_random(folder, model)
    elif error := in_own_process(write_random, (folder, model, 0, "cuda:0"), seconds):  # its memory is given back
        _print(f"{model}: the random weights were not written: {error}")  # its parts fail, and their files name it


def run_job(part: str, model: str, source: str, device: str, file: Path, seconds: float) -> None:
    """Run a part within `seconds`, on CUDA in a separate process; add its error, if any, to its file."""
    if device != "cuda":
        run_part(part, model, source, device, file)
    elif error := in_own_process(run_part, (part, model, source, "cuda:0", file), seconds):
        _add_row(file, {"model": model, "error": error})


def in_own_process(target: Callable[..., None], args: tuple[Any, ...], seconds: float) -> str | None:
    """Call a function in a process of its own, for at most `seconds`; return its error, if any."""
    if seconds <= 0:
        return "not started: the time for all parts was spent"
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # one card, also for TRL, which would use all visible cards
    process = multiprocessing.get_context("spawn").Process(target=target, args=args)
    process.start()
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
        return f"stopped after {seconds:.0f} s, its share of the time"
    return f"its process ended with code {process.exitcode}" if process.exitcode else None


def run_part(part: str, model: str, source: str, device: str, file: Path) -> None:
    """Run the cases of a part on the weights in the folder `source`; write the file after each."""
    quieten_libraries()
    sizes = Sizes() if device.startswith("cuda") else REHEARSAL
    _write(file, json.loads(file.read_text()) | {"header": header(device, sizes)})
    for name, case in PARTS[part](source, device, sizes):
        begun = time.perf_counter()
        try:
            row = case()
        except Exception as error:  # the other cases must still run
            row = {"error": one_line(error)}
        free()
        seconds = time.perf_counter() - begun
        _print(f"{model}: {part}: {name}: {seconds:.0f} s {row.get('error', '')}")
        _add_row(file, {"model": model, "case": name, **row, "wall_seconds": seconds})


def demo(device: str, seconds: float) -> dict[str, Any]:
    """Run `minirft demo`, which takes a card if it sees one, for at most `seconds`; return its times and scores."""
    words, sees = (["demo"], {}) if device == "cuda" else (["demo", "--steps", "1"], {"CUDA_VISIBLE_DEVICES": ""})
    row: dict[str, Any] = {"model": "tiny", "case": " ".join(["minirft", *words])}
    with tempfile.TemporaryDirectory(prefix="minirft-demo-") as folder:
        command = [sys.executable, "-m", "minirft", *words, "--json", "--out", f"{folder}/demo"]
        try:
            done = subprocess.run(
                command, env=os.environ | sees, capture_output=True, text=True, check=True, timeout=seconds
            )
        except subprocess.SubprocessError as error:
            return row | {"error": one_line(error), "output": str(getattr(error, "stderr", ""))[-500:]}
    summary = json.loads(done.stdout)
    scores = {name: summary[name]["ap50_pooled"] for name in ("before", "after", "sft")}
    return row | {"seconds": summary["seconds"], "ap50_pooled": scores}


def header(device: str, sizes: Sizes) -> dict[str, Any]:
    """Return the origin of the numbers: versions, commit, date, command and card."""
    found = provenance(asdict(sizes), 0, device) | {name: library_version(name) for name in ("trl", "bitsandbytes")}
    if device.startswith("cuda"):
        card = torch.cuda.get_device_properties(device)
        found |= {"memory_gib": card.total_memory / 2**30, "capability": f"{card.major}.{card.minor}"}
        found["cuda"] = torch.version.cuda
    return found


def _add_row(file: Path, row: dict[str, Any]) -> None:
    record = json.loads(file.read_text())
    _write(file, record | {"rows": [*record["rows"], row]})


def _write(file: Path, record: dict[str, Any]) -> None:
    new = file.with_suffix(".new")
    new.write_text(json.dumps(record, indent=1, default=str) + "\n", encoding="utf-8")
    new.replace(file)  # at once: the process may be killed at any time


def _print(line: str) -> None:
    print(f"minirft bench: {line}", file=sys.stderr, flush=True)

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
from minirft.cost.gpu_checks import correct, decode
from minirft.cost.gpu_parts import REHEARSAL, Sizes, free, memory, times
from minirft.cost.random_weights import write_random
from minirft.cost.sizes import architecture
from minirft.cost.turns import one_line
from minirft.data import write_whole
from minirft.engine import quieten_libraries
from minirft.runs import library_version, provenance

PARTS = {"correct": correct, "memory": memory, "decode": decode, "time": times}
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
    end = time.monotonic() + seconds
    for part in parts:
        _write(out / f"{part}.json", {"part": part, "rows": []} | ({} if on_card else {"stand_in": STAND_IN}))
    of_a_model = [part for part in PARTS if part in parts]
    waiting = len(models) * len(of_a_model) + (DEMO in parts)
    card, call = ("cuda:0", in_own_process) if on_card else (device, in_this_process)
    for model in models if of_a_model else ():
        architecture(model)  # an error of the name, before a process starts
        with tempfile.TemporaryDirectory(prefix="minirft-gpu-") as folder:
            _print(f"{model}: writing random weights")
            if error := call(write_random, (Path(folder), model, 0, card), end - time.monotonic()):
                # Its parts fail too, and their files name the error.
                _print(f"{model}: the random weights were not written: {error}")
            for part in of_a_model:
                file, share = out / f"{part}.json", (end - time.monotonic()) * min(1.0, 2 / waiting)
                if error := call(run_part, (part, model, folder, card, file), share):
                    _add_row(file, {"model": model, "error": error})
                waiting -= 1
    if DEMO in parts:
        _add_row(out / f"{DEMO}.json", demo(device, max(0.0, end - time.monotonic())))
    _print(f"wrote {', '.join(f'{part}.json' for part in parts)} in {out}" + ("" if on_card else f": {STAND_IN}"))


def in_this_process(target: Callable[..., object], args: tuple[Any, ...], seconds: float) -> str | None:
    """Call a function, which has all the time it needs; its errors are raised."""
    target(*args)
    return None


def in_own_process(target: Callable[..., object], args: tuple[Any, ...], seconds: float) -> str | None:
    """Call a function in a process of its own, for at most `seconds`; return its error, if any.

    The process gives back all memory of the card, and what it does wrong ends only itself.
    """
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
            text = subprocess.check_output(
                command, env=os.environ | sees, stderr=subprocess.PIPE, text=True, timeout=seconds
            )
        except subprocess.SubprocessError as error:
            return row | {"error": one_line(error), "output": str(getattr(error, "stderr", ""))[-500:]}
    summary = json.loads(text)
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
    write_whole(file, json.dumps(record, indent=1, default=str) + "\n")  # the process may be killed at any time


def _print(line: str) -> None:
    print(f"minirft bench: {line}", file=sys.stderr, flush=True)

"""Qwen2-VL-2B at its real size on a CPU, in 4 bits, with random weights: `minirft train` from start to adapter.

What a small model cannot show: that nothing in the path holds a second copy of the weights, of the logits or of the
activations.  MINIRFT_RECORD=FOLDER keeps the measurements as FOLDER/qwen2_vl_2b_cpu.json.
"""

import importlib.metadata
import json
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from minirft.cost.random_weights import write_random
from minirft.engine.loading import LoraSettings
from minirft.runs.checkpoints import load_checkpoint
from minirft.runs.config import DataConfig, GRPOConfig
from minirft.runs.toml import to_toml

GIB = 2**30
SIDE = 280  # pixels: 100 picture tokens


@pytest.fixture
def model(tmp_path: Path) -> Iterator[Path]:
    """4.4 GB of random weights, removed at the end: pytest would keep them for three runs."""
    yield write_random(tmp_path / "qwen2-vl-2b", "qwen2-vl-2b")
    shutil.rmtree(tmp_path / "qwen2-vl-2b")


def write_data(folder: Path) -> DataConfig:
    """Two pictures, each with one box, in COCO format."""
    rows: dict[str, list[Any]] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "square"}]}
    for number, colour in enumerate(("red", "blue")):
        picture = Image.new("RGB", (SIDE, SIDE), "white")
        picture.paste(colour, (40, 60, 140, 160))
        picture.save(folder / f"{number}.png")
        rows["images"].append({"id": number, "file_name": f"{number}.png", "width": SIDE, "height": SIDE})
        rows["annotations"].append({"id": number, "image_id": number, "category_id": 1, "bbox": [40, 60, 100, 100]})
    (folder / "coco.json").write_text(json.dumps(rows))
    return DataConfig(kind="coco", task="presence", annotations=folder / "coco.json", images=folder, negatives=0.0)


def measured(command: list[str]) -> dict[str, float]:
    """Run a command; its seconds, and GiB at the peak: resident, and resident without the pages of mapped files."""
    settings = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    start, resident, anonymous = time.perf_counter(), 0, 0
    child = subprocess.Popen(command, env={**os.environ, **settings})
    while child.poll() is None:
        status = Path(f"/proc/{child.pid}/status").read_text()
        found = {name: 1024 * int(size) for name, size in re.findall(r"(Rss\w+):\s+(\d+) kB", status)}
        resident, anonymous = max(resident, sum(found.values())), max(anonymous, found.get("RssAnon", 0))
        time.sleep(0.02)
    assert child.returncode == 0
    return {
        "seconds": time.perf_counter() - start,
        "peak_resident_gib": resident / GIB,
        "peak_anonymous_gib": anonymous / GIB,
    }


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_qwen2_vl_2b_trains_within_10_minutes(model: Path, tmp_path: Path):
    """A bfloat16 copy of the weights, whole logits, or adapters out of the graph, none of which a tiny model shows."""
    config = GRPOConfig(
        model=str(model),
        quantize="nf4",
        train="lora",
        lora=LoraSettings(r=16),
        dtype="bfloat16",
        device="cpu",
        threads=1,
        checkpointing=True,
        data=write_data(tmp_path),
        max_pixels=SIDE * SIDE,
        steps=2,  # B starts at zero, so A has a gradient from the second step on
        prompts_per_step=1,
        group_size=8,
        max_completion_length=24,
        # Random weights earn no reward, hence no advantage: the k1 penalty has a gradient all the same.
        kl_coef=0.04,
        kl="k1",
        out=tmp_path / "run",
    )
    (tmp_path / "config.toml").write_text(to_toml(config))
    command = [sys.executable, "-m", "minirft", "train", str(tmp_path / "config.toml")]
    peaks = measured(command)
    rows = [json.loads(line) for line in (config.out / "log.jsonl").read_text().splitlines()[1:]]
    state = load_checkpoint(config.out / "checkpoints").optimizer["state"].values()
    learnt = sum(bool(weight["exp_avg"].any() and weight["exp_avg"].isfinite().all()) for weight in state)
    write_record(config, peaks, rows, learnt)
    assert [row["step"] for row in rows] == [1, 2]
    assert all(math.isfinite(row["loss"]) and row["grad_norm"] > 0 for row in rows)
    assert learnt == len(state) == 2 * 7 * 28
    assert (config.out / "policy" / "adapter_model.safetensors").stat().st_size > 2 * 18_000_000
    assert peaks["seconds"] < 600
    # Live tensors peak at 1.8; measured 2.5 and 5.4 with the pages of the weight files (results/real_size).
    assert peaks["peak_anonymous_gib"] < 3.5 and peaks["peak_resident_gib"] < 6.0


def write_record(config: GRPOConfig, peaks: dict[str, float], rows: list[dict[str, Any]], learnt: int) -> None:
    """The measurements with all that is needed to judge them, where the environment asks for them."""
    if not (folder := os.environ.get("MINIRFT_RECORD")):
        return
    packages = ("torch", "transformers", "peft", "bitsandbytes")
    record = {
        "what": "minirft train, Qwen2-VL-2B of real size, random weights, nf4 on a CPU, LoRA r 16, bfloat16",
        "command": f"MINIRFT_RECORD={folder} python -m pytest --slow tests/test_real_size.py",
        "device": f"CPU, {platform.machine()}, 1 thread",
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in packages},
        "settings": to_toml(config).replace(str(config.out.parent), "FOLDER").splitlines(),
        **peaks,
        "seconds_outside_steps": peaks["seconds"] - sum(row["seconds"] for row in rows),
        "steps": rows,
        "lora_tensors_with_gradient": learnt,
    }
    Path(folder).mkdir(parents=True, exist_ok=True)
    Path(folder, "qwen2_vl_2b_cpu.json").write_text(json.dumps(record, indent=1) + "\n")

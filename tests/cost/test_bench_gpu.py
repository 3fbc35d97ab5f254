"""The benchmark for cards, run on a CPU with a miniature: it must not need a card to be shown to work."""

import json
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import byte_tokenizer, miniature_config

from minirft import UserError
from minirft.commands.bench import bench
from minirft.cost import gpu, gpu_checks, gpu_parts
from minirft.cost.fit import account, usable
from minirft.cost.gpu import in_own_process, run_gpu_bench, run_part
from minirft.cost.gpu_checks import bytes_per_step
from minirft.cost.gpu_parts import REHEARSAL, Sizes, memory, memory_of_a_step
from minirft.engine.decoding import DECODERS
from minirft.policy import LoraSettings, Policy
from minirft.runs.config import GRPOConfig

Results = dict[str, dict[str, Any]]


class NoTrl:
    """A TRL that does not start."""

    def __init__(self, *_: object, **__: object) -> None:
        raise ImportError("no trl here")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The miniature's architecture, its vocabulary large enough for the tokens of the embedded model."""
    folder = tmp_path_factory.mktemp("model")
    miniature_config(byte_tokenizer(), 512).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def results(model: str, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """All files of one run of the command as typed, by part; without TRL, whose import alone takes seconds."""
    out = tmp_path_factory.mktemp("gpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu_parts, "Trl", NoTrl)
        patch.setattr(gpu, "demo", lambda *_: {"case": "minirft demo"})  # minutes: it has a slow test
        bench(f"--gpu --device cpu --models {model} --seconds 500 --out {out}".split())
    return {file.stem: json.loads(file.read_text()) for file in out.iterdir()}


def part_of(miniature: Path, folder: Path, part: str = "correct", device: str = "cpu") -> tuple[Any, ...]:
    """The arguments of `run_part`, and an empty file for it."""
    file = folder / "m.json"
    file.write_text(json.dumps({"part": part, "rows": []}))
    return part, "m", str(miniature), device, file


def test_every_part_leaves_a_file_with_its_origin(results: Results, model: str) -> None:
    """Catches a part that is skipped, a case that fails, and numbers without device, versions, command and date."""
    assert [*gpu.PARTS] == ["correct", "memory", "decode", "time"]
    assert results.keys() == {*gpu.PARTS, "demo"} and len(results) <= 8
    for part, record in results.items():
        assert record["rows"] and record["stand_in"] == gpu.STAND_IN
        assert not any("error" in row for row in record["rows"]), record["rows"]
        if part != "demo":
            assert {"versions", "device", "started", "command", "commit", "trl"} <= record["header"].keys()
            assert {row["model"] for row in record["rows"]} == {model}


def test_memory_is_predicted_and_null_without_a_card(results: Results) -> None:
    """Catches a peak that was not measured: on a CPU torch counts none, and none may be printed."""
    rows = results["memory"]["rows"]
    assert [row["card_gb"] for row in rows] == [4, 6, 8, 12]
    for row in rows:
        assert row["predicted_gib"]["peak"] == max(row["predicted_gib"].values()) > 0
        assert all(row[f"{name}_gib"] is None for name in ("loading", "rollout", "update", "reserved", "context"))
        assert row["settings"]["checkpointing"] and row["limit_gib"] == usable(row["card_gb"])
        assert row["completion_length"] == row["settings"]["max_completion_length"]  # no row ended early


@pytest.mark.parametrize("model", ["qwen2-vl-2b", "qwen2-vl-7b"])
def test_settings_are_meant_for_their_card(model: str) -> None:
    """Catches settings that cannot fit the card they are for: a minute of a rented card for an error."""
    for name, case in memory(model, "cpu", Sizes()):
        config, card = case.args
        assert account(config).peak < usable(card) * 2**30, name
        assert config.lora.r == 16
        assert config.group_size == 8


def test_steps_are_timed_without_trl_too(results: Results) -> None:
    """Catches a missing rival that costs our own numbers, a warm-up that is counted, phases that leave time out."""
    (row,) = results["time"]["rows"]
    assert row["errors"] == {"trl": "ImportError: no trl here"}
    assert row["trl_to_ours"] == {}
    assert row["seconds"].keys() == DECODERS.keys()
    for ours in row["seconds"].values():
        assert ours["steps"] == REHEARSAL.steps
        assert ours["seconds_by_phase"].keys() == {"prepare", "generate", "score", "update"}
        assert min(ours["seconds_by_phase"][phase] for phase in ("prepare", "generate", "update")) > 0
        assert ours["seconds_spread"][0] <= ours["seconds"] <= ours["seconds_spread"][1]


def test_every_decoder_is_timed_in_every_format(results: Results) -> None:
    """Catches a decoder left out, a floor in other units than the times, and parts that were not measured."""
    rows = {row["case"]: row for row in results["decode"]["rows"]}
    formats = ("nf4, bfloat16", "nf4, float16", "none, bfloat16")
    assert [*rows] == [f"{f}, {n} rows, {d}" for f in formats for n in (8, 16) for d in ("parts", *DECODERS)]
    for case, row in rows.items():
        if case.endswith("parts"):
            assert row.keys() >= {"linear layers", "head", "sampling", "float64 sum"}
            assert min(part["ms"] for part in row.values() if isinstance(part, dict)) > 0
        else:
            assert row["floor_ms"] == pytest.approx(row["bytes"] / row["bandwidth_gb_per_second"] / 1e6)
            assert row["tokens_per_second"] == pytest.approx(1e3 * (16 if "16 rows" in case else 8) / row["ms"])
            # A difference of two times, which on a busy processor can even be negative; so it is not compared.
            assert math.isfinite(row["ms"]) and row["floor_ms"] > 0
    assert rows["nf4, bfloat16, 8 rows, graph"]["bytes"] < rows["none, bfloat16, 8 rows, graph"]["bytes"]


def test_everything_is_correct_on_a_cpu(results: Results) -> None:
    """Catches a comparison that would cry wolf on a card, or that compares nothing."""
    growing, graph, *roundings = results["correct"]["rows"]
    assert growing["ok"] and graph["ok"] and growing["distinct"] > 4
    for row in roundings:
        assert (
            row["ok"]
            and row["bfloat16_naive_to_float32"]["gradient"] > row["float16_naive_to_float32"]["gradient"] > 1e-4
        )


def test_a_wrong_packed_path_is_found(miniature: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a check that passes whatever the packed path computes: here positions are off by one."""
    plain = Policy.logprobs

    def shifted(policy: Policy, rollout: Any, shared: bool) -> torch.Tensor:
        prompts = [replace(p, rope_delta=p.rope_delta + 1) for p in rollout.prompts] if shared else rollout.prompts
        return plain(policy, replace(rollout, prompts=prompts), shared=shared)

    monkeypatch.setattr(Policy, "logprobs", shifted)
    row = gpu_checks.rounding(str(miniature), "cpu", REHEARSAL, "none")
    assert not row["ok"]


def test_bytes_of_a_step_by_hand(miniature: Path) -> None:
    """Catches weights counted twice or not at all: 2 layers of width 64, MLP 128, 2 key heads of 16, a head of 320."""
    policy = Policy.load(miniature, dtype="bfloat16")
    layer = 2 * 64 * 64 + 2 * 64 * 32 + 64 + 2 * 32 + 3 * 64 * 128 + 2 * 64
    weights, cache = 2 * layer + 64 + 320 * 64, 2 * 2 * 2 * 16
    assert bytes_per_step(policy, 2, 100, 16, 7.5) == 2 * (weights + cache * (2 * 100 + 16 * 7.5))
    packed = Policy.load(miniature, dtype="bfloat16", quantize="nf4", lora=LoraSettings(r=4))
    adapters = sum(weight.nbytes for weight in packed.trainable().values())
    linears = 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128)
    least = 2 * (weights - linears) + linears / 2 + linears / 64 + adapters
    assert least < bytes_per_step(packed, 0, 0, 0, 0) < least + 2 * 7 * 16


def test_a_case_that_fails_leaves_the_others(miniature: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches one failure, out of memory say, that costs the results before and after it."""

    def cases(*_: object) -> Iterator[tuple[str, Any]]:
        yield "good", lambda: {"value": 1}
        yield "bad", lambda: torch.ones(2) @ torch.ones(3)
        yield "good again", lambda: {"value": 2}

    monkeypatch.setitem(gpu.PARTS, "correct", cases)
    run_part(*part_of(miniature, tmp_path))
    rows = json.loads((tmp_path / "m.json").read_text())["rows"]
    assert [row.get("value") for row in rows] == [1, None, 2]
    assert rows[1]["error"].startswith("RuntimeError: ")


def test_a_step_that_does_not_fit_is_measured_without_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a prediction that was wrong, and of which nobody learns by how much."""

    def peaks(config: GRPOConfig, limit: float | None) -> dict[str, Any]:
        if limit is not None:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return {"update_gib": 4.5}

    monkeypatch.setattr(gpu_parts, "_peaks", peaks)
    row = memory_of_a_step(GRPOConfig(), 4)
    assert (row["fits"], row["update_gib"]) == (False, 4.5)
    assert "out of memory" in row["error"]


def test_what_cannot_start(tmp_path: Path, miniature: Path) -> None:
    """Catches a traceback where there is no card, and time overdrawn by parts that start too late."""
    with pytest.raises(UserError, match="--parts"):
        bench(["--gpu", "--parts", "speed"])
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="torch sees none here"):
            run_gpu_bench(tmp_path, ["qwen2-vl-2b"])
    assert in_own_process(run_part, part_of(miniature, tmp_path), 0).startswith("not started")
    assert "timed out" in gpu.demo("cpu", 0)["error"]


@pytest.mark.slow
def test_a_part_in_its_own_process(miniature: Path, tmp_path: Path) -> None:
    """Catches a process that dies or hangs and takes the rest with it."""
    assert in_own_process(run_part, part_of(miniature, tmp_path), 300) is None
    record = json.loads((tmp_path / "m.json").read_text())
    assert [row["ok"] for row in record["rows"]] == [True] * 4 and record["header"]["config"][
        "steps"
    ] == REHEARSAL.steps
    assert in_own_process(run_part, part_of(miniature, tmp_path, "speed"), 300) == "its process ended with code 1"
    start = time.monotonic()
    assert in_own_process(run_part, part_of(miniature, tmp_path), 1).startswith("stopped after 1 s")
    assert time.monotonic() - start < 20


@pytest.mark.slow
def test_the_demo_runs_beside_the_parts(tmp_path: Path) -> None:
    """Catches a demo whose flags or summary have changed."""
    bench(f"--gpu --device cpu --parts demo --seconds 500 --out {tmp_path}".split())
    (row,) = json.loads((tmp_path / "demo.json").read_text())["rows"]
    assert row["case"] == "minirft demo --steps 1" and row["ap50_pooled"].keys() == {"before", "after", "sft"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_trl_takes_its_turns(miniature: Path) -> None:
    """Catches a TRL whose interface has moved on: the 4-bit trainer for cards, here on a CPU."""
    pytest.importorskip("trl")
    row = gpu_parts.step_seconds(str(miniature), "cpu", gpu_parts.Shape(128, 6, 4), 2)
    assert not row["errors"]
    assert {name: found["steps"] for name, found in row["seconds"].items()} == {"growing": 2, "graph": 2, "trl": 2}
    assert all(ratio > 1 for ratio in row["trl_to_ours"].values())

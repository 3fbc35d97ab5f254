"""Exports: what transformers and PEFT load is what was trained, and what differs is said and can be scored."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from small_runs import small_config
from transformers import Qwen2VLForConditionalGeneration

from minirft.commands.cli import main
from minirft.policy import LoraSettings, Policy
from minirft.runs.config import GRPOConfig
from minirft.runs.exports import export_run, merge
from minirft.runs.folder import load_run_policy, open_run, run_config
from minirft.sampler import sample_groups
from minirft.samples import Sample

LORA = LoraSettings(r=4)


def small_run(model: Path, out: Path, size: float = 1e-2, **changes: object) -> tuple[GRPOConfig, Policy]:
    """A run whose adapters were moved by `size` and saved, without training."""
    config = small_config(model, out, train="lora", lora=LORA, device="cpu", **changes)
    run = open_run("grpo", config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in run.policy.trainable().items():
            if "lora_B" in name:
                weight.copy_(size * torch.randn(weight.shape, generator=generator))
    run.step = 1
    run.save()
    return config, run.policy


def logprobs(policy: Policy, samples: list[Sample]) -> torch.Tensor:
    """Log-probs of completions that do not depend on the policy."""
    base = Policy.load("tiny", dtype="float32", device="cpu")
    prompts = [base.encode(sample) for sample in samples[:2]]
    rollout = sample_groups(base, prompts, 2, max_completion_length=12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return policy.logprobs(replace(rollout, prompts=[policy.encode(sample) for sample in samples[:2]]))


def test_a_float32_merge_is_the_trained_policy(tmp_path: Path, samples: list[Sample]):
    """Adapters merged twice, with the wrong scale, or into another base.  Bound: rounding of some 100 float32 sums."""
    _, trained = small_run("tiny", tmp_path / "run", dtype="float32")
    folder = tmp_path / "model"
    assert export_run(tmp_path / "run", "merged", folder, "float32") == []
    merged = load_run_policy(folder, run_config(folder))
    assert not merged.has_lora
    gap = (logprobs(merged, samples) - logprobs(trained, samples)).abs().max()
    with trained.without_adapters():
        moved = (logprobs(merged, samples) - logprobs(trained, samples)).abs().max()
    assert gap < 1e-4 < 1e-2 < moved


@pytest.mark.parametrize("size", [1e-2, 1e-3])
def test_the_share_that_rounding_takes_is_measured(tmp_path: Path, size: float):
    """A share of the weights, not of the update: bfloat16 takes most of a small one.  Oracle: float64 by hand."""
    small_run("tiny", tmp_path / "run", size, dtype="bfloat16")
    policy = load_run_policy(tmp_path / "run", run_config(tmp_path / "run"))
    layers = {n: m for n, m in policy.core.named_modules() if hasattr(m, "lora_A")}
    before = {n: m.base_layer.weight.detach().double().clone() for n, m in layers.items()}
    update = {
        n: m.scaling["default"] * m.lora_B["default"].weight.double() @ m.lora_A["default"].weight.double()
        for n, m in layers.items()
    }
    share = merge(policy)
    after = dict(policy.core.named_modules())
    error = sum((after[n].weight.double() - before[n] - update[n]).square().sum() for n in layers).sqrt()
    whole = sum(update[n].square().sum() for n in layers).sqrt()
    assert share == pytest.approx((error / whole).item(), rel=1e-9)
    # A stored sum is off by up to 2^-8 of a weight, uniformly: an error of |W| 2^-8 / sqrt(3) at most.
    weights = sum(w.square().sum() for w in before.values()).sqrt()
    assert 0.1 < share * whole / (weights * 2**-8 / 3**0.5) <= 1


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_export_says_what_a_merge_changes(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A card's score that is not the folder's: merged from 4 bits it is another policy, and nothing said so."""
    small_run("tiny", tmp_path / "run", quantize="nf4", dtype="bfloat16")
    assert main(["export", str(tmp_path / "run"), "--to", "merged", "--out", str(tmp_path / "model")]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{tmp_path / 'model'}\n"
    rounding, another = captured.err.splitlines()
    assert "of the update; --dtype float32" in rounding
    assert "another policy" in another and f"minirft eval {tmp_path / 'model'}" in another
    export_run(tmp_path / "run", "merged", tmp_path / "exact", "float32")
    assert Qwen2VLForConditionalGeneration.from_pretrained(tmp_path / "exact").dtype == torch.float32
    assert main(["export", str(tmp_path / "run"), "--to", "adapter", "--dtype", "float32"]) == 2


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("to", ["merged", "adapter"])
def test_eval_scores_the_export(tmp_path: Path, samples: list[Sample], capsys: pytest.CaptureFixture[str], to: str):
    """`eval EXPORT` that scores the base, or the run in its place."""
    config, trained = small_run("tiny", tmp_path / "run", 3e-2, dtype="float32", max_completion_length=40)
    folder = tmp_path / "export"
    export_run(tmp_path / "run", to, folder)
    found = []
    for source in (folder, tmp_path / "run"):
        assert main(["eval", str(source), "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert Path(found[0]["predictions"]).is_relative_to(folder)
    texts = [
        [json.loads(line).get("text") for line in Path(row["predictions"]).read_text().splitlines()] for row in found
    ]
    assert texts[0] == texts[1] and found[0]["mean_iou"] == found[1]["mean_iou"]
    again = load_run_policy(folder, run_config(folder))
    assert (logprobs(again, samples) - logprobs(trained, samples)).abs().max() < 1e-4
    if to == "adapter":
        plain = PeftModel.from_pretrained(Qwen2VLForConditionalGeneration.from_pretrained(config_model(config)), folder)
        weights = {name: weight for name, weight in plain.named_parameters() if "lora_" in name}
        assert weights and all(torch.equal(weight, trained.trainable()[name]) for name, weight in weights.items())


def config_model(config: GRPOConfig) -> str:
    """The folder of the model that a config names."""
    from minirft.engine.loading import resolve

    return resolve(config.model)

"""This module exports the policy of a run for PEFT, transformers and vLLM, and measures what a merge loses.

`adapter`   is the update alone, without loss.  It must be used on the run's base, in 4 bits if the run was.
`merged`    is W + s B A in one matrix, rounded to the number format of the export.  Two things change:

- A run on 4-bit weights trained on the rounded base but is merged into the original base, because merging into 4-bit
  weights would round the update away.  On the embedded model with random adapters this moves log-probs by .034 nats a
  token, more than the update itself (.0165; docs/experiments.md).
- Updates are small compared with their weights, so 16 bits round part of them away.  `merge` measures the lost share.

Both folders contain the run's settings (`minirft.toml`), so that `minirft eval FOLDER` scores the export itself, the
whole processor with the run's `max_pixels`, and a model card with the code that loads it (`model_card`).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from peft.tuners.lora import LoraLayer

from minirft import UserError
from minirft.policy import Policy
from minirft.runs.folder import EXPORTED, export, load_run_policy, run_config
from minirft.runs.model_card import dtype_name, write_card, write_processor
from minirft.runs.toml import to_toml

Dtype = Literal["float32", "bfloat16", "float16"]


def export_run(run: Path, to: Literal["adapter", "merged"], folder: Path, dtype: Dtype | None = None) -> list[str]:
    """Write the policy of a run as an adapter, or merged into a whole model in `dtype` (None: the run's).

    Return one line for each difference between the export and the trained policy.
    Raises `UserError` for an adapter of a run that trained all weights, or a `dtype` for an adapter.
    """
    config = run_config(run)
    if to == "adapter" and config.train == "full":
        raise UserError(f"{run} trained all weights, so there is no adapter: use --to merged")
    if to == "adapter" and dtype:
        raise UserError("an adapter keeps its own 32 bits: leave --dtype out, or use --to merged")
    trained = config
    if to == "adapter":
        policy, notes = load_run_policy(run, config), []
    else:
        unquantised = replace(config, quantize="none", dtype=dtype or config.dtype)
        policy = load_run_policy(run, unquantised)
        notes = _merged(policy, config.quantize, folder)
        config = replace(unquantised, train="full", model=str(folder), dtype=dtype_name(policy))
    export(policy, folder)
    write_processor(policy, folder)
    write_card(folder, run, trained, to, notes, policy)
    (folder / EXPORTED).write_text(to_toml(config), encoding="utf-8")
    return notes


def _merged(policy: Policy, quantize: str, folder: Path) -> list[str]:
    """Merge the adapters of the policy, if it has any; return one note for each change."""
    if not policy.has_lora:
        return []
    share, dtype = merge(policy), dtype_name(policy)
    notes = [f"rounding to {dtype} lost {share:.1%} of the update; --dtype float32 keeps it"] if share > 1e-3 else []
    if quantize == "nf4":
        notes.append(
            f"the run trained on 4-bit weights and was merged into the {dtype} ones, so this is another policy than "
            f"was trained: minirft eval {folder} scores it; --to adapter on the 4-bit base is the same"
        )
    return notes


def merge(policy: Policy) -> float:
    """Add the adapters to the weights, one layer at a time; return the share of the update that rounding removed.

    lost = |W' - W - s B A| / |s B A| over all adapted layers, in the Frobenius norm, with W' the stored sum.
    """
    error = size = 0.0
    for layer in [layer for layer in policy.model.modules() if isinstance(layer, LoraLayer)]:
        before = layer.get_base_layer().weight.detach().double()
        before = before.clone() if before is layer.get_base_layer().weight else before
        (name,) = layer.active_adapters
        update = layer.get_delta_weight(name).double()
        layer.merge()
        error += (layer.get_base_layer().weight.detach().double() - before - update).square().sum().item()
        size += update.square().sum().item()
    policy.model = policy.model.unload()
    return (error / size) ** 0.5 if size else 0.0

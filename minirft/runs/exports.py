"""This module exports the policy of a run for PEFT, transformers and vLLM, and measures what a merge loses.

`adapter`   is the update alone, without loss.  It must be used on the run's base, in 4 bits if the run was.
`merged`    is W + s B A in one matrix, rounded to the number format of the export.  Two things change:

- A run on 4-bit weights trained on the rounded base but is merged into the original base, because merging into 4-bit
  weights would round the update away.  On the embedded model with random adapters this moves log-probs by .034 nats a
  token, more than the update itself (.0165; docs/experiments.md).
- Updates are small compared with their weights, so 16 bits round part of them away.  `merge` measures the lost share.

Both folders contain the run's settings (`minirft.toml`), so that `minirft eval FOLDER` scores the export itself, the
whole processor with the run's `max_pixels`, and a model card: its origin, its scores, and code that loads it without
torchvision, which `AutoProcessor` of transformers 5 requires.  All values of the card come from the run.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from jinja2 import Template
from peft.tuners.lora import LoraLayer
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

from minirft import UserError
from minirft.data import question_of
from minirft.engine import HUB
from minirft.policy import Policy
from minirft.runs.config import GRPOConfig
from minirft.runs.folder import EXPORTED, export, load_run_policy, run_config
from minirft.runs.log import METRICS, read_log
from minirft.runs.toml import to_toml

NOT_SCORES = {"n", "step", "seconds"}
TEXT = Path(__file__).with_name("model_card.md.jinja")
Dtype = Literal["float32", "bfloat16", "float16"]


def export_run(run: Path, to: Literal["adapter", "merged"], folder: Path, dtype: Dtype | None = None) -> list[str]:
    """Write the policy of a run as an adapter, or merged into a whole model in `dtype` (None: the run's).

    Return one line for each difference between the export and the trained policy.
    Raises `UserError` for an adapter of a run that trained all weights, or a `dtype` for an adapter.
    """
    trained = config = run_config(run)
    if to == "adapter" and config.train == "full":
        raise UserError(f"{run} trained all weights, so there is no adapter: use --to merged")
    if to == "adapter" and dtype:
        raise UserError("an adapter keeps its own 32 bits: leave --dtype out, or use --to merged")
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
        before = layer.get_base_layer().weight.detach().clone().double()
        (name,) = layer.active_adapters
        update = layer.get_delta_weight(name).double()
        layer.merge()
        error += (layer.get_base_layer().weight.detach().double() - before - update).square().sum().item()
        size += update.square().sum().item()
    policy.model = policy.model.unload()
    return (error / size) ** 0.5 if size else 0.0


# ------------------------------------------------------------------ what else is in the folder


def write_card(folder: Path, run: Path, config: GRPOConfig, kind: str, notes: Sequence[str], policy: Policy) -> None:
    """Write the card of a run's export to README.md, in place of PEFT's empty one, with the front matter for the hub.

    Settings, scores (the first and the last evaluation) and origin are those of the run; a run without a log has no
    scores.  The card's code needs only transformers, and PEFT for an adapter; its question is about photo.jpg.
    """
    try:
        header, rows = read_log(run / "log.jsonl")
    except UserError:
        header, rows = {}, []
    evaluations = [row for row in rows if row.get("kind") == "eval"]
    scores = [evaluations[0], evaluations[-1]] if len(evaluations) > 1 else evaluations
    template = Template(TEXT.read_text(encoding="utf-8"), trim_blocks=True, keep_trailing_newline=True)
    text = template.render(
        name=folder.name,
        config=config,
        data=config.data,
        base="the embedded tiny model" if config.model == "tiny" else HUB.get(config.model, config.model),
        adapter=kind == "adapter",
        notes=notes,
        header=header,
        scores=scores,
        method=header.get("config", {}).get("method", "grpo"),
        metrics=[key for key, value in (scores or [{}])[-1].items() if key not in NOT_SCORES and type(value) is float],
        cell=_cell,
        glossary=METRICS,
        dtype=dtype_name(policy),
        max_pixels=policy.image_processor.size["longest_edge"],
        model_class=policy.family.model_class.__name__,
        question=question_of(config.data),
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def dtype_name(policy: Policy) -> str:
    """Return the name of the number format of a policy's weights, as in configs and transformers."""
    return str(policy.dtype).removeprefix("torch.")


def write_processor(policy: Policy, folder: Path) -> None:
    """Save tokenizer, chat template and picture settings, with the run's largest picture size.

    The class names are those of the published Qwen2-VL, which all versions of transformers and vLLM support.
    """
    policy.tokenizer.save_pretrained(folder)
    policy.image_processor.save_pretrained(folder)
    path = folder / "preprocessor_config.json"
    size = policy.image_processor.size
    settings = json.loads(path.read_text(encoding="utf-8")) | {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": PROCESSOR_MAPPING_NAMES[policy.core.config.model_type],
        "min_pixels": size["shortest_edge"],
        "max_pixels": size["longest_edge"],
    }
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _cell(row: Mapping[str, Any], name: str) -> str:
    if row.get(name) is None:
        return "–"
    bounds = row.get("ci", {}).get(name)
    return f"{row[name]:.3f}" + (f" [{bounds[0]:.2f}, {bounds[1]:.2f}]" if bounds else "")

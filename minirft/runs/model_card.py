"""This module writes the model card of an export: its origin, its scores, and code that loads it.

All values come from the run.  The code needs no torchvision, which `AutoProcessor` of transformers 5 requires.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Template
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

from minirft import UserError
from minirft.data import question_of
from minirft.engine import HUB
from minirft.policy import Policy
from minirft.runs.config import GRPOConfig
from minirft.runs.log import METRICS, read_log

NOT_SCORES = {"n", "step", "seconds"}
TEXT = Path(__file__).with_name("model_card.md.jinja")


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

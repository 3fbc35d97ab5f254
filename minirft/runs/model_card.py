"""This module writes the model card of an export: its origin, its scores, and code that loads it.

All values come from the run.  The code needs no torchvision, which `AutoProcessor` of transformers 5 requires.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Card:
    """A `Card` is the content of a model card: settings and log of the run, and how the export differs from it."""

    config: GRPOConfig  # of the run
    kind: str  # "adapter" or "merged"
    dtype: str  # of the model's weights
    header: Mapping[str, Any]
    scores: Sequence[Mapping[str, Any]]  # the first and the last evaluation in the log
    notes: Sequence[str] = ()
    max_pixels: int = 0  # the largest picture of the exported processor
    model_class: str = ""  # in transformers


def card_of(run: Path, config: GRPOConfig, kind: str, dtype: str, notes: Sequence[str], policy: Policy) -> Card:
    """Return the card of a run's export, from its settings and its log; a run without a log has no scores."""
    try:
        header, rows = read_log(run / "log.jsonl")
    except UserError:
        header, rows = {}, []
    evaluations = [row for row in rows if row.get("kind") == "eval"]
    first_and_last = [evaluations[0], evaluations[-1]] if len(evaluations) > 1 else evaluations
    largest = policy.image_processor.size["longest_edge"]
    return Card(config, kind, dtype, header, first_and_last, notes, largest, policy.family.model_class.__name__)


def write_card(folder: Path, card: Card) -> None:
    """Write the card to README.md, in place of PEFT's empty one."""
    (folder / "README.md").write_text(text_of(card, folder.name), encoding="utf-8")


def text_of(card: Card, name: str) -> str:
    """Return the card as Markdown, with the front matter for the hub.

    Its code needs only transformers, and PEFT for an adapter; its question is about photo.jpg.
    """
    template = Template(TEXT.read_text(encoding="utf-8"), trim_blocks=True, keep_trailing_newline=True)
    adapter, last = card.kind == "adapter", card.scores[-1] if card.scores else {}
    return template.render(
        card=card,
        name=name,
        config=card.config,
        data=card.config.data,
        base="the embedded tiny model"
        if card.config.model == "tiny"
        else HUB.get(card.config.model, card.config.model),
        adapter=adapter,
        four_bits=adapter and card.config.quantize == "nf4",
        method=card.header.get("config", {}).get("method", "grpo"),
        metrics=[key for key, value in last.items() if key not in NOT_SCORES and isinstance(value, float)],
        cell=_cell,
        glossary=METRICS,
        question=question_of(card.config.data),
    )


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

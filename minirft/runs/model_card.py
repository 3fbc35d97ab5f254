"""The model card of an export: what it was made of, what it scored, and lines that load it; every value from the run.

The lines need no torchvision, which `AutoProcessor` of transformers 5 wants for a video processor.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minirft import UserError
from minirft.data import DataConfig
from minirft.engine import HUB, Processor
from minirft.rewards import prompts
from minirft.runs.config import GRPOConfig
from minirft.runs.log import METRICS, read_log

NOT_SCORES = {"n", "step", "seconds"}
LOAD_BASE = """\
base = {base}
model = Qwen2VLForConditionalGeneration.from_pretrained(base, dtype="{dtype}"{quantized})
model = PeftModel.from_pretrained(model, folder)"""
LOAD_MERGED = 'model = Qwen2VLForConditionalGeneration.from_pretrained(folder, dtype="{dtype}")'
CODE = '''\
from PIL import Image
{imports}
from transformers import {classes}

folder = "{folder}"
{load}
tokenizer = AutoTokenizer.from_pretrained(folder)
eye = AutoImageProcessor.from_pretrained(folder)  # with the largest picture of the run

question = """{question}"""
chat = [{{"role": "user", "content": [{{"type": "image"}}, {{"type": "text", "text": question}}]}}]
text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
seen = eye(images=[Image.open("photo.jpg").convert("RGB")], return_tensors="pt")
patches = int(seen["image_grid_thw"].prod()) // eye.merge_size**2
asked = tokenizer(text.replace("<|image_pad|>", "<|image_pad|>" * patches), return_tensors="pt")
types = (asked["input_ids"] == tokenizer.convert_tokens_to_ids("<|image_pad|>")).long()
inputs = {{"input_ids": asked["input_ids"], "attention_mask": asked["attention_mask"]}}
inputs |= {{"mm_token_type_ids": types, **seen}}
inputs = {{name: tensor.to(model.device) for name, tensor in inputs.items()}}
ids = model.eval().generate(**inputs, do_sample=False, max_new_tokens={longest})
print(tokenizer.decode(ids[0, asked["input_ids"].shape[1] :], skip_special_tokens=True))'''


CARD = """\
---
{base_line}library_name: {library}
pipeline_tag: image-text-to-text
tags: [{method}, visual-rft, minirft]
---
# {name}

{base} after {trained} by minirft: {task}. {form}{notes}

| setting | value |
|---|---|
{facts}

## Scores

{scores}

## The question

Asked in these words; another wording is another task. Boxes are answered in thousandths of width and height.

```text
{question}
```

## Use

```python
{code}
```
"""


@dataclass(frozen=True)
class Card:
    """What a card says: settings and log of the run, the export's dtype, and how it differs from what was trained."""

    config: GRPOConfig  # of the run
    kind: str  # "adapter" or "merged"
    dtype: str  # of the weights it is used with
    header: Mapping[str, Any]
    scores: Sequence[Mapping[str, Any]]  # the first and the last evaluation, as the log has them
    notes: Sequence[str] = ()


def card_of(run: Path, config: GRPOConfig, kind: str, dtype: str, notes: Sequence[str]) -> Card:
    """The card of a run's export is filled from its settings and its log; a run without a log has no scores."""
    try:
        header, rows = read_log(run / "log.jsonl")
    except UserError:
        header, rows = {}, []
    evaluations = [row for row in rows if row.get("kind") == "eval"]
    first_and_last = [evaluations[0], evaluations[-1]] if len(evaluations) > 1 else evaluations
    return Card(config, kind, dtype, header, first_and_last, notes)


def write_card(folder: Path, card: Card) -> None:
    """The card is written as README.md, in place of PEFT's blank one."""
    (folder / "README.md").write_text(text_of(card, folder.name), encoding="utf-8")


def text_of(card: Card, name: str) -> str:
    """The card is written as Markdown, with the front matter that the hub reads."""
    config, base = card.config, _hub_name(card.config.model)
    method = card.header.get("config", {}).get("method", "grpo")
    return CARD.format(
        base_line="" if config.model == "tiny" else f"base_model: {base}\n",
        library="peft" if card.kind == "adapter" else "transformers",
        method=method,
        name=name,
        base=base,
        trained="supervised fine-tuning" if method == "sft" else "reinforcement fine-tuning (GRPO)",
        task=config.data.task,
        form="A PEFT adapter." if card.kind == "adapter" else "A whole model.",
        notes="".join(f"\n- {note}" for note in card.notes),
        facts="\n".join(f"| {key} | {value} |" for key, value in _facts(card, method).items()),
        scores=_scores(card.scores),
        question=question_of(config.data),
        code=code_of(card, name),
    )


def code_of(card: Card, folder: str) -> str:
    """Lines for plain transformers, and PEFT for an adapter, that answer the question about photo.jpg greedily."""
    adapter, four_bits = card.kind == "adapter", card.kind == "adapter" and card.config.quantize == "nf4"
    classes = ["AutoImageProcessor", "AutoTokenizer", *(["BitsAndBytesConfig"] if four_bits else [])]
    quantized = ', quantization_config=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", '
    quantized += f'bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype="{card.dtype}")'
    base, imports = json.dumps(_hub_name(card.config.model)), ["from peft import PeftModel"] if adapter else []
    if card.config.model == "tiny":
        base, imports = "str(CHECKPOINT)", [*imports, "from minirft.tiny import CHECKPOINT"] if adapter else imports
    load = LOAD_BASE.format(base=base, dtype=card.dtype, quantized=quantized if four_bits else "")
    code = CODE.format(
        imports="\n".join(imports),
        classes=", ".join([*classes, "Qwen2VLForConditionalGeneration"]),
        folder=folder,
        load=load if adapter else LOAD_MERGED.format(dtype=card.dtype),
        question=question_of(card.config.data),
        longest=card.config.max_completion_length,
    )
    return code.replace("Image\n\nfrom", "Image\nfrom")


def question_of(data: DataConfig) -> str:
    """The question of the run, with its first category, or a word in its place.

    >>> question_of(DataConfig(categories=("cat",))).splitlines()[0][:60]
    "Detect all objects belonging to the category 'cat' in the im"
    """
    asked = (data.categories or ("CATEGORY",))[0]
    if data.task == "classification":
        return prompts.classification(asked if data.kind == "tiny" and data.categories else data.family or "flower")
    if data.task == "grounding":
        return prompts.grounding("INSTRUCTION")
    return prompts.presence(asked) if data.task == "presence" else prompts.detection(asked)


def write_processor(processor: Processor, folder: Path) -> None:
    """Tokenizer, chat template and picture settings are saved, named as Qwen2-VL's, with the run's largest picture.

    The class names are those of the published model, which every version of transformers and vLLM knows.
    """
    processor.tokenizer.save_pretrained(folder)
    processor.image_processor.save_pretrained(folder)
    path = folder / "preprocessor_config.json"
    size = processor.image_processor.size
    settings = json.loads(path.read_text(encoding="utf-8")) | {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2VLProcessor",
        "min_pixels": size["shortest_edge"],
        "max_pixels": size["longest_edge"],
    }
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _facts(card: Card, method: str) -> dict[str, Any]:
    config, data = card.config, card.config.data
    shown = [str(path.name) for path in (data.annotations, data.folder) if path]
    names = ", ".join(data.categories) or "all"
    facts = {
        "base": _hub_name(config.model) + (", in 4 bits (nf4)" if config.quantize == "nf4" else ""),
        "data": " ".join([data.kind, *shown])
        + f"; categories: {names}; shots: {data.shots or 'all'}; seed {data.seed}",
        "what learnt": f"LoRA r = {config.lora.r}, alpha = {config.lora.alpha}" if config.train == "lora" else "all",
    }
    if method == "sft":
        facts |= {"target": config.sft_target, "steps": config.sft_steps, "learning rate": config.sft_learning_rate}
    else:
        weights = ", ".join(f"{part} {weight:g}" for part, weight in config.reward_weights.items())
        facts |= {
            "reward": f"{config.reward}" + (f", weights: {weights}" if weights else ""),
            "loss": f"{config.loss}, beta {config.kl_coef:g}, advantage by {config.advantage_scale}",
            "steps": f"{config.steps} of {config.prompts_per_step} prompts x {config.group_size} completions",
            "learning rate": f"{config.learning_rate:g}",
        }
    versions = ", ".join(f"{name} {version}" for name, version in card.header.get("versions", {}).items())
    facts |= {
        "seed": config.seed,
        "max_pixels": config.max_pixels or "the base's own",
        "max_completion_length": config.max_completion_length,
        "dtype": card.dtype,
        "made by": f"minirft, commit {card.header.get('commit', 'unknown')}; {versions}".rstrip("; "),
    }
    return facts


def _scores(evaluations: Sequence[Mapping[str, Any]]) -> str:
    """A table of the first and the last evaluation of the run, with intervals."""
    if not evaluations:
        return "The run made no evaluation; `minirft eval FOLDER` makes one."
    names = [key for key, value in evaluations[-1].items() if key not in NOT_SCORES and isinstance(value, float)]
    lines = ["| metric | " + " | ".join(f"step {row['step']}" for row in evaluations) + " | what it is |"]
    lines.append("|---" * (len(evaluations) + 2) + "|")
    for name in names:
        cells = [_cell(row, name) for row in evaluations]
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {METRICS.get(name, '').replace('|', '/')} |")
    asked = f"Of the policy in the run, greedy, on {evaluations[-1]['n']} held-out questions"
    return f"{asked}; in brackets 95% bootstrap intervals over the questions.\n\n" + "\n".join(lines)


def _cell(row: Mapping[str, Any], name: str) -> str:
    if row.get(name) is None:
        return "–"
    bounds = row.get("ci", {}).get(name)
    return f"{row[name]:.3f}" + (f" [{bounds[0]:.2f}, {bounds[1]:.2f}]" if bounds else "")


def _hub_name(model: str) -> str:
    return "the embedded tiny model" if model == "tiny" else HUB.get(model, model)

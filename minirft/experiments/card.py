"""The model card of the embedded checkpoint, written from what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from minirft.experiments.gate import requirements
from minirft.tiny import BROKEN_TAGS, CAREFUL_SHARE

ROWS = {
    "greedy_default": "greedy, by default",
    "greedy_careful": "greedy, careful habit forced",
    "sampled_default": "sampled, by default",
    "sampled_careful": "sampled, careful habit forced",
}
COLUMNS = (
    "ap50_pooled",
    "ap50",
    "mean_iou",
    "recall",
    "boxes_per_image",
    "abstention",
    "auc",
    "parse_rate",
    "careful_share",
)

TEXT = """\
---
license: apache-2.0
base_model: none
pipeline_tag: image-text-to-text
---
# The embedded model of minirft

A `Qwen2VLForConditionalGeneration` with 1.65 million random-initialised, then pretrained weights. It sees 112 x 112
pictures of coloured shapes and answers in the format of Visual-RFT (arXiv 2503.01785). It is made for lessons and
tests: it knows nothing of photographs.

## What it was built to show

Reinforcement fine-tuning amplifies what a model can do but does not do by default. This base was **given** that
property on purpose. Its pretraining texts come from two annotators:

- the *quick* one ({quick:.0%} of texts) glances and draws one loose box with a random confidence, even when the
  category is absent;
- the *careful* one ({careful:.0%}) names each object and its place, says of its colour and of its shape whether it is
  the wanted one, boxes all that match tightly, is unsure about shattered objects, and answers `No Objects` when
  nothing matches.

Both lose one of their four format tags in {broken:.0%} of texts, so that the format reward alone cannot tell them
apart. About 22% of detection questions ask for an absent category. 15 of the 80 categories, and the sketch drawing
style, were never shown.

So a rise of pooled AP50 from the first row of this table towards the second is *elicitation*: the ability was there.
Gains beyond the second row are learnt.

## Measured

{queries} held-out detection questions; `ap50_pooled` is one ranking of all boxes, `ap50` a mean over categories of few
questions each, which is too high; the gate in bold type is what `minirft pretrain` refuses to go below.

| | {header} |
|---|{rule}|
{rows}

{gate}

## How it was made

`minirft pretrain --seed {seed}`, from nothing, on 2 CPU cores; the log is `pretrain.jsonl`, the recipe is
`minirft/experiments/pretrain.py`, and its numbers were:

```json
{config}
```
"""


def write_card(folder: Path, config: dict[str, Any], blocks: dict[str, Any]) -> None:
    """Write `MODEL_CARD.md` and `gate.json` beside the weights."""
    (folder / "gate.json").write_text(json.dumps(blocks, indent=1) + "\n")
    rows = [
        f"| {title} | " + " | ".join(f"{blocks[name][column]:.2f}" for column in COLUMNS) + " |"
        for name, title in ROWS.items()
    ]
    gate = [
        f"- **{r.name}: {r.value:.2f}** (wanted {r.low:.2f} to {r.high:.2f}: {'met' if r.met else 'MISSED'})"
        for r in requirements(blocks)
    ]
    text = TEXT.format(
        quick=1 - CAREFUL_SHARE,
        careful=CAREFUL_SHARE,
        broken=BROKEN_TAGS,
        queries=blocks["greedy_default"]["n"],
        header=" | ".join(COLUMNS),
        rule="|".join("---" for _ in COLUMNS),
        rows="\n".join(rows),
        gate="\n".join(gate),
        seed=config["seed"],
        config=json.dumps(config, indent=1),
    )
    (folder / "MODEL_CARD.md").write_text(text)

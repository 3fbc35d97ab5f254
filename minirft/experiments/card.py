"""The model card of the embedded checkpoint: `card.md.jinja` filled with measured numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, Template

from minirft.experiments.gate import requirements
from minirft.tiny import BROKEN_TAGS, CAREFUL_SHARE

TEXT = Path(__file__).with_name("card.md.jinja")


def write_card(folder: Path, config: dict[str, Any], blocks: dict[str, Any]) -> None:
    """Write `MODEL_CARD.md` and `gate.json` beside the weights."""
    (folder / "gate.json").write_text(json.dumps(blocks, indent=1) + "\n")
    template = Template(TEXT.read_text(encoding="utf-8"), trim_blocks=True, undefined=StrictUndefined)
    text = template.render(
        careful=CAREFUL_SHARE,
        broken=BROKEN_TAGS,
        blocks=blocks,
        gate=requirements(blocks),
        seed=config["seed"],
        recipe=json.dumps(config, indent=1),
    )
    (folder / "MODEL_CARD.md").write_text(text + "\n")

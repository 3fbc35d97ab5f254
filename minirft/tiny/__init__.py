"""The tiny world holds a real Qwen2-VL in miniature and the scenes for it; this room draws and does not train.

`CHECKPOINT` is a folder that plain transformers loads; its `MODEL_CARD.md` explains what the base can do, what it does
by default, and why the two differ.
"""

from typing import TYPE_CHECKING

from minirft import lazily

if TYPE_CHECKING:
    from minirft.engine import TINY as CHECKPOINT
    from minirft.tiny import world
    from minirft.tiny.annotators import BROKEN_TAGS, CAREFUL_SHARE, CAREFUL_START, QUICK_THOUGHT, annotate, careful
    from minirft.tiny.lookalikes import FAMILIES
    from minirft.tiny.model import CHAT_TEMPLATE, PATCH, new_model, save
    from minirft.tiny.questions import Question
    from minirft.tiny.scenes import BASE, CATEGORIES, COLOURS, FEWSHOT, GRID, NOVEL, RARE, RARE_WEIGHT, SHAPES, SIDE
    from minirft.tiny.silhouettes import segment, true_mask
    from minirft.tiny.world import EXTREMES, classification, detection, grounding, held_out, presence

__getattr__, __all__ = lazily(__name__)

"""The embedded world: a real Qwen2-VL in miniature, the scenes it sees, and the recipe that made it.

`CHECKPOINT` is a folder that plain transformers loads; `MODEL_CARD.md` in it says what the base can
do, what it does by default, and why the two differ.
"""

from pathlib import Path

CHECKPOINT = Path(__file__).parent / "checkpoint"

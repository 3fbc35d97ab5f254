"""The replay of a run: one group of completions for each of some steps, as JSON for the script `replay.js`.

The script draws the boxes, and recomputes the advantages from the reward parts when a weight or the scale changes.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minirft import UserError
from minirft.rewards import true_boxes
from minirft.show.pictures import MAX_DRAWN, Group, boxes_of

SCRIPT = (Path(__file__).parent / "replay.js").read_text(encoding="utf-8")
SIDE = 320  # pixels of a picture's longer side
LONGEST = 4000  # characters of a completion


@dataclass(frozen=True)
class Moment:
    """One group at one step, with the reward parts of all B completions of the batch, which the scale "batch" needs.

    `parts` has B numbers for each part; those of the group begin at `first`.
    """

    step: int
    group: Group
    parts: Mapping[str, Sequence[float]]
    first: int = 0
    failures: Sequence[str | None] = ()


@dataclass(frozen=True)
class Replay:
    """Some steps of a run, with the weights of the reward parts and the scaling of the advantages."""

    name: str
    moments: Sequence[Moment]
    weights: Mapping[str, float]
    scale: str
    eps: float


def replay_json(replays: Sequence[Replay]) -> str:
    r"""Write the replays as JSON for a script element; every `<` is escaped.

    >>> replay_json([Replay("</script>", [], {"iou": 1.0}, "std", 1e-4)])[:30]
    '[{"name": "\\u003c/script>", "m'
    """
    rows = [vars(replay) | {"moments": [_moment(moment) for moment in replay.moments]} for replay in replays]
    return json.dumps(rows).replace("<", "\\u003c")


def script_hash() -> str:
    """Return the digest of the script in the form of a content security policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()


def _moment(moment: Moment) -> dict[str, Any]:
    group = moment.group
    return {
        "step": moment.step,
        "sample": f"{group.sample.id} {group.sample.category}".strip(),
        "question": group.sample.problem,
        "picture": _picture(group),
        "truth": true_boxes(group.sample).tolist(),
        "texts": [text[:LONGEST] for text in group.texts],
        "boxes": [boxes_of(group.sample.task, text)[0][:MAX_DRAWN].tolist() for text in group.texts],
        "parts": {name: list(values) for name, values in moment.parts.items()},
        "first": moment.first,
        "failures": list(moment.failures) or [None] * len(group.texts),
        "advantages": group.advantages,
    }


def _picture(group: Group) -> str | None:
    """Encode the picture as a small JPEG or PNG in a data URL, whichever is smaller; None if the file is missing."""
    try:
        picture = group.sample.picture()
    except UserError:
        return None
    picture.thumbnail((SIDE, SIDE))
    written = []
    for kind, options in (("jpeg", {"quality": 82}), ("png", {"optimize": True})):
        buffer = io.BytesIO()
        picture.save(buffer, kind, **options)
        written.append(f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}")
    return min(written, key=len)

"""The command that asks a model about new pictures: predict.

Imports are inside the command: torch and transformers take seconds, and `minirft --help` needs neither.
"""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from minirft.commands.flags import Json, parse_config

if TYPE_CHECKING:
    from minirft.runs import Answered, GRPOConfig

TaskName = Literal["detection", "classification", "grounding", "presence"]


@dataclass(frozen=True)
class PredictFlags:
    """What `predict` takes besides the settings."""

    pictures: tyro.conf.Positional[tuple[str, ...]]
    """Pictures, folders of pictures, or patterns such as "photos/*.jpg"."""
    ask: str = ""
    """What to ask: a category, a family, an instruction, or a whole question; of a run of classification its own
    question if left out."""
    task: TaskName | None = None
    """Kind of question; that of the run if left out."""
    samples: int = 0
    """Draw this many answers and say how many are alike; 0 takes one greedy answer."""
    adapter: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder of a PEFT adapter to put on the config's model."""
    json: Json = False
    """Print one JSON line for each picture."""


def predict(args: list[str]) -> None:
    """The model's answer to new pictures, drawn: RUN_or_CONFIG PICTURE... --ask TEXT."""
    config, flags = parse_config(args, PredictFlags(()), "minirft predict", out=Path("runs/predict"))
    from minirft import UserError
    from minirft.runs import Asking, ask, find_pictures, source_policy

    if not flags.pictures:
        raise UserError("minirft predict: name a picture, as in `minirft predict RUN photo.jpg --ask cat`")
    task = flags.task or config.data.task
    asked = in_the_runs_words(flags.ask, task, config)
    if not asked.strip():
        raise UserError("minirft predict: what is to be found? give --ask TEXT, such as --ask cat")
    if flags.samples < 0:
        raise UserError(f"--samples {flags.samples}: use 0 for a greedy answer, or a number of answers such as 8")
    pictures = find_pictures(flags.pictures)
    how = Asking(
        task=task,
        question=config.data.question if task == config.data.task != "classification" else "",
        samples=flags.samples,
        temperature=config.temperature,
        max_completion_length=config.max_completion_length,
        batch=max(1, config.eval_batch // max(1, flags.samples)),
        seed=config.seed,
    )
    policy = source_policy(args[0], config, flags.adapter)
    failed = tell(ask(policy, pictures, asked, how), config.out, flags.json)
    if failed == len(pictures):
        raise UserError(f"none of the {failed} pictures could be asked about; the lines above say why")


def in_the_runs_words(asked: str, task: TaskName, config: GRPOConfig) -> str:
    """What is asked, as the run asked it: labels with their list; a category near one of the run's is told."""
    from minirft.data import question_of

    known = config.data.categories
    if near := asked not in known and difflib.get_close_matches(asked.casefold(), known, 1, 0.7):
        print(f"minirft: the run was trained on {near[0]!r}; {asked!r} is another question", file=sys.stderr)
    if task != "classification" or config.data.task != task or config.data.kind not in ("folder", "csv", "hf"):
        return asked
    name = " ".join(asked.split())
    return (
        asked
        if "?" in name or "<answer>" in name
        else question_of(replace(config.data, family=name or config.data.family))
    )


def tell(answers: Iterable[Answered], out: Path, as_json: bool) -> int:
    """Draw each answer into `out` and print it as it comes; returns how many pictures could not be asked about."""
    from minirft.runs import DRAWN

    failed, used = 0, set[str]()
    for answered in answers:
        found, row = answered.answer, answered.answer.row()
        if answered.texts:
            row |= {"agreement": answered.agreement, "texts": list(answered.texts)}
        drawn = None
        if answered.picture is None:
            failed += 1
            print(f"minirft: {found.failure}", file=sys.stderr)
        else:
            drawn = draw(answered, out, used, DRAWN)
        if as_json:
            print(json.dumps(row), flush=True)
        elif drawn:
            print(in_words(answered, drawn), flush=True)
    return failed


def draw(answered: Answered, out: Path, used: set[str], ending: str) -> Path:
    """The drawing of an answer is written into `out` under the picture's name, with a number where that is taken."""
    from minirft import UserError
    from minirft.show import drawn_answer

    stem, number = Path(answered.answer.picture).stem, 2
    while stem in used:
        stem, number = f"{Path(answered.answer.picture).stem}-{number}", number + 1
    used.add(stem)
    found, path = answered.answer, out / f"{stem}{ending}"
    try:
        out.mkdir(parents=True, exist_ok=True)
        drawn_answer(answered.picture, found.boxes, found.confidence, gist(answered)).save(path)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror or error}); choose another --out") from error
    return path


def gist(answered: Answered) -> str:
    """An answer in a line: its label, how many boxes, or why there is none; and how many answers were like it."""
    found = answered.answer
    said = found.label or f"{len(found.boxes)} box{'es' * (len(found.boxes) != 1)}"
    said = f"unreadable: {found.failure}" if found.failure and not found.boxes else said
    if answered.agreement is None:
        return said
    return f"{said}; {round(answered.agreement * len(answered.texts))} of {len(answered.texts)} answers alike"


def in_words(answered: Answered, drawn: Path) -> str:
    """An answer for a reader: picture and gist, then its boxes in pixels, the text, and where the drawing is."""
    found = answered.answer
    lines = [f"{found.picture}: {gist(answered)}"]
    for n, box in enumerate(found.boxes):
        sure = f"  confidence {found.confidence[n]:.2f}" if n < len(found.confidence) else ""
        lines.append("  box " + " ".join(f"{side:.0f}" for side in box) + sure)
    return "\n".join([*lines, f"  text {' '.join(found.text.split())}", f"  drawn {drawn}"])

"""The command for questions about new pictures: predict."""

from __future__ import annotations

import difflib
import glob
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from minirft import UserError, as_user_error, data, runs, show
from minirft.commands.flags import Switch, parse_config
from minirft.pictures import SUFFIXES
from minirft.samples import Task

DRAWN = ".answer.png"  # the end of a drawing's file name, so that drawings are not used as input


@dataclass(frozen=True)
class PredictFlags:
    """`PredictFlags` are the flags of `predict` besides the settings."""

    pictures: tyro.conf.Positional[tuple[str, ...]]
    """Pictures, folders of pictures, or patterns such as "photos/*.jpg"."""
    ask: str = ""
    """A category, a family, an instruction, or a whole question; a classification run has a default, its own
    question."""
    task: Task | None = None
    """Kind of question; the default is that of the run."""
    samples: int = 0
    """Sample this many answers and count how many are alike; 0 means one greedy answer."""
    adapter: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder of a PEFT adapter to put on the config's model."""
    json: Switch = False
    """Print one JSON line for each picture."""


def predict(args: list[str]) -> None:
    """Ask a model about new pictures and draw its answers: RUN_or_CONFIG PICTURE... --ask TEXT."""
    config, flags = parse_config(args, PredictFlags(()), "minirft predict", out=Path("runs/predict"))
    if not flags.pictures:
        raise UserError("minirft predict: name a picture, as in `minirft predict RUN photo.jpg --ask cat`")
    task = flags.task or config.data.task
    question = in_the_runs_words(flags.ask, task, config)
    if not question.strip():
        raise UserError("minirft predict: what is to be found? give --ask TEXT, such as --ask cat")
    if flags.samples < 0:
        raise UserError(f"--samples {flags.samples}: use 0 for a greedy answer, or a number of answers such as 8")
    pictures = find_pictures(flags.pictures)
    how = runs.Asking(
        task=task,
        question=config.data.question if task == config.data.task != "classification" else "",
        samples=flags.samples,
        temperature=config.temperature,
        max_completion_length=config.max_completion_length,
        batch=max(1, config.eval_batch // max(1, flags.samples)),
        seed=config.seed,
    )
    policy = runs.source_policy(args[0], config, flags.adapter)
    failed = report_answers(runs.ask(policy, pictures, question, how), config.out, flags.json)
    if failed == len(pictures):
        raise UserError(f"none of the {failed} pictures could be asked about; the lines above say why")


def find_pictures(names: Sequence[str]) -> list[Path]:
    """Return the files that paths, folders and patterns name, in order, each once.

    A folder means the picture files in it, but not in its subfolders; drawings of earlier answers are left out.  Raises
    `UserError` if a folder or a pattern matches no picture.
    """
    paths: dict[Path, None] = {}
    for name in names:
        path = Path(name)
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
        else:
            files = [path] if path.exists() else sorted(map(Path, glob.glob(name, recursive=True)))
        files = [file for file in files if not file.name.endswith(DRAWN) and not file.is_dir()]
        if not files and (path.is_dir() or any(mark in name for mark in "*?[")):
            raise UserError(
                f"no picture in {name} (its subfolders are not searched); they end in {', '.join(SUFFIXES)}"
            )
        paths |= dict.fromkeys(files or [path])  # a missing file gets an answer with a failure later
    return list(paths)


def in_the_runs_words(text: str, task: Task, config: runs.GRPOConfig) -> str:
    """Return the text to ask, for classification the run's question; warn if it is nearly one of the run's categories.

    The run's question has its list of labels.
    """
    known = config.data.categories
    if near := text not in known and difflib.get_close_matches(text.casefold(), known, 1, 0.7):
        print(f"minirft: the run was trained on {near[0]!r}; {text!r} is another question", file=sys.stderr)
    name, own_labels = " ".join(text.split()), config.data.kind in ("folder", "csv", "hf")
    if task != "classification" or config.data.task != task or not own_labels or "?" in name or "<answer>" in name:
        return text
    return data.question_of(replace(config.data, family=name or config.data.family))


def report_answers(answers: Iterable[runs.Answered], out: Path, as_json: bool) -> int:
    """Draw each answer into `out` and print it at once; return the number of pictures that could not be used."""
    failed, used = 0, set[str]()
    for answered in answers:
        row = asdict(answered.answer)
        if answered.texts:
            row |= {"agreement": answered.agreement, "texts": list(answered.texts)}
        drawing = None
        if answered.picture is None:
            failed += 1
            print(f"minirft: {answered.answer.failure}", file=sys.stderr)
        else:
            drawing = draw(answered, out, used)
        if as_json:
            print(json.dumps(row), flush=True)
        elif drawing:
            print(in_words(answered, drawing), flush=True)
    return failed


def draw(answered: runs.Answered, out: Path, used: set[str]) -> Path:
    """Write the drawing of an answer into `out` under the picture's name, with a number if the name is `used`."""
    stem, number = Path(answered.answer.picture).stem, 2
    while stem in used:
        stem, number = f"{Path(answered.answer.picture).stem}-{number}", number + 1
    used.add(stem)
    answer, path = answered.answer, out / f"{stem}{DRAWN}"
    with as_user_error(f"cannot write {path} ({{why}}); choose another --out", OSError):
        out.mkdir(parents=True, exist_ok=True)
        show.mark(answered.picture, answer.boxes, answer.confidence, gist(answered)).save(path)
    return path


def gist(answered: runs.Answered) -> str:
    """Summarise an answer in a line: its label, number of boxes or failure, and how many answers are alike to it."""
    answer = answered.answer
    line = answer.label or f"{len(answer.boxes)} box{'es' * (len(answer.boxes) != 1)}"
    line = f"unreadable: {answer.failure}" if answer.failure and not answer.boxes else line
    if answered.agreement is None:
        return line
    return f"{line}; {round(answered.agreement * len(answered.texts))} of {len(answered.texts)} answers alike"


def in_words(answered: runs.Answered, drawing: Path) -> str:
    """Describe an answer for a reader: picture and gist, its boxes in pixels, the text, and the drawing's path."""
    answer = answered.answer
    lines = [f"{answer.picture}: {gist(answered)}"]
    for n, box in enumerate(answer.boxes):
        sure = f"  confidence {answer.confidence[n]:.2f}" if n < len(answer.confidence) else ""
        lines.append("  box " + " ".join(f"{side:.0f}" for side in box) + sure)
    return "\n".join([*lines, f"  text {' '.join(answer.text.split())}", f"  drawn {drawing}"])

"""This module saves the answers of an evaluation after every batch, so that an interrupted one can continue.

    predictions.jsonl               {"kind": "header", "settings": {...}}, then {"id", "category", "solution", "text"}
    predictions.coco_results.json   [{"image_id", "category_id", "bbox": [x, y, width, height] in pixels, "score"}, ...]

Each batch is one write, and a rerun continues after the last complete batch: equal batches give equal answers, bit for
bit.  A file of other settings, other weights or other samples is refused.  COCO's tools can load the second file.
"""

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from minirft import UserError
from minirft.data import evaluation_data
from minirft.engine import resolve
from minirft.evaluation import coco_results
from minirft.policy import Policy
from minirft.runs.config import GRPOConfig
from minirft.runs.log import read_rows, write_rows
from minirft.runs.loop import generate
from minirft.runs.step import Row
from minirft.runs.two_stages import answers_in_two_stages
from minirft.samples import Sample

ROW = "a row of predictions; remove the file, or name another"
# Settings on which an answer depends, besides the weights and the samples.
FIELDS = ("model", "quantize", "dtype", "max_pixels", "max_completion_length", "eval_batch")


def settings(policy: Policy, config: GRPOConfig, samples: Sequence[Sample], mode: str, trained: bool) -> Row:
    """Return the settings, and digests of weights and samples, that must be equal to continue a file of answers.

    The digest of `trained` weights (of a run) covers every bit; that of a model's folder covers the names, sizes and
    times of its weight files.
    """
    digest = hashlib.blake2b(digest_size=8)
    for weight in policy.trainable().values() if trained else ():
        digest.update(weight.detach().float().cpu().numpy().tobytes())
    for file in sorted(Path(resolve(config.model)).glob("*.safetensors")):
        digest.update(f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}\n".encode())
    lines = "\n".join(f"{s.id}\t{s.problem}\t{s.solution}" for s in samples)
    questions = hashlib.blake2b(lines.encode(), digest_size=8)
    sampling = {"temperature": config.temperature, "seed": config.seed} if mode == "sampled" else {}
    fields = {name: getattr(config, name) for name in FIELDS}
    return {"mode": mode, **fields, **sampling, "weights": digest.hexdigest(), "samples": questions.hexdigest()}


def default_file(folder: Path, setup: Row) -> Path:
    """Return the path in a run's folder for the answers with these settings; other settings have another path."""
    digest = hashlib.blake2b(json.dumps(setup, sort_keys=True).encode(), digest_size=4).hexdigest()
    return folder / "eval" / f"{setup['mode']}-{digest}" / "predictions.jsonl"


def predict(
    policy: Policy, config: GRPOConfig, samples: list[Sample], path: Path, setup: Row, progress: bool = False
) -> list[str]:
    """Return one completion for each sample; read those that `path` already holds, and append the others to it.

    `setup` is the result of `settings`.  Raises `UserError` if `path` holds answers of other settings or something
    else, or cannot be written.
    """
    texts = _resumed(path, setup, samples, config.eval_batch)
    answer = answers_in_two_stages if setup.get("two_stages") else generate
    if texts:
        print(f"minirft: {len(texts)} of {len(samples)} answers are in {path} already", file=sys.stderr)
    bar = tqdm(total=len(samples), initial=len(texts), disable=not progress, unit="answer", dynamic_ncols=True)
    with bar:
        for first in range(len(texts), len(samples), config.eval_batch):
            part = samples[first : first + config.eval_batch]
            batch = answer(policy, config, part, setup["mode"], first)
            rows = [{"id": s.id, "category": s.category, "solution": s.solution} for s in part]
            write_rows(path, [row | {"text": text} for row, text in zip(rows, batch, strict=True)])
            texts += batch
            bar.update(len(batch))
    return texts


def _resumed(path: Path, setup: Row, samples: Sequence[Sample], batch: int) -> list[str]:
    """Return the answers in a file's complete batches and cut the file after them; write the header of a new file."""
    rows = read_rows(path, ROW) if path.exists() else []
    if not rows:
        write_rows(path, [{"kind": "header", "settings": setup}], mode="wb")
        return []
    before = rows[0].get("settings")
    if not isinstance(before, dict):
        raise UserError(f"{path} line 1 is not the header of a file of predictions; name another file")
    changed = sorted(key for key in before.keys() | setup.keys() if before.get(key) != setup.get(key))
    if changed:
        changes = ", ".join(f"{key} {before.get(key)} -> {setup.get(key)}" for key in changed)
        raise UserError(f"{path} holds answers of other settings ({changes}): leave that out, or name another file")
    done = rows[1 : 1 + len(samples)]
    for number, (row, sample) in enumerate(zip(done, samples, strict=False), 2):
        if row.get("id") != sample.id or not isinstance(row.get("text"), str):
            raise UserError(f"{path} line {number} is not the answer to sample {sample.id}; remove the file")
    whole = len(done) if len(done) == len(samples) else len(done) - len(done) % batch
    with path.open("r+b") as file:
        file.truncate(sum(len(file.readline()) for _ in range(1 + whole)))
    return [row["text"] for row in done[:whole]]


# ------------------------------------------------------------------ for COCO's tools


def write_coco_results(
    texts: Sequence[str], samples: Sequence[Sample], config: GRPOConfig, answers: Path
) -> Path | None:
    """Write the boxes of all answers as COCO results beside the file of the `answers`, and return the path.

    The name is derived from that file's, so that evaluations do not overwrite each other.  pycocotools' `loadRes` and
    viewers can load it together with the annotation file.  Returns None if the samples are of no COCO or LVIS file.
    """
    data = evaluation_data(config.data)
    if data.kind not in ("coco", "lvis") or data.task != "detection" or data.annotations is None:
        return None
    path = answers.with_name(f"{answers.name.removesuffix('.jsonl')}.coco_results.json")
    results = list(coco_results(texts, samples, json.loads(data.annotations.read_text(encoding="utf-8-sig"))))
    path.write_text(json.dumps(results), encoding="utf-8")
    return path

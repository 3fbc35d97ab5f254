"""Answers to a large evaluation on disk: written batch by batch, gone on with after a stop, shown to COCO's tools.

    predictions.jsonl               {"kind": "header", "settings": {...}}, then {"id", "category", "solution", "text"}
    predictions.coco_results.json   [{"image_id", "category_id", "bbox": [x, y, width, height] in pixels, "score"}, ...]

A batch is one write, and a rerun goes on after the last whole batch: the same batches give the same answers, bit for
bit.  A file made with other settings, other weights or about other samples is refused.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from minirft import UserError
from minirft.data import evaluation_data
from minirft.engine import resolve
from minirft.evaluation import coco_results
from minirft.policy import Policy
from minirft.runs.config import GRPOConfig
from minirft.runs.log import read_rows, write_rows
from minirft.runs.loop import generate_batches
from minirft.runs.two_stages import batches_in_two_stages
from minirft.samples import Sample

Row = dict[str, Any]
ROW = "a row of predictions; remove the file, or name another"
# What an answer depends on, besides the weights and the samples.
FIELDS = ("model", "quantize", "dtype", "max_pixels", "max_completion_length", "eval_batch")


def settings(policy: Policy, config: GRPOConfig, samples: Sequence[Sample], mode: str, trained: bool) -> Row:
    """What must be equal for two sets of answers to be one: settings, weights and samples, the latter two as digests.

    Of `trained` weights, those of a run, every bit counts; of a model's folder the names, sizes and times of its
    weight files.
    """
    digest = hashlib.blake2b(digest_size=8)
    for weight in policy.trainable().values() if trained else ():
        digest.update(weight.detach().float().cpu().numpy().tobytes())
    for file in sorted(Path(resolve(config.model)).glob("*.safetensors")):
        digest.update(f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}\n".encode())
    asked = hashlib.blake2b("\n".join(f"{s.id}\t{s.problem}\t{s.solution}" for s in samples).encode(), digest_size=8)
    drawn = {"temperature": config.temperature, "seed": config.seed} if mode == "sampled" else {}
    named = {name: getattr(config, name) for name in FIELDS}
    return {"mode": mode, **named, **drawn, "weights": digest.hexdigest(), "samples": asked.hexdigest()}


def default_file(folder: Path, made_with: Row) -> Path:
    """Where the answers of these settings belong in a run's folder; other settings have another place."""
    digest = hashlib.blake2b(json.dumps(made_with, sort_keys=True).encode(), digest_size=4).hexdigest()
    return folder / "eval" / f"{made_with['mode']}-{digest}" / "predictions.jsonl"


def predict(
    policy: Policy, config: GRPOConfig, samples: list[Sample], path: Path, made_with: Row, progress: bool = False
) -> list[str]:
    """One completion for each sample; those that `path` already holds are read, the others are appended to it.

    Raises `UserError` when `path` holds answers of other settings, or is no such file, or cannot be written.
    """
    texts = _resumed(path, made_with, samples, config.eval_batch)
    answer = batches_in_two_stages if made_with.get("two_stages") else generate_batches
    if texts:
        print(f"minirft: {len(texts)} of {len(samples)} answers are in {path} already", file=sys.stderr)
    bar = tqdm(total=len(samples), initial=len(texts), disable=not progress, unit="answer", dynamic_ncols=True)
    with bar:
        for batch in answer(policy, config, samples, made_with["mode"], first=len(texts)):
            of = samples[len(texts) : len(texts) + len(batch)]
            asked = [{"id": s.id, "category": s.category, "solution": s.solution} for s in of]
            write_rows(path, [row | {"text": text} for row, text in zip(asked, batch, strict=True)])
            texts += batch
            bar.update(len(batch))
    return texts


def _resumed(path: Path, made_with: Row, samples: Sequence[Sample], batch: int) -> list[str]:
    """The answers in whole batches of a file, which is cut after them; of a file that is not there, a header's."""
    rows = read_rows(path, ROW) if path.exists() else []
    if not rows:
        write_rows(path, [{"kind": "header", "settings": made_with}], mode="wb")
        return []
    before = rows[0].get("settings")
    if not isinstance(before, dict):
        raise UserError(f"{path} line 1 is not the header of a file of predictions; name another file")
    changed = sorted(key for key in before.keys() | made_with.keys() if before.get(key) != made_with.get(key))
    if changed:
        said = ", ".join(f"{key} {before.get(key)} -> {made_with.get(key)}" for key in changed)
        raise UserError(f"{path} holds answers of other settings ({said}): leave that out, or name another file")
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
    """The boxes of all answers as COCO results beside the file of the `answers`, under its name, so that evaluations
    keep apart; None where the samples are of no COCO or LVIS file.

    pycocotools' `loadRes` and viewers load it beside the annotation file that the evaluation has asked about.
    """
    data = evaluation_data(config.data)
    if data.kind not in ("coco", "lvis") or data.task != "detection" or data.annotations is None:
        return None
    path = answers.with_name(f"{answers.name.removesuffix('.jsonl')}.coco_results.json")
    results = list(coco_results(texts, samples, json.loads(data.annotations.read_text(encoding="utf-8-sig"))))
    path.write_text(json.dumps(results), encoding="utf-8")
    return path

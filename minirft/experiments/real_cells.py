"""The cells of an experiment on real data: each is a run and its answers on disk, and continues after a stop.

    OUT/NAME.json                         every finished cell; the file is rewritten after each of them
    OUT/NAME/CONFIG-SHOTS-METHOD-SEED/    the run of a cell (`minirft.runs.folder`), its answers under eval/

A cell is a config, a method (base, sft, rft), a number of shots and a seed.  It trains like `minirft sft` or
`minirft train`, and answers its tests greedily.  After a stop, the same command continues: finished cells are kept, a
run continues from its checkpoint, and answers continue after the last complete batch.

Differences from the cells of the tiny world: Rates and steps are those of the configs, without a search.  A seed draws
the shots and all of training; the test questions are the same for every cell, so differences are paired.  Detection is
compared by AP .50:.95, as in the paper's tables.

`outlook` predicts the cost, and `paper_number` is the paper's number beside ours, as published; not all are measured
alike: its accuracy is the two-way substring rule, its LVIS AP is a mean over ranges of area, and its untrained model
decides which categories are in a picture.  One seed gives an interval over the test questions only (`statistics`).

Deviations from the paper's evaluation: those of `minirft.evaluation`, and the number of test questions of each config.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from jinja2 import StrictUndefined, Template

from minirft import UserError, as_user_error, cost, data, evaluation, runs
from minirft.experiments.board import Board, run_cells
from minirft.experiments.cells import DRAWS, Key, drawn, effort, rounded
from minirft.experiments.real import METRIC, RealPart, Size, located, parts_of
from minirft.policy import Policy
from minirft.samples import Sample
from minirft.show import Line, of_paper
from minirft.train import run as run_grpo

METHODS = {"sft": runs.sft, "rft": run_grpo}
TRAINING: dict[str, cost.Method] = {"sft": "sft", "rft": "grpo"}
PAPER = Path(__file__).parents[2] / "results" / "paper.json"
"""The paper's tables, if the package is in its repository."""


@dataclass(frozen=True)
class Study:
    """An experiment with the user's choices."""

    name: str
    root: Path
    """Folder of all data."""
    out: Path
    size: Size = "2b"
    changes: dict[str, Any] = field(default_factory=dict)
    """Settings of every config to replace, as a TOML table."""
    asked: dict[tuple[str, str], list[Sample]] = field(default_factory=dict, compare=False, repr=False)
    """Cache of test questions: reading an annotation file can take a minute."""

    @property
    def parts(self) -> dict[str, RealPart]:
        return parts_of(self.name, self.size)

    def settings(self, part: str) -> runs.GRPOConfig:
        """Return the config with the user's changes, without paths.  Raises `UserError` for invalid changes."""
        table = runs.read_toml(runs.SHIPPED / f"{part}.toml")
        for name, value in self.changes.items():
            table[name] = {**table.get(name, {}), **value} if isinstance(value, dict) else value
        with as_user_error(f"{part} with your settings: {{why}}", UserError):
            return runs.from_table(runs.GRPOConfig, table)

    def config(self, key: Key) -> runs.GRPOConfig:
        """Return the settings of a cell's run."""
        config = self.settings(key.part)
        place = located(config.data, self.parts[key.part].source, self.root)
        place = replace(place, seed=key.seed, shots=key.shots or place.shots)
        return replace(config, data=place, seed=key.seed, out=self.folder(key))

    def test(self, part: str, name: str) -> runs.GRPOConfig:
        """Return the settings of a test; they have no seed, because the questions are the same for every cell."""
        config, spec = self.settings(part), self.parts[part]
        return replace(config, data=located(spec.tested(name, config.data), spec.source, self.root))

    def folder(self, key: Key) -> Path:
        """Return the folder of a cell's run."""
        which = "base" if key.method == "base" else f"{key.shots or 'all'}-{key.method}-{key.seed}"
        return self.out / self.name / f"{key.part}-{which}"

    def keys(self, seeds: int) -> list[Key]:
        """List every cell: the base of each config, then one seed after the other."""
        sets = [(config, shots) for config, part in self.parts.items() for shots in part.shots]
        every = product(range(seeds), sets, METHODS)
        cells = [Key(self.name, config, method, shots, seed) for seed, (config, shots), method in every]
        return [Key(self.name, config, "base", 0, 0) for config in self.parts] + cells


def run_study(study: Study, seeds: int = 1, progress: bool = True) -> Board:
    """Run the cells that are not yet in the study's file, one after the other."""
    board = open_board(study)
    run_cells(board, study.keys(seeds), study.name, 1, progress, partial(run_cell, study, progress=progress))
    return board


def open_board(study: Study) -> Board:
    """Open the study's file.  Raises `UserError` for a file with other settings or in another format."""
    configs = {part: asdict(study.settings(part)) for part in study.parts}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    header = runs.plain(runs.provenance({"experiment": study.name, "profile": "real", "configs": configs}, 0, device))
    file = study.out / f"{study.name}{'' if study.size == '2b' else '_7b'}.json"
    return Board.open(file, study.name, header)


def run_cell(study: Study, key: Key, progress: bool = True) -> dict[str, Any]:
    """Train, except for the base, and answer every test; return the results as JSON data."""
    policy = trained(key, study.config(key), progress)
    tests = {name: {"greedy": answered(study, key, name, policy, progress)} for name in study.parts[key.part].tests}
    return {"run": str(study.folder(key)), **spent(key.method, study.config(key)), "tests": tests}


def trained(key: Key, config: runs.GRPOConfig, progress: bool) -> Policy:
    """Return the policy of a cell after its run, which is started or continued."""
    gc.collect()  # free the model of the cell before, which reference cycles would keep
    if key.method == "base":
        return runs.load_policy(config)
    resume = config.out if (config.out / "config.toml").is_file() else None
    for _ in METHODS[key.method](config, resume, progress=progress):
        pass
    gc.collect()
    return runs.load_run_policy(config.out, config)


def answered(study: Study, key: Key, name: str, policy: Policy, progress: bool) -> dict[str, Any]:
    """Compute all metrics of a test, also LVIS's, and the headline metric on `DRAWS` resamples; store the answers."""
    config, place = study.test(key.part, name), (key.part, name)
    samples = study.asked[place] = study.asked.get(place) or data.held_out(config)
    made_with = runs.settings(policy, config, samples, "greedy", trained=key.method != "base")
    path = runs.default_file(study.folder(key), made_with)
    texts = runs.predict(policy, config, samples, path, made_with, progress=progress)
    runs.write_coco_results(texts, samples, config, path)
    values, draws = evaluation.bootstrap(config.data.task, texts, samples, resamples=DRAWS)
    values |= evaluation.lvis_metrics(texts, samples, config.data)
    found = rounded(values) | {"n": len(samples), "draws": drawn(draws[METRIC[config.data.task]])}
    return found | {"predictions": str(path), **runs.frame_warning(policy, texts, samples)}


def spent(method: str, config: runs.GRPOConfig) -> dict[str, Any]:
    """Return the seconds of training, the pictures seen, with repeats, and the completions sampled."""
    steps = {"base": 0, "sft": config.sft_steps, "rft": config.steps}[method]
    rows = runs.read_log(config.out / "log.jsonl")[1] if steps else []
    seconds = sum((row["seconds"] for row in rows if row["kind"] == "train"), start=0.0)
    return {"seconds_training": round(seconds, 1), **effort(method, config, steps)}


# ------------------------------------------------------------------ the cost before, and the paper's numbers


def outlook(
    study: Study, seeds: int, tflops: float | None, bandwidth: float | None, processor: str | None
) -> Iterator[dict[str, Any]]:
    """Yield a dry run of each config's methods and tests, with the number of its cells.  Raises like `dry_run`.

    The dry run is that of the most shots, whose pictures include those of fewer shots.
    """
    for part, spec in study.parts.items():
        cells = len(spec.shots) * seeds
        trained = [(what, study.config(Key(study.name, part, what, max(spec.shots), 0)), cells) for what in METHODS]
        asked = [(test, study.test(part, test), 1 + cells * len(METHODS)) for test in spec.tests]
        for what, config, times in trained + asked:
            rates = cost.Rates.of(config, tflops, bandwidth)
            found = cost.dry_run(config, TRAINING.get(what, "eval"), rates, processor)
            del found["prompts"]
            yield {"experiment": study.name, "config": part, "what": what, "cells": times, **found}


def outlook_table(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yield an outlook as text, each row as soon as it is computed, and the sum."""
    text = Path(__file__).with_name("outlook.txt.jinja").read_text(encoding="utf-8")
    template = Template(text, trim_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined)
    yield from template.generate(rows=rows, spell=cost.spell)


def paper_number(study: Study, line: Line, paper: Path = PAPER) -> float | None:
    """Return the paper's number for a line, as a share; None if it has none, or if its tables are missing."""
    table, column = study.parts[line.part].columns.get(line.test, ("", ""))
    if not table or not paper.is_file():
        return None
    published = json.loads(paper.read_text(encoding="utf-8"))["tables"][table]
    percent = of_paper(published, column, study.size.upper()).get(line.what, {}).get(line.shots)
    return None if percent is None else percent / 100

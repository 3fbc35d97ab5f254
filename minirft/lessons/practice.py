"""Training in memory for lessons: a run without a folder, with any reward, one step at a time.

`Practice` is the loop of `minirft.train` without log, checkpoints and progress bar, with the same `grpo_step` and
samples.  `python -m minirft.lessons.practice` measures
the rewards of the reward lab on several seeds (`results/reward_lab.json`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from minirft.data import held_out, training_feed
from minirft.evaluation import metrics
from minirft.lessons.record import records_written
from minirft.policy import Policy
from minirft.reference import make_reference
from minirft.rewards import Answer, Detections, Reward, Scorer, reading, reward_for
from minirft.runs import GRPOConfig, Row, generate, load_config, load_policy, make_optimiser
from minirft.samples import Sample
from minirft.show import BEHAVIOURS, Behaviour, Probe, Record, average
from minirft.tiny import CAREFUL_START
from minirft.train import grpo_step

HELD_OUT = ("ap50_pooled", "recall", "precision", "mean_iou", "auc", "abstention")
LAB = dict(BEHAVIOURS) | {"careful": lambda text, solution: float(CAREFUL_START.strip() in text)}


class Practice:
    """A GRPO run in memory: the policy in training, the rows of all steps, and the completions of all steps.

    `reward` is any reward or function of (completion, sample); by default the reward of `config`.
    """

    def __init__(self, config: GRPOConfig, reward: Scorer | None = None, probes: Sequence[Sample] = ()) -> None:
        self.config, self.probes = config, list(probes)
        self.reward = reward_for(config.data.task, reward or config.reward, config.reward_weights)
        self.policy: Policy = load_policy(config)
        self.reference = make_reference(self.policy, config.kl_coef)
        self.optimiser = make_optimiser(self.policy, config)
        self.feed = training_feed(config)
        self.rows: list[Row] = []
        self.written: list[list[Row]] = []

    def step(self, step: int, rate: float | None = None) -> Row:
        """Do step `step` (1, 2, ...) at a learning rate; return its row, which `rows` keeps."""
        config = self.config if rate is None else replace(self.config, learning_rate=rate)
        parts = self.policy, self.reference, self.optimiser
        row, written = grpo_step(*parts, self.feed(step), self.reward, config, step)
        self.rows.append({"kind": "train", **row})
        self.written.append(written)
        return row

    def run(self, steps: int | None = None) -> Practice:
        """Do the next `steps` steps, by default all that are left; return the run."""
        last = self.config.steps if steps is None else len(self.rows) + steps
        for step in range(len(self.rows) + 1, last + 1):
            self.step(step)
        return self

    def answers(self, samples: Sequence[Sample], mode: str = "greedy") -> list[str]:
        """Generate one completion for each sample with the present policy, "greedy" or "sampled"."""
        return generate(self.policy, self.config, list(samples), mode)

    def probe(self) -> Probe:
        """Answer the probes greedily, and compute their mean IoU."""
        texts = self.answers(self.probes)
        value = metrics(self.probes[0].task, texts, self.probes, resamples=0)["mean_iou"]
        return Probe(self.probes, texts, {"probe IoU": value})

    def browse(self, *steps: int) -> list[Record]:
        """Return the groups of these steps, with log-probs of the base and of the present policy."""
        kept = [(self.feed(step), self.written[step - 1], step) for step in steps]
        base = load_policy(self.config)
        return [record for of_step in kept for record in records_written(base, self.policy, *of_step)]

    def behaviour(self, samples: Sequence[Sample], behaviours: Mapping[str, Behaviour] = LAB) -> dict[str, float]:
        """Measure held-out metrics and mean behaviours of sampled answers of the present policy."""
        texts = self.answers(samples, "sampled")
        measured = metrics(samples[0].task, texts, samples, resamples=0)
        return {name: measured[name] for name in HELD_OUT} | average(texts, [s.solution for s in samples], behaviours)


def lab_rewards() -> dict[str, Reward]:
    """Return the rewards of the lab: strict, strict with one change, and rewards for a habit."""
    strict = reading("detection", "strict")

    def words(answer: Answer, truth: Detections) -> float:
        return min(1.0, len(answer.text.split()) / 40)

    def boxes(answer: Answer, truth: Detections) -> float:
        return 0.0 if answer.failure else min(1.0, len(answer.value) / 3)

    charged = strict.weights | {"words": -2.0}
    return {
        "strict": strict,
        "paper": reading("detection", "paper"),
        "no format": reading("detection", "strict", {"format": 0.0}),
        "over predictions": reading("detection", "strict", denominator="predictions"),
        "confidence only": reading("detection", "strict", {"iou": 0.0, "format": 0.0}),
        "format only": reading("detection", "strict", {"iou": 0.0, "confidence": 0.0}),
        "charges for words": replace(strict, parts=strict.parts | {"words": words}, weights=charged),
        "words only": replace(strict, parts={"words": words}, weights={"words": 1.0}),
        "boxes only": replace(strict, parts={"boxes": boxes}, weights={"boxes": 1.0}),
    }


def lab_config(seed: int = 0) -> GRPOConfig:
    """Return the settings of the lab: the demo's, with half of its prompts per step, twice its rate, and 30 steps."""
    demo = load_config("tiny_detection")
    return replace(demo, prompts_per_step=4, learning_rate=2e-4, steps=30, eval_samples=150, seed=seed)


def main(out: Path, seeds: int = 3) -> None:
    """Measure the base ("before") and a run with each reward of the lab, on several seeds, into a JSON file.

    The runs of a seed see the same samples in the same order; only the reward differs.
    """
    found: dict[str, list[Row]] = {}
    torch.set_num_threads(1)
    samples, config = held_out(lab_config()), lab_config()
    for seed in range(seeds):
        for name, reward in {"before": None, **lab_rewards()}.items():
            run = Practice(lab_config(seed), reward)
            behaviour = (run.run() if reward else run).behaviour(samples)
            found.setdefault(name, []).append({key: round(value, 4) for key, value in behaviour.items()})
        settings = {"steps": config.steps, "prompts_per_step": config.prompts_per_step, "held_out": len(samples)}
        text = {"command": "python -m minirft.lessons.practice", "settings": settings, "behaviour": found}
        out.write_text(json.dumps(text, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "results/reward_lab.json"))

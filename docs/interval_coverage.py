"""How often printed intervals hold the truth, simulated: python docs/interval_coverage.py (20 minutes).

Two kinds of interval are printed.  Those of one evaluation (`evaluate.metrics`) are percentile bootstrap intervals over
its questions: a large population of questions with answers is drawn, its metrics are the truth, and evaluations of n of
its questions are intervals to be checked.  Those of several seeds (`statistics`) are checked on simulated experiments
whose two methods are equally good.
"""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from minirft.evaluation import bootstrap, metrics
from minirft.experiments.statistics import Estimate, difference
from minirft.rewards import detection_solution
from minirft.samples import Sample

POPULATION = 24_000
SIZES = ((300, 65), (500, 6), (500, 8), (500, 65), (1000, 8), (2000, 8))
"""(questions, categories): the demo's and every evaluation's default, the tables', and more questions a category."""
Asked = tuple[list[str], list[Sample]]  # answers, and the questions they answer


def population(categories: int, skilful: bool, generator: np.random.Generator) -> Asked:
    """Detection questions and answers of a weak or a skilful model, one in five about an absent category."""
    recall, noise, false = (0.85, 0.06, 0.1) if skilful else (0.3, 0.15, 0.6)
    texts, samples = [], []
    for q in range(POPULATION):
        category = f"thing {generator.integers(categories)}"
        count = 0 if generator.random() < 0.2 else generator.choice([1, 2, 3], p=[0.6, 0.25, 0.15])
        truth = _boxes(count, generator)
        seen = truth[generator.random(count) < recall]
        size = np.tile(seen[:, 2:] - seen[:, :2], 2)
        found = np.clip(np.round(seen + generator.normal(0, noise, seen.shape) * size), 0, 1000)
        found = np.concatenate([found, _boxes(generator.poisson(false), generator)])
        levels, right = np.array([0.95, 0.9, 0.8, 0.6, 0.3]), len(seen)
        stated = generator.choice(levels, len(found), p=[0.1, 0.15, 0.2, 0.25, 0.3])
        stated[:right] = generator.choice(levels, right, p=[0.4, 0.25, 0.2, 0.1, 0.05])
        texts.append(f"<think> </think> <answer>{_listed(found, stated)}</answer>")
        samples.append(Sample(f"{q}", Path("none"), "detection", "?", detection_solution(truth), category))
    return texts, samples


def _boxes(count: int, generator: np.random.Generator) -> np.ndarray:
    corner, size = generator.integers(0, 800, (count, 2)), generator.integers(60, 200, (count, 2))
    return np.concatenate([corner, corner + size], axis=1).astype(float)


def _listed(boxes: np.ndarray, stated: np.ndarray) -> str:
    rows = [
        f"{{'Position': {box.astype(int).tolist()}, 'Confidence': {c:.2f}}}"
        for box, c in zip(boxes, stated, strict=True)
    ]
    return f"[{', '.join(rows)}]" if rows else "No Objects"


def of_one_evaluation(asked: Asked, questions: int, repeats: int, seed: int = 0) -> dict[str, dict[str, float]]:
    """Metric -> how often the 95% interval of n questions holds the population's value; how far the number is off."""
    texts, samples = asked
    truth, held, off = metrics("detection", texts, samples, resamples=0), Counter(), Counter()
    for repeat in range(repeats):
        chosen = np.random.default_rng([seed, questions, repeat]).choice(len(texts), questions, replace=False)
        values, draws = bootstrap("detection", [texts[i] for i in chosen], [samples[i] for i in chosen])
        for name, draw in draws.items():
            low, high = np.nanquantile(draw, [0.025, 0.975])
            held[name] += low <= truth[name] <= high
            off[name] += values[name] - truth[name]
    return {name: {"held": held[name] / repeats, "off": off[name] / repeats} for name in held}


def of_a_share(share: float, questions: int, repeats: int = 4000) -> float:
    """How often the interval of a plain share of n questions holds it, where there is one (`evaluate.intervals`).

    A resample of a share is a binomial draw, so no text is needed.
    """
    generator = np.random.default_rng(0)
    found = generator.binomial(questions, share, repeats) / questions
    draws = generator.binomial(questions, found[:, None], (repeats, 200)) / questions
    low, high = np.quantile(draws, [0.025, 0.975], axis=1)
    printed = (found > 0) & (found < 1)
    return float(np.mean((low <= share)[printed] & (share <= high)[printed]))


def of_seeds(spread: float, *, seeds: int = 5, questions: int = 500, repeats: int = 400) -> dict[str, float]:
    """Shares of simulated experiments whose intervals hold zero, the truth; and of those called sure nonetheless."""
    generator = np.random.default_rng(0)
    found = [_simulated(spread, seeds, questions, generator) for _ in range(repeats)]
    spans = [x.over_seeds or (x.low, x.high) for x in found]
    return {
        "bootstrap": float(np.mean([x.low <= 0 <= x.high for x in found])),
        "t over seeds": float(np.mean([low <= 0 <= high for low, high in spans])),
        "falsely sure": float(np.mean([x.excludes_zero for x in found])),
    }


def _simulated(spread: float, seeds: int, questions: int, generator: np.random.Generator) -> Estimate:
    """The difference of two methods of accuracy .6 from one simulated experiment; seeds scatter by `spread`."""
    ease = generator.normal(0, 0.25, questions)  # both methods and all seeds share the questions
    taken = generator.multinomial(questions, np.full(questions, 1 / questions), size=200) / questions
    sides = []
    for _ in range(2):
        chance = np.clip(0.6 + ease + generator.normal(0, spread, (seeds, 1)), 0, 1)
        right = generator.random((seeds, questions)) < chance
        sides.append((right.mean(1), right @ taken.T))
    return difference(sides[0], sides[1])


def report(repeats: int = 200) -> Iterator[dict[str, Any]]:
    """Everything, one JSON row at a time."""
    for spread in (0.0, 0.02, 0.05):
        yield {"seeds": 5, "questions": 500, "spread": spread} | of_seeds(spread)
    for questions in (300, 500):
        yield {"questions": questions, "share": {p: of_a_share(p, questions) for p in (0.5, 0.9, 0.98, 0.99, 0.998)}}
    for categories in sorted({categories for _, categories in SIZES}):
        for skilful in (False, True):
            asked = population(categories, skilful, np.random.default_rng(categories))
            for questions, of in SIZES:
                if of == categories:
                    found = of_one_evaluation(asked, questions, repeats)
                    yield {"questions": questions, "categories": categories, "skilful": skilful, "metrics": found}


if __name__ == "__main__":
    for row in report():
        print(json.dumps(row), flush=True)

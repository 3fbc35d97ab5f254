"""How often the intervals of `statistics` hold the truth: python -m minirft.experiments.coverage (half a minute).

Simulated: S seeds and n questions, right or wrong; a seed shifts the chance of a right answer by a normal deviation.
"""

from __future__ import annotations

import numpy as np

from minirft.experiments.statistics import Estimate, difference


def simulated(spread: float, seeds: int, questions: int, generator: np.random.Generator) -> Estimate:
    """The difference of two methods that are equally good (accuracy .6), estimated from one simulated experiment."""
    ease = generator.normal(0, 0.25, questions)  # both methods and all seeds share the questions
    taken = generator.multinomial(questions, np.full(questions, 1 / questions), size=200) / questions
    sides = []
    for _ in range(2):
        chance = np.clip(0.6 + ease + generator.normal(0, spread, (seeds, 1)), 0, 1)
        right = generator.random((seeds, questions)) < chance
        sides.append((right.mean(1), right @ taken.T))
    return difference(sides[0], sides[1])


def coverage(spread: float, *, seeds: int = 5, questions: int = 500, repeats: int = 400) -> dict[str, float]:
    """Shares of simulated experiments whose intervals hold zero, the truth; and of those called sure nonetheless."""
    generator = np.random.default_rng(0)
    found = [simulated(spread, seeds, questions, generator) for _ in range(repeats)]
    spans = [x.over_seeds or (x.low, x.high) for x in found]
    return {
        "bootstrap": float(np.mean([x.low <= 0 <= x.high for x in found])),
        "t over seeds": float(np.mean([low <= 0 <= high for low, high in spans])),
        "falsely sure": float(np.mean([x.excludes_zero for x in found])),
    }


if __name__ == "__main__":
    for spread in (0.0, 0.02, 0.05):
        print(f"deviation of seeds {spread:.2f}:", coverage(spread))

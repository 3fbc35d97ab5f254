"""This module draws k-shot splits, k pictures of each category, and writes them to files so that others can use them.

Deviation from the paper: it published its 4-shot splits only; the others here are our own.  They are nested: with one
seed the 1-shot pictures are among the 2-shot pictures, so more shots only add pictures.
"""

import json
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minirft import UserError, as_user_error
from minirft.data.findings import Findings, report
from minirft.data.identity import picture_keys
from minirft.rewards import Detections, parse_solution
from minirft.samples import Sample


def k_shot(
    samples: list[Sample], k: int, seed: int, negatives: float = 0.0, without: Collection[str] = ()
) -> list[Sample]:
    """Draw k samples that show each category, and a share `negatives` of absent ones; keep their order.

    A category's shots depend on the seed and its own samples, not on their order or on other categories.  They are k
    different pictures; of several copies one is drawn.  If a category has fewer than k, all are taken and a warning is
    logged.  An id in `without` is replaced by the next draw.
    Absent samples are drawn from all of `samples`; if there are too few, all are taken.
    Raises `UserError` when nothing can be drawn.

    >>> cats = [Sample(f"{i}", Path(f"{i}"), "classification", "?", "<answer>cat</answer>", "cat") for i in range(9)]
    >>> one, two = k_shot(cats, 1, seed=0), k_shot(cats, 2, seed=0)
    >>> len(two), one[0] in two
    (2, True)
    """
    shown: dict[str, list[str]] = {}
    pictures = dict(zip((sample.id for sample in samples), picture_keys(samples), strict=True))
    for sample in samples:
        if is_present(sample):
            shown.setdefault(sample.category, []).append(sample.id)
    if k < 1 or not shown:
        raise UserError(f"cannot draw {k} shots of {len(shown)} categories; ask for 1 or more, of data that shows some")
    shots = {category: _draw(category, names, k, seed, pictures, without) for category, names in shown.items()}
    short = [f"{category} has {len(names)}" for category, names in shots.items() if len(names) < k]
    if short:
        report(f"fewer than {k} shots, so all are taken: {', '.join(short)}")
    drawn = [name for names in shots.values() for name in names]
    absent = [sample.id for sample in samples if not is_present(sample)]
    kept = {*drawn, *_draw("", absent, round(len(drawn) * negatives / (1 - negatives)), seed, {}, without)}
    return [sample for sample in samples if sample.id in kept]


def k_shot_of_stream(
    draw: Callable[[int], list[Sample]], names: Sequence[str], k: int, seed: int, negatives: float = 0.0
) -> list[Sample]:
    """Apply `k_shot` to an endless stream: take as many samples as are needed to show each of `names` k times.

    `draw(n)` returns the first n samples of the stream.
    """
    pool = 64
    while True:
        pool *= 2
        every = draw(pool)
        shown = Counter(sample.category for sample in every if is_present(sample))
        if all(shown[name] >= k for name in names):
            return k_shot(every, k, seed, negatives)


def is_present(sample: Sample) -> bool:
    """Return whether the picture shows what the question names: a box or a yes; for labels and grounding, always.

    >>> is_present(Sample("0", Path("0.jpg"), "presence", "Is there a cat?", "<answer>no</answer>", "cat"))
    False
    """
    truth = parse_solution(sample.task, sample.solution)
    return bool(truth) if isinstance(truth, Detections | bool) else True


def write_split(path: Path, samples: list[Sample], overwrite: bool = False, **origin: Any) -> None:
    """Write the ids of `samples` and how they were drawn (`k=4, seed=0`, the annotations' name) to a JSON file.

    Raises `UserError` if a different file exists already, unless `overwrite` is set.
    """
    text = json.dumps({**origin, "samples": [sample.id for sample in samples]}, indent=1, ensure_ascii=False) + "\n"
    if path.exists() and not overwrite and path.read_bytes() != text.encode():
        raise UserError(f"{path} is there already and differs: name another --out, or give --overwrite")
    with as_user_error(f"cannot write {path} ({{why}}); name another --out", OSError):
        path.write_text(text, encoding="utf-8")


def read_split(path: Path, shots: int = 0) -> list[str]:
    """Read the ids in a split file, each once.

    Raises `UserError` for a file that is no split, and if `shots` is set and differs from the file's.
    """
    with as_user_error(f"{path} is not a split ({{why}}); make one with minirft data split", OSError, ValueError):
        split = json.loads(path.read_text(encoding="utf-8"))
        names = split.get("samples") if isinstance(split, dict) else None
        if not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
            raise ValueError("'samples' is no list of ids")
    if shots and shots != split.get("k"):
        raise UserError(f"data.shots = {shots}: {path} was drawn with {split.get('k')}; set it to that, or to 0")
    return list(dict.fromkeys(names))


def of_split(names: Sequence[str], samples: list[Sample], path: Path, findings: Findings) -> list[Sample]:
    """Return the samples that the split in `path` names, in its order, without those that `findings` has lost.

    Raises `UserError` for an id that no sample has.
    """
    names = [name for name in names if not findings.is_lost(name)]
    by_id = {sample.id: sample for sample in samples}
    missing = [name for name in names if name not in by_id]
    if missing:
        raise UserError(
            f"{path}: {len(missing)} of {len(names)} samples are not in this data set, such as {missing[0]!r}"
        )
    if not names:
        raise UserError(f"{path}: no sample of it can be used; see minirft data check")
    return [by_id[name] for name in names]


def _draw(
    category: str, names: list[str], k: int, seed: int, pictures: dict[str, Hashable], without: Collection[str]
) -> list[str]:
    """Return the first k of the samples in random order, one for each of `pictures` (id -> key, or the id itself)."""
    generator = np.random.default_rng([seed, zlib.crc32(category.encode())])
    first: dict[Hashable, str] = {}
    for name in generator.permutation(sorted(names)).tolist():
        if name not in without:
            first.setdefault(pictures.get(name, name), name)
    return list(first.values())[:k]

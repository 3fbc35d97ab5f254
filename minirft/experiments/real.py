"""The paper's tables on real data: the shipped config, shots, tests and files of each experiment.

Two things differ from the tiny world.  "SFT with reasoning" is missing, because no published set has written reasoning.
Table 8 tests the training of table 7, so one run of `coco_base65` serves both.  LVIS's validation pictures may be among
its training pictures, with questions about other categories.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from minirft import UserError
from minirft.data import DataConfig
from minirft.experiments.settings import METRICS, TABLES, Columns
from minirft.runs import SHIPPED, load_config, read_toml
from minirft.samples import Task

Size = Literal["2b", "7b"]
METRIC: dict[Task, str] = METRICS | {"detection": "ap"}

# ------------------------------------------------------------------ training and tests


@dataclass(frozen=True)
class RealPart:
    """One part of an experiment: a shipped config, its numbers of shots, and its tests (`experiments.toml`)."""

    config: str
    source: str = "coco"
    shots: Sequence[int] = (0,)
    tests: dict[str, dict[str, Any]] = field(default_factory=lambda: {"same": {}})
    columns: Columns = field(default_factory=dict)

    @property
    def metric(self) -> str:
        """Return the metric by which methods are compared."""
        return METRIC[load_config(self.config).data.task]

    def tested(self, name: str, data: DataConfig) -> DataConfig:
        """Return the data settings of a test: those of training with its changes."""
        changes = dict(self.tests[name])
        if "eval_like" in changes:
            other = load_config(changes.pop("eval_like")).data
            changes |= {"eval_kind": other.eval_kind, "eval_categories": other.eval_categories}
        elif "eval_categories" in changes:
            changes["eval_categories"] = sum((getattr(data, field) for field in changes["eval_categories"]), ())
        return replace(data, **changes)


EXPERIMENTS: dict[str, tuple[RealPart, ...]] = {
    name: tuple(RealPart(config, **part) for config, part in table["real"].items())
    for name, table in TABLES.items()
    if "real" in table
}


def parts_of(name: str, size: Size = "2b") -> dict[str, RealPart]:
    """Return config -> part.  7B has only the paper's number of shots, that of its file.

    Raises `UserError` for an unknown experiment, or one that does not exist in this size.

    >>> {name: part.shots for name, part in parts_of("coco-fewshot", "7b").items()}
    {'coco_8cate_4shot_7b': (4,)}
    """
    if name not in EXPERIMENTS:
        raise UserError(f"no experiment {name} on real data; choose from {', '.join(EXPERIMENTS)}")
    if size == "2b":
        return {part.config: part for part in EXPERIMENTS[name]}
    large = [replace(part, config=f"{part.config}_7b") for part in EXPERIMENTS[name]]
    if not all((SHIPPED / f"{part.config}.toml").is_file() for part in large):
        raise UserError(f"{name} has no 7B, as in the paper: leave --model-size out")
    own = {part.config: load_config(part.config).data.shots for part in large}
    return {part.config: replace(part, shots=(own[part.config],) if any(part.shots) else (0,)) for part in large}


def names_of(name: str, size: Size = "2b") -> list[str]:
    """Return the name, or for "all" the names of all experiments in this size.  Raises like `parts_of`.

    >>> names_of("all", "7b")
    ['coco-fewshot', 'lvis-fewshot', 'grounding', 'open-vocabulary']
    """
    if name != "all":
        parts_of(name, size)
        return [name]
    there = {path.stem for path in SHIPPED.glob("*.toml")}
    ending = "" if size == "2b" else f"_{size}"
    return [name for name, parts in EXPERIMENTS.items() if all(part.config + ending in there for part in parts)]


# ------------------------------------------------------------------ files

PLACES: dict[str, dict[str, str]] = read_toml(Path(__file__).with_name("places.toml"))  # which explains itself
INSIDE: dict[str, list[str]] = {source: places.pop("inside", []) for source, places in PLACES.items()}


def located(data: DataConfig, source: str, root: Path) -> DataConfig:
    """Return the data settings with every path below `root`."""
    mine, asked = PLACES[source], PLACES[data.eval_kind or source]
    return replace(data, **{name: root / (asked if name.startswith("eval_") else mine)[name] for name in mine})


def missing(root: Path, names: Iterable[str], size: Size = "2b") -> list[str]:
    """List the files that the experiments of these names need and that are missing below `root`."""
    found: dict[str, None] = {}
    for source in dict.fromkeys(source for name in names for source in _sources(name, size)):
        places = PLACES[source]
        inside = [(places.get("folder") or places["images"], name) for name in INSIDE[source]]
        for folder, name in [*((".", place) for place in places.values()), *inside]:
            if not any((root / folder / one).exists() for one in name.split(" or ")):
                found[name if folder == "." else f"{folder}/{name}"] = None
    return [name for name in found if not any(name.startswith(f"{other}/") for other in found)]


def _sources(name: str, size: Size) -> Iterator[str]:
    """Yield the sources of the files of an experiment."""
    for part in parts_of(name, size).values():
        yield part.source
        data = load_config(part.config).data
        yield from (kind for test in part.tests if (kind := part.tested(test, data).eval_kind))

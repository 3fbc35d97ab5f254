"""The paper's tables on real data: which shipped config is trained at how many shots, tested on what, read from where.

Two things are otherwise than on the tiny world.  "SFT with reasoning" is missing, for no published set has written
reasoning.  What table 8 tests is trained as in table 7, so one run of `coco_base65` serves both; beware that LVIS's
validation pictures may be among its training pictures, though it was asked about other categories there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from minirft import UserError
from minirft.data import FAMILY, DataConfig
from minirft.runs import SHIPPED, load_config

Size = Literal["2b", "7b"]

# ------------------------------------------------------------------ what is trained and tested


def _as_it_is(data: DataConfig) -> DataConfig:
    return data


def _rare(data: DataConfig) -> DataConfig:
    other = load_config("coco_base65_lvis13").data
    return replace(data, eval_kind=other.eval_kind, eval_categories=other.eval_categories)


@dataclass(frozen=True)
class RealPart:
    """One thing to learn: a shipped config, at some numbers of shots, and what the result is tested on."""

    config: str
    shots: tuple[int, ...] = (0,)
    """Pictures of each category; 0 is what the config has."""
    tests: dict[str, Callable[[DataConfig], DataConfig]] = field(default_factory=lambda: {"same": _as_it_is})
    """Name -> what it changes of the config's data settings."""
    source: str = "coco"
    """Whose files, of `PLACES`."""


EXPERIMENTS: dict[str, tuple[RealPart, ...]] = {
    "classification": tuple(RealPart(f"{kind}_4shot", (1, 2, 4, 8, 16), source=kind) for kind in FAMILY),
    "coco-fewshot": (RealPart("coco_8cate_4shot", (1, 2, 4, 8, 16)),),
    "lvis-fewshot": (RealPart("lvis_6cate_10shot", (10,), source="lvis"),),
    "out-of-domain": (RealPart("own_coco_4shot", (4, 16), source="own"),),
    "grounding": (
        RealPart(
            "reasonseg",
            tests={"test": _as_it_is, "val": lambda data: replace(data, eval_part="val")},
            source="reasonseg",
        ),
    ),
    "open-vocabulary": (
        RealPart(
            "coco_base65",
            tests={
                "novel": _as_it_is,
                "base": lambda data: replace(data, eval_categories=data.categories),
                "all": lambda data: replace(data, eval_categories=data.categories + data.eval_categories),
                "rare": _rare,
            },
        ),
    ),
    "presence": (RealPart("coco_presence", (4,)),),
}


def parts_of(name: str, size: Size = "2b") -> dict[str, RealPart]:
    """Config -> what is done with it.  7B has the paper's only number of shots, which is its file's.

    Raises `UserError` for an experiment that is not here, or not in this size.

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
    """The experiment of that name, or for "all" every one that there is in this size.  Raises as `parts_of` does.

    >>> names_of("all", "7b")
    ['coco-fewshot', 'lvis-fewshot', 'grounding', 'open-vocabulary']
    """
    if name != "all":
        parts_of(name, size)
        return [name]
    there = {path.stem for path in SHIPPED.glob("*.toml")}
    ending = "" if size == "2b" else f"_{size}"
    return [name for name, parts in EXPERIMENTS.items() if all(part.config + ending in there for part in parts)]


# ------------------------------------------------------------------ where its files are

PLACES: dict[str, dict[str, str]] = {
    "coco": {
        "annotations": "coco/annotations/instances_train2017.json",
        "images": "coco/train2017",
        "eval_annotations": "coco/annotations/instances_val2017.json",
        "eval_images": "coco/val2017",
    },
    "lvis": {  # its pictures are COCO's
        "annotations": "lvis/lvis_v1_train.json",
        "images": "coco",
        "eval_annotations": "lvis/lvis_v1_val.json",
        "eval_images": "coco",
    },
    "own": {
        "annotations": "own/annotations/train.json",
        "images": "own/train",
        "eval_annotations": "own/annotations/test.json",
        "eval_images": "own/test",
    },
    "reasonseg": {"folder": "ReasonSeg"},
} | {kind: {"folder": kind} for kind in FAMILY}
"""Where below the data root each data setting points to."""
INSIDE: dict[str, tuple[str, ...]] = {
    "lvis": ("train2017", "val2017"),
    "reasonseg": ("train", "val", "test"),
    "flowers": ("imagelabels.mat", "setid.mat", "jpg"),
    "pets": ("annotations/trainval.txt", "annotations/test.txt", "images"),
    "aircraft": ("data/images_variant_trainval.txt", "data/images_variant_test.txt", "data/images"),
    "cars": (
        "devkit/cars_meta.mat",
        "devkit/cars_train_annos.mat",
        "cars_test_annos_withlabels.mat or devkit/cars_test_annos_withlabels.mat",
        "cars_train",
        "cars_test",
    ),
}
"""What the folder of pictures in `PLACES` must hold."""


def located(data: DataConfig, source: str, root: Path) -> DataConfig:
    """The data settings with every path below `root`."""
    mine, asked = PLACES[source], PLACES[data.eval_kind or source]
    return replace(data, **{name: root / (asked if name.startswith("eval_") else mine)[name] for name in mine})


def missing(root: Path, names: Iterable[str], size: Size = "2b") -> list[str]:
    """What the experiments of these names need and is not below `root`."""
    found: dict[str, None] = {}
    for source in dict.fromkeys(source for name in names for source in _sources(name, size)):
        places = PLACES[source]
        folder = places.get("folder") or places["images"]
        inside = [(folder, name) for name in INSIDE.get(source, ())]
        for folder, name in [*((".", place) for place in places.values()), *inside]:
            if not any((root / folder / one).exists() for one in name.split(" or ")):
                found[name if folder == "." else f"{folder}/{name}"] = None
    return [name for name in found if not any(name.startswith(f"{other}/") for other in found)]


def _sources(name: str, size: Size) -> Iterator[str]:
    """Whose files an experiment reads."""
    for part in parts_of(name, size).values():
        yield part.source
        data = load_config(part.config).data
        yield from (kind for change in part.tests.values() if (kind := change(data).eval_kind))

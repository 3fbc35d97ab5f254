"""Reading files of one kind in a test, by the settings that a config has."""

from pathlib import Path
from typing import Any

from minirft.data.findings import Findings
from minirft.data.readers import FILES, candidates
from minirft.data.settings import TASKS_OF, DataConfig
from minirft.samples import Sample


def read(
    kind: Any,
    source: Path,
    images: Path | None = None,
    categories: Any = (),
    *,
    part: str = "train",
    only: Any = None,
    findings: Findings | None = None,
    **settings: Any,
) -> list[Sample]:
    """The samples of a file or folder; what is bad stops it, unless there are `findings`.  No negatives by default."""
    place = {"annotations" if kind in FILES else "folder": Path(source), "images": images}
    given = {"task": TASKS_OF[kind][0], "negatives": 0.0, "categories": tuple(categories)} | settings
    strict = {"on_bad": findings.on_bad if findings else "stop", "max_bad": 1.0}
    return candidates(DataConfig(kind=kind, **place, **given, **strict), part, only, findings=findings)

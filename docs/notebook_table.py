"""The table of `results/notebooks/README.md`: what is in each notebook, and the seconds of its cells in a run.

make test-notebooks PYTEST_ADDOPTS=--junitxml=notebooks.xml
python docs/notebook_table.py notebooks.xml
"""

import re
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import nbformat

ROOT = Path(__file__).parents[1]
NAMES = ("notebook", "cells", "words", "code lines", "pictures", "predictions", "exercises", "guards", "KB", "seconds")


def seconds(report: Path) -> dict[str, float]:
    """Return the seconds of each notebook in a JUnit report of pytest."""
    found: dict[str, float] = defaultdict(float)
    for case in ElementTree.parse(report).iter("testcase"):
        if name := re.search(r"\d\d_\w+", case.get("classname", "")):
            found[name[0]] += float(case.get("time", 0))
    return found


def is_guard(cell: Any) -> bool:
    """Return whether a cell checks the notebook itself."""
    return "guard" in cell.metadata.get("tags", [])


def is_hidden(cell: Any) -> bool:
    """Return whether a cell is folded, as guards and solutions are: a reader opens it, or not."""
    return bool(cell.metadata.get("jupyter", {}).get("source_hidden"))


def count_words(prose: str) -> int:
    """Count the words of a text in Markdown without its formulas, code and links."""
    spoken = re.sub(r"\$\$.*?\$\$|\$[^$]*\$|`[^`]*`|\]\([^)]*\)", " ", prose, flags=re.S)
    return len(re.findall(r"[A-Za-z][A-Za-z'-]*", spoken))


def row(path: Path, times: Mapping[str, float]) -> list[Any]:
    """Count what a reader sees in one notebook: no guards, no folded solutions; words without formulas and links."""
    cells = nbformat.read(path, as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    guards = [cell for cell in code if is_guard(cell)]
    seen = [cell for cell in code if not is_hidden(cell)]
    prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    lines = sum(bool(line.strip()) for cell in seen for line in cell.source.splitlines())
    pictures = sum("image/png" in str(output) for cell in code for output in cell.outputs)
    predictions = sum(cell.source.count(".reveal()") for cell in seen)
    exercises = len(re.findall(r"^### Exercise", prose, re.M))
    size = round(path.stat().st_size / 1000)
    counts = [len(cells) - len(guards), count_words(prose), lines, pictures, predictions, exercises, len(guards), size]
    return [path.stem.replace("_", " "), *counts, round(times.get(path.stem, 0.0))]


def main() -> None:
    """Print the table."""
    times = seconds(Path(sys.argv[1]))
    rows = [row(path, times) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
    total = ["all", *(sum(column) for column in list(zip(*rows, strict=True))[1:])]
    for line in (NAMES, ["---"] * len(NAMES), *rows, total):
        print(f"| {' | '.join(map(str, line))} |")


if __name__ == "__main__":
    main()

"""Prints the lowest version of every direct dependency that pyproject.toml admits, a requirement a line.

Run as `python tests/oldest.py > pins.txt`; `make test-oldest` does.  Only the standard library: it runs before there is
an environment.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[1] / "pyproject.toml"


def lowest(requirement: str) -> str:
    """Turns the lower end of a range into a pin.  Raises `ValueError` where there is no lower end.

    >>> lowest("transformers>=5.17,<6")
    'transformers==5.17'
    """
    found = re.fullmatch(r"([\w.-]+)>=([\w.]+)(,.*)?", requirement.replace(" ", ""))
    if found is None:
        raise ValueError(f"{requirement}: write it as name>=lowest")
    return f"{found[1]}=={found[2]}"


def main() -> None:
    """Prints the pins of the package and of all its extras."""
    project = tomllib.loads(PROJECT.read_text())["project"]
    extras = project["optional-dependencies"].values()
    print(*sorted({lowest(line) for lines in (project["dependencies"], *extras) for line in lines}), sep="\n")


if __name__ == "__main__":
    main()

"""Two lists of versions, for the Makefile: `python tests/pins.py lowest` and `python tests/pins.py installed`.

`lowest`: the lowest version of every direct dependency that pyproject.toml admits.  Needs the standard library alone,
for it runs before there is an environment.  `installed`: what constraints.txt holds, from the environment that runs it.
"""

import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
# The installers, this package, and what a CUDA build of torch brings: torch pins those itself, and a CPU has none.
LEFT_OUT = re.compile(r"(pip|uv|setuptools|wheel|minirft|triton|cuda|nvidia)(-.*)?")
HEAD = "# The set of versions that was tested together, for Python 3.11 to 3.13.  Written by `make lock`; not by hand."


def lowest(requirement: str) -> str:
    """Turns the lower end of a range into a pin.  Raises `ValueError` where there is no lower end.

    >>> lowest("transformers>=5.17,<6")
    'transformers==5.17'
    """
    found = re.fullmatch(r"([\w.-]+)>=([\w.]+)(,.*)?", requirement.replace(" ", ""))
    if found is None:
        raise ValueError(f"{requirement}: write it as name>=lowest")
    return f"{found[1]}=={found[2]}"


def lowest_of_all() -> list[str]:
    """Returns the pins of the package and of all its extras."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    return sorted({lowest(line) for lines in (project["dependencies"], *extras) for line in lines})


def installed() -> list[str]:
    """Returns the pins of this environment; torch's without its build, such as +cpu, which stays open."""
    found = {re.sub(r"[-_.]+", "-", d.name).lower(): d.version.partition("+")[0] for d in metadata.distributions()}
    return [HEAD, *(f"{name}=={version}" for name, version in sorted(found.items()) if not LEFT_OUT.fullmatch(name))]


if __name__ == "__main__":
    print(*{"lowest": lowest_of_all, "installed": installed}[sys.argv[1]](), sep="\n")

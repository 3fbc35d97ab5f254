"""The wheel as a stranger has it: built, installed beside its own dependencies alone, run in an unrelated folder.

Run by `make test-wheel`.  To save gigabytes, the new environment holds links to what this one has installed, but only
of what the wheel asks for, directly or not: no extra, no repository.
"""

import json
import os
import subprocess
import sys
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.wheel


def needed(name: str) -> dict[str, metadata.Distribution]:
    """The installed distributions that `name` asks for, directly or not, without extras of its own."""
    found: dict[tuple[str, frozenset[str]], metadata.Distribution] = {}
    wanted = [Requirement(name)]
    while wanted:
        asked = wanted.pop()
        key = (asked.name, frozenset(asked.extras))
        if key in found:
            continue
        found[key] = metadata.distribution(asked.name)
        for requirement in map(Requirement, found[key].requires or ()):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *asked.extras)):
                wanted.append(requirement)
    return {one.name: one for one in found.values()}


def link_to(site: Path, distribution: metadata.Distribution) -> None:
    """Links to what a distribution has put into this environment's folder of packages."""
    for file in distribution.files or ():
        top = Path(file.parts[0])
        if top.name != ".." and not (site / top).exists():
            (site / top).symlink_to(Path(str(distribution.locate_file(top))))


def run(python: Path, folder: Path, *line: str, code: int = 0) -> str:
    """What a command in the new environment prints; the environment of this process would lead back here."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    words = [str(python), *line]
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, timeout=1200)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + (done.stderr if code else "")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built by pip in an environment of its own."""
    folder = tmp_path_factory.mktemp("build")
    venv.create(folder / "venv", with_pip=True)
    line = ["-m", "pip", "--quiet", "wheel", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    run(folder / "venv" / "bin" / "python", folder, *line)
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The python of an environment that holds the wheel and its dependencies."""
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    site = Path(run(python, folder, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    for name, distribution in needed("minirft").items():
        if name != "minirft":
            link_to(site, distribution)
    assert "No module named 'minirft'" in run(python, folder, "-c", "import minirft", code=1)
    # With its dependencies, of which none may be missing: there is no index to take them from.
    run(python, folder, "-m", "pip", "--quiet", "install", "--no-index", str(wheel))
    return python


def test_everything_ships(wheel: Path):
    """A config, the embedded weights, the report's template or py.typed left out; a test or a cache in it."""
    tracked = subprocess.run(["git", "ls-files", "minirft"], cwd=ROOT, capture_output=True, text=True, check=True)
    names = set(zipfile.ZipFile(wheel).namelist())
    packaged = {name for name in names if ".dist-info/" not in name}
    assert packaged == set(tracked.stdout.splitlines())
    assert {"minirft/py.typed", "minirft/configs/tiny_detection.toml"} <= packaged
    assert any(name.startswith("minirft/tiny/checkpoint/") and name.endswith(".safetensors") for name in packaged)
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_it_runs_from_a_folder_of_its_own(installed: Path, tmp_path: Path):
    """A file that is read from the repository, or a package that only an extra brings."""
    program = installed.parent / "minirft"
    where = run(installed, tmp_path, "-c", "import minirft; print(minirft.__file__)").strip()
    assert Path(where).is_relative_to(installed.parents[1])
    run(installed, tmp_path, str(program), "demo", "--steps", "20", "--out", "first")
    summary = json.loads((tmp_path / "first" / "summary.json").read_text())
    assert summary["steps"] == 20 and summary["after"]["n"] == 300
    before, after = (summary[name]["ci"]["ap50_pooled"] for name in ("before", "after"))
    assert after[0] > before[1]  # intervals of 95% that do not meet: the habit is found
    assert (tmp_path / "first" / "report.html").stat().st_size > 10_000
    assert "fits" in run(installed, tmp_path, str(program), "fit", "qwen2-vl-2b")
    assert run(installed, tmp_path, str(program), "version").strip() == metadata.version("minirft")


def test_its_types_are_seen(installed: Path, tmp_path: Path):
    """`py.typed` that ships and says nothing: a wrong argument must be an error in a user's own code."""
    (tmp_path / "mine.py").write_text("from minirft.advantages import group_advantages\n\ngroup_advantages('three')\n")
    line = [sys.executable, "-m", "mypy", "--python-executable", str(installed), "--follow-imports=silent", "mine.py"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 1 and "[arg-type]" in done.stdout, done.stdout + done.stderr
    assert "import-untyped" not in done.stdout

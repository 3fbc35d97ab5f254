"""The house rules that a reader relies on: how long a file may get, what ships."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from pins import lowest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "minirft"
MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_and_functions_stay_short(path: Path):
    """A promise of short files that nobody checks decays.  Golfed code is no way out: lines stay below 121."""
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 300, f"{path.name}: look for the second idea in it"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = (body[-1].end_lineno - body[0].lineno + 1) if body else 0
            assert lines <= 45, f"{path.name}: {node.name} has {lines} lines"


def public_definitions() -> list[tuple[str, ast.AST]]:
    for path in MODULES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                yield f"{path.relative_to(PACKAGE)}:{node.name}", node


def overload(node: ast.AST) -> bool:
    """One of several signatures of a function; the function itself follows it."""
    return any(isinstance(mark, ast.Name) and mark.id == "overload" for mark in node.decorator_list)


def test_public_names_are_documented_and_typed():
    """A public function without a docstring or types sends the reader to the caller."""
    bare = [name for name, node in public_definitions() if not ast.get_docstring(node) and not overload(node)]
    assert not bare, bare
    untyped = [
        name for name, node in public_definitions() if isinstance(node, ast.FunctionDef) and node.returns is None
    ]
    assert not untyped, untyped


def test_no_unfinished_marks_and_no_paths_of_one_machine():
    """A stub or a path that exists on one machine only."""
    for path in MODULES:
        text = path.read_text(encoding="utf-8")
        for mark in ("TODO", "FIXME", "NotImplementedError", "/work/", "../shared"):
            assert mark not in text, f"{path.name} holds {mark}"


def test_versions_live_in_two_files_alone():
    """A version pinned in a third place; a tested version outside the range, or of one machine's own build."""
    pins = dict(re.findall(r"^([\w-]+)==([\w.]+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.M))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for line in sum(project["optional-dependencies"].values(), project["dependencies"]):
        asked = Requirement(line)
        if asked.name in ("trackio", "wandb"):  # clients that the tested set is without; tests have fakes of them
            continue
        assert asked.specifier.contains(pins[asked.name]), line
        assert asked.specifier.contains(lowest(line).split("==")[1]), line
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(pins) + 1, "a line that is no plain pin: a path, a host or a build"
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    assert re.findall(r"^ +- -([ce] .+)$", text, re.M) == ["c constraints.txt", "e .[notebook,test]"]
    assert re.findall(r"^  - (\w+)=", text, re.M) == ["python"]


def test_readme_names_every_room():
    """The file tree of the README is the map; a room that is not on it cannot be found."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in PACKAGE.glob("*.py"):
        if not path.name.startswith("__"):
            assert f"{path.name}" in readme, f"{path.name} is not in the README's file tree"


def test_package_data_ships():
    """Configs, the checkpoint or the report's template left out of the wheel."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["minirft"]
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8")
    for needed in ("minirft/configs", "minirft/tiny/checkpoint", "minirft/show"):
        assert (ROOT / needed).is_dir() and needed not in ignored

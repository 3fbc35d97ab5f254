"""The house rules that a reader relies on: which way imports point, how long a file may get, what ships."""

from __future__ import annotations

import ast
import importlib
import io
import json
import re
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from pins import lowest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "minirft"
MODULES = sorted(PACKAGE.rglob("*.py"))


def dotted(path: Path) -> str:
    """minirft/engine/logprobs.py -> minirft.engine.logprobs; a package is its `__init__`."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {dotted(path): ast.parse(path.read_text(encoding="utf-8")) for path in MODULES}
ROOMS = {dotted(path) for path in PACKAGE.glob("*/__init__.py")}


def block(tree: ast.Module) -> list[ast.ImportFrom]:
    """The imports of a package's `if TYPE_CHECKING:` block, which are its exports (`minirft.lazily`)."""
    blocks = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    return [line for node in blocks for line in node.body if isinstance(line, ast.ImportFrom)]


def exports(package: str) -> dict[str, str]:
    """Name -> the file that an import of it leads to."""
    names = [
        (alias.asname or alias.name, line.module, alias.name) for line in block(FILES[package]) for alias in line.names
    ]
    return {name: found if (found := f"{module}.{original}") in FILES else module for name, module, original in names}


EXPORTS = {package: exports(package) for package in [*ROOMS, "minirft"]}


def imports(name: str) -> list[tuple[str, str]]:
    """(package or file, name) of every import from minirft in a file, save a package's exports."""
    own = {id(line) for line in block(FILES[name])} if name in EXPORTS else set()
    found = []
    for node in ast.walk(FILES[name]):
        if isinstance(node, ast.ImportFrom) and id(node) not in own:
            assert node.level == 0, f"{name} line {node.lineno}: imports are absolute in this package"
            if node.module.split(".")[0] == "minirft":
                found += [(node.module, alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            assert not any(alias.name.startswith("minirft") for alias in node.names), f"{name}: use `from minirft...`"
    return found


def target(module: str, name: str) -> str:
    """The file in which an import ends, through what a room exports."""
    if name in EXPORTS.get(module, {}):
        end = EXPORTS[module][name]
        return target(end, name) if end in EXPORTS and end != module else end
    return f"{module}.{name}" if f"{module}.{name}" in FILES else module


def room_of(name: str) -> str:
    """The room of a file; a file of the face is a room of its own."""
    return ".".join(name.split(".")[:2])


def circles(arrows: dict[str, set[str]]) -> list[str]:
    """The nodes on a circle, and those that lead to one: what is left when all that leads nowhere is taken away."""
    left = {node: set(ends) for node, ends in arrows.items()}
    while done := [node for node, ends in left.items() if not ends & left.keys()]:
        for node in done:
            del left[node]
    return sorted(left)


ARROWS = {name: {target(*found) for found in imports(name)} - {name} for name in FILES}


def test_no_circle_of_files_and_none_of_rooms():
    """An arrow backwards, such as a reward that reads the training loop: its room could not be read alone."""
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["a", "b", "c"], "a circle and what leads to it"
    assert not circles(ARROWS)
    rooms: dict[str, set[str]] = {}
    for name, ends in ARROWS.items():
        rooms.setdefault(room_of(name), set()).update(room_of(end) for end in ends)
    assert not circles({room: ends - {room} for room, ends in rooms.items()})


@pytest.mark.parametrize("name", FILES)
def test_from_outside_a_room_only_its_exports_are_imported(name: str):
    """A file that cannot be moved within its room, because another room imports it by its path."""
    for module, found in imports(name):
        if module.count(".") and room_of(module) in ROOMS and room_of(module) != room_of(name):
            assert module in ROOMS and found in EXPORTS[module], f"{name}: {found} is no export of {room_of(module)}"


@pytest.mark.parametrize("package", sorted(EXPORTS))
def test_what_a_room_exports_exists_and_hides_no_file(package: str):
    """An export that was renamed in its file; one that turns into the module at the second touch."""
    room = importlib.import_module(package)
    for name, end in EXPORTS[package].items():
        getattr(room, name)
        assert f"{package}.{name}" not in FILES or end == f"{package}.{name}", f"{name} is a file of {package} too"


def notebook_imports() -> Iterator[tuple[str, str, str]]:
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        source = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        source = re.sub(r"^%.*$", "", source, flags=re.MULTILINE)  # a magic, such as %%writefile
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("minirft."):
                yield from ((path.name, node.module, alias.name) for alias in node.names)


def test_notebooks_import_from_rooms():
    """A notebook that breaks when a file is moved within its room; a name that is gone."""
    for notebook, module, name in notebook_imports():
        assert room_of(module) == module, f"{notebook}: import {name} from {room_of(module)}"
        assert module not in ROOMS or name in EXPORTS[module], f"{notebook}: {module} exports no {name}"


def code_lines(path: Path) -> int:
    """Lines that are neither blank, comment nor docstring; the text under a constant or a field counts as code."""
    source = path.read_text(encoding="utf-8")
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    owners = [node for node in ast.walk(ast.parse(source)) if isinstance(node, documented)]
    texts = [node.body[0] for node in owners if ast.get_docstring(node, clean=False) is not None]
    prose = {line for node in texts for line in range(node.lineno, node.end_lineno + 1)}
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    held = {line for t in tokens if t.type not in silent for line in range(t.start[0], t.end[0] + 1)}
    return len(held - prose)


def test_the_face_is_small_and_so_is_the_package():
    """Growth that nobody decided on."""
    face = [path for path in PACKAGE.glob("*.py") if not path.name.startswith("__")]
    assert len(face) == 7
    assert sum(map(code_lines, face)) <= 650
    assert sum(map(code_lines, MODULES)) < 14_000


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_and_functions_stay_short(path: Path):
    """A promise of short files that nobody checks decays.  Golfed code is no way out: lines stay below 121."""
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 300, f"{path.name}: look for the second idea in it"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = (body[-1].end_lineno - body[0].lineno + 1) if body else 0
            assert lines <= 40, f"{path.name}: {node.name} has {lines} lines"


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


# Base forms of the verbs that may begin a function's docstring.  Add a new one to the file; a noun is not welcome.
VERBS = set((ROOT / "tests" / "verbs.txt").read_text(encoding="utf-8").split())
QUESTIONS = ("how", "what", "when", "where", "whether", "which", "who", "whose", "why")
# Code does not speak, ask or know; "goes on" and "whoever" are the other marks of the old style.
SPEECH = re.compile(
    r"\b(says?|said|tells?|told|speaks?|spoken|asks|(?:is|are|was|be|being) asked|knows|goes on|gone on|whoever)\b",
    re.I,
)


def docstrings(room: str) -> Iterator[tuple[str, str, bool]]:
    """(name, docstring, whether it is a function's) of all files, public classes and public functions of a room."""
    for path in MODULES:
        name = dotted(path)
        if (room_of(name) if room_of(name) in ROOMS else "minirft") != room:
            continue
        nodes = [("", FILES[name])]
        while nodes:
            prefix, node = nodes.pop()
            if ast.get_docstring(node):
                yield f"{name}{prefix}", ast.get_docstring(node), isinstance(node, ast.FunctionDef)
            for inner in () if isinstance(node, ast.FunctionDef) else node.body:
                if isinstance(inner, ast.FunctionDef | ast.ClassDef) and not inner.name.startswith("_"):
                    nodes.append((f"{prefix}.{inner.name}", inner))


def words(docstring: str) -> list[str]:
    """The words of a docstring's first clause, in lower case."""
    return re.findall(r"[\w'-]+", re.split(r"[.:;?!](?:\s|$)|\n\n", docstring)[0].lower())


@pytest.mark.parametrize("room", ["minirft", *sorted(ROOMS)])
def test_docstrings_begin_with_a_plain_sentence(room: str):
    """An inverted first line, such as `Which groups differ`; a function's begins with what it does.

    Files and classes may have a title, `The memory ledger: ...`, as is usual.
    """
    inverted = [
        f"{name}: {' '.join(words(text)[:9])}"
        for name, text, is_function in docstrings(room)
        if not words(text) or (words(text)[0] not in VERBS if is_function else words(text)[0] in QUESTIONS)
    ]
    assert not inverted, f"{len(inverted)} in {room}:\n" + "\n".join(inverted)


@pytest.mark.parametrize("room", ["minirft", *sorted(ROOMS)])
def test_code_does_not_speak(room: str):
    """A docstring in which a file is told something or a number says something: it hides which code does what."""
    assert SPEECH.search("the mask says who is seen") and not SPEECH.search("the words are known, and may ask")
    prose = {name: re.sub(r"(?m)^ *(>>>|\.\.\. ).*$", "", text) for name, text, _ in docstrings(room)}
    found = [
        f"{name}: ...{text[max(0, hit.start() - 30) : hit.end() + 30]!r}"
        for name, text in prose.items()
        for hit in SPEECH.finditer(text)
    ]
    assert not found, f"{len(found)} in {room}:\n" + "\n".join(found)


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
        if asked.name in ("trackio", "wandb", "torchvision"):  # the tested set is without; tests have fakes of clients
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
    for path in [*PACKAGE.glob("*.py"), *PACKAGE.glob("*/__init__.py")]:
        name = f"{path.parent.name}/" if path.name == "__init__.py" and path.parent != PACKAGE else path.name
        assert name == "__main__.py" or f"\n  {name} " in readme, f"{name} is not in the README's file tree"


def test_package_data_ships():
    """Configs, the checkpoint or the report's template left out of the wheel."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["minirft"]
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8")
    for needed in ("minirft/configs", "minirft/tiny/checkpoint", "minirft/show"):
        assert (ROOT / needed).is_dir() and needed not in ignored

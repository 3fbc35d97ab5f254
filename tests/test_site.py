"""The site lists what exists and its links hold; built in full (`pytest --slow`), its pages and search are there."""

import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urldefrag

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
INDEX = DOCS / "index.md"
NOTES = sorted(path for path in DOCS.glob("*.md") if path != INDEX)
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CONF = (DOCS / "conf.py").read_text(encoding="utf-8")


def listed() -> list[list[Path]]:
    """The files that each line of each table of contents stands for."""
    trees = re.findall(r"```\{toctree\}\n(.*?)```", INDEX.read_text(encoding="utf-8"), re.DOTALL)
    lines = [line for tree in trees for line in tree.splitlines() if line and not line.startswith(":")]
    found = []
    for line in lines:
        wanted = (DOCS / line).parent.resolve() / Path(line).name
        found.append([path for path in [*NOTEBOOKS, *NOTES] if fnmatch(str(path.with_suffix("")), str(wanted))])
    return found


def prose(path: Path) -> str:
    """The text of a page, without its blocks of code."""
    if path.suffix == ".md":
        text = path.read_text(encoding="utf-8")
    else:
        cells = nbformat.read(path, as_version=4).cells
        text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def targets(path: Path) -> Iterator[str]:
    """What the links and pictures of a page name, except what is elsewhere in the world."""
    text = re.sub(r"`[^`\n]*`", "", prose(path))
    for target in re.findall(r"\]\(<?([^)\s>]+)>?[^)]*\)|(?:href|src)=\"([^\"]+)\"", text):
        link = unquote("".join(target))
        if not re.match(r"[a-z]+:|#", link):
            yield urldefrag(link).url


def test_every_line_of_the_contents_stands_for_a_page():
    """A line that matches nothing: Sphinx warns, and the build fails."""
    assert listed() and all(listed())


def test_every_notebook_and_note_is_listed_once():
    """A notebook that no page leads to, or two lines for one: both are warnings of Sphinx."""
    assert sorted(path for paths in listed() for path in paths) == sorted([*NOTEBOOKS, *NOTES])


@pytest.mark.parametrize("page", [INDEX, *NOTES, *NOTEBOOKS], ids=lambda path: path.stem)
def test_relative_links_resolve(page: Path):
    """A link to a notebook under its former name; a picture that was moved; a page of a module that is no more."""
    for target in targets(page):
        module = re.fullmatch(r"\.\./api/(minirft[\w/]*)\.html", target)  # made by `make docs`
        wanted = [ROOT / f"{module[1]}.py", ROOT / module[1] / "__init__.py"] if module else [page.parent / target]
        assert any(path.exists() for path in wanted), f"{page.name}: {target}"


def test_links_are_found(tmp_path: Path):
    """A search for links that finds none would pass everything."""
    page = tmp_path / "a.md"
    page.write_text('[x](b.md#y) ![z](c.png "t") <a href="d%20e.html">f</a> [w](https://g) `[h](i)` [j](#k)\n')
    assert list(targets(page)) == ["b.md", "c.png", "d e.html"]
    assert sum(len(list(targets(path))) for path in NOTEBOOKS) >= 2 * len(NOTEBOOKS)


@pytest.mark.parametrize("page", NOTEBOOKS, ids=lambda path: path.stem)
def test_modules_named_in_notebooks_exist(page: Path):
    """A module's name in a text is a link on the site, if there is such a module."""
    for name in re.findall(r"`(minirft/[\w/]+\.py)`", prose(page)):
        assert (ROOT / name).is_file(), f"{page.name} names {name}"


def test_what_the_configuration_needs_is_in_the_extra():
    """`make docs` in a fresh environment: an import that the extra `docs` does not bring."""
    extra = re.search(r"^docs = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M | re.S)[1]
    for word in ("latex2mathml", "myst_nb", "sphinx", "sphinx_book_theme"):
        assert re.search(rf"\b{word}\b", CONF) and f'"{word.replace("_", "-")}>=' in extra
    assert '"pdoc>=' in extra


def test_a_module_named_in_a_text_becomes_a_link():
    """A link that is one folder off; a link for a module that does not exist, or for what is not a module."""
    for module in ("sphinx", "latex2mathml"):
        pytest.importorskip(module, reason="the extra `docs` is not installed")
    from docutils import nodes
    from docutils.utils import new_document

    document = new_document("small")
    names = ["minirft/loss.py", "minirft/tiny/__init__.py", "minirft/no_such.py", "loss.py"]
    document += nodes.paragraph("", "", *[nodes.literal(text=name) for name in names])
    transform = runpy.run_path(str(DOCS / "conf.py"))["ModuleLinks"](document)
    document.settings.env = SimpleNamespace(docname="notebooks/03_group_advantages")
    transform.run()
    links = {link.astext(): link["refuri"] for link in document.findall(nodes.reference)}
    assert links == {names[0]: "../api/minirft/loss.html", names[1]: "../api/minirft/tiny.html"}
    assert [text.astext() for text in document.findall(nodes.literal)] == names


class Links(HTMLParser):
    """What a page refers to (`links`), loads (`loads`) and can be jumped to (`ids`)."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.ids: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Sort the attributes."""
        for name, value in attrs:
            if name == "id":
                self.ids.add(value or "")
            elif name == "href" and value:
                (self.loads if tag == "link" else self.links).append(value)
            elif name == "src" and value:
                self.loads.append(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, by the commands of `make docs`."""
    for module in ("myst_nb", "sphinx_book_theme", "latex2mathml", "pdoc"):
        pytest.importorskip(module, reason="the extra `docs` is not installed")
    folder = tmp_path_factory.mktemp("site")
    recipe = re.search(r"^docs:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)[1]
    commands = [line.split() for line in recipe.splitlines() if "$(BIN)" in line]
    assert len(commands) == 2
    for command in commands:
        words = [word.replace("docs/_site", str(folder)) for word in command]
        words[0] = str(Path(sys.executable).parent / Path(words[0]).name)
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0 and not done.stderr.strip(), done.stderr[-2000:]
    return folder / "html"


@pytest.mark.slow
def test_every_link_of_the_site_leads_somewhere(site: Path):
    """A link to a page, a heading or a module that is not there; a script or a font from another host."""
    pages = [
        site / "index.html",
        *(path for part in ("docs", "notebooks", "api") for path in site.glob(f"{part}/**/*.html")),
    ]
    known = {page: Links(page) for page in pages}
    missing = []
    for page, found in known.items():
        assert not [load for load in found.loads if re.match(r"(https?:)?//", load)], page
        for link in [*found.links, *found.loads]:
            target, anchor = urldefrag(unquote(link))
            if not re.match(r"\w+:", link):
                file = (page.parent / target.split("?")[0]).resolve() if target else page
                if not file.exists() or (anchor and file in known and anchor not in known[file].ids):
                    missing.append(f"{page.name}: {link}")
    assert not missing, missing
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", sheet.read_text(encoding="utf-8")), sheet


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_output_is_on_its_page(site: Path, notebook: Path):
    """A widget that hides the picture beside it, a figure that is lost, a formula left as TeX, a solution in sight."""
    page = (site / "notebooks" / f"{notebook.stem}.html").read_text(encoding="utf-8")
    cells = nbformat.read(notebook, as_version=4).cells
    pictures = sum("image/png" in output.get("data", {}) for cell in cells for output in cell.get("outputs", []))
    assert len(re.findall(r'<img [^>]*src="\.\./_images/', page)) >= pictures > 0
    assert "jupyter.widget" not in page and "widget-view" not in page
    assert page.count("<b>Predict</b>") >= 2
    formulas = re.search(r"\$[^$\n]+\$", prose(notebook))
    assert ("<math" in page) == bool(formulas) and "<merror" not in page
    article = re.sub(r"<(pre|script|code)\b.*?</\1>", "", page, flags=re.DOTALL)
    assert not re.search(r"\$\$|\\(frac|theta|log|text|sum)\b", article)
    solutions = sum("solution" in cell.metadata.get("tags", []) for cell in cells)
    answers = page.count("<details>")  # of predictions, folded by the notebook itself
    written = [cell.source for cell in cells if cell.cell_type == "markdown"]
    written += [str(output.get("data", "")) for cell in cells for output in cell.get("outputs", [])]
    assert answers == sum(text.count("<details>") for text in written) > 0
    assert page.count("Show the solution") == page.count("<details") - answers == solutions > 0


@pytest.mark.slow
def test_search_knows_the_words(site: Path):
    """A search that finds nothing."""
    index = (site / "searchindex.js").read_text(encoding="utf-8")
    assert all(f'"{word}"' in index or f"{word}:" in index for word in ("degener", "advantag", "entropi"))
    assert (site / "search.html").exists() and (site / "api" / "search.js").exists()


@pytest.mark.slow
@pytest.mark.parametrize("room", ["minirft", "minirft.rewards", "minirft.cost"])
def test_a_room_shows_what_it_exports(site: Path, room: str):
    """A page of a package without a word about its names, because each is imported at its first use."""
    page = site / "api" / f"{room.replace('.', '/')}.html"
    ids, exported = Links(page).ids, import_module(room).__all__
    own_pages = {name for name in exported if (page.with_suffix("") / f"{name}.html").exists()}
    assert exported and set(exported) - ids - own_pages == set()
    assert not re.search(r"<empty>|not resolve", page.read_text(encoding="utf-8"))

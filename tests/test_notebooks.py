"""The notebooks as files: what keeps them readable and honest.  That they run is nbval's part (`make test`)."""

import re
import statistics
from pathlib import Path
from typing import Any

import nbformat
import pytest
from notebook_table import count_words, is_guard, is_hidden

ROOT = Path(__file__).parents[1]
DRAWS = re.compile(r"\b(axe?s|plt|figure|figs?)\.|\b(panels|plain_axes|legend_below|draw_answer|subplots?)\(|axes\[")
IMPORTS = re.compile(r"\s*(import|from) ")
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture
def notebook(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def lines_of(cells: list[Any]) -> list[str]:
    return [line for cell in cells for line in cell.source.splitlines() if line.strip()]


def words_of(output: Any) -> str:
    """What a page shows of an output, but for its pictures."""
    data = output.get("data", {})
    return output.get("text", "") + data.get("text/html", "" if "image/png" in data else data.get("text/plain", ""))


def prose(notebook: Any) -> str:
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def test_valid_and_run_from_top_to_bottom(notebook: Any):
    """Cells run in another order, or edited after their run: the outputs then belong to other code."""
    nbformat.validate(notebook)
    assert [cell.execution_count for cell in code(notebook)] == list(range(1, len(code(notebook)) + 1))
    assert notebook.metadata.kernelspec.name == "python3"
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}, "widget state or an editor's notes"


def test_outputs_are_clean(notebook: Any):
    """A traceback, a warning or a progress bar left in an output; a widget that no page can show."""
    for cell in code(notebook):
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr", output.get("text", "")[:200]
            rich = set(output.get("data", {}))
            if rich & {"image/png", "text/html"}:
                assert "application/vnd.jupyter.widget-view+json" not in rich


def test_no_path_of_one_machine_and_no_pasted_pictures(path: Path, notebook: Any):
    """A path under somebody's home, a download, a picture pasted into the text: 911 KB notebooks begin so."""
    text = "\n".join(cell.source for cell in notebook.cells)
    assert not re.search(r"(?<![\w.])/(work|home|tmp|Users|root)/|!pip|!wget|%pip", text)
    assert "base64" not in prose(notebook)
    assert path.stat().st_size <= 500_000


def test_readable_size(notebook: Any):
    """Too long for an evening, or too bare to understand without a lecture."""
    assert 25 <= sum(not is_guard(cell) for cell in notebook.cells) <= 45
    words = count_words(prose(notebook))
    assert 600 <= words <= 1200, f"{words} words"
    visible = [cell for cell in code(notebook) if not is_guard(cell)]
    lines = [len(cell.source.splitlines()) for cell in visible]
    assert max(lines) <= 25 and sum(lines) <= 260
    assert sum(bool(cell.outputs) for cell in visible) >= 0.7 * len(visible), "most cells show something"


def test_guards_stand_apart(notebook: Any):
    """A reader who meets the checks of the notebook itself between the lines of the lesson."""
    guards = [cell for cell in code(notebook) if is_guard(cell)]
    assert guards and all(
        cell.metadata.jupyter.source_hidden and "remove-cell" in cell.metadata.tags for cell in guards
    )
    assert all("assert " in cell.source and not cell.outputs for cell in guards)


def test_the_lesson_is_what_a_reader_sees(notebook: Any):
    """Scaffolding between the lines: drawing by hand, lists of imports, wide lines, long cells, checks."""
    every, visible = code(notebook), [cell for cell in code(notebook) if not is_hidden(cell)]
    lines = lines_of(visible)
    assert not [line for line in lines if DRAWS.search(line)], "a figure is one call from `show`"
    assert sum(bool(IMPORTS.match(line)) for line in lines_of(every)) <= 4
    assert not any("import (" in line for line in lines_of(every))
    assert not [line for line in lines_of(every) if len(line) > 88], "wider than a page"
    assert statistics.median(len(lines_of([cell])) for cell in visible) <= 6
    other = [line for line in lines if IMPORTS.match(line) or line.strip().startswith("assert ")]
    assert len(other) <= 0.1 * len(lines), "nine lines in ten are the lesson"


def test_the_stored_page_reads_whole(notebook: Any):
    """A page on a site: a prediction without its answer, a widget without its picture, sixteen digits of a float."""
    for cell in code(notebook):
        shown = "".join(map(words_of, cell.outputs))
        if "predict(" in cell.source and not is_guard(cell):
            assert "<details>" in shown and shown.count("<li>") >= 2, cell.source
        assert "You said" not in shown and not re.search(r"(Box|Slider|Buttons|HTML)\(", shown)
        assert not re.findall(r"\d\.\d{5,}", re.sub(r"<[^>]*>", "", shown)), "rounded where it is shown"


def test_the_tour_is_short_before_it_shows_something():
    """A reader who leaves before the first picture, or before the loop has gone round once."""
    cells = [cell for cell in nbformat.read(NOTEBOOKS[0], as_version=4).cells if not is_guard(cell)]
    pictures = [i for i, cell in enumerate(cells, 1) if "image/png" in str(cell.get("outputs"))]
    turned = [i for i, cell in enumerate(cells, 1) if "apply_gradients(" in cell.source or "grpo_step(" in cell.source]
    assert pictures[0] <= 3 and turned[0] <= 20


def test_what_every_lesson_has(notebook: Any):
    """A lesson without its question, predictions, misconception, checked claims, exercises, recap or way onward."""
    text, cells = prose(notebook), code(notebook)
    source = "\n".join(cell.source for cell in cells)
    assert re.match(r"# \d\d · ", notebook.cells[0].source)
    assert "**Misconception" in text and "**In fact" in text
    assert source.count(".reveal()") >= 2
    assert sum("assert " in cell.source for cell in cells) >= 4
    exercises = len(re.findall(r"^### Exercise", text, re.M))
    assert 2 <= exercises <= 4
    solutions = [cell for cell in cells if "solution" in cell.metadata.get("tags", [])]
    assert len(solutions) == exercises
    assert all(cell.metadata.jupyter.source_hidden for cell in solutions)
    assert all("assert" in cell.source for cell in solutions), "a solution is checked where it stands"


def test_links_lead_somewhere(path: Path, notebook: Any):
    """A link to a notebook or a file that was renamed; one that the README says is being written may be named."""
    coming = set(re.findall(r"\((\d\d_\w+), being written\)", README))
    for target in re.findall(r"\]\(([^)#\s]+)", prose(notebook)):
        if not target.startswith("http") and Path(target).stem not in coming:
            assert (path.parent / target).exists(), target


def test_readme_lists_it(path: Path):
    """A notebook nobody finds."""
    assert f"notebooks/{path.name}" in README


def test_readme_lists_no_other():
    """A row of the table whose notebook has gone."""
    for name in re.findall(r"notebooks/([\w.-]+\.ipynb)", README):
        assert (ROOT / "notebooks" / name).exists(), name

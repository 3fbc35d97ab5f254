"""Six notebooks in a real JupyterLab: run all, move a slider, click a button, read the number that must change.

`make browser` runs it; the default run leaves it out (marker `browser`), for it needs Chromium and minutes.  What a
click does is seen by no other test: nbval runs cells, and cells do not click.  Each visit leaves a picture of the
page in the folder that SCREENSHOTS names, else in a temporary one; those in docs/screenshots were looked at.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from browser_lab import BROKEN, CHROMEDRIVER, CHROMIUM, ROOT, Page, Server, browse, serve, wait

pytestmark = pytest.mark.browser
HOME, END, LEFT, RIGHT = "\ue011", "\ue010", "\ue012", "\ue014"  # keys, as WebDriver writes them
ANSWER = 90  # seconds for a widget to answer on a busy machine
RUN = 900  # seconds for a notebook


@dataclass(frozen=True)
class Slide:
    """Send `key` to a slider below `cell`; what `reads` finds must change, to `becomes` where that is known."""

    cell: str
    handle: int
    key: str
    reads: str
    becomes: str | None = None

    def do(self, page: Page) -> None:
        """Move, and wait for the change."""
        cell = page.find(self.cell)
        must_change(page, cell, self.reads, self.becomes, lambda: page.slide(cell, self.handle, self.key))


@dataclass(frozen=True)
class Click:
    """Click the button `words` below `cell`; as `Slide`."""

    cell: str
    words: str
    reads: str
    becomes: str | None = None

    def do(self, page: Page) -> None:
        """Click, and wait for the change."""
        cell = page.find(self.cell)
        must_change(page, cell, self.reads, self.becomes, lambda: page.click(cell, self.words))


@dataclass(frozen=True)
class Select:
    """Choose `words` in a dropdown list below `cell`; as `Slide`."""

    cell: str
    dropdown: int
    words: str
    reads: str
    becomes: str | None = None

    def do(self, page: Page) -> None:
        """Choose, and wait for the change."""
        cell = page.find(self.cell)
        must_change(page, cell, self.reads, self.becomes, lambda: page.select(cell, self.dropdown, self.words))


@dataclass(frozen=True)
class Await:
    """Wait, while cells run, until what `reads` finds below `cell` is at least `value`."""

    cell: str
    reads: str
    value: int

    def do(self, page: Page) -> None:
        """Wait."""
        cell = page.find(self.cell)
        wait(
            lambda: int(page.read(cell, self.reads) or 0) >= self.value, RUN, f"{self.reads!r} stays below {self.value}"
        )


@dataclass(frozen=True)
class Predict:
    """Choose an answer below the cell with `question`, run the cell with `reveal` again, and read what it says."""

    question: str
    words: str
    reveal: str
    becomes: str

    def do(self, page: Page) -> None:
        """Choose, run, read."""
        asked, told = page.find(self.question), page.find(self.reveal)
        assert "You said" not in page.output(told).text
        page.click(asked, self.words)
        wait(lambda: page.output(asked).find_elements("css selector", "button.mod-active"), ANSWER, "nothing is chosen")
        must_change(page, told, r"You (.*)", self.becomes, lambda: page.run(told, told, ANSWER))


@dataclass(frozen=True)
class Shot:
    """A picture of `cell`, or from the top of its output on."""

    cell: str
    name: str = ""
    output: bool = False


Step = Slide | Click | Select | Await | Predict | Shot


@dataclass(frozen=True)
class Visit:
    """What is done in a notebook after all its cells ran, and, `live`, while they run."""

    notebook: str
    steps: tuple[Step, ...]
    live: tuple[Step, ...] = ()


PAIRS = r"(\d+%) of the ordered pairs reversed"
BOARD, LEARNT = "dashboard.start()", 'heat="change"'
VISITS = [
    Visit(
        "00_tour",
        (
            Predict("readable = lessons.predict(", "7", "readable.reveal()", "said: 7. ✓ 7. "),
            Predict(
                "middling = lessons.predict(", "clearly positive", "middling.reveal()", "said: clearly positive. ✗ "
            ),
            Shot("middling = lessons.predict("),
        ),
    ),
    Visit(
        "03_group_advantages",
        (
            Click("AdvantagePlayground(", "all equal", r"(degenerate group)", "degenerate group"),
            Shot("AdvantagePlayground(", "degenerate", output=True),
            Click("AdvantagePlayground(", "the group of the lesson", r"mean reward \S+ · std (\S+)", "1.1923"),
            Slide("AdvantagePlayground(", 3, END, r"mean reward (\S+)", "2.06"),  # o₃ earns 3.00
            Shot("AdvantagePlayground("),
        ),
    ),
    Visit(
        "11_iou_reward",
        (
            Click("BoxPlayground(", "add a box", r"strict .* (\d\.\d\d)\n"),
            Slide("BoxPlayground(", 4, HOME, r"official .* (\d\.\d\d)"),
            Shot("BoxPlayground("),
        ),
    ),
    Visit(
        "12_confidence_reward",
        (
            Slide("ConfidenceExplorer(", 0, RIGHT * 10, r"with chance p = (\S+)", "0.80"),
            Click("ConfidenceExplorer(", "state c = p", r"your c = (\S+)", "0.80"),
            Shot("ConfidenceExplorer("),
        ),
    ),
    Visit(
        "15_reward_lab",
        (
            Select("RewardLab(", 1, "strict", PAIRS, "0%"),
            Slide("RewardLab(", 2, LEFT * 10, PAIRS, "6%"),  # weight 0 for `format`: "no format" in the next cell
            Click("RewardLab(", "send the red team", r"(share of the honest)", "share of the honest"),
            Slide("RewardLab(", 3, HOME + RIGHT * 3, r"group (\d+): ", "3"),  # one of those with another winner
            Shot("RewardLab(", output=True),
        ),
    ),
    Visit(
        "21_the_loop",
        (
            Slide(LEARNT, 1, LEFT * 40, r"group \d+ of (\d+)"),  # only groups with a completion that earned little
            Click(LEARNT, "next ▶", r"group (\d+) of", "2"),
            Shot(LEARNT, "browser", output=True),
            Click(BOARD, "20 more steps", r"step \d+ of (\d+)", "80"),
        ),
        live=(  # the next cell waits for the end of the run, and the buttons must answer all the same
            Await(BOARD, r"step (\d+) of", 12),
            Click(BOARD, "pause", r"(paused)", "paused"),
            Slide(BOARD, 0, RIGHT * 3, r"learning rate (\S+) ·", "2.0e-04"),
            Shot(BOARD),
            Click(BOARD, "resume", r"(running)", "running"),
        ),
    ),
]


def must_change(page: Page, cell: int, reads: str, becomes: str | None, act: object) -> None:
    """Read, act, and wait until what is read is another thing, and the right one."""
    before = page.read(cell, reads)
    assert before is None or not becomes or not before.startswith(becomes), f"{reads!r} reads {before!r} already"
    act()

    def changed() -> bool:
        now = page.read(cell, reads)
        return now is not None and now != before and now.startswith(becomes or "")

    try:
        wait(changed, ANSWER, "no change")
    except AssertionError as error:
        raise AssertionError(f"{reads!r} read {before!r}, now {page.output(cell).text!r}; wanted {becomes}") from error


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One JupyterLab for all visits."""
    if not (CHROMIUM and CHROMEDRIVER):
        pytest.fail("needs Chromium and its driver: apt-get install chromium chromium-driver")
    with serve(tmp_path_factory.mktemp("lab")) as running:
        yield running
        running.end_kernels()


@pytest.fixture(scope="module")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the pictures go."""
    named = os.environ.get("SCREENSHOTS")
    return ROOT / named if named else tmp_path_factory.mktemp("screenshots")


@pytest.mark.parametrize("visit", VISITS, ids=lambda visit: visit.notebook)
def test_runs_and_answers(visit: Visit, server: Server, screenshots: Path):
    """A widget that shows but does not answer; a cell, a formula or a picture that fails in the browser only."""
    with browse() as driver:
        page = Page(driver, server, visit.notebook)
        try:
            tour(page, visit, screenshots)
        except BaseException:
            driver.save_screenshot(str(screenshots / f"failed-{visit.notebook}.png"))
            raise
        finally:
            server.end_kernels()


def tour(page: Page, visit: Visit, screenshots: Path) -> None:
    """Run the notebook, look for what is broken, then do the steps."""
    page.begin(0, len(page.cells()) - 1)
    take(page, visit, visit.live, screenshots)
    page.finish(RUN)
    code = [cell for cell in page.cells() if cell["kind"] == "code"]
    assert [cell["wrong"] for cell in code if cell["wrong"]] == []
    assert [cell["count"] for cell in code] == list(range(1, len(code) + 1)), "a cell did not run"
    folded = [bool({"solution", "guard"} & set(cell["tags"])) for cell in code]
    assert [cell["folded"] for cell in code] == folded, "a solution or a guard lies open"
    assert page.script(BROKEN) == []
    take(page, visit, visit.steps, screenshots)
    assert page.script(BROKEN) == []


def take(page: Page, visit: Visit, steps: tuple[Step, ...], screenshots: Path) -> None:
    """Do the steps one after another."""
    for step in steps:
        if isinstance(step, Shot):
            file = screenshots / "-".join(filter(None, (visit.notebook, step.name)))
            page.shoot(page.find(step.cell), file.with_suffix(".png"), step.output)
            assert file.with_suffix(".png").stat().st_size <= 200_000
        else:
            step.do(page)

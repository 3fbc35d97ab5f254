"""A JupyterLab of one's own in a headless Chromium: what tests/test_browser.py drives.

`serve` copies the notebooks aside, so that nothing in the repository changes, and starts JupyterLab on a free port;
`browse` starts Chromium, which may speak to this machine only.  Both end what they started, whatever happens.
A page is moved by real keys and clicks; only "run all", which a click loses while the kernel is still starting, goes
through JupyterLab's own commands.
"""

import io
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).parents[1]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")
CHROMEDRIVER = shutil.which("chromedriver") or ""
START = 180  # seconds for a server or a page to come up on a busy machine
STILL = 30  # seconds at most for a widget to come to rest before its picture is taken
WINDOW = (1180, 1180)
NEWS = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}  # a pop-up over the page

OPEN = "return !!(window.jupyterapp?.shell?.currentWidget?.sessionContext)"
READY = """
const [done] = arguments;
(async () => {
  const app = window.jupyterapp; await app.restored;
  const page = app.shell.currentWidget;
  await page.context.ready; await page.sessionContext.ready; await page.sessionContext.session.kernel.info;
  app.shell.collapseLeft();
  window.notebook = page.content;
  done(true);
})().catch(error => done(String(error)));
"""
RUN = """
const [from, to] = arguments, notebook = window.notebook;
window.ran = null;
notebook.deselectAll(); notebook.activeCellIndex = from; notebook.extendContiguousSelectionTo(to);
window.jupyterapp.commands.execute('notebook:run-cell').then(() => { window.ran = true; });
notebook.deselectAll();
"""
CELLS = """
return window.notebook.widgets.map(cell => {
  const {cell_type, source, execution_count, outputs, metadata} = cell.model.toJSON();
  return {
    kind: cell_type, source, count: execution_count, tags: metadata.tags ?? [], folded: cell.inputHidden === true,
    wrong: (outputs ?? []).filter(o => o.output_type === 'error' || o.name === 'stderr')
      .map(o => o.evalue ?? o.text),
  };
});
"""
OUTPUT = "return window.notebook.widgets[arguments[0]].outputArea.node"
SCROLL = """
const cell = window.notebook.widgets[arguments[0]];
window.notebook.activeCellIndex = arguments[0];
const shown = arguments[1] ? cell.outputArea.node : cell.node;
shown.style.scrollMarginTop = '8px';
shown.scrollIntoView({block: 'start'});
return shown.isConnected;
"""
BROKEN = """
const page = window.notebook.node, broken = [];
for (const image of page.querySelectorAll('img'))
  if (image.complete && !image.naturalWidth) broken.push('a picture that does not show: ' + image.src.slice(0, 80));
for (const formula of page.querySelectorAll('mjx-merror')) broken.push('formula: ' + formula.textContent);
for (const words of ['Error displaying widget', 'Loading widget', 'Error creating widget', 'Math Processing Error'])
  if (page.textContent.includes(words)) broken.push(words);
return broken;
"""


@dataclass(frozen=True)
class Server:
    """A running JupyterLab: where it listens and the word that opens it."""

    port: int
    token: str

    def url(self, path: str) -> str:
        """The address of a path, token included."""
        return f"http://127.0.0.1:{self.port}/{path}{'&' if '?' in path else '?'}token={self.token}"

    def ask(self, path: str, method: str = "GET") -> Any:
        """A request to the server's REST interface; JSON, or None for an empty answer."""
        request = urllib.request.Request(self.url(path), method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            body = answer.read()
        return json.loads(body) if body else None

    def end_kernels(self) -> None:
        """A kernel outlives its page: end all of them."""
        for session in self.ask("api/sessions"):
            self.ask(f"api/sessions/{session['id']}", "DELETE")


@contextmanager
def serve(folder: Path) -> Iterator[Server]:
    """JupyterLab on a copy of notebooks and results in `folder`, with settings of its own."""
    for name in ("notebooks", "results"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns(".*"))
    config = folder / "config"
    (config / "labconfig").mkdir(parents=True)
    (config / "labconfig" / "page_config.json").write_text(json.dumps(NEWS), encoding="utf-8")
    places = {
        "JUPYTER_CONFIG_DIR": config,
        "JUPYTER_DATA_DIR": folder / "data",
        "JUPYTER_RUNTIME_DIR": folder / "runtime",
        "JUPYTERLAB_SETTINGS_DIR": folder / "settings",
        "JUPYTERLAB_WORKSPACES_DIR": folder / "workspaces",
        "IPYTHONDIR": folder / "ipython",
    }
    offline = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    server = Server(free_port(), secrets.token_hex(16))
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={server.port}",
        "--ServerApp.port_retries=0", f"--IdentityProvider.token={server.token}",
        f"--ServerApp.root_dir={folder}", "--expose-app-in-browser",
    ]  # fmt: skip
    log = folder / "jupyter.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=folder, stdout=out, stderr=out, start_new_session=True,
            env=os.environ | offline | {name: str(path) for name, path in places.items()},
        )  # fmt: skip
        try:
            wait(lambda: process.poll() is not None or answers(server), START, f"JupyterLab did not start, see {log}")
            assert process.poll() is None, f"JupyterLab ended:\n{log.read_text(encoding='utf-8')[-2000:]}"
            yield server
        finally:
            end(process)


def answers(server: Server) -> bool:
    """Does it answer yet?"""
    try:
        return bool(server.ask("api/status"))
    except OSError:
        return False


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask the server to end itself and its kernels; insist after 20 seconds."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, how)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                continue


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait(holds: Callable[[], Any], seconds: float, otherwise: str) -> Any:
    """The first true value of `holds`, asked ten times a second; `AssertionError` when there is none in time."""
    last = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < last, f"{otherwise} (after {seconds:.0f} s)"
        time.sleep(0.1)
    return found


@contextmanager
def browse() -> Iterator[Any]:
    """A headless Chromium that reaches nothing but 127.0.0.1, as a Selenium driver."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (
        "headless=new", "no-sandbox", "disable-gpu", "disable-quic", "disable-dev-shm-usage", "no-first-run",
        "disable-background-networking", "disable-component-update", "disable-sync", "hide-scrollbars",
        "host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1", f"window-size={WINDOW[0]},{WINDOW[1]}",
    ):  # fmt: skip
        options.add_argument(f"--{flag}")
    driver = webdriver.Chrome(options, Service(CHROMEDRIVER))
    try:
        driver.set_page_load_timeout(START)
        driver.set_script_timeout(START)
        yield driver
    finally:
        driver.quit()


class Page:
    """One notebook, open in JupyterLab; cells are found by a piece of their source."""

    def __init__(self, driver: Any, server: Server, name: str) -> None:
        self.driver = driver
        driver.get(server.url(f"lab/tree/notebooks/{name}.ipynb?reset"))
        wait(lambda: self.script(OPEN), START, f"{name} did not open")
        ready = driver.execute_async_script(READY)
        assert ready is True, f"no kernel for {name}: {ready}"

    def script(self, source: str, *arguments: Any) -> Any:
        """Run JavaScript in the page."""
        return self.driver.execute_script(source, *arguments)

    def cells(self) -> list[dict[str, Any]]:
        """Every cell: kind, source, count, tags, whether it is folded, and what is wrong with its outputs."""
        return self.script(CELLS)

    def find(self, piece: str) -> int:
        """The place of the only code cell whose source contains `piece`."""
        found = [i for i, cell in enumerate(self.cells()) if cell["kind"] == "code" and piece in cell["source"]]
        assert len(found) == 1, f"{len(found)} code cells contain {piece!r}, wanted one"
        return found[0]

    def run(self, first: int, last: int, seconds: float) -> None:
        """Run the cells from `first` to `last`, both included, and wait for the end."""
        self.begin(first, last)
        self.finish(seconds)

    def finish(self, seconds: float) -> None:
        """Wait until the cells that were begun have run."""
        wait(lambda: self.script("return window.ran"), seconds, "the cells did not end")

    def begin(self, first: int, last: int) -> None:
        """Run the cells without waiting."""
        self.script(RUN, first, last)

    def output(self, cell: int) -> Any:
        """What stands below a cell, scrolled into view, as a Selenium element.

        JupyterLab takes cells that are far out of view off the page, and puts a cell back some time after it is chosen.
        """
        wait(lambda: self.script(SCROLL, cell, True), 30, f"cell {cell} is not on the page")
        return self.script(OUTPUT, cell)

    def read(self, cell: int, pattern: str) -> str | None:
        """What the group of `pattern` matches in the text below a cell; None where there is no match."""
        found = re.search(pattern, self.output(cell).text)
        return found and found[1]

    def slide(self, cell: int, handle: int, keys: str) -> None:
        """Send keys to a slider's handle, counted from 0 among those below the cell."""
        handles = self.output(cell).find_elements("css selector", ".noUi-handle")
        assert handle < len(handles), f"cell {cell} has {len(handles)} slider handles"
        handles[handle].send_keys(keys)

    def click(self, cell: int, words: str) -> None:
        """Click the button with these words below a cell."""
        buttons = self.output(cell).find_elements("css selector", "button")
        (button,) = [button for button in buttons if button.text.strip() == words]
        button.click()

    def select(self, cell: int, dropdown: int, words: str) -> None:
        """Choose from a dropdown list, counted from 0 among those below the cell.  (Typed letters are shortcuts.)"""
        chosen = self.output(cell).find_elements("css selector", "select")[dropdown]
        (option,) = [x for x in chosen.find_elements("css selector", "option") if x.text == words]
        option.click()

    def shoot(self, cell: int, file: Path, output: bool = False) -> None:
        """The window with a cell, or with its output, at the top, as a small PNG."""
        before, last = "", time.monotonic() + STILL
        while (now := self.output(cell).text) != before and time.monotonic() < last:
            before = now
            time.sleep(1)  # keys arrive one by one, and pictures of a widget after its text
        self.script(SCROLL, cell, output)
        with Image.open(io.BytesIO(self.driver.get_screenshot_as_png())) as full:
            small = full.convert("RGB").quantize(256, Image.Quantize.MEDIANCUT, kmeans=1, dither=Image.Dither.NONE)
        file.parent.mkdir(parents=True, exist_ok=True)
        small.save(file, optimize=True)

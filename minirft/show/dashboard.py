"""The dashboard: a widget that shows a training run and can pause, stop and continue it, or change its learning rate.

The dashboard contains no training code.  It calls `step(k, learning_rate)`, which does step k and returns its row, and
`probe()`, which answers a few fixed questions.  Both run in a separate thread, so the buttons work between two steps.
Pages without a kernel show the last figure, which `wait()` and `await dashboard.done()` return; during the latter the
buttons keep working.
"""

from __future__ import annotations

import asyncio
import html
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ipywidgets
from matplotlib.figure import Figure

from minirft.samples import Sample
from minirft.show.charts import curves
from minirft.show.pictures import answer_grid
from minirft.show.play import Playground, answering, buttons, canvas, live, slider

Row = dict[str, Any]
Step = Callable[[int, float], Mapping[str, Any]]  # (k, learning rate) -> the row of step k
KEYS = ("reward", "parse_rate")  # of the rows, that are drawn
SHOWN = 4  # pictures of a probe
MORE = 20  # steps that the button adds
CURVES, ANSWERS = 2.1, 2.25  # inches


@dataclass(frozen=True)
class Probe:
    """The present answers of the policy to a few fixed questions, one text for each sample, and numbers to draw."""

    samples: Sequence[Sample]
    texts: Sequence[str]
    numbers: Mapping[str, float] = field(default_factory=dict)


class Dashboard(Playground):
    """This widget shows the curves of a run, its answers to fixed questions, and its controls.

    `step(k, learning_rate)` is called for k = 1, 2, ..., `steps`; reward and parse rate of its row are drawn.
    `probe()` is called before the first step and after every `every` of them; its numbers are drawn as points.

    >>> dashboard = Dashboard(lambda k, rate: {"reward": k * rate}, steps=3, learning_rate=0.01)
    >>> _ = dashboard.start().wait()
    >>> dashboard.rows[-1]
    {'kind': 'train', 'step': 3, 'lr': 0.01, 'reward': 0.03}
    """

    def __init__(
        self, step: Step, probe: Callable[[], Probe] | None = None, *, steps: int, learning_rate: float, every: int = 5
    ) -> None:
        self.step, self.probe, self.steps, self.every = step, probe, steps, every
        self.rows: list[Row] = []
        self.probes: list[tuple[int, Probe]] = []  # (steps done, answers)
        self.error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._going, self._stopped = threading.Event(), threading.Event()
        self._going.set()
        log = {"kind": ipywidgets.FloatLogSlider, "readout_format": ".1e"}
        self.rate = slider("learning rate", learning_rate, -6, -2, 0.1, named=90, **log)
        self.pausing, self.stopping, self.more = buttons({
            "pause": lambda: self.pause() if self._going.is_set() else self.resume(),
            "stop": self.stop,
            f"{MORE} more steps": lambda: self.go_on(MORE),
        })  # fmt: skip
        self.bar = ipywidgets.IntProgress(max=steps, layout={"width": "180px"})
        super().__init__([[self.pausing, self.stopping, self.more, self.bar], [self.rate]])
        self.rate.observe(lambda _: self._report(), "value")

    # ------------------------------------------------------------------ the buttons

    def start(self) -> Dashboard:
        """Start or continue the run in the background; return the dashboard, so that a cell displays it.

        The probe before the first step comes first, so that a page without a kernel keeps the answers before training.
        """
        if not self.running:
            self._stopped.clear()
            self.error = None
            if not self.rows:
                self._look()
            self._thread = threading.Thread(target=self._run, name="dashboard", daemon=True)
            self._thread.start()
        return self

    def pause(self) -> None:
        """Pause the run after the present step, until `resume`."""
        self._going.clear()
        self._report()

    def resume(self) -> None:
        """Continue after a pause."""
        self._going.set()
        self._report()

    def stop(self) -> None:
        """End the run after the present step; `start` continues from there."""
        self._stopped.set()
        self._going.set()

    def go_on(self, steps: int) -> None:
        """Add that many steps, and start again if the run has ended."""
        self.steps += steps
        self.bar.max = self.steps
        self._going.set()
        self.start()

    def wait(self) -> Figure:
        """Wait until the run has ended, and return its last figure; a paused run is resumed first.

        Raises the exception of a failed step.
        """
        self.resume()
        if self._thread:
            self._thread.join()
        if self.error:
            raise self.error
        return self.figure()

    async def done(self) -> Figure:
        """Wait like `wait`, for `await` in a notebook: the controls keep working while the cell waits (ipykernel 7)."""
        self.resume()
        with answering():
            while self.running:
                await asyncio.sleep(0.1)
        return self.wait()

    @property
    def running(self) -> bool:
        """Return whether the thread is working or paused."""
        return self._thread is not None and self._thread.is_alive()

    # ------------------------------------------------------------------ the thread

    def _run(self) -> None:
        try:
            while len(self.rows) < self.steps and not self._stopped.is_set():
                done, rate = len(self.rows), self.rate.value
                self.rows.append({"kind": "train", "step": done + 1, "lr": rate, **self.step(done + 1, rate)})
                self.bar.value = done + 1
                if (done + 1) % self.every == 0:
                    self._look()
                self._report()
                self._going.wait()
        except BaseException as error:  # a thread's exception would be printed and lost: `wait` raises it
            self.error = error
        self._report(ended=True)

    def _look(self) -> None:
        if self.probe:
            self.probes.append((len(self.rows), self.probe()))
        self.redraw()

    def _report(self, ended: bool = False) -> None:
        self.pausing.description = "pause" if self._going.is_set() else "resume"
        self.readout.value = self.words(ended)

    # ------------------------------------------------------------------ the figure and the words

    def words(self, ended: bool = False) -> str:
        """Describe the state of the run and its last numbers."""
        state = "running" if self.running and not ended else "ended" if self.rows else "not started"
        if state == "running" and not self._going.is_set():
            state = "paused"
        if self.error:
            state = f"stopped by {type(self.error).__name__}: {html.escape(str(self.error)[:200])}"
        last = self.rows[-1] if self.rows else {}
        numbers = [f"{key} {last[key]:.2f}" for key in KEYS if last.get(key) is not None]
        numbers += [f"{key} {value:.2f}" for key, value in (self.probes[-1][1].numbers if self.probes else {}).items()]
        where = f"step {len(self.rows)} of {self.steps}"
        return " · ".join([where, state, f"learning rate {self.rate.value:.1e}", *numbers])

    def figure(self) -> Figure:
        """Draw the curves, and below them the first and the last answers to the probe."""
        probes = self.probes[:1] + self.probes[1:][-1:]
        heights = [CURVES, ANSWERS * len(probes)] if probes else [CURVES]
        figure, parts = canvas(sum(heights), heights=heights)
        numbers = [*self.probes[0][1].numbers] if self.probes else []
        steps = {"xlim": (0, max(self.steps, 1)), "wide": len(KEYS)}
        left, right = parts[0].subfigures(1, 2, width_ratios=(len(KEYS), max(0.01, len(numbers))))
        curves({"": self.rows}, KEYS, on=left, **steps)
        measured = [{"kind": "eval", "step": done, **probe.numbers} for done, probe in self.probes]
        if numbers:
            curves({"": measured}, numbers, "eval", on=right, **steps | {"wide": len(numbers)})
        answers = [
            (sample, text, f"step {done}: {sample.category}", {"fontsize": 8.5})
            for done, probe in probes
            for sample, text in list(zip(probe.samples, probe.texts, strict=True))[:SHOWN]
        ]
        if answers:
            answer_grid(answers, len(answers) // len(probes), on=parts[1])
        return figure

    def _ipython_display_(self) -> None:
        live(self.widget, self.figure(), small=True)

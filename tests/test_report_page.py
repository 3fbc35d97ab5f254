"""The report in a real browser: the slider, the weights and the scale answer, and hostile text stays text."""

from pathlib import Path

import pytest
import torch
from browser_lab import CHROMEDRIVER, CHROMIUM, browse
from replays import EPS, data, parts

from minirft.advantages import group_advantages
from minirft.show.report import write_report

pytestmark = pytest.mark.browser
HOME, RIGHT = "\ue011", "\ue014"
WHERE = "return document.querySelector('[data-part=where]').textContent.split(':')[0]"
ROWS = """
const rows = [...document.querySelectorAll('#replay tbody tr')];
return rows.map(row => [...row.cells].slice(0, -1).map(cell => cell.textContent));
"""


def test_the_replay_answers(tmp_path: Path):
    """A slider that moves nothing, numbers of the wrong completion, a page that runs what a model wrote."""
    if not (CHROMIUM and CHROMEDRIVER):
        pytest.fail("needs Chromium and its driver: apt-get install chromium chromium-driver")
    page = tmp_path / "report.html"
    write_report(page, data())
    every = parts(2, 4)
    rewards = {name: torch.tensor(values).view(2, 4) for name, values in every.items()}
    with browse() as driver:
        driver.get(page.as_uri())
        assert driver.title != "ran" and not driver.get_log("browser")
        part = {name: driver.find_element("css selector", f"[data-part={name}]") for name in ("step", "scale")}
        rows = driver.execute_script(ROWS)
        assert [row[-3] for row in rows] == [row[-2] for row in rows], "as in the run"
        assert shown(rows, -2) == pytest.approx(group_advantages(sum(rewards.values()), eps=EPS)[0].tolist(), abs=0.006)
        part["step"].send_keys(RIGHT)
        assert driver.execute_script(WHERE) == "step 7"
        iou = driver.find_element("css selector", "#replay input[name=iou]")
        iou.send_keys(HOME)
        without = rewards["confidence"] + rewards["format"]
        for scale in ("std", "mean", "batch", "none"):
            part["scale"].find_element("css selector", f"option[value={scale}]").click()
            wanted = group_advantages(without, scale, eps=EPS)[0].tolist()
            assert shown(driver.execute_script(ROWS), -2) == pytest.approx(wanted, abs=0.006), scale
        assert len(driver.find_elements("css selector", "#replay rect.found")) == 1
        driver.find_elements("css selector", "#replay tbody tr")[1].click()
        assert len(driver.find_elements("css selector", "#replay rect.found")) == 0
        assert not driver.get_log("browser")


def shown(rows: list[list[str]], column: int) -> list[float]:
    """The numbers of a column; the page writes two decimals and a true minus, so they are off by .005 at most."""
    return [float(row[column].replace("−", "-")) for row in rows]

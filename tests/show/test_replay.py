"""The replay: its script recomputes what minirft.advantages computes, and the page asks nobody for anything."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from PIL import Image
from replays import EPS, HOSTILE, data, parts

from minirft.advantages import group_advantages
from minirft.rewards import prompts
from minirft.samples import Sample
from minirft.show.pictures import Group
from minirft.show.report import SCRIPT, Moment, ReportData, moment_row, render, script_hash

NODE = shutil.which("node")
SCALES = ("std", "mean", "batch", "none")
# One result in float64 and one in float32: a sum of 4 parts, a mean and a spread of 8 numbers, a quotient, 30 roundings
# in all, each at most 2^-24 of numbers up to 9; divided by a spread of at least 1e-2.
BOUND = 30 * 9 * 2**-24 / 1e-2


@pytest.mark.skipif(NODE is None, reason="needs node")
@pytest.mark.parametrize("scale", SCALES)
def test_the_script_recomputes_the_advantages(scale: str, tmp_path: Path):
    """A deviation over n in place of n - 1, a batch that is one group, weights on the wrong part, a tie missed."""
    every, weights = parts(), {"iou": 2.0, "confidence": 0.0, "format": 0.5}
    rewards = sum(weights[name] * torch.tensor(values) for name, values in every.items()).view(3, 8)
    wanted = group_advantages(rewards, scale, eps=EPS)
    (tmp_path / "replay.js").write_text(SCRIPT, encoding="utf-8")
    for p in range(3):
        call = json.dumps([every, weights, 8 * p, 8, scale, EPS])
        line = f"const r = require('./replay.js'); console.log(JSON.stringify(r.recompute(...{call})))"
        run = subprocess.run([NODE, "-e", line], cwd=tmp_path, capture_output=True, text=True, check=True)
        found = json.loads(run.stdout)
        assert found["rewards"] == pytest.approx(rewards[p].tolist(), abs=BOUND)
        assert found["advantages"] == pytest.approx(wanted[p].tolist(), abs=BOUND)
    assert scale == "none" or wanted[2].tolist() == [0.0] * 8


def test_the_page_asks_nobody_for_anything():
    """A request to another host, a second script, or a completion that ends the block it is written in."""
    page = render(data())
    scripts = re.findall(r"<script[^>]*>", page)
    assert scripts == ['<script type="application/json" id="replay-data">', "<script>"]
    assert f"script-src '{script_hash()}'" in page and "default-src 'none'" in page
    assert SCRIPT in page and "eval(" not in SCRIPT and "innerHTML" not in SCRIPT
    attributes = re.findall(r"""<[^>]*\s(?:src|href|action|data)\s*=\s*["']?([^"'>\s]+)""", page)
    assert all(value.startswith("data:image/") for value in attributes), attributes
    assert "fetch(" not in SCRIPT and "import(" not in SCRIPT and "http" not in SCRIPT.replace("http://www.w3.org", "")
    (block,) = re.findall(r'id="replay-data">(.*?)</script>', page, re.DOTALL)
    runs = json.loads(block)
    assert runs[0]["name"] == HOSTILE and runs[0]["moments"][0]["texts"][1] == HOSTILE


def test_a_moment_holds_what_the_script_draws():
    """Boxes of the wrong completion, a picture as large as the photograph, or one that is gone and ends the report."""
    big = Sample("p", Image.effect_noise((2000, 1000), 80), "detection", "?", prompts.detection_solution([]))
    gone = Sample("q", Path("nowhere.jpg"), "detection", "?", prompts.detection_solution([]))
    found = "<answer>[{'Position': [1, 2, 3, 4], 'Confidence': 0.5}]</answer>"
    groups = [Group(sample, ["", found], [0.0, 1.0], [-0.7, 0.7]) for sample in (big, gone)]
    first, second = (moment_row(Moment(group, {"iou": [0.0, 1.0]})) for group in groups)
    assert first["boxes"] == [[], [[1, 2, 3, 4]]] and first["failures"] == [None, None]
    assert first["picture"].startswith("data:image/jpeg") and len(first["picture"]) < 80_000
    assert second["picture"] is None


def test_a_report_without_a_replay_runs_no_script():
    """A script that finds no replay on its page, or a policy that lets one run where there is none."""
    page = render(ReportData({}, {}, 1))
    assert "<script" not in page and "script-src" not in page

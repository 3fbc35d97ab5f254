"""A report with a replay, made up: hostile texts, three parts, two steps."""

import torch
from PIL import Image

from minirft.advantages import group_advantages
from minirft.rewards import prompts
from minirft.samples import Sample
from minirft.show.pictures import Group
from minirft.show.report import Moment, Replay, ReportData

HOSTILE = "</script><script>document.title = 'ran'</script><img src=https://evil.example/x onerror=alert(1)> \ud800"
EPS = 1e-4


def parts(groups: int = 3, size: int = 8) -> dict[str, list[float]]:
    """Rewards by part of B completions, group-major; the last group is degenerate."""
    draw = torch.rand(3, groups * size, generator=torch.Generator().manual_seed(3))
    draw[:, -size:] = draw[:, -size : -size + 1]
    return dict(zip(("iou", "confidence", "format"), draw.tolist(), strict=True))


def data(text: str = HOSTILE) -> ReportData:
    """A report with a replay of two steps."""
    truth = prompts.detection_solution([[100, 200, 500, 600]])
    sample = Sample(text, Image.new("RGB", (90, 60), "teal"), "detection", text, truth, text)
    every = parts(2, 4)
    total = torch.tensor(list(every.values())).sum(0)
    advantages = group_advantages(total.view(2, 4), eps=EPS)
    found = "<answer>[{'Position': [600, 100, 900, 300], 'Confidence': 0.5}]</answer>"
    moments = [
        Moment(Group(sample, [found, text, text, text], total[:4].tolist(), advantages[0].tolist(), step=step), every)
        for step in (1, 7)
    ]
    weights = dict.fromkeys(every, 1.0)
    return ReportData(
        {}, {}, 7, replays=[Replay(text, moments, weights, "std", EPS), Replay("b", moments, weights, "mean", EPS)]
    )

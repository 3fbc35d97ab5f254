"""Figures of the policy: the order of patches, who sees whom, and bars that add up."""

import pytest
import torch
from PIL import Image

from minirft.cost.memory import GIB, ledger
from minirft.cost.sizes import architecture
from minirft.engine.layers import Spans
from minirft.policy import Policy
from minirft.runs.config import load_config
from minirft.samples import Sample
from minirft.show.anatomy import memory_bars, patch_order, patch_places, visible


def test_patches_lie_where_the_processor_took_them() -> None:
    """Bug: patches numbered row by row, which holds for every model but those that merge."""
    policy = Policy.load("tiny")
    image = Image.new("RGB", (112, 112))
    for k, (row, column) in enumerate(patch_places(8, 8)):
        image.paste((4 * k, 0, 0), (14 * column, 14 * row, 14 * column + 14, 14 * row + 14))
    prompt = policy.encode(Sample("p", image, "presence", "Is there a cat?", "<answer>yes</answer>"))
    red = (prompt.pixel_values.view(64, 3, 14, 14)[:, 0] * 0.25 + 0.5) * 255
    assert torch.allclose(red.mean((1, 2)), 4.0 * torch.arange(64), atol=0.5)


@pytest.mark.parametrize("prompts, completions", [([6, 5], [[4, 3], [5]]), ([1, 4], [[1], [2, 7, 1]]), ([3], [[2]])])
def test_visible_is_own_prompt_and_own_past(prompts: list[int], completions: list[list[int]]) -> None:
    """Bug: padding, which points at position 0, seen as a token, or a neighbour's completion seen."""
    sees = visible(Spans.of(prompts, completions, like=torch.zeros(1)))
    group = [p for p, n in enumerate(prompts) for _ in range(n)]
    part = [0] * len(group)
    for p, lengths in enumerate(completions):
        for n in lengths:
            group += [p] * n
            part += [max(part) + 1] * n
    places = range(len(group))
    rule = [[group[i] == group[j] and j <= i and part[j] in (0, part[i]) for j in places] for i in places]
    assert torch.equal(sees, torch.tensor(rule))


def test_bars_add_up_to_the_ledger() -> None:
    """Bug: a part left out of the stack because it is small in one phase."""
    found = ledger(architecture("qwen2-vl-2b"), load_config("coco_8cate_4shot"))
    axes = memory_bars(found.phases).axes[0]
    heights = [sum(bars[i].get_height() for bars in axes.containers) for i in range(len(found.phases))]
    assert heights == pytest.approx([found.total(phase) / GIB for phase in found.phases])


def test_every_patch_has_its_number() -> None:
    """Bug: squares of merged patches drawn over other patches than their numbers."""
    figure = patch_order(Image.new("RGB", (56, 28)), 2, 4)
    texts = {text.get_text(): text.get_position() for text in figure.axes[0].texts}
    assert texts["4"] == (34.5, 6.5) and len(texts) == 8 and len(figure.axes[0].patches) == 8 + 2

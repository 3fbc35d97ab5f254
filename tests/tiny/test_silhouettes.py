"""Box to mask on the tiny world: true masks against geometry, the segmenter against true masks and made pictures."""

import math
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from minirft import UserError
from minirft.rewards.answers import true_boxes
from minirft.rewards.boxes import MODEL, convert, pixels
from minirft.tiny import world
from minirft.tiny.scenes import COLOURS, NOVEL, SIDE, Scene, Thing, render
from minirft.tiny.silhouettes import segment, true_mask

SHARES = {
    "square": 1,
    "circle": math.pi / 4,
    "ring": math.pi / 4 * (1 - 0.4**2),
    "triangle": 1 / 2,
    "diamond": 1 / 2,
    "cross": 5 / 9,
}


@pytest.fixture(scope="module")
def asked():
    """Grounding questions."""
    return world.grounding(60, seed=5)


def drawn(sample):
    """The object that a sample means, from the stream of its id."""
    seed, index = map(int, sample.id.split("-")[-2:])
    return world.ask_grounding(np.random.default_rng([seed, index])).things[0]


def box_of(sample):
    return convert(true_boxes(sample)[0], MODEL, pixels(SIDE, SIDE))


def mask_iou(a, b):
    return (a & b).sum() / (a | b).sum()


def test_the_true_mask_is_the_shape(asked):
    """A mask transposed, of a neighbour, of the whole box, or half a pixel too large all round."""
    seen = set()
    for sample in asked:
        mask, ignored = true_mask(sample)
        rows, columns = np.nonzero(mask)
        bounds = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert np.abs(bounds - box_of(sample)).max() < 2 and not ignored.any()  # the tip of a triangle is thin
        thing = drawn(sample)
        assert np.abs(np.asarray(sample.picture())[mask].mean(0) - COLOURS[thing.colour]).max() < 20
        if thing.shape in SHARES:
            assert mask.sum() / thing.area == pytest.approx(SHARES[thing.shape], abs=0.05)
            seen.add(thing.shape)
    assert seen == set(SHARES)


def test_prefixes_of_an_id_do_not_count(asked):
    """Test and held-out questions without a mask because their names begin otherwise."""
    for prefix in ("test-", "held-out-", "validation-"):
        sample = replace(asked[3], id=prefix + asked[3].id)
        assert (true_mask(sample)[0] == true_mask(asked[3])[0]).all()


def test_other_samples_are_refused(asked):
    """A mask of another picture, or of another object, taken for the truth."""
    strange = [
        replace(asked[0], id="grounding"),
        replace(asked[0], id=asked[1].id),
        world.detection(1, seed=5)[0],
        world.grounding(1, 5, categories=NOVEL)[0],
        world.samples(lambda rng: world.ask_grounding(rng, style="sketch"), 1, 5)[0],
    ]
    for sample in strange:
        with pytest.raises(UserError, match=f"sample {sample.id} is not a grounding question of the tiny world"):
            true_mask(sample)
    with pytest.raises(UserError, match="is not that of its id"):
        true_mask(replace(asked[0], problem=asked[1].problem))


@pytest.mark.parametrize("grown, least", [(0.0, 0.98), (0.2, 0.95)])
def test_a_good_box_gives_a_good_mask(asked, grown: float, least: float):
    """A segmenter that fills the box (.61 on average), or takes in what else reaches into a loose one."""
    scores = []
    for sample in asked:
        box = box_of(sample)
        margin = grown / 2 * (box[2:] - box[:2])
        scores.append(mask_iou(segment(sample.picture(), box + [*-margin, *margin]), true_mask(sample)[0]))
    assert np.mean(scores) > least and min(scores) > 0.7


@pytest.mark.parametrize("other", ["red circle", "blue circle"])
def test_a_neighbour_in_a_loose_box_is_left_out(other: str):
    """Two objects taken for one, of another colour and touching or of the same colour and apart."""
    apart = 0 if other.startswith("blue") else 8
    near = Thing(other, (64 + apart, 32, 104 + apart, 72))
    picture = render(Scene((Thing("red square", (24, 32, 64, 72)), near), seed=0))
    mask = segment(picture, [20, 28, 80, 76])
    expected = np.zeros((SIDE, SIDE), dtype=bool)
    expected[32:72, 24:64] = True
    assert mask_iou(mask, expected) > 0.97


@pytest.mark.parametrize("colour", COLOURS)
def test_every_colour_stands_out(colour: str):
    """White, black or green lost in the grey of some corner."""
    for x, y in ((0, 0), (72, 0), (0, 72), (72, 72)):
        picture = render(Scene((Thing(f"{colour} square", (x, y, x + 40, y + 40)),), seed=x + y))
        expected = np.zeros((SIDE, SIDE), dtype=bool)
        expected[y : y + 40, x : x + 40] = True
        assert mask_iou(segment(picture, [x, y, x + 40, y + 40]), expected) > 0.97


def test_nothing_in_the_box_is_an_empty_mask():
    """Noise taken for an object, or a box of no pixels that stops an evaluation."""
    picture = render(Scene((Thing("red square", (24, 32, 64, 72)),), seed=0))
    for box in ([70, 74, 110, 110], [30, 40, 30, 40], [60, 60, 20, 20], [200, 200, 300, 300], [-9, -9, -1, -1]):
        mask = segment(picture, box)
        assert mask.shape == (SIDE, SIDE) and not mask.any()


def test_a_picture_that_is_not_square():
    """Height and width swapped."""
    picture = Image.new("RGB", (60, 30), (130, 130, 130))
    picture.paste(COLOURS["blue"], (40, 5, 55, 20))
    mask = segment(picture, np.array([38.0, 3.0, 57.0, 22.0]))
    assert mask.shape == (30, 60) and mask[5:20, 40:55].all() and mask.sum() == 15 * 15

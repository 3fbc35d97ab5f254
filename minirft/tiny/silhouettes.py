"""This module turns boxes into masks on the tiny world, as SAM does for Table 6 of the paper.

The segmenter uses the picture and the box, but not the truth.  It is classical: fit the background, take the pixels in
the box that differ from it, keep one object.  Deviation: SAM's mask may leave the box, this one stays inside, so a box
that cuts an object loses the part outside.  `true_mask` gives the mask to compare with.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from scipy import ndimage

from minirft import UserError
from minirft.samples import Sample
from minirft.tiny import world
from minirft.tiny.scenes import SIDE, coverage

Mask = NDArray[np.bool_]
DIFFERENT = 40.0  # of 255, in the channel that differs most: noise has sigma 6, every colour differs by 50 or more
DRAWS, JUDGES, REFITS = 60, 800, 2  # planes tried, pixels that judge each, fits of the best one


def segment(picture: Image.Image, box: ArrayLike) -> Mask:
    """Segment the one object in a box: a mask (height, width); `box` is (4,) xyxy in pixels, loose or tight.

    The background is a plane in each channel; pixels of the box that differ from it are foreground.  Pixels nearer in
    colour to the foreground's median than to the background are kept, and of these the connected piece with the largest
    sum of weights; a weight grows towards the middle of the box.  A box without an object gives an empty mask.

    >>> picture = Image.new("RGB", (40, 30), (130, 130, 130))
    >>> picture.paste((214, 40, 40), (10, 10, 20, 20))
    >>> segment(picture, [8, 8, 24, 24]).sum()
    np.int64(100)
    """
    pixels = np.asarray(picture.convert("RGB"), dtype=np.float64)
    height, width = pixels.shape[:2]
    low, high = np.clip(np.round(np.reshape(box, (2, 2))), 0, [width, height]).astype(int)
    mask = np.zeros((height, width), dtype=bool)
    inside = np.s_[low[1] : high[1], low[0] : high[0]]
    behind, seen = _background(pixels)[inside], pixels[inside]
    front = np.abs(seen - behind).max(-1) > DIFFERENT
    if not front.any():
        return mask
    colour = np.median(seen[front], axis=0)
    pieces, count = ndimage.label(np.square(seen - colour).sum(-1) < np.square(seen - behind).sum(-1))
    if count:
        y, x = (1 - np.abs(np.linspace(-1, 1, n + 2)[1:-1]) for n in pieces.shape)
        weights = ndimage.sum_labels(np.outer(y, x), pieces, range(1, count + 1))
        mask[inside] = pieces == 1 + weights.argmax()
    return mask


def true_mask(sample: Sample) -> tuple[Mask, Mask]:
    """Return the mask of a grounding sample's object, and the mask of ignored pixels (none); (112, 112) each.

    The question is drawn again from the sample's id, PREFIX-grounding-SEED-INDEX, as in `world.grounding` with default
    categories and style.  A pixel belongs to the object that covers at least half of it; objects do not overlap,
    because their boxes lie apart on a grid.  Raises `UserError` for a sample of another world.

    >>> shape, ignored = true_mask(world.grounding(1, seed=0)[0])
    >>> shape.shape, bool(shape.any()), bool(ignored.any())
    ((112, 112), True, False)
    """
    numbers = re.fullmatch(r"(?:.*-)?grounding-(\d+)-(\d+)", sample.id)
    question = world.ask_grounding(np.random.default_rng([int(n) for n in numbers.groups()])) if numbers else None
    if question is None or question.image().tobytes() != sample.picture().tobytes():
        raise UserError(
            f"sample {sample.id} is not a grounding question of the tiny world as world.grounding draws it, so its "
            "true mask is not known; pass samples of world.grounding with default categories"
        )
    if question.problem() != sample.problem:
        raise UserError(f"the question of sample {sample.id} is not that of its id; give each sample its own id")
    (thing,) = question.things
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    x1, y1, x2, y2 = thing.box
    mask[y1:y2, x1:x2] = np.asarray(coverage(thing)) >= 128
    return mask, np.zeros_like(mask)


def _background(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fit the plane a + b x + c y of each channel that passes near most pixels, (height, width, 3).

    RANSAC fits planes through three random pixels, then least squares through the pixels near the best plane.  A median
    would be an object's colour if objects fill the picture.
    """
    height, width = pixels.shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    terms, flat = np.stack([np.ones(y.size), x.ravel(), y.ravel()], -1), pixels.reshape(-1, 3)
    rng = np.random.default_rng(0)

    def near(plane: NDArray[np.float64], some: NDArray[np.int64] | slice) -> NDArray[np.bool_]:
        return np.abs(flat[some] - terms[some] @ plane).max(-1) < DIFFERENT / 2

    judges = rng.integers(len(flat), size=JUDGES)
    triples = rng.integers(len(flat), size=(DRAWS, 3))
    planes = [np.linalg.lstsq(terms[three], flat[three], rcond=None)[0] for three in triples]
    best = max(planes, key=lambda plane: near(plane, judges).sum())
    for _ in range(REFITS):
        behind = near(best, slice(None))
        best = np.linalg.lstsq(terms[behind], flat[behind], rcond=None)[0]
    return (terms @ best).reshape(pixels.shape)

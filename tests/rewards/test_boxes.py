import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask

from minirft.rewards.boxes import MODEL, convert, giou, iou, match_greedy, match_hungarian, pixels
from minirft.samples import Frame

SIDE = 12  # of the raster the oracle counts cells on


def random_boxes(rng: np.random.Generator, count: int, side: int = SIDE) -> np.ndarray:
    low = rng.integers(0, side - 1, (count, 2))
    return np.concatenate([low, low + rng.integers(1, side - low)], axis=1).astype(float)


def raster(box: np.ndarray) -> np.ndarray:
    cells = np.zeros((SIDE, SIDE), dtype=bool)
    x1, y1, x2, y2 = box.astype(int)
    cells[y1:y2, x1:x2] = True
    return cells


def test_iou_and_giou_count_cells() -> None:
    """Catches a swapped axis, a "+1", a wrong union or hull: areas are counted cell by cell."""
    rng = np.random.default_rng(0)
    a, b = random_boxes(rng, 12), random_boxes(rng, 15)
    for (i, one), (j, two) in itertools.product(enumerate(a), enumerate(b)):
        p, q = raster(one), raster(two)
        union = (p | q).sum()
        hull = raster(np.concatenate([np.minimum(one, two)[:2], np.maximum(one, two)[2:]])).sum()
        assert iou(a, b)[i, j] == pytest.approx((p & q).sum() / union)
        assert giou(a, b)[i, j] == pytest.approx((p & q).sum() / union - (hull - union) / hull)


def test_iou_is_cocos() -> None:
    """Catches any difference from the IoU that AP will be computed with."""
    rng = np.random.default_rng(1)
    a, b = random_boxes(rng, 20, 640), random_boxes(rng, 30, 640)
    widths = [np.concatenate([x[:, :2], x[:, 2:] - x[:, :2]], axis=1) for x in (a, b)]
    np.testing.assert_allclose(iou(a, b), mask.iou(*widths, [0] * len(b)), atol=1e-12)


def test_iou_ignores_the_frame() -> None:
    """Catches a frame conversion with the axes swapped, and an IoU that depends on units."""
    rng = np.random.default_rng(2)
    a, b = random_boxes(rng, 9), random_boxes(rng, 9)
    picture = pixels(SIDE, 3 * SIDE)
    moved = [convert(x, picture, MODEL) for x in (a, b)]
    np.testing.assert_allclose(iou(*moved), iou(a, b), atol=1e-12)
    np.testing.assert_allclose(convert(moved[0], MODEL, picture), a, atol=1e-12)
    assert convert([SIDE, 3 * SIDE, SIDE, 0], picture, MODEL).tolist() == [1000, 1000, 1000, 0]


@pytest.mark.parametrize(
    "bad", [[5, 5, 5, 9], [9, 9, 1, 1], [0, 0, np.nan, 9], [-np.inf, -np.inf, np.inf, np.inf], [9, 1, 1, 9]]
)
def test_unsound_boxes_overlap_nothing(bad: list[float]) -> None:
    """Catches an inverted box earning a positive area, and NaN or inf that spreads."""
    good = [[0, 0, 10, 10]]
    assert iou([bad], good).tolist() == iou(good, [bad]).tolist() == iou([bad], [bad]).tolist() == [[0.0]]
    assert giou([bad], good).tolist() == giou(good, [bad]).tolist() == [[-1.0]]


def test_no_boxes() -> None:
    """Catches a crash, or a wrong shape, where nothing was predicted or nothing is there."""
    box = np.array([[0.0, 0, 1, 1]])
    assert iou([], box).shape == (0, 1) and iou(box, []).shape == (1, 0) and giou([], []).shape == (0, 0)
    for shape in ((0, 2), (2, 0), (0, 0)):
        assert match_greedy(np.zeros(shape), np.ones(shape[0])) == match_hungarian(np.zeros(shape)) == []


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5])
def test_hungarian_by_enumeration(threshold: float) -> None:
    """Catches a minimised sum, a transposed assignment, and pairs kept below the threshold."""
    rng = np.random.default_rng(3)
    for n, m in itertools.product((1, 2, 3, 4), (1, 2, 3, 4)):
        overlap = rng.random((n, m)) * (rng.random((n, m)) < 0.7)
        usable = np.where(overlap >= threshold, overlap, 0)
        wide = usable if n <= m else usable.T
        best = max(
            sum(wide[i, j] for i, j in enumerate(p)) for p in itertools.permutations(range(max(n, m)), min(n, m))
        )
        pairs = match_hungarian(overlap, threshold)
        assert sum(overlap[pair] for pair in pairs) == pytest.approx(best)
        assert all(overlap[pair] >= threshold and overlap[pair] > 0 for pair in pairs)


def test_greedy_trap() -> None:
    """Catches greedy matching that is not greedy, or Hungarian matching that is."""
    overlap = np.array([[0.6, 0.7], [0.2, 0.8]])
    assert match_greedy(overlap, [0.9, 0.8]) == [(0, 1)]
    assert match_greedy(overlap, [0.8, 0.9]) == [(1, 1), (0, 0)]
    assert match_hungarian(overlap) == [(0, 0), (1, 1)]
    assert match_hungarian(np.ones((2, 1)), 0.5, [0.1, 0.9]) == [(1, 0)] and match_hungarian(np.ones((2, 1)))


def test_greedy_order() -> None:
    """Catches an unstable tie, a rejected prediction that uses up its object, and a threshold that is strict."""
    same = np.array([[0.9], [0.9]])
    assert match_greedy(same, [0.5, 0.5]) == [(0, 0)]
    assert match_greedy(np.full((100, 3), 0.9), np.tile([0.5, 0.9], 50)) == [(1, 0), (3, 1), (5, 2)]
    assert match_greedy(same, [np.nan, 0.0]) == [(1, 0)]
    assert match_greedy(np.array([[0.4], [0.6]]), [0.9, 0.1]) == [(1, 0)]
    assert match_greedy(np.array([[0.5]]), [1.0], threshold=0.5) == [(0, 0)]
    assert match_greedy(np.array([[0.0]]), [1.0], threshold=0.0) == []


def test_frames_and_shapes_are_checked() -> None:
    """Catches a picture of size zero, and boxes of the wrong shape broadcast into nonsense."""
    for size in ((0, 5), (5, -1), (np.nan, 5), (5, np.inf)):
        with pytest.raises(ValueError, match="positive, finite size"):
            Frame("bad", *size)
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        convert([1, 2, 3], MODEL, MODEL)
    with pytest.raises(ValueError, match=r"got \(1, 3\)"):
        iou([[1, 2, 3]], [[0, 0, 1, 1]])


@settings(max_examples=60, deadline=None)
@given(arrays(float, (3, 4)), arrays(float, (2, 4)))
def test_any_floats(a: np.ndarray, b: np.ndarray) -> None:
    """Catches overflow, NaN and values out of range on any floats at all."""
    overlap, general = iou(a, b), giou(a, b)
    assert ((overlap >= 0) & (overlap <= 1)).all() and ((general >= -1) & (general <= overlap + 1e-12)).all()
    np.testing.assert_array_equal(overlap, iou(b, a).T)


@settings(max_examples=60, deadline=None)
@given(arrays(float, (4, 3), elements=st.floats(0, 1)), arrays(float, 4, elements=st.floats(0, 1)), st.floats(0, 1))
def test_matching_is_one_to_one(overlap: np.ndarray, confidence: np.ndarray, threshold: float) -> None:
    """Catches an object or a prediction used twice, and a Hungarian sum below the greedy one."""
    greedy, hungarian = match_greedy(overlap, confidence, threshold), match_hungarian(overlap, threshold)
    for pairs in (greedy, hungarian):
        assert len({n for n, _ in pairs}) == len({m for _, m in pairs}) == len(pairs)
    total = sum(overlap[pair] for pair in greedy)
    assert total <= sum(overlap[pair] for pair in hungarian) + 1e-9

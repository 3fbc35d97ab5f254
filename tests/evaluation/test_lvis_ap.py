"""LVIS's AP against the `lvis` package's own numbers, and against a case small enough to enumerate."""

import json
from pathlib import Path

import numpy as np
import pytest

from minirft.data.settings import DataConfig
from minirft.evaluation.lvis import lvis_ap, lvis_metrics
from minirft.samples import Sample

NAMES = ("lvis_ap", "lvis_ap50", "lvis_ap75", "lvis_apr", "lvis_apc", "lvis_apf", "lvis_ap_area_averaged")
# From lvis 0.5.3, once: LVISEval(..., "bbox") on `drawn(seed)`; the last is the mean over categories of
# eval["precision"][:, :, k, :] where it is not -1.
THEIRS = {
    0: (0.6325941908751315, 0.7774028968830948, 0.7150037174047075, 0.5227335590701927, 0.7498946597956498,
        0.6288742723173416, 0.717928328020531),
    1: (0.5228211225100498, 0.7233306435039109, 0.5220196220749894, 0.5211669851195646, 0.6709320410062984,
        0.44959273195716815, 0.602892830404651),
    2: (0.49061648976855465, 0.6446856128282001, 0.5387553816471873, 0.19382581115254385, 0.6097302953979609,
        0.5794549262618569, 0.5678451765373664),
}  # fmt: skip


def drawn(seed):
    """An LVIS file and results in it: 12 pictures, 4 categories, absent and not exhaustive lists, no two scores tie."""
    generator = np.random.default_rng(seed)
    images, rows, results = [], [], []
    for i in range(1, 13):
        lists = generator.permutation([1, 2, 3, 4]).tolist()
        present, absent = lists[:2], lists[2:3]
        images.append({"id": i, "neg_category_ids": absent, "not_exhaustive_category_ids": present[:1] * (i % 2)})
        for k in present * 2:
            box = [*generator.integers(0, 300, 2).tolist(), *generator.integers(10, 200, 2).tolist()]
            place = {"image_id": i, "category_id": k}
            rows.append({"id": len(rows) + 1, **place, "bbox": box, "area": box[2] * box[3]})
            results.append({**place, "bbox": [box[0] + int(generator.integers(9)), *box[1:]]})
        for k in lists:
            box = [*generator.integers(0, 300, 2).tolist(), 60, 60]
            results.append({"image_id": i, "category_id": k, "bbox": box})
    for row, score in zip(results, generator.permutation(len(results)), strict=True):
        row["score"] = (int(score) + 1) / 1000
    names = [{"id": k, "name": f"c{k}", "frequency": f} for k, f in zip((1, 2, 3, 4), "rcff", strict=True)]
    return {"images": images, "categories": names, "annotations": rows}, results


def asked(*pairs: tuple[int, int]) -> list[Sample]:
    """The question after each (picture, category)."""
    return [Sample(f"{i}:c{k}", Path("x"), "detection", "", "", f"c{k}") for i, k in pairs]


@pytest.mark.parametrize("seed", THEIRS)
def test_equal_to_the_lvis_package(seed: int):
    """Boxes judged where nobody looked, false ones counted where not all is marked, categories weighed by boxes."""
    annotations, results = drawn(seed)
    ours = lvis_ap(results, asked(*((i, k) for i in range(1, 13) for k in range(1, 5))), annotations)
    assert ours == pytest.approx(dict(zip(NAMES, THEIRS[seed], strict=True)), abs=1e-12)


BOX, FALSE = [0, 0, 50, 50], [200, 200, 50, 50]


def one(falsely: int, absent: list[int], partly: list[int]) -> dict[str, float]:
    """A true box in picture 1, found with score .5, and a false one of score .9 in picture `falsely`."""
    true = {"image_id": 1, "category_id": 1, "bbox": BOX, "area": 2500}
    images = [
        {"id": i, "neg_category_ids": absent if i == 2 else [], "not_exhaustive_category_ids": partly} for i in (1, 2)
    ]
    names = [{"id": 1, "name": "c1", "frequency": "r"}]
    found = [
        {"image_id": 1, "category_id": 1, "bbox": BOX, "score": 0.5},
        {"image_id": falsely, "category_id": 1, "bbox": FALSE, "score": 0.9},
    ]
    annotations = {"images": images, "categories": names, "annotations": [{"id": 1, **true}]}
    return lvis_ap(found, asked((1, 1), (2, 1)), annotations)


@pytest.mark.parametrize(
    ("case", "ap"),
    [((1, [], []), 0.5), ((1, [], [1]), 1.0), ((2, [], []), 1.0), ((2, [1], []), 0.5)],
    ids=["marked", "not exhaustive", "nobody looked", "verified absent"],
)
def test_a_false_box_costs_only_where_it_is_known_to_be_false(case, ap: float):
    """One true box below one false box: precision 1/2 at every recall where the false one counts, 1 where not."""
    ours = one(*case)
    assert ours == pytest.approx(dict.fromkeys([*NAMES[:4], NAMES[-1]], ap))  # nothing common, nothing frequent


def test_pairs_that_nobody_asked_about_are_not_missed():
    """A recall that falls with every true box outside the evaluated subset."""
    annotations, _ = drawn(0)
    first = annotations["annotations"][0]
    mine = [row for row in annotations["annotations"] if row["image_id"] == 1]
    mine = [row | {"score": 0.9} for row in mine if row["category_id"] == first["category_id"]]
    assert lvis_ap(mine, asked((1, first["category_id"])), annotations)["lvis_ap"] == pytest.approx(1.0)


def test_no_answers_and_no_truth():
    """A crash on an evaluation without boxes, or an AP where there is nothing to find."""
    annotations, _ = drawn(0)
    first = annotations["annotations"][0]
    assert lvis_ap([], asked((1, first["category_id"])), annotations)["lvis_ap"] == 0
    absent = annotations["images"][0]["neg_category_ids"][0]
    assert lvis_ap([], asked((1, absent)), annotations) == {}


def test_answers_are_judged_in_pixels(tmp_path: Path):
    """Thousandths for pixels, or LVIS's AP on a data set that has no such definition."""
    picture = {"id": 1, "width": 200, "height": 100, "neg_category_ids": [], "not_exhaustive_category_ids": []}
    row = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [20, 10, 100, 50], "area": 5000}
    names = [{"id": 1, "name": "c1", "frequency": "r"}]
    path = tmp_path / "lvis.json"
    path.write_text(json.dumps({"images": [picture], "categories": names, "annotations": [row]}))
    texts = ["<think></think><answer>[{'Position': [100, 100, 600, 600], 'Confidence': 0.5}]</answer>"]
    for kind, expected in (("lvis", 1.0), ("coco", None)):
        data = DataConfig(kind=kind, annotations=path, images=tmp_path)
        ap = lvis_metrics(texts, asked((1, 1)), data).get("lvis_ap")
        assert ap == (expected if expected is None else pytest.approx(expected))

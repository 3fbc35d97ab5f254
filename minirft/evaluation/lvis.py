"""LVIS's AP uses COCO's matching, but does not count boxes that the incomplete annotations cannot judge.

These rules of the `lvis` package (0.5.3, lvis/eval.py) are added to COCOeval:
- the 300 boxes of highest score in a picture count, over all categories together;
- a box of a category that is neither marked in the picture nor in its `neg_category_ids` is dropped;
- a false box of a category in `not_exhaustive_category_ids` is ignored;
- AP is the mean over categories with truth: over all, and by frequency (rare, common, frequent).

Deviation: only the (picture, category) pairs of the questions count as truth, because only they have answers.
"""

import contextlib
import io
import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from minirft.data import DataConfig, category_names, evaluation_data
from minirft.evaluation.coco import coco_results
from minirft.evaluation.measures import AT_50, AT_75, as_coco
from minirft.samples import Sample

Row = dict[str, Any]
MAX_DETECTIONS = 300  # of a picture


def lvis_metrics(texts: Sequence[str], samples: Sequence[Sample], data: DataConfig) -> dict[str, float]:
    """Compute `lvis_ap` of answers to the evaluation set of `data`; {} unless it is detection on an LVIS file."""
    data = evaluation_data(data)
    if data.kind != "lvis" or data.task != "detection" or data.annotations is None:
        return {}
    annotations = json.loads(data.annotations.read_text(encoding="utf-8-sig"))
    return lvis_ap(list(coco_results(texts, samples, annotations)), samples, annotations)


def lvis_ap(results: Sequence[Row], samples: Sequence[Sample], annotations: Row) -> dict[str, float]:
    """Compute AP of `coco_results` rows on the pairs in the questions of `samples`; omit metrics without truth.

    lvis_ap, lvis_ap50, lvis_ap75    mean over categories of AP at IoU .50:.05:.95, at .50, at .75
    lvis_apr, lvis_apc, lvis_apf     lvis_ap over the rare, common, frequent categories
    lvis_ap_area_averaged            as in the released Visual-RFT evaluation: a category's AP is the mean over the area
                                     ranges all, small, medium and large that have truth; not LVIS's AP

    `annotations` is an LVIS v1 file; boxes are [x, y, width, height] in pixels.
    """
    ids = {name: number for number, name in category_names(annotations, "the annotations").items()}
    asked = {(s.id.split(":", 1)[0], ids[name]) for s in samples for name in s.asked or (s.category,)}
    truth = [row for row in annotations["annotations"] if (str(row["image_id"]), row["category_id"]) in asked]
    precision = _precision(truth, results, annotations, sorted({category for _, category in asked}))
    by_category = {k: values for k, values in precision.items() if (values[..., 0] > -1).any()}
    frequency = {row["id"]: row.get("frequency") for row in annotations["categories"]}
    whole = {k: values[..., 0] for k, values in by_category.items()}  # (10, 101), area "all"
    found = {
        "lvis_ap": [values.mean() for values in whole.values()],
        "lvis_ap50": [values[AT_50].mean() for values in whole.values()],
        "lvis_ap75": [values[AT_75].mean() for values in whole.values()],
        **{f"lvis_ap{f}": [values.mean() for k, values in whole.items() if frequency[k] == f] for f in "rcf"},
        "lvis_ap_area_averaged": [values[values > -1].mean() for values in by_category.values()],
    }
    return {name: float(np.mean(values)) for name, values in found.items() if values}


def _precision(
    truth: Sequence[Row], results: Sequence[Row], annotations: Row, categories: list[int]
) -> dict[int, np.ndarray]:
    """Compute precision of each category by IoU, recall and area range: (10, 101, 4), -1 where there is no truth."""
    looked_for = {(row["image_id"], row["category_id"]) for row in truth}
    looked_for |= {(row["id"], k) for row in annotations["images"] for k in row["neg_category_ids"]}
    partly = {(row["id"], k) for row in annotations["images"] for k in row["not_exhaustive_category_ids"]}
    kept = [row for row in _surest(results) if (row["image_id"], row["category_id"]) in looked_for]
    with contextlib.redirect_stdout(io.StringIO()):
        run = COCOeval(_coco(truth, annotations), _coco(kept, annotations), "bbox")
        run.params.catIds, run.params.maxDets = categories, [MAX_DETECTIONS]
        run.evaluate()
        for image in run.evalImgs:
            if image is not None and (image["image_id"], image["category_id"]) in partly:
                image["dtIgnore"] = np.logical_or(image["dtIgnore"], image["dtMatches"] == 0)
        run.accumulate()
    return {k: run.eval["precision"][:, :, i, :, 0] for i, k in enumerate(categories)}


def _surest(results: Sequence[Row]) -> list[Row]:
    """Keep the boxes of highest score in each picture, over all categories."""
    pictures: dict[Any, list[Row]] = defaultdict(list)
    for row in results:
        pictures[row["image_id"]].append(row)
    ranked = (sorted(rows, key=lambda row: row["score"], reverse=True) for rows in pictures.values())
    return [row for rows in ranked for row in rows[:MAX_DETECTIONS]]


def _coco(rows: Sequence[Row], annotations: Row) -> COCO:
    return as_coco(({**row, "iscrowd": 0} for row in rows), annotations["images"], annotations["categories"])

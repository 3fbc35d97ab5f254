"""Evaluation against hand-computed cases, COCOeval through JSON files, scipy, and invariances."""

import contextlib
import io
import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy.stats import mannwhitneyu

from minirft.evaluation.measures import average_precision, calibration_error, rank_boxes, ranking_auc
from minirft.evaluation.scores import metrics
from minirft.rewards import prompts
from minirft.rewards.answers import Detections, parse_detection
from minirft.samples import Sample

PICTURE = Image.new("RGB", (8, 8))
LEFT, RIGHT, FAR = [100, 100, 300, 300], [500, 100, 700, 300], [800, 800, 900, 900]


def query(true_boxes, category="cat", name="0"):
    return Sample(name, PICTURE, "detection", "?", prompts.detection_solution(true_boxes), category)


def answer(*boxes, think="a look"):
    """A well-formed detection answer; boxes are (box, confidence)."""
    items = ", ".join(f"{{'Position': {list(box)}, 'Confidence': {confidence}}}" for box, confidence in boxes)
    return f"<think>{think}</think> <answer>{f'[{items}]' if items else 'No Objects'}</answer>"


def score(completions, samples, **options):
    return metrics("detection", completions, samples, **{"resamples": 0, **options})


# ------------------------------------------------------------------ by hand


def test_detection_by_hand():
    """Catches a wrong denominator, an unmatched box counted as matched, or an abstention counted on the wrong side."""
    samples = [query([LEFT, RIGHT]), query([LEFT]), query([]), query([])]
    half = [100, 100, 300, 220]  # 60 % of LEFT, and nothing else
    completions = [answer((LEFT, 0.95), (FAR, 0.25)), answer((half, 0.85)), answer(), answer((FAR, 0.75))]
    got = score(completions, samples)
    # ranking: hit .95, hit .85 (IoU .6), miss .75, miss .25; three truths, so recall stops at 2/3 (67 of 101 points)
    assert got["ap50"] == pytest.approx(67 / 101)
    assert got["ap75"] == pytest.approx(34 / 101)  # the second is no hit at .75: recall 1/3, points 0 ... .33
    assert got["ap"] == pytest.approx((3 * 67 + 7 * 34) / 10 / 101)  # IoU .6 hits at .50, .55, .60
    assert got["recall"] == pytest.approx(2 / 3)
    assert got["precision"] == pytest.approx(2 / 4)
    assert got["mean_iou"] == pytest.approx((1 / 2 + 0.6) / 2)
    assert got["boxes_per_image"] == 1.0
    assert got["ece"] == pytest.approx((0.05 + 0.15 + 0.75 + 0.25) / 4)
    assert got["auc"] == 1.0
    assert got["abstention"] == 0.5
    assert got["false_abstention"] == 0.0
    assert got["parse_rate"] == 1.0
    assert got["n"] == 4


def test_macro_is_over_categories_with_a_truth():
    """Catches a macro mean that counts a category without a truth as 0, or averages over queries."""
    samples = [query([LEFT], "cat"), query([LEFT], "cat"), query([LEFT], "dog"), query([], "cow")]
    completions = [answer((LEFT, 0.9)), answer((LEFT, 0.8)), answer((FAR, 0.7)), answer((FAR, 0.95))]
    got = score(completions, samples)
    assert got["ap50"] == pytest.approx((1 + 0) / 2)
    # pooled: miss, hit, hit, miss with 3 truths: precision 1/2, then 2/3, up to recall 2/3
    assert got["ap50_pooled"] == pytest.approx(67 * (2 / 3) / 101)


def test_malformed_boxes_count_as_predictions():
    """Catches an inverted box that is free: it has no place in AP but costs precision, mean IoU and the count."""
    got = score([answer((LEFT, 0.9), ([300, 300, 100, 100], 0.9))], [query([LEFT])])
    assert (got["precision"], got["mean_iou"], got["boxes_per_image"]) == (0.5, 0.5, 2.0)
    assert got["ap50"] == pytest.approx(1)


def test_a_missed_object_costs_mean_iou():
    """Catches a denominator of predictions alone, which pays for leaving objects out."""
    assert score([answer((LEFT, 0.9))], [query([LEFT, RIGHT])])["mean_iou"] == 0.5


def test_unparsable_answer_is_no_abstention():
    """Catches silence by mistake being paid as a right abstention."""
    got = score(["<think>hm</think> <answer>[{'Posi", "No Objects"], [query([]), query([])])
    assert (got["abstention"], got["parse_rate"]) == (0.0, 0.0)


def test_boxes_without_reasoning_are_read_but_not_well_formed():
    """Catches a parse rate that forgives missing tags, or an AP that does not read the boxes all the same."""
    got = score(["<answer>[{'Position': [100, 100, 300, 300], 'Confidence': 0.9}]</answer>"], [query([LEFT])])
    assert (got["parse_rate"], got["ap50"]) == (0.0, pytest.approx(1))


def test_undefined_metrics_are_none_and_json_ready():
    """Catches NaN in summary.json, which no JSON reader has to accept."""
    got = score([answer()], [query([])], resamples=20)
    assert [got[name] for name in ("ap", "ap50", "recall", "precision", "mean_iou", "ece", "auc")] == [None] * 7
    assert not {"auc", "abstention"} & set(got["ci"])  # not defined; the same on every resample
    json.dumps(got, allow_nan=False)


def test_duplicate_is_a_false_box():
    """Catches two predictions matched to one object."""
    got = score([answer((LEFT, 0.9), (LEFT, 0.8))], [query([LEFT])])
    assert (got["recall"], got["precision"], got["mean_iou"]) == (1.0, 0.5, 0.5)


def labelled(name, task="classification"):
    return Sample("0", PICTURE, task, "?", f"<answer>{name}</answer>", name)


def test_classification_by_hand():
    """Catches the released rule, by which an empty or shortened label is right, leaking into the accuracy."""
    texts = ["737_300", "737", "", "a 737-300 jet", "cessna"]
    completions = [f"<think>wings</think> <answer>{text}</answer>" for text in texts]
    got = metrics("classification", completions, [labelled("737-300")] * 5, resamples=0)
    assert got == {"accuracy": 0.2, "accuracy_substring": 0.6, "parse_rate": 0.8, "n": 5, "ci": {}}
    # "737_300" loses its underscore but the truth keeps its hyphen, so the released rule calls it wrong


def test_grounding_by_hand():
    """Catches a failure that is left out of the mean, and GIoU confused with IoU."""
    samples = [Sample("0", PICTURE, "grounding", "?", "<answer>(0,0),(100,100)</answer>")] * 3
    completions = [f"<think>x</think> <answer>{t}</answer>" for t in ("(0,0),(100,50)", "(200,0),(300,100)", "there")]
    got = metrics("grounding", completions, samples, resamples=0)
    assert got["box_iou"] == pytest.approx(0.5 / 3)
    assert got["giou"] == pytest.approx((0.5 - 1 / 3 - 1) / 3)
    assert (got["acc50"], got["parse_rate"]) == (pytest.approx(1 / 3), pytest.approx(2 / 3))


def test_presence_by_hand():
    """Catches "neither" taken for yes or for no."""
    samples = [labelled(truth, "presence") for truth in ("no", "no", "yes", "yes")]
    completions = [f"<think>x</think> <answer>{text}</answer>" for text in ("no", "perhaps", "perhaps", "Yes")]
    got = metrics("presence", completions, samples, resamples=0)
    assert (got["accuracy"], got["parse_rate"]) == (0.5, 0.5)


def test_metrics_refuse_empty_sets():
    """Catches metrics of nothing, and of answers that belong to other samples."""
    with pytest.raises(ValueError, match="0 for 0"):
        score([], [])
    with pytest.raises(ValueError, match="1 for 2"):
        score([""], [query([]), query([])])


# ------------------------------------------------------------------ oracles


def draw_world(rng, queries=40, categories=5, distinct=False):
    """Random queries and answers: hits, near misses, junk, duplicates, absences, crowds of boxes, broken texts."""
    samples, completions = [], []
    for q in range(queries):
        truth = []
        for _ in range(rng.integers(0, 4)):
            x, y, w, h = rng.integers(0, 600), rng.integers(0, 600), rng.integers(40, 400), rng.integers(40, 400)
            truth.append([int(x), int(y), int(x + w), int(y + h)])
        found = []
        for box in truth + truth[:1]:
            shifted = np.clip(np.array(box) + rng.integers(-60, 61, 4), 0, 1000).tolist()
            if shifted[0] < shifted[2] and shifted[1] < shifted[3] and rng.random() < 0.8:
                found.append((shifted, round(float(rng.random()), 6 if distinct else 1)))
        if rng.random() < 0.3:
            found.append((FAR, round(float(rng.random()), 6 if distinct else 1)))
        samples.append(query(truth, f"c{rng.integers(categories)}", str(q)))
        completions.append("<answer>[{" if rng.random() < 0.1 else answer(*found))
    return completions, samples


def through_json(folder, completions, samples):
    """What a user of pycocotools does: two JSON files, an image per query, a category per name."""
    names = sorted({sample.category for sample in samples})
    truth = {"images": [], "annotations": [], "categories": [{"id": k + 1, "name": n} for k, n in enumerate(names)]}
    results = []
    for q, (text, sample) in enumerate(zip(completions, samples, strict=True), start=1):
        truth["images"].append({"id": q, "width": 1000, "height": 1000})
        where = {"image_id": q, "category_id": names.index(sample.category) + 1}
        for x1, y1, x2, y2 in parse_detection(sample.solution).boxes.tolist():
            place = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
            truth["annotations"].append({"id": len(truth["annotations"]) + 1, **where, **place})
        found = parse_detection(text)
        if isinstance(found, Detections):
            for (x1, y1, x2, y2), c in zip(found.boxes.tolist(), found.confidence.tolist(), strict=True):
                results.append({**where, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": c})
    (folder / "truth.json").write_text(json.dumps(truth))
    (folder / "results.json").write_text(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(folder / "truth.json")
        run = COCOeval(coco, coco.loadRes(str(folder / "results.json")), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run.stats


@pytest.mark.parametrize("seed", range(5))
def test_ap_is_cocoeval_through_json_files(tmp_path, seed):
    """Catches any departure from COCOeval: id 0, order of ties, swapped width and height, the mean over categories."""
    completions, samples = draw_world(np.random.default_rng(seed))
    got, expected = score(completions, samples), through_json(tmp_path, completions, samples)
    assert [got["ap"], got["ap50"], got["ap75"]] == pytest.approx(expected[:3], abs=1e-12)
    one_category = [query(parse_detection(s.solution).boxes, "thing", s.id) for s in samples]
    pooled = through_json(tmp_path, completions, one_category)
    assert got["ap50_pooled"] == pytest.approx(pooled[1], abs=1e-12)


def test_more_than_100_boxes_are_cut_as_coco_does(tmp_path):
    """Catches a box count without limit: COCO scores the 100 surest only."""
    junk = [([i, 0, i + 1, 1], 0.5) for i in range(120)]
    completions, samples = [answer(*junk, (LEFT, 0.1))], [query([LEFT])]
    assert score(completions, samples)["ap50"] == 0.0 == through_json(tmp_path, completions, samples)[1]


def test_weights_are_repeated_queries(tmp_path):
    """Catches a bootstrap that weighs boxes but not truths: weight w must equal the query copied w times."""
    rng = np.random.default_rng(7)
    completions, samples = draw_world(rng, queries=25, categories=1)
    times = rng.integers(0, 4, len(samples))
    copies = np.repeat(np.arange(len(samples)), times)
    expected = through_json(tmp_path, [completions[i] for i in copies], [samples[i] for i in copies])[1]
    empty = Detections(np.zeros((0, 4)), np.zeros(0))
    found = [f if isinstance(f, Detections) else empty for f in map(parse_detection, completions)]
    truth = [parse_detection(sample.solution) for sample in samples]
    ranked = rank_boxes(found, truth)
    truths = np.array([float(sum(w * len(t) for w, t in zip(times, truth, strict=True)))])
    got = average_precision(ranked.hit[0], times[None, ranked.query].astype(float), truths)
    assert got[0] == pytest.approx(expected, abs=1e-12)


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.2, 0.55, 0.9, 1.0]), st.booleans()), min_size=2, max_size=40))
def test_auc_is_mann_whitney(rows):
    """Catches ties that count as wins, and hits ranked against themselves."""
    confidence, hit = np.array([c for c, _ in rows]), np.array([h for _, h in rows])
    got = ranking_auc(confidence, hit, np.ones((1, len(rows))))[0]
    if hit.all() or not hit.any():
        assert np.isnan(got)
    else:
        expected = mannwhitneyu(confidence[hit], confidence[~hit]).statistic / (hit.sum() * (~hit).sum())
        assert got == pytest.approx(expected)


@given(st.lists(st.tuples(st.integers(0, 100), st.booleans(), st.integers(1, 3)), min_size=1, max_size=40))
def test_calibration_error_by_loop(rows):
    """Catches a bin edge on the wrong side (0.7 x 10 is not 7 in floats) and bins that are not weighed."""
    confidence, hit = np.array([c for c, _, _ in rows]) / 100, np.array([h for _, h, _ in rows])
    weight = np.array([w for _, _, w in rows], dtype=float)
    expected = 0.0
    for k in range(10):
        inside = np.array([min(c // 10, 9) == k for c, _, _ in rows])
        if inside.any():
            mean = np.average(hit[inside], weights=weight[inside]) - np.average(
                confidence[inside], weights=weight[inside]
            )
            expected += weight[inside].sum() / weight.sum() * abs(mean)
    assert calibration_error(confidence, hit, weight[None])[0] == pytest.approx(expected)


def test_interval_covers_a_known_mean():
    """Catches intervals of the wrong level: for a plain mean, bootstrap is close to mean ± 1.96 standard errors."""
    rng = np.random.default_rng(0)
    right = rng.random(400) < 0.3
    completions = [f"<think>x</think> <answer>{'yes' if r else 'no'}</answer>" for r in right]
    got = metrics("presence", completions, [labelled("yes", "presence")] * 400, resamples=2000)
    error = 1.96 * np.sqrt(right.mean() * (1 - right.mean()) / 400)
    assert got["ci"]["accuracy"] == pytest.approx([right.mean() - error, right.mean() + error], abs=0.005)


def test_resamples_are_the_same_each_time():
    """Catches hidden randomness: the same answers get the same interval, which holds the number itself."""
    completions, samples = draw_world(np.random.default_rng(0))
    first, again = (score(completions, samples, resamples=50) for _ in range(2))
    assert first["ci"] == again["ci"]
    low, high = first["ci"]["ap50_pooled"]
    assert low <= first["ap50_pooled"] <= high


def test_an_interval_that_would_not_hold_the_truth_is_not_given():
    """Catches an interval of a mean over categories (held the truth in 0 to 60% of simulations), or [1, 1]."""
    got = score(*draw_world(np.random.default_rng(0)), resamples=20)
    assert "recall" in got["ci"] and not {"ap", "ap50", "ap75"} & set(got["ci"])
    found = score([answer((LEFT, 0.9)), answer((RIGHT, 0.5))], [query([LEFT]), query([LEFT])], resamples=20)
    assert "recall" in found["ci"] and found["parse_rate"] == 1 and "parse_rate" not in found["ci"]


def test_300_queries_of_80_categories_take_seconds():
    """Catches re-matching in every resample, which takes minutes."""
    completions, samples = draw_world(np.random.default_rng(0), queries=300, categories=80)
    start = time.process_time()
    score(completions, samples, resamples=200)
    assert time.process_time() - start < 3


# ------------------------------------------------------------------ invariances


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31))
def test_order_of_queries_does_not_matter(seed):
    """Catches answers that slip against their samples.  Confidences are distinct: with ties COCO depends on order."""
    rng = np.random.default_rng(seed)
    completions, samples = draw_world(rng, queries=12, distinct=True)
    order = rng.permutation(len(samples))
    a, b = score(completions, samples), score([completions[i] for i in order], [samples[i] for i in order])
    assert a.pop("ci") == b.pop("ci") == {}
    assert a == pytest.approx(b)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31))
def test_an_unparsable_answer_to_an_absent_query_costs_only_what_it_should(seed):
    """Catches broken text that moves the box metrics of the other queries."""
    completions, samples = draw_world(np.random.default_rng(seed), queries=8)
    a, b = score(completions, samples), score([*completions, "<answer>[{"], [*samples, query([], "c0")])
    changed = {name for name in a if name != "ci" and a[name] != pytest.approx(b[name])}
    assert changed <= {"parse_rate", "boxes_per_image", "abstention", "n"}
    assert b["parse_rate"] < a["parse_rate"] or a["parse_rate"] == 0


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.3, 3))
def test_ap_depends_on_the_order_of_confidence_alone(seed, power):
    """Catches confidence used as a weight: c -> c^power keeps the ranking, so AP and AUC, but not ECE."""
    rng = np.random.default_rng(seed)
    boxes = [([i * 50, 0, i * 50 + 40, 40], float(c)) for i, c in enumerate(rng.permutation(10) / 10 + 0.05)]
    samples = [query([box for box, _ in boxes[:6]]), query([])]
    texts = [answer(*boxes[:8]), answer(*boxes[8:])]
    powered = [answer(*[(b, c**power) for b, c in part]) for part in (boxes[:8], boxes[8:])]
    a, b = score(texts, samples), score(powered, samples)
    assert [a[k] for k in ("ap", "auc", "recall")] == pytest.approx([b[k] for k in ("ap", "auc", "recall")])

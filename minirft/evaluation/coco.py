"""This module converts answers to COCO results, which pycocotools loads and from which LVIS's AP is computed."""

from collections.abc import Iterator, Sequence
from typing import Any

from minirft.data import category_names
from minirft.rewards import MODEL, Detections, convert, normalise, parse, pixels
from minirft.samples import Sample

Row = dict[str, Any]


def coco_results(texts: Sequence[str], samples: Sequence[Sample], annotations: Row) -> Iterator[Row]:
    """Yield one row for each readable box, in pixels of the picture on disk, with the ids of `annotations`.

    >>> from pathlib import Path
    >>> sample = Sample("7:cat", Path("7.jpg"), "detection", "?", "<answer>No Objects</answer>", "cat")
    >>> size = {"id": 7, "width": 200, "height": 100}
    >>> text = "<think></think><answer>[{'Position': [100, 0, 500, 500], 'Confidence': 0.5}]</answer>"
    >>> tables = {"images": [size], "categories": [{"id": 3, "name": "cat"}], "annotations": []}
    >>> list(coco_results([text], [sample], tables))
    [{'image_id': 7, 'category_id': 3, 'bbox': [20.0, 0.0, 80.0, 50.0], 'score': 0.5}]
    """
    pictures = {str(row["id"]): row for row in annotations["images"]}
    categories = {name: number for number, name in category_names(annotations, "the annotations").items()}
    for text, sample in zip(texts, samples, strict=True):
        answer, picture = parse("detection", text), pictures[sample.id.split(":", 1)[0]]
        if not isinstance(answer, Detections):
            continue
        frame = sample.exact.frame if sample.exact else pixels(picture["width"], picture["height"])
        boxes = convert(answer.boxes, MODEL, frame).tolist()
        names = {normalise(name): name for name in sample.asked}
        labels = [names.get(normalise(label)) for label in answer.labels] if names else [sample.category] * len(boxes)
        for (x1, y1, x2, y2), score, name in zip(boxes, answer.confidence.tolist(), labels, strict=False):
            if name is not None:  # None: a label that the question does not name
                place = {"image_id": picture["id"], "category_id": categories[name]}
                yield {**place, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}

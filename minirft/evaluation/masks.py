"""A segmenter turns the answered box into a mask, and this module compares it with the true mask.

Table 6 of the paper reports gIoU of masks beside the IoU of boxes.  Any callable that takes a picture and a box is a
segmenter: `Sam`, or `minirft.tiny.silhouettes.segment` on the tiny world.  The metrics are LISA's (arXiv 2308.00692),
as functions of query weights like those of `minirft.evaluation.scores`, so an interval needs no second segmentation.

Deviations from the paper: the true mask covers all targets without the ignored region, as in LISA, not the first
polygon; cIoU is reported beside gIoU; an answer that is no box gets an empty mask.  LISA adds 1e-5 to each union; we do
not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from minirft import UserError, as_user_error
from minirft.evaluation.measures import divide
from minirft.evaluation.resampling import Statistic, intervals, resampled
from minirft.evaluation.scores import check_pairs
from minirft.rewards import MODEL, Array, ParseFailure, convert, parse, pixels
from minirft.samples import Sample

Mask = NDArray[np.bool_]  # (height, width)
Segmenter = Callable[[Image.Image, Array], Mask]  # picture, box in its pixels (4,) -> mask of the picture's size
Truth = Callable[[Sample], tuple[Mask, Mask]]  # sample -> the true mask, and the mask of ignored pixels


def mask_metrics(
    completions: Sequence[str], samples: Sequence[Sample], segment: Segmenter, truth: Truth, **options: Any
) -> dict[str, Any]:
    """Compute both metrics, ready for JSON: {"mask_giou": ..., "mask_ciou": ..., "ci": {name: [low, high]}}.

    The intervals use the same resamples as those of `metrics`.  `options` and errors are those of `mask_scores`.
    """
    values, draws = mask_scores(completions, samples, segment, truth, **options)
    return values | {"ci": intervals(draws)}


def mask_scores(
    completions: Sequence[str],
    samples: Sequence[Sample],
    segment: Segmenter,
    truth: Truth,
    *,
    resamples: int = 200,
    progress: bool = False,
) -> tuple[dict[str, float | None], dict[str, Array]]:
    """Compute both metrics on all samples, and on resamples of them, {metric: (resamples,)}, as `scores.bootstrap`.

    The resamples are the same as those of `scores.bootstrap`.  Raises `ValueError` when the lengths differ or are 0.
    """
    check_pairs(completions, samples)
    statistic = mask_statistic(*mask_overlaps(completions, samples, segment, truth, progress=progress))
    return resampled(statistic, len(samples), resamples)


def mask_statistic(intersections: Array, unions: Array) -> Statistic:
    """Make LISA's two metrics of Q samples as functions of query weights w, (R, Q) -> (R,); both arguments are (Q,).

    mask_giou   mean over samples of I / U, and 1 where both masks are empty: Σ w I/U / Σ w
    mask_ciou   intersections over unions of all samples, Σ w I / Σ w U: large objects weigh more; NaN if all is empty

    The generalised IoU of boxes, `giou` in `scores.grounding`, is another quantity.

    >>> values = mask_statistic(np.array([1.0, 30.0]), np.array([2.0, 40.0]))(np.ones((1, 2)))
    >>> {name: value.round(3).tolist() for name, value in values.items()}
    {'mask_giou': [0.625], 'mask_ciou': [0.738]}
    """
    single = np.where(unions > 0, intersections / np.maximum(unions, 1), 1.0)

    def statistic(weights: Array) -> dict[str, Array]:
        means = weights @ single / weights.sum(1)
        return {"mask_giou": means, "mask_ciou": divide(weights @ intersections, weights @ unions)}

    return statistic


def mask_overlaps(
    completions: Sequence[str], samples: Sequence[Sample], segment: Segmenter, truth: Truth, *, progress: bool = False
) -> tuple[Array, Array]:
    """Count the pixels in the intersection and the union of each sample's two masks, without ignored ones: (Q,), (Q,).

    Each answer's box is converted from the model's 0-1000 frame to pixels of the picture for the segmenter.
    Raises `ValueError` when a mask and the true mask differ in size.
    """
    counts = []
    pairs = zip(completions, samples, strict=True)
    for text, sample in tqdm(pairs, total=len(samples), disable=not progress, unit="mask", dynamic_ncols=True):
        true, ignored = truth(sample)
        box, picture = parse("grounding", text), sample.picture()
        if isinstance(box, ParseFailure):
            found = np.zeros_like(true)
        else:
            found = segment(picture, convert(box, MODEL, pixels(*picture.size)))
        if found.shape != true.shape:
            raise ValueError(f"sample {sample.id}: the mask found is {found.shape}, the true one {true.shape}")
        counts.append([(found & true & ~ignored).sum(), ((found | true) & ~ignored).sum()])
    intersections, unions = np.array(counts, dtype=np.float64).reshape(-1, 2).T
    return intersections, unions


class Sam:
    """`Sam` is a segmenter: Segment Anything (arXiv 2304.02643) from transformers.

    The paper uses ViT-H, facebook/sam-vit-huge.  A box is an unambiguous prompt, so we use the decoder's single mask,
    as SAM's authors advise.  It computes in float32: 2.6 GB of weights for ViT-H.  Raises `UserError` when `source`, a
    folder or a name, is no SAM that loads.
    """

    def __init__(self, source: str | Path, device: str | torch.device = "cpu") -> None:
        from transformers import SamModel, SamProcessor

        message = f"no SAM loads from {source} ({{why}}); name a folder of one, or facebook/sam-vit-huge"
        with as_user_error(message, Exception):  # no folder, no network, another model's config, torn weights
            self.processor = SamProcessor.from_pretrained(source)
            model, report = SamModel.from_pretrained(source, use_safetensors=True, output_loading_info=True)
        if report["missing_keys"]:
            raise UserError(f"{source} lacks SAM's weight {min(report['missing_keys'])}; name the folder of a SAM")
        self.model = model.to(device).eval()

    @torch.no_grad()
    def __call__(self, picture: Image.Image, box: Array) -> Mask:
        """Segment the object in a box: a mask (height, width); `box` is (4,) xyxy in pixels of the picture."""
        corners = [[np.asarray(box, dtype=np.float64).tolist()]]
        inputs = self.processor(picture.convert("RGB"), input_boxes=corners, return_tensors="pt")
        device = self.model.device
        found = self.model(
            pixel_values=inputs["pixel_values"].to(device, torch.float32),
            input_boxes=inputs["input_boxes"].to(torch.float32).to(device),
            multimask_output=False,
        )
        masks = self.processor.post_process_masks(
            found.pred_masks.cpu(), inputs["original_sizes"], inputs["reshaped_input_sizes"]
        )
        return masks[0][0, 0].numpy()

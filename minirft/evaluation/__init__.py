"""Evaluation turns answers into numbers with intervals: average precision, accuracy, mask overlap, calibration."""

from typing import TYPE_CHECKING

from minirft import lazily

if TYPE_CHECKING:
    from minirft.evaluation.coco import coco_results
    from minirft.evaluation.lvis import lvis_metrics
    from minirft.evaluation.masks import Sam, mask_metrics, mask_overlaps, mask_scores, mask_statistic
    from minirft.evaluation.measures import AT_50, BINS, calibration_error, rank_boxes, ranking_auc
    from minirft.evaluation.scores import bootstrap, by_category, confidence_levels, metrics

__getattr__, __all__ = lazily(__name__)

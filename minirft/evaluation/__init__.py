"""Evaluation: answers become numbers, average precision, accuracy, overlap of masks, calibration, with intervals."""

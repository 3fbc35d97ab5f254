"""A box belongs to a frame, and this module converts boxes between frames; `detection` overlaps and matches them.

Boxes are float `xyxy` with y pointing down and no "+1": the box [0, 0, 2, 2] has area 4.  A `Frame` is the size of the
coordinate system; the models answer in `MODEL`, 0-1000 along both axes.  IoU does not change when an axis is rescaled,
so rewards stay in the model frame.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minirft.samples import Frame

Array = NDArray[np.float64]

MODEL = Frame("model", 1000, 1000)


def pixels(width: float, height: float) -> Frame:
    """Make the frame of a picture of `width` x `height` pixels.

    >>> pixels(640, 480)
    Frame(name='pixels', width=640, height=480)
    """
    return Frame("pixels", width, height)


def convert(xyxy: ArrayLike, source: Frame, target: Frame) -> Array:
    """Convert boxes (..., 4) from one frame to the units of another; each axis is scaled separately.

    Nothing is rounded or clipped.  Raises `ValueError` when the last axis is not 4.

    >>> convert([[32, 24, 64, 48]], pixels(64, 48), MODEL).tolist()
    [[500.0, 500.0, 1000.0, 1000.0]]
    """
    boxes = np.asarray(xyxy, dtype=np.float64)
    if boxes.shape[-1:] != (4,):
        raise ValueError(f"boxes end in an axis of 4 (x1, y1, x2, y2), got shape {boxes.shape}")
    x, y = target.width / source.width, target.height / source.height
    return boxes * np.array([x, y, x, y])

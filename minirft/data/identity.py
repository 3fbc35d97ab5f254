"""Which picture a sample is about: the picture itself, not the file or the row that holds it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image

from minirft.samples import Sample, UserError


def picture_digest(image: Any) -> bytes:
    """16 bytes, equal for pictures whose stored bytes are equal; of a picture only in memory, for equal pixels.

    A file is read once for each path, size and time of change.  Raises `UserError` for a file that is not there.

    >>> picture_digest(Image.new("RGB", (4, 3))) == picture_digest(Image.new("RGB", (4, 3)))
    True
    """
    if isinstance(image, Image.Image):
        return _digest(f"{image.mode} {image.size}".encode() + image.tobytes())
    if not isinstance(image, Path):  # a row of a table, which keeps its own place for whoever reads on
        image.seek(0)
        stored = image.read()
        image.seek(0)
        return _digest(stored)
    try:
        known = image.stat()
        return _of_file(image, known.st_size, known.st_mtime_ns)
    except OSError as error:
        raise UserError(f"{image} cannot be read ({error.strerror}); check the data settings") from None


def without_pictures_of(samples: Iterable[Sample], others: Iterable[Sample]) -> list[Sample]:
    """Those of `samples` that are about no picture of `others`, in their order."""
    seen = {picture_digest(image) for image in {id(s.image): s.image for s in others}.values()}
    return [sample for sample in samples if picture_digest(sample.image) not in seen]


@lru_cache(maxsize=1 << 20)
def _of_file(path: Path, size: int, changed: int) -> bytes:
    return _digest(path.read_bytes())


def _digest(stored: bytes) -> bytes:
    return hashlib.blake2b(stored, digest_size=16).digest()

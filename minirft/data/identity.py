"""This module compares pictures by their content, so that copies under different names count as one picture."""

import hashlib
from collections import Counter
from collections.abc import Hashable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image

from minirft.samples import Sample


def picture_digest(image: Any) -> bytes:
    """Return a digest of 16 bytes of the stored bytes, or of the pixels of a picture that exists only in memory.

    A file is read once for each path, size and time of change.

    >>> picture_digest(Image.new("RGB", (4, 3))) == picture_digest(Image.new("RGB", (4, 3)))
    True
    """
    if isinstance(image, Image.Image):
        return _digest(f"{image.mode} {image.size}".encode() + image.tobytes())
    if not isinstance(image, Path):  # a row of a table
        return _digest(image.read_bytes())
    known = image.stat()
    return _of_file(image, known.st_size, known.st_mtime_ns)


def picture_keys(samples: Iterable[Sample]) -> list[Hashable]:
    """Return one key for each sample: two keys are equal if and only if the pictures are equal.

    Files of different sizes differ, so only files that share their size with another are read.  The key of a missing
    file is its path.

    >>> of_paths = [Sample(name, Path(name), "presence", "?", "") for name in ("a.png", "b.png", "a.png")]
    >>> first, second, third = picture_keys(of_paths)
    >>> first == third, first == second
    (True, False)
    """
    images = [sample.image for sample in samples]
    paths = {image for image in images if isinstance(image, Path)}
    sizes = {path: path.stat().st_size for path in paths if path.is_file()}
    shared = Counter(sizes.values())
    return [
        image if isinstance(image, Path) and shared[sizes.get(image)] < 2 else picture_digest(image) for image in images
    ]


def without_pictures_of(samples: Iterable[Sample], others: Iterable[Sample]) -> list[Sample]:
    """Return the `samples` whose picture occurs in none of `others`, in their order."""
    samples, others = list(samples), list(others)
    keys = picture_keys([*others, *samples])
    seen = set(keys[: len(others)])
    return [sample for sample, key in zip(samples, keys[len(others) :], strict=True) if key not in seen]


@lru_cache(maxsize=1 << 20)
def _of_file(path: Path, size: int, changed: int) -> bytes:
    return _digest(path.read_bytes())


def _digest(stored: bytes) -> bytes:
    return hashlib.blake2b(stored, digest_size=16).digest()

"""This module converts all kinds of pictures to 8-bit RGB: rotated by a camera, 16 bits deep, transparent, animated.

a picture that is            becomes
marked as rotated (EXIF)     upright, only if `upright` is set, because boxes may have been drawn on either version
16 bits per pixel            8 bits: v * 255 / 65535
transparent                  opaque on white
animated                     its first frame
"""

import importlib
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from minirft.pictures.kinds import kind_of_file

TURNED, ORIENTATION = range(5, 9), 0x0112  # EXIF: the values of quarter turns; their tag
# Pillow's errors for a damaged file, a file that is no picture, and a decompression bomb.
UNREADABLE = (UnidentifiedImageError, OSError, ValueError, SyntaxError, TypeError, Image.DecompressionBombError)


def to_rgb(picture: Image.Image, upright: bool = False) -> Image.Image:
    """Convert a picture to 8-bit RGB; `upright` applies the rotation that a camera stored in EXIF.

    Raises `ValueError` for pixels without a meaning as brightness, such as heights in metres.

    >>> to_rgb(Image.new("I;16", (1, 1), 32896)).getpixel((0, 0)), to_rgb(Image.new("LA", (1, 1))).getpixel((0, 0))
    ((128, 128, 128), (255, 255, 255))
    """
    if upright:
        picture = ImageOps.exif_transpose(picture)
    if picture.mode[0] in "IF":
        picture = _eight_bits(picture)
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return picture.convert("RGB")


def size_of(picture: Image.Image, upright: bool = False) -> tuple[int, int]:
    """Return width and height of the result of `to_rgb`, from the header alone."""
    width, height = picture.size
    return (height, width) if upright and orientation(picture) in TURNED else (width, height)


def orientation(picture: Image.Image) -> int:
    """Return the EXIF orientation from the header alone: 2 to 8 if it is rotated or mirrored, 1 if not."""
    if picture.format == "PNG" and "exif" not in picture.info:  # Pillow would decode all pixels to search behind them
        return 1
    try:
        value = int(picture.getexif().get(ORIENTATION, 1))
    except (ValueError, TypeError, SyntaxError, OSError):  # damaged EXIF
        return 1
    return value if value in range(2, 9) else 1


def habits(picture: Image.Image) -> list[str]:
    """List the unusual properties of a picture, for one note to the user.

    >>> habits(Image.new("RGBA", (1, 1)))
    ['pictures with transparency, laid on white']
    """
    found = []
    if picture.mode[0] in "IF":
        found.append("pictures of more than 8 bits a pixel, scaled to 8")
    if picture.has_transparency_data:
        found.append("pictures with transparency, laid on white")
    if getattr(picture, "is_animated", False) and picture.format != "MPO":  # a phone's JPEG with a small copy inside
        found.append("pictures with several frames, of which the first is taken")
    return found


def _eight_bits(picture: Image.Image) -> Image.Image:
    values: Any = np.asarray(picture).astype(np.float64)
    low, high = (values.min(), values.max()) if values.size else (0, 0)
    kind, largest = ("decimal", 1) if picture.mode == "F" else ("whole", 65535)
    if not 0 <= low <= high <= largest:
        raise ValueError(f"its pixels are {kind} numbers from {low:g} to {high:g}; save it with 8 bits")
    scale = 1 if picture.mode == "I" and high <= 255 else 255 / largest
    return Image.fromarray(np.rint(values * scale).astype(np.uint8))


def open_picture(source: Any) -> Image.Image:
    """Open a path, or an object with `read_bytes`; HEIC needs the extra `heic`.

    Raises the errors of `Image.open`, and `ValueError` for a HEIC picture without that extra.
    """
    try:
        return Image.open(source if isinstance(source, str | Path) else io.BytesIO(source.read_bytes()))
    except Image.UnidentifiedImageError:
        if not isinstance(source, Path) or kind_of_file(source) != "a HEIC picture":
            raise
    try:
        importlib.import_module("pillow_heif").register_heif_opener()
    except ImportError:
        raise ValueError('it is a HEIC picture: pip install "minirft[heic]" reads it, or save it as JPEG') from None
    return Image.open(source)

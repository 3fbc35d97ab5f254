"""Pictures: a file becomes 8-bit RGB, however a camera, a scanner or a phone wrote it."""

from typing import TYPE_CHECKING

from minirft import lazily

if TYPE_CHECKING:
    from minirft.pictures.opening import (
        ASPECT,
        MARKED,
        SUFFIXES,
        TURNED,
        UNREADABLE,
        habits,
        kind_of_file,
        open_picture,
        orientation,
        size_of,
        to_rgb,
    )

__getattr__, __all__ = lazily(__name__)

"""This room opens picture files from cameras, scanners and phones as 8-bit RGB."""

from typing import TYPE_CHECKING

from minirft import lazily

if TYPE_CHECKING:
    from minirft.pictures.opening import (
        SUFFIXES,
        UNREADABLE,
        habits,
        kind_of_file,
        open_picture,
        orientation,
        size_of,
        to_rgb,
    )

__getattr__, __all__ = lazily(__name__)

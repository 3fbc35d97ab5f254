"""This room opens picture files from cameras, scanners and phones as 8-bit RGB."""

from typing import TYPE_CHECKING

from minirft import lazily

if TYPE_CHECKING:
    from minirft.pictures.kinds import SUFFIXES, kind_of_file
    from minirft.pictures.opening import UNREADABLE, habits, open_picture, orientation, size_of, to_rgb

__getattr__, __all__ = lazily(__name__)

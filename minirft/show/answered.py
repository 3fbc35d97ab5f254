"""A drawing of one answer on its picture, in the picture's pixels: boxes, confidences, and a line of text below."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont

from minirft.show.style import INK, PAPER, VERMILION

Letters = ImageFont.FreeTypeFont
SMALLEST = 448  # pixels of the longer side below which a picture is enlarged by a whole number
MAX_DRAWN = 50  # boxes; more would hide the picture


def drawn_answer(
    picture: Image.Image, boxes: Sequence[Sequence[float]], confidence: Sequence[float] = (), line: str = ""
) -> Image.Image:
    """Draw boxes, xyxy in pixels, with their confidences on a picture, and `line` on a strip below it.

    A picture of less than 448 pixels is enlarged, so that the words are readable.

    >>> drawn_answer(Image.new("RGB", (100, 50)), [[10, 10, 40, 40]], [0.9]).size
    (500, 250)
    """
    times = max(1, -(-SMALLEST // max(picture.size)))
    shown = picture.convert("RGB").resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
    letters = _letters(max(13, min(shown.size) // 28))
    below = round(1.6 * letters.size) + 6 if line else 0
    sheet = Image.new("RGB", (shown.width, shown.height + below), PAPER)
    sheet.paste(shown)
    pen, width = ImageDraw.Draw(sheet), max(2, max(shown.size) // 250)
    for n, box in enumerate(boxes[:MAX_DRAWN]):
        place = [times * side for side in box]
        pen.rectangle(place, outline="white", width=width + 2)
        pen.rectangle(place, outline=VERMILION, width=width)
        if n < len(confidence):
            _label(pen, place, f"{confidence[n]:.2f}", letters, shown.width)
    if line:
        pen.text((6, shown.height + 3), _fitting(pen, line, letters, shown.width - 12), fill=INK, font=letters)
    return sheet


def _label(
    pen: ImageDraw.ImageDraw, box: Sequence[float], text: str, letters: ImageFont.FreeTypeFont, wide: int
) -> None:
    """Write a label above the box if there is room, else inside it, and never beyond the right edge."""
    left, top, right, bottom = pen.textbbox((0, 0), text, font=letters)
    width, height = right - left + 6, bottom - top + 6
    x = max(0, min(box[0], wide - width))
    y = box[1] - height if box[1] >= height else box[1]
    pen.rectangle([x, y, x + width, y + height], fill=VERMILION)
    pen.text((x + 3 - left, y + 3 - top), text, fill="white", font=letters)


def _fitting(pen: ImageDraw.ImageDraw, line: str, letters: Letters, width: float) -> str:
    """Shorten a line to the width; a letter that the font does not have is drawn as a box."""
    line = " ".join(line.encode("utf-8", "replace").decode().split())[:200]
    while len(line) > 1 and pen.textlength(line, font=letters) > width:
        line = line[:-2].rstrip() + "…"
    return line


@lru_cache
def _letters(size: int) -> Letters:
    return ImageFont.truetype(findfont("DejaVu Sans"), size)  # this font comes with matplotlib

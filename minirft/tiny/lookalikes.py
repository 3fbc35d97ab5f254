"""Four families of look-alike classes make fine-grained classification possible on the tiny world.

The paper's four sets are flowers, pets, aircraft and cars.  Each family here has eight classes, which differ in two
or three visible features, such as the number and the form of petals.  Some car names contain others ("van", "van
sport"), as in Cars196: a metric that accepts substrings counts wrong answers as right here too.
"""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from minirft.tiny.scenes import SIDE, background

FAMILIES: dict[str, dict[str, list[str]]] = tomllib.loads(Path(__file__).with_name("families.toml").read_text("utf-8"))
"""Each family maps its classes to their features, which the careful annotator names."""
NUMBERS = {"four": 4, "five": 5, "six": 6, "eight": 8}
PAINTS = [(205, 60, 60), (235, 170, 50), (70, 150, 80), (60, 110, 200), (150, 80, 180), (230, 225, 215)]


def render_lookalike(family: str, name: str, seed: int) -> Image.Image:
    """Draw one member of a class, RGB, 112 x 112; colour, place, size and tilt vary with the seed.

    >>> render_lookalike("flower", "lily", 0).size
    (112, 112)
    """
    rng = np.random.default_rng(seed)
    scale = 4
    side = SIDE * scale
    layer = Image.new("RGBA", (side, side))
    paint = PAINTS[int(rng.integers(len(PAINTS)))]
    radius = side * rng.uniform(0.30, 0.42)
    draw = {"flower": _flower, "pet": _pet, "aircraft": _aircraft, "car": _car}[family]
    draw(Pen(ImageDraw.Draw(layer), side / 2, radius), FAMILIES[family][name], paint)
    layer = layer.rotate(rng.uniform(-12, 12), translate=tuple((rng.uniform(-0.08, 0.08, 2) * side).astype(int)))
    picture = background(rng, "plain").convert("RGBA")
    picture.alpha_composite(layer.resize((SIDE, SIDE), Image.Resampling.BOX))
    pixels = np.asarray(picture.convert("RGB")) + rng.normal(0, 6, (SIDE, SIDE, 1))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


Paint = tuple[int, int, int]
DARK: Paint = (35, 35, 40)


@dataclass(frozen=True)
class Pen:
    """A pen fills shapes, in units of a radius from the centre of the picture: x to the right, y downwards."""

    canvas: ImageDraw.ImageDraw
    centre: float
    radius: float

    def place(self, *numbers: float) -> tuple[float, ...]:
        """Return coordinates in pixels."""
        return tuple(self.centre + number * self.radius for number in numbers)

    def oval(self, x: float, y: float, wide: float, high: float, fill: Paint) -> None:
        """Fill an ellipse around (x, y) with these half axes."""
        self.canvas.ellipse(self.place(x - wide, y - high, x + wide, y + high), fill=fill)

    def box(self, x1: float, y1: float, x2: float, y2: float, fill: Paint) -> None:
        """Fill a rectangle."""
        self.canvas.rectangle(self.place(x1, y1, x2, y2), fill=fill)

    def polygon(self, points: Sequence[Sequence[float]], fill: Paint) -> None:
        """Fill a polygon."""
        self.canvas.polygon([self.place(*point) for point in points], fill=fill)


def _flower(pen: Pen, features: list[str], paint: Paint) -> None:
    count, form = features
    for angle in 2 * np.pi * np.arange(NUMBERS[count]) / NUMBERS[count] - np.pi / 2:
        tip = np.array([np.cos(angle), np.sin(angle)])
        side = np.array([-tip[1], tip[0]])
        if form == "round petals":
            pen.oval(*(tip * 0.66), 0.34, 0.34, paint)
        else:
            pen.polygon([tip, tip * 0.45 + side * 0.24, tip * 0, tip * 0.45 - side * 0.24], paint)
    pen.oval(0, 0, 0.24, 0.24, (250, 215, 60))


def _pet(pen: Pen, features: list[str], paint: Paint) -> None:
    ears, coat = features
    face = replace(pen, radius=pen.radius * 0.78)
    for side in (-1, 1):
        x = side * 0.72
        if ears == "pointed ears":
            face.polygon([(side * 0.95, -1.15 / 0.78), (x - 0.42, -0.5), (x + 0.3, -0.3)], paint)
        else:
            face.oval(x + side * 0.28, 0.05, 0.3, 0.75, DARK)
    face.oval(0, 0, 1, 1, paint)
    if coat == "spots":
        for x, y in [(-0.55, -0.1), (0.5, -0.3), (0.05, -0.65), (-0.35, 0.55), (0.45, 0.5)]:
            face.oval(x, y, 0.17, 0.17, DARK)
    elif coat == "stripes":
        for y in (-0.7, -0.45, 0.4, 0.65):
            half = np.sqrt(1 - y * y)
            face.box(-half, y - 0.07, half, y + 0.07, DARK)
    elif coat == "mask":
        face.oval(0, 0.35, 0.6, 0.55, DARK)
    for side in (-1, 1):
        face.oval(side * 0.36, -0.2, 0.13, 0.13, (250, 250, 120))


def _aircraft(pen: Pen, features: list[str], paint: Paint) -> None:
    wings, engines, tail = features
    sweep = 0.5 if wings == "swept wings" else 0.0
    pen.oval(0, 0, 0.13, 1, paint)
    for side in (-1, 1):
        root = side * 0.13 * 0.7
        pen.polygon([(root, -0.22), (side, sweep - 0.16), (side, sweep + 0.02), (root, 0.16)], paint)
        for place in (0.42, 0.75)[: 2 if engines == "four engines" else 1]:
            pen.oval(side * place, sweep * place - 0.2, 0.08, 0.13, DARK)
    end, colour = (0.98, DARK) if tail == "high tail" else (0.74, paint)
    pen.polygon([(-0.42, end), (0, end - 0.2), (0.42, end)], colour)


def _car(pen: Pen, features: list[str], paint: Paint) -> None:
    body, trim = features
    roofs = {
        "notched": [(-0.5, 0), (-0.3, -0.5), (0.3, -0.5), (0.5, 0)],
        "long roof": [(-0.95, 0), (-0.9, -0.5), (0.3, -0.5), (0.55, 0)],
        "sloping": [(-0.98, 0), (0.05, -0.5), (0.25, -0.5), (0.5, 0)],
        "tall": [(-1.0, 0), (-1.0, -0.95), (0.6, -0.95), (0.95, 0)],
    }
    pen.polygon(roofs[body], paint)
    pen.box(-1, -0.05, 1, 0.4, paint)
    if trim == "stripe":
        pen.box(-1, 0.1, 1, 0.22, DARK)
    for x in (-0.58, 0.58):
        pen.oval(x, 0.42, 0.2, 0.2, (15, 15, 15))

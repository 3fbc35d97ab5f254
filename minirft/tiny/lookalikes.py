"""Four families of look-alike classes, for fine-grained classification on the tiny world.

The paper's four sets are flowers, pets, aircraft and cars.  Each family here has eight classes, told
apart by two or three features that must be looked at: how many petals and of which form, and so on.  Some car
names contain others ("van", "van sport"), as they do in Cars196: a metric that accepts substrings will
be fooled here too.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from minirft.tiny.scenes import SIDE, background

_FILE = Path(__file__).with_name("families.toml")
FAMILIES: dict[str, dict[str, tuple[str, ...]]] = {
    family: {name: tuple(features) for name, features in classes.items()}
    for family, classes in tomllib.loads(_FILE.read_text(encoding="utf-8")).items()
}
"""Family -> class -> its features, which a careful annotator says aloud."""
NUMBERS = {"four": 4, "five": 5, "six": 6, "eight": 8}
PAINTS = [(205, 60, 60), (235, 170, 50), (70, 150, 80), (60, 110, 200), (150, 80, 180), (230, 225, 215)]


def render_lookalike(family: str, name: str, seed: int) -> Image.Image:
    """A picture of one member of a class, RGB, 112 x 112; paint, place, size and tilt vary with the seed.

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
    draw(ImageDraw.Draw(layer), FAMILIES[family][name], side / 2, radius, paint)
    layer = layer.rotate(rng.uniform(-12, 12), translate=tuple((rng.uniform(-0.08, 0.08, 2) * side).astype(int)))
    picture = background(rng, "plain").convert("RGBA")
    picture.alpha_composite(layer.resize((SIDE, SIDE), Image.Resampling.BOX))
    pixels = np.asarray(picture.convert("RGB")) + rng.normal(0, 6, (SIDE, SIDE, 1))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


Paint = tuple[int, int, int]
DARK: Paint = (35, 35, 40)


def _flower(canvas: ImageDraw.ImageDraw, features: tuple[str, ...], centre: float, radius: float, paint: Paint) -> None:
    count, form = features
    for angle in 2 * np.pi * np.arange(NUMBERS[count]) / NUMBERS[count] - np.pi / 2:
        tip = np.array([np.cos(angle), np.sin(angle)])
        side = np.array([-tip[1], tip[0]])
        if form == "round petals":
            middle, size = centre + tip * radius * 0.66, radius * 0.34
            canvas.ellipse((*(middle - size), *(middle + size)), fill=paint)
        else:
            points = [centre + tip * radius, centre + tip * radius * 0.45 + side * radius * 0.24]
            points += [centre + tip * 0, centre + tip * radius * 0.45 - side * radius * 0.24]
            canvas.polygon([tuple(point) for point in points], fill=paint)
    canvas.ellipse((*(2 * [centre - radius * 0.24]), *(2 * [centre + radius * 0.24])), fill=(250, 215, 60))


def _pet(canvas: ImageDraw.ImageDraw, features: tuple[str, ...], centre: float, radius: float, paint: Paint) -> None:
    ears, coat = features
    face = radius * 0.78
    for side in (-1, 1):
        x = centre + side * face * 0.72
        if ears == "pointed ears":
            tip = (centre + side * face * 0.95, centre - radius * 1.15)
            canvas.polygon(
                [tip, (x - face * 0.42, centre - face * 0.5), (x + face * 0.3, centre - face * 0.3)], fill=paint
            )
        else:
            middle = x + side * face * 0.28
            canvas.ellipse(
                (middle - face * 0.3, centre - face * 0.7, middle + face * 0.3, centre + face * 0.8), fill=DARK
            )
    canvas.ellipse((centre - face, centre - face, centre + face, centre + face), fill=paint)
    if coat == "spots":
        for x, y in [(-0.55, -0.1), (0.5, -0.3), (0.05, -0.65), (-0.35, 0.55), (0.45, 0.5)]:
            spot = face * 0.17
            middle_x, middle_y = centre + x * face, centre + y * face
            canvas.ellipse((middle_x - spot, middle_y - spot, middle_x + spot, middle_y + spot), fill=DARK)
    elif coat == "stripes":
        for y in (-0.7, -0.45, 0.4, 0.65):
            half = face * np.sqrt(1 - y * y)
            canvas.rectangle(
                (centre - half, centre + (y - 0.07) * face, centre + half, centre + (y + 0.07) * face), fill=DARK
            )
    elif coat == "mask":
        canvas.ellipse((centre - face * 0.6, centre - face * 0.2, centre + face * 0.6, centre + face * 0.9), fill=DARK)
    for side in (-1, 1):
        eye = face * 0.13
        x, y = centre + side * face * 0.36, centre - face * 0.2
        canvas.ellipse((x - eye, y - eye, x + eye, y + eye), fill=(250, 250, 120))


def _aircraft(
    canvas: ImageDraw.ImageDraw, features: tuple[str, ...], centre: float, radius: float, paint: Paint
) -> None:
    wings, engines, tail = features
    body, sweep = radius * 0.13, radius * (0.5 if wings == "swept wings" else 0.0)
    canvas.ellipse((centre - body, centre - radius, centre + body, centre + radius), fill=paint)
    for side in (-1, 1):
        root, tip = centre + side * body * 0.7, centre + side * radius
        canvas.polygon([(root, centre - radius * 0.22), (tip, centre - radius * 0.16 + sweep),
                        (tip, centre + radius * 0.02 + sweep), (root, centre + radius * 0.16)], fill=paint)  # fmt: skip
        for place in (0.42, 0.75)[: 2 if engines == "four engines" else 1]:
            x, y = centre + side * radius * place, centre - radius * 0.2 + sweep * place
            canvas.ellipse((x - radius * 0.08, y - radius * 0.13, x + radius * 0.08, y + radius * 0.13), fill=DARK)
    end = centre + radius * (0.98 if tail == "high tail" else 0.74)
    colour = DARK if tail == "high tail" else paint
    canvas.polygon(
        [(centre - radius * 0.42, end), (centre, end - radius * 0.2), (centre + radius * 0.42, end)], fill=colour
    )


def _car(canvas: ImageDraw.ImageDraw, features: tuple[str, ...], centre: float, radius: float, paint: Paint) -> None:
    body, trim = features
    roofs = {
        "notched": [(-0.5, 0), (-0.3, -0.5), (0.3, -0.5), (0.5, 0)],
        "long roof": [(-0.95, 0), (-0.9, -0.5), (0.3, -0.5), (0.55, 0)],
        "sloping": [(-0.98, 0), (0.05, -0.5), (0.25, -0.5), (0.5, 0)],
        "tall": [(-1.0, 0), (-1.0, -0.95), (0.6, -0.95), (0.95, 0)],
    }
    canvas.polygon([(centre + x * radius, centre + y * radius) for x, y in roofs[body]], fill=paint)
    canvas.rectangle((centre - radius, centre - radius * 0.05, centre + radius, centre + radius * 0.4), fill=paint)
    if trim == "stripe":
        canvas.rectangle((centre - radius, centre + radius * 0.1, centre + radius, centre + radius * 0.22), fill=DARK)
    for x in (-0.58, 0.58):
        wheel = radius * 0.2
        middle_x, middle_y = centre + x * radius, centre + radius * 0.42
        canvas.ellipse((middle_x - wheel, middle_y - wheel, middle_x + wheel, middle_y + wheel), fill=(15, 15, 15))

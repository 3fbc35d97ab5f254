"""Draws the pictures of notebook 40: paper shapes on a grey table, as a small camera might have taken them.

    python notebooks/pictures/draw.py     # writes train/, test/, new.jpg, train.csv and test.csv beside this file

Every picture is made here from a seed, so that nobody's rights are in them.  Two files have something of real life: 05
is stored lying on its side with an EXIF mark that says so, and 09 was cut off while it was copied.
"""

import csv
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from minirft.tiny.scenes import outline

HERE = Path(__file__).parent
PAPER = {
    "red": (208, 45, 42),
    "blue": (44, 78, 196),
    "green": (50, 146, 66),
    "purple": (122, 54, 160),
    "orange": (240, 140, 34),
}
# name: (side, [(category, x, y, width, height) in 112ths of the picture, ...])
TRAIN = {
    "01": (224, [("red heart", 8, 12, 40, 40), ("blue square", 64, 56, 36, 36)]),
    "02": (280, [("green triangle", 60, 8, 44, 40), ("red heart", 12, 60, 36, 36), ("red triangle", 64, 64, 32, 32)]),
    "03": (336, [("blue square", 16, 16, 32, 36), ("blue square", 68, 20, 32, 32), ("blue circle", 40, 68, 36, 36)]),
    "04": (224, [("orange circle", 36, 28, 48, 48)]),
    "05": (280, [("red heart", 64, 12, 36, 36), ("orange circle", 12, 56, 44, 44)]),
    "06": (252, [("green triangle", 8, 64, 40, 36), ("green triangle", 64, 12, 40, 36)]),
    "07": (308, [("red heart", 20, 8, 32, 32), ("red heart", 72, 40, 32, 32), ("purple square", 16, 68, 36, 36)]),
    "08": (224, [("blue square", 64, 8, 40, 40), ("orange circle", 8, 60, 40, 40)]),
    "09": (224, [("red heart", 40, 40, 36, 36)]),
}
TEST = {
    "11": (280, [("red heart", 56, 60, 44, 44), ("blue square", 12, 16, 36, 36)]),
    "12": (224, [("green triangle", 32, 12, 40, 40), ("orange circle", 64, 64, 40, 40)]),
    "13": (252, [("blue square", 8, 64, 36, 36), ("red triangle", 64, 12, 36, 36), ("red heart", 64, 68, 32, 32)]),
    "14": (308, [("orange circle", 12, 12, 44, 44), ("orange circle", 68, 60, 36, 36), ("blue circle", 16, 72, 32, 32)]),
}
NEW = (336, [("red heart", 12, 56, 36, 36), ("red heart", 68, 64, 36, 36), ("red triangle", 52, 8, 32, 32)])
TURNED, TORN = "05", "09"


def table(rng: np.random.Generator, side: int) -> Image.Image:
    """A grey table by a window: a little redder to the right, a little bluer below, with a fine grain."""
    ramp = np.linspace(-25, 25, side)
    pixels = np.full((side, side, 3), rng.uniform(124, 144))
    pixels[..., 0] += ramp[None, :]
    pixels[..., 2] += ramp[:, None]
    grain = rng.normal(0, 3, (side, 1, 1)) + rng.normal(0, 2, (side, side, 1))
    return Image.fromarray((pixels + grain).clip(0, 255).astype(np.uint8))


def cut_out(shape: str, width: int, height: int) -> Image.Image:
    """The mask of a piece of paper, drawn large and scaled down."""
    mask = Image.new("L", (4 * width, 4 * height))
    pen = ImageDraw.Draw(mask)
    outline(pen, shape, *mask.size)
    return mask.resize((width, height), Image.Resampling.BOX)


def photograph(seed: int, side: int, things: list[tuple[str, int, int, int, int]]) -> tuple[Image.Image, list]:
    """The picture, and a row (xmin, ymin, xmax, ymax, category) in pixels for each thing."""
    rng, rows = np.random.default_rng([40, seed]), []
    picture = table(rng, side)
    for category, *place in things:
        x, y, width, height = (round(value * side / 112) for value in place)
        colour, shape = category.split()
        mask = cut_out(shape, width, height)
        shadow = Image.new("L", picture.size)
        shadow.paste(mask.point(lambda value: value // 3), (x + side // 90, y + side // 70))
        picture.paste((40, 40, 48), (0, 0), shadow.filter(ImageFilter.GaussianBlur(side / 100)))
        light = np.linspace(1.06, 0.94, width)[None, :, None] * np.array(PAPER[colour])
        paper = np.broadcast_to(light, (height, width, 3)) + rng.normal(0, 3, (height, width, 1))
        picture.paste(Image.fromarray(paper.clip(0, 255).astype(np.uint8)), (x, y), mask)
        rows.append((x, y, x + width, y + height, category))
    return picture.filter(ImageFilter.GaussianBlur(0.6)), rows


def write(part: str, scenes: dict) -> None:
    """The pictures of one part, and its table of boxes."""
    (HERE / part).mkdir(exist_ok=True)
    with (HERE / f"{part}.csv").open("w", newline="", encoding="utf-8") as file:
        table_of = csv.writer(file, lineterminator="\n")
        table_of.writerow(("image", "xmin", "ymin", "xmax", "ymax", "label"))
        for name, (side, things) in scenes.items():
            picture, rows = photograph(int(name), side, things)
            path, options = HERE / part / f"{name}.jpg", {"quality": 82}
            if name == TURNED:
                exif = Image.Exif()
                exif[0x0112] = 6  # to be shown turned by a quarter to the right
                picture, options = picture.rotate(90, expand=True), options | {"exif": exif}
            picture.save(path, **options)
            if name == TORN:
                path.write_bytes(path.read_bytes()[:1500])
            table_of.writerows((f"{part}/{name}.jpg", *row) for row in rows)


if __name__ == "__main__":
    write("train", TRAIN)
    write("test", TEST)
    photograph(20, *NEW)[0].save(HERE / "new.jpg", quality=82)

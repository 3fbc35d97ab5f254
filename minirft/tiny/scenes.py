"""A scene shows coloured shapes on a 112-pixel picture, drawn from a seed.

A category is a colour and a shape ("red circle").  There are 80, as in COCO: 15 novel ones that the base model never
saw, and 65 base ones, of which 13 are rare.  Boxes lie on a 4-pixel grid, so that every true coordinate is one of 29
numbers in the model's 0-1000 frame.

Some objects are *shattered*: the 4 x 4 blocks of a 60-pixel square around them are shuffled.  This keeps the colour and
destroys the shape and the place, so a good detector gives such an object a low confidence.
"""

import tomllib
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIDE = 112  # pixels
GRID = 4  # pixels
SHATTER = 60  # pixels: the square over which a shattered object is spread

_TABLES = tomllib.loads(Path(__file__).with_name("scenes.toml").read_text(encoding="utf-8"))
COLOURS: dict[str, tuple[int, int, int]] = {name: tuple(rgb) for name, rgb in _TABLES["colours"].items()}
SHAPES: dict[str, int] = _TABLES["shapes"]
"""Shape -> number of corners, for the reasoning questions."""
CATEGORIES: tuple[str, ...] = tuple(f"{colour} {shape}" for colour, shape in product(COLOURS, SHAPES))
# The formula spreads the novel categories over the colour-shape table: every colour and shape also has base categories.
NOVEL: tuple[str, ...] = tuple(CATEGORIES[8 * (k % 10) + (3 * k + k // 10) % 8] for k in range(15))
BASE: tuple[str, ...] = tuple(category for category in CATEGORIES if category not in NOVEL)
RARE: tuple[str, ...] = BASE[2::5]
FEWSHOT: tuple[str, ...] = tuple(c for c in BASE if c not in RARE)[3::6][:8]
# Out-of-domain style -> the inner part that is left empty, as a share of the side; a sketch has a light background too.
# The careful base finds half as many outlines as plain shapes, and almost no sketches.
HOLLOW = {"outline": 0.45, "sketch": 0.62}
RARE_WEIGHT = 0.08  # relative frequency of a rare category; other base categories have 1


@dataclass(frozen=True)
class Thing:
    """A thing is one object with its category and its box in pixels (x1, y1, x2, y2); it may be shattered."""

    category: str
    box: tuple[int, int, int, int]
    shattered: bool = False
    footprint: tuple[int, int, int, int] | None = None  # the square that is shuffled, if the object is shattered

    @property
    def colour(self) -> str:
        return self.category.split()[0]

    @property
    def shape(self) -> str:
        return self.category.split()[1]

    @property
    def area(self) -> int:
        x1, y1, x2, y2 = self.box
        return (x2 - x1) * (y2 - y1)

    @property
    def extent(self) -> tuple[int, int, int, int]:
        """Return the rectangle of the picture that the object may touch: its footprint or its box."""
        return self.footprint or self.box


@dataclass(frozen=True)
class Scene:
    """A scene holds objects and the seed of the background; `style` is "plain" or an out-of-domain one in `HOLLOW`."""

    things: tuple[Thing, ...]
    seed: int
    style: str = "plain"

    def of(self, category: str) -> tuple[Thing, ...]:
        """Return the objects of one category, from top to bottom and left to right."""
        return tuple(thing for thing in self.things if thing.category == category)


def category_weights(categories: tuple[str, ...]) -> np.ndarray:
    """Compute the probability of each category, shape (len(categories),); rare ones weigh `RARE_WEIGHT`, others 1."""
    weights = np.array([RARE_WEIGHT if category in RARE else 1.0 for category in categories])
    return weights / weights.sum()


def draw_scene(
    rng: np.random.Generator,
    category: str,
    *,
    present: bool = True,
    categories: tuple[str, ...] = BASE,
    shattered: float = 0.25,
    style: str = "plain",
) -> Scene:
    """Draw a scene for a question about `category`: 1-3 objects of it (none if not `present`) and distractors.

    Two distractors in three share the colour or the shape, so that neither alone gives the answer.
    An object of the category is drawn shattered with probability `shattered`, a distractor with a third of it.  Objects
    without a free place are left out, so the final shares are lower (.21 and .04 for .25).

    >>> scene = draw_scene(np.random.default_rng(0), "red circle")
    >>> len(scene.of("red circle")) >= 1
    True
    """
    instances = int(rng.choice([1, 2, 3], p=[0.5, 0.35, 0.15])) if present else 0
    distractors = int(rng.choice([0, 1, 2], p=[0.25, 0.45, 0.3])) if present else int(rng.integers(1, 4))
    things: list[Thing] = []
    for index in range(instances + distractors):
        mine = index < instances
        name = category if mine else _distractor(rng, category, categories)
        thing = _place(rng, name, things, bool(rng.random() < (shattered if mine else shattered / 3)))
        if thing is not None:
            things.append(thing)
    things.sort(key=lambda thing: (thing.box[1] // 38, thing.box[0]))
    return Scene(tuple(things), int(rng.integers(2**31)), style)


def _distractor(rng: np.random.Generator, category: str, categories: tuple[str, ...]) -> str:
    colour, shape = category.split()
    kind = rng.choice(3)
    pool = [
        other
        for other in categories
        if other != category and (kind == 2 or other.split()[int(kind)] == (colour, shape)[int(kind)])
    ]
    pool = pool or [other for other in categories if other != category]
    return pool[int(rng.integers(len(pool)))]


def _place(rng: np.random.Generator, category: str, things: list[Thing], shattered: bool) -> Thing | None:
    """Find a free place for one more object on the grid; None after 60 tries."""
    for _ in range(60):
        smallest, largest = (6, 9) if shattered else (6, 13)
        width = int(rng.integers(smallest, largest + 1))
        height = int(np.clip(round(width * rng.uniform(0.75, 1.34)), smallest, largest))
        width, height = width * GRID, height * GRID
        x = int(rng.integers(0, (SIDE - width) // GRID + 1)) * GRID
        y = int(rng.integers(0, (SIDE - height) // GRID + 1)) * GRID
        footprint = None
        if shattered:
            left = _cover(rng, x, width)
            top = _cover(rng, y, height)
            footprint = (left, top, left + SHATTER, top + SHATTER)
        thing = Thing(category, (x, y, x + width, y + height), shattered, footprint)
        if all(_apart(thing.extent, other.extent) for other in things):
            return thing
    return None


def _cover(rng: np.random.Generator, start: int, length: int) -> int:
    """Draw the start of a span of `SHATTER` pixels that contains [start, start + length)."""
    low, high = max(0, start + length - SHATTER), min(start, SIDE - SHATTER)
    return int(rng.integers(low // GRID, high // GRID + 1)) * GRID


def _apart(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    """Check that two boxes overlap by at most 2 pixels."""
    return a[2] - 2 <= b[0] or b[2] - 2 <= a[0] or a[3] - 2 <= b[1] or b[3] - 2 <= a[1]


def render(scene: Scene) -> Image.Image:
    """Draw the picture of a scene, RGB, 112 x 112.

    >>> render(draw_scene(np.random.default_rng(0), "red circle")).size
    (112, 112)
    """
    rng = np.random.default_rng(scene.seed)
    picture = background(rng, scene.style)
    for thing in scene.things:
        picture.paste(COLOURS[thing.colour], thing.box[:2], coverage(thing, scene.style))
    pixels = np.asarray(picture).copy()
    for thing in scene.things:
        if thing.footprint:
            _shatter(pixels, thing.footprint, rng)
    noisy = pixels + rng.normal(0, 6, (SIDE, SIDE, 1))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def background(rng: np.random.Generator, style: str) -> Image.Image:
    """Draw the background: grey with a faint red ramp along x and a blue one along y; lighter for a sketch.

    The ramps show the vision tower the absolute place, because Qwen2-VL's tower has rotary positions only.
    """
    level = rng.uniform(195, 210) if style == "sketch" else rng.uniform(120, 150)
    ramp = np.linspace(-25, 25, SIDE)
    pixels = np.full((SIDE, SIDE, 3), level)
    pixels[..., 0] += ramp[None, :]
    pixels[..., 2] += ramp[:, None]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def coverage(thing: Thing, style: str = "plain") -> Image.Image:
    """Compute how much of each pixel of its box an object covers before it is shattered, 0 to 255."""
    x1, y1, x2, y2 = thing.box
    scale = 3  # draw larger and scale down, for smooth edges
    mask = Image.new("L", ((x2 - x1) * scale, (y2 - y1) * scale))
    canvas = ImageDraw.Draw(mask)
    outline(canvas, thing.shape, mask.width, mask.height)
    if style in HOLLOW:
        inner = mask.resize(tuple(max(1, int(side * HOLLOW[style])) for side in mask.size))
        mask.paste(0, ((mask.width - inner.width) // 2, (mask.height - inner.height) // 2), inner)
    return mask.resize((x2 - x1, y2 - y1), Image.Resampling.BOX)


def outline(canvas: ImageDraw.ImageDraw, shape: str, width: int, height: int) -> None:
    """Fill `shape` so that it touches all four sides of a width x height mask."""
    w, h = width - 1, height - 1
    if shape in ("circle", "ring"):
        canvas.ellipse((0, 0, w, h), fill=255)
        if shape == "ring":
            canvas.ellipse((w * 0.3, h * 0.3, w * 0.7, h * 0.7), fill=0)
    elif shape == "heart":
        canvas.ellipse((0, 0, w * 0.54, h * 0.58), fill=255)
        canvas.ellipse((w * 0.46, 0, w, h * 0.58), fill=255)
        canvas.polygon([(w * 0.03, h * 0.4), (w * 0.97, h * 0.4), (w / 2, h)], fill=255)
    else:
        canvas.polygon([(x * w, y * h) for x, y in CORNERS[shape]], fill=255)


def _star() -> list[tuple[float, float]]:
    angles = np.pi * np.arange(10) / 5
    radius = np.where(np.arange(10) % 2, 0.42, 1.0)
    points = np.stack([np.sin(angles) * radius, -np.cos(angles) * radius], -1)
    low, high = points.min(0), points.max(0)
    return [tuple(point) for point in ((points - low) / (high - low)).tolist()]


CORNERS: dict[str, list[tuple[float, float]]] = _TABLES["outlines"] | {"star": _star()}


def _shatter(pixels: np.ndarray, footprint: tuple[int, int, int, int], rng: np.random.Generator) -> None:
    """Shuffle the 4 x 4 blocks of a square of the picture, in place."""
    x1, y1, x2, y2 = footprint
    across, down = (x2 - x1) // GRID, (y2 - y1) // GRID
    blocks = pixels[y1:y2, x1:x2].reshape(down, GRID, across, GRID, 3).swapaxes(1, 2).reshape(-1, GRID, GRID, 3)
    blocks = blocks[rng.permutation(len(blocks))].reshape(down, across, GRID, GRID, 3).swapaxes(1, 2)
    pixels[y1:y2, x1:x2] = blocks.reshape(y2 - y1, x2 - x1, 3)

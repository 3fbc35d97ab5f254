"""This module reads ReasonSeg (LISA, arXiv 2308.00692): instructions that need reasoning, each answered by one box.

    ReasonSeg/
      train/
        0001.jpg
        0001.json    {"shapes": [{"label": "target", "points": [[x, y], ...]}, {"label": "ignore", ...}],
                      "text": ["the part of the bicycle that ..."], "is_sentence": true}
      val/  test/    the same

Every instruction of a picture is a sample.  Its box is the bounding box of all target polygons, clipped to the picture.
`masks` draws the polygons, for an IoU of masks (gIoU).

Deviations from the paper: it uses the bounds of the first polygon only, rounds coordinates down to whole numbers, and
evaluates the first instruction only.  As in LISA's own reader, "flag" polygons are left out, and a polygon that is
neither "flag" nor "ignore" is a target.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from minirft import UserError, as_user_error
from minirft.data.checks import read_header
from minirft.data.findings import Findings
from minirft.data.questions import question as ask
from minirft.data.settings import DataConfig
from minirft.rewards import MODEL, Array, convert, pixels, prompts
from minirft.samples import Sample

Mask = NDArray[np.bool_]
LARGEST = 1e6  # pixels
Polygon = tuple[str, Array]  # "target" or "ignore", and the corners, (n, 2) in pixels


def load_reasonseg(data: DataConfig, folder: Path, part: str, findings: Findings) -> list[Sample]:
    """Return a sample for each instruction of a part, sorted by file name; its id is NAME:NUMBER.

    An invalid file goes to `findings`.

    >>> load_reasonseg(DataConfig("reasonseg", "grounding"), Path("nowhere"), "val", Findings())
    Traceback (most recent call last):
    minirft.UserError: no folder nowhere/val; data.folder must hold train/, val/ and test/
    """
    root = folder / part
    if not root.is_dir():
        raise UserError(f"no folder {root}; data.folder must hold train/, val/ and test/")
    files = sorted(root.glob("*.json"))
    pictures = {path.stem for path in root.glob("*.jpg")}
    missing = pictures - {path.stem for path in files}
    if missing or not files:
        raise UserError(f"{root} has no {min(missing, default='*')}.json; unpack the archive again")
    samples = []
    for path in files:
        with findings.losing(path, "", [f"{part}/{path.stem}:"]):
            samples += _samples(path, part, data.question)
    return samples


def masks(sample: Sample) -> tuple[Mask, Mask]:
    """Return the masks of the target and of the pixels to ignore, each (height, width).

    A polygon contains its edges, and smaller polygons lie on top of larger ones.  An intersection over union must leave
    out the second mask.  Raises `UserError` for a sample of another set.
    """
    if not isinstance(sample.image, Path) or not sample.image.with_suffix(".json").is_file():
        raise UserError(f"sample {sample.id} has no polygons beside its picture; masks are for ReasonSeg only")
    width, height = read_header(sample.image).stored
    polygons = _read(sample.image.with_suffix(".json"))[1]
    drawn = [(label, _draw(corners, width, height)) for label, corners in polygons]
    canvas = np.zeros((height, width), dtype=np.uint8)
    for label, mask in sorted(drawn, key=lambda one: -one[1].sum()):
        canvas[mask] = 2 if label == "ignore" else 1
    return canvas == 1, canvas == 2


def _samples(path: Path, part: str, question: str) -> list[Sample]:
    texts, polygons = _read(path)
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) and t.strip() for t in texts):
        raise UserError(f"{path}: 'text' is {texts!r}, not a list of instructions; repair the file")
    image = path.with_suffix(".jpg")
    frame = pixels(*read_header(image, f"{path} is about it").stored)
    corners = [points for label, points in polygons if label == "target"]
    if not corners:
        raise UserError(f"{path} has no target polygon; repair or remove it")
    points = np.concatenate(corners).clip(0, [frame.width, frame.height])
    low, high = points.min(0), points.max(0)
    if not (low < high).all():
        raise UserError(
            f"{path}: the target is empty, or outside the {frame.width} x {frame.height} picture; repair it"
        )
    solution = prompts.grounding_solution(convert([*low, *high], frame, MODEL))
    return [
        Sample(f"{part}/{path.stem}:{i}", image, "grounding", ask("grounding", text, question), solution, text)
        for i, text in enumerate(map(str.strip, texts))
    ]


def _read(path: Path) -> tuple[Any, list[Polygon]]:
    """Return the texts and the polygons of a file; some published files are in Windows' encoding."""
    with as_user_error(f"{path} cannot be read as JSON ({{why}}); unpack the archive again", OSError, ValueError):
        raw = path.read_bytes()
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            text = raw.decode("cp1252")
        data = json.loads(text)
    if not isinstance(data, dict) or not isinstance(data.get("shapes"), list):
        raise UserError(f"{path} has no list 'shapes'; repair or remove it")
    polygons: list[Polygon] = []
    for i, shape in enumerate(data["shapes"]):
        label = shape.get("label") if isinstance(shape, dict) else None
        if not isinstance(label, str):
            raise UserError(f"{path}: shapes[{i}] has no label; repair it")
        if label.lower() == "flag":
            continue
        what = f"{path}: shapes[{i}] needs 3 or more points [x, y] in pixels; repair it"
        with as_user_error(what, TypeError, ValueError):
            corners = np.array(shape.get("points"), dtype=np.float64)
            if corners.shape[1:] != (2,) or len(corners) < 3 or not (np.abs(corners) < LARGEST).all():
                raise ValueError("no polygon")
        polygons.append(("ignore" if "ignore" in label.lower() else "target", corners))
    return data.get("text"), polygons


def _draw(corners: Array, width: int, height: int) -> Mask:
    canvas = Image.new("1", (width, height))
    ImageDraw.Draw(canvas).polygon([(int(x), int(y)) for x, y in corners], fill=1, outline=1)
    return np.array(canvas)

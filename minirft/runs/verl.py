"""This module writes the data and the reward of a config for verl, which trains on several machines.

    DIR/train.parquet      data_source, prompt, images, reward_model, extra_info: a row for each sample
        held_out.parquet   the same, of the evaluation data
        reward.py          compute_score, the config's reward

A prompt is the one message that our policy gets.  A picture is stored as the policy sees it: upright, in RGB, and, with
`max_pixels`, resized as our processor resizes it, so that verl's processor leaves its size as it is.  verl needs an
older transformers than this package, so `reward.py` imports `minirft.rewards` alone.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from PIL import Image

from minirft import UserError, as_user_error
from minirft.data import Screening, first_samples, held_out
from minirft.engine import Processor, load_processor, read_family, resolve
from minirft.pictures import UNREADABLE, orientation
from minirft.rewards import reward_for
from minirft.runs.config import GRPOConfig
from minirft.runs.folder import anchored
from minirft.samples import Sample

MARKS = ("<image>", "<video>", "<audio>")  # verl puts pictures, films and sounds in their places
FIELDS = ("id", "problem", "category", "asked")  # of a sample, for a reward of your own
GROUP = 64  # rows that are written together, with their pictures
REWARD = Path(__file__).with_name("verl_reward.txt")


def export_for_verl(config: GRPOConfig, folder: Path) -> dict[str, Any]:
    """Write the three files; return {"train": rows, "held_out": rows, "warnings": [...]}.

    The world that is drawn anew at every step gives the samples of `config.steps` steps.  Raises `UserError` for a
    model with boxes in pixels, whose answers verl cannot convert; for prompts that are too long or contain one of
    `MARKS`; without pyarrow; and if the folder holds an export already.
    """
    with as_user_error('this needs pyarrow ({why}): pip install "minirft[datasets]"', ImportError):
        import pyarrow  # noqa: F401
    config, source = anchored(config), resolve(config.model)
    family = read_family(source)
    if family.pixel_boxes:
        raise UserError(
            f"{family.name} answers in pixels of the resized picture, which verl cannot convert for the reward: set "
            f"model to one of Qwen2-VL, Qwen3-VL or Qwen3.5"
        )
    if (folder / "train.parquet").exists():
        raise UserError(f"{folder} holds an export already: name another --out")
    reward_for(config.data.task, config.reward, config.reward_weights)  # a wrong one is found before anything is read
    screening, warnings = Screening(config.data), []
    parts = {"train": first_samples(config, config.steps, screening)}
    try:
        parts["held_out"] = held_out(config, screening)
    except UserError as error:
        warnings.append(f"no held_out.parquet: {error}")
    processor = load_processor(source, config.max_pixels, config.max_prompt_length)
    with as_user_error(f"cannot write into {folder} ({{why}}); choose another --out", OSError):
        folder.mkdir(parents=True, exist_ok=True)
        for part, samples in parts.items():
            _write(folder / f"{part}.parquet", _rows(samples, part, processor, config.max_pixels is not None))
        settings = {"reward": config.reward, "weights": config.reward_weights, "timeout": config.reward_timeout}
        text = REWARD.read_text(encoding="utf-8").format(folder=folder.as_posix(), task=config.data.task, **settings)
        (folder / "reward.py").write_text(text, encoding="utf-8")
    return {part: len(samples) for part, samples in parts.items()} | {"warnings": warnings}


def _rows(samples: Sequence[Sample], part: str, processor: Processor, resize: bool) -> Iterator[dict[str, Any]]:
    for index, sample in enumerate(samples):
        if found := [mark for mark in MARKS if mark in sample.problem]:
            raise UserError(f"sample {sample.id}: the problem holds {found[0]}, where verl puts a picture; remove it")
        picture = sample.picture()
        if resize:
            picture = picture.resize(processor.resized(picture.size), Image.Resampling.BICUBIC)
        processor(replace(sample, image=picture, upright=False))  # refuses a prompt that is too long
        name = "" if isinstance(sample.image, Image.Image) else str(sample.image)
        yield {
            "data_source": f"minirft/{sample.task}",
            "prompt": [{"role": "user", "content": f"<image>{sample.problem}"}],
            "images": [{"bytes": _stored(sample, picture), "path": name}],
            "reward_model": {"style": "rule", "ground_truth": sample.solution},
            "extra_info": {"split": part, "index": index, **{field: getattr(sample, field) for field in FIELDS}},
        }


def _stored(sample: Sample, picture: Image.Image) -> bytes:
    """Return the bytes of the picture's own file, if any program reads the same pixels from it; else those of a PNG."""
    if not isinstance(sample.image, Image.Image):
        stored = sample.image.read_bytes()
        # UNREADABLE: HEIC, which verl's environment may not read
        with suppress(*UNREADABLE), Image.open(io.BytesIO(stored)) as opened:
            same = opened.mode == "RGB" and opened.size == picture.size and orientation(opened) == 1
            if same and opened.tobytes() == picture.tobytes():
                return stored
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _write(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    """Write rows to a parquet file, `GROUP` at a time, because all pictures may not fit into memory."""
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    groups = iter(lambda: list(islice(rows, GROUP)), [])
    tables = (pyarrow.Table.from_pylist(group) for group in groups)
    first, part = next(tables), path.with_suffix(".part")
    with ParquetWriter(part, first.schema) as writer:
        for table in chain([first], tables):
            writer.write_table(table)
    part.replace(path)

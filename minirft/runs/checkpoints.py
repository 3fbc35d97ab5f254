"""This module writes and reads checkpoints, from which a run continues bit for bit.

    folder/step-000040/weights.safetensors     the trained weights: an adapter, or all weights
                       optimizer.safetensors   the optimiser's tensors
                       state.json              everything else: step, param groups, place in the data
                       manifest.json           SHA-256 of the three files above

A checkpoint is written completely or not at all: it is written under another name, flushed to the disk, and renamed.
It contains no pickle.  If the manifest shows that a checkpoint is damaged, the one before it is used.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor
from torch.optim import Optimizer

from minirft import UserError

MANIFEST = "manifest.json"
FILES = ("weights.safetensors", "optimizer.safetensors", "state.json")


@dataclass(frozen=True)
class Checkpoint:
    """A `Checkpoint` is the result of `load_checkpoint`; `optimizer` is for the optimiser's `load_state_dict`."""

    path: Path
    step: int
    weights: dict[str, Tensor]  # on the CPU, in the dtypes they were saved in
    optimizer: dict[str, Any]
    extra: dict[str, Any]
    notes: list[str]  # one line for each newer checkpoint that was damaged and skipped


def save_checkpoint(
    folder: Path, step: int, weights: Mapping[str, Tensor], optimizer: Optimizer, extra: dict[str, Any], keep: int = 2
) -> Path:
    """Write `folder/step-000040` completely or not at all, then remove all but the newest `keep`.

    `extra` is anything that JSON can hold.  If the save fails for any reason, the earlier checkpoints are unchanged.
    Raises `UserError` when the disk is full or cannot be written.
    """
    folder, target = Path(folder), Path(folder) / f"step-{step:06d}"
    temporary = folder / f".{target.name}.part"
    files = _encode(step, weights, optimizer.state_dict(), extra)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left_over in folder.glob(".step-*.part"):  # of a run that was killed while saving
            shutil.rmtree(left_over)
        temporary.mkdir()
        for name, data in files.items():
            _write(temporary / name, data)
        _flush_folder(temporary)
        if target.exists():  # rename the old one to a name that still loads, so that one complete checkpoint remains
            os.replace(target, _free_name(target))
        os.replace(temporary, target)
        _flush_folder(folder)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError):
            raise UserError(_failure(folder, target, error)) from error
        raise
    for old in _newest_first(folder)[keep:]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def load_checkpoint(folder: Path) -> Checkpoint:
    """Load the newest checkpoint without damage; `notes` names the damaged ones that were skipped.

    Raises `UserError` when there is none.
    """
    notes: list[str] = []
    for path in _newest_first(Path(folder)):
        try:
            files = _read(path)
            weights, tensors = (safetensors.torch.load(files[name]) for name in FILES[:2])
            state = json.loads(files["state.json"])
            optimizer = _with_tensors(state["optimizer"], tensors)
            return Checkpoint(path, state["step"], weights, optimizer, state["extra"], notes)
        except (OSError, ValueError) as damage:
            notes.append(f"checkpoint {path} is damaged ({damage}); using the one before it")
    if notes:
        raise UserError(f"no checkpoint in {folder} is intact; start the run again. " + " ".join(notes))
    raise UserError(f"there is no checkpoint in {folder}; check the folder or start without resuming")


# --- the state as files


def _encode(step: int, weights: Mapping[str, Tensor], optimizer: Any, extra: Any) -> dict[str, bytes]:
    """Return the four files of a checkpoint, the manifest last."""
    tensors: dict[str, Tensor] = {}
    state = {"step": step, "optimizer": _without_tensors(optimizer, tensors), "extra": extra}
    files = {
        "weights.safetensors": safetensors.torch.save({k: w.detach().contiguous() for k, w in weights.items()}),
        "optimizer.safetensors": safetensors.torch.save(tensors),
        "state.json": json.dumps(state).encode(),
    }
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    return {**files, MANIFEST: json.dumps(digests).encode()}


def _without_tensors(tree: Any, tensors: dict[str, Tensor]) -> Any:
    """Convert `tree` to JSON and move its tensors to `tensors`, under their number.

    Integer keys and tuples, which JSON lacks and optimisers use, are encoded as lists; a tensor that occurs twice
    (bitsandbytes shares its quantisation maps) is stored once.
    """
    if isinstance(tree, Tensor):
        known = next((name for name, tensor in tensors.items() if tensor is tree), None)
        name = known or str(len(tensors))
        tensors[name] = tree
        return {"tensor": name}
    if isinstance(tree, Mapping):
        return {"dict": [[key, _without_tensors(item, tensors)] for key, item in tree.items()]}
    if isinstance(tree, list | tuple):
        return {type(tree).__name__: [_without_tensors(item, tensors) for item in tree]}
    return tree


def _with_tensors(tree: Any, tensors: dict[str, Tensor]) -> Any:
    """Invert `_without_tensors`."""
    if not isinstance(tree, dict):
        return tree
    [(kind, content)] = tree.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _with_tensors(item, tensors) for key, item in content}
    items = [_with_tensors(item, tensors) for item in content]
    return tuple(items) if kind == "tuple" else items


# --- files on the disk


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    if os.name == "posix":  # elsewhere a folder cannot be opened, and renaming is flushed by itself
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _read(path: Path) -> dict[str, bytes]:
    """Read the files of a checkpoint and check their digests.  Raises `ValueError` with the first that differs."""
    digests = json.loads((path / MANIFEST).read_bytes())
    files = {name: (path / name).read_bytes() for name in FILES}
    for name, data in files.items():
        if hashlib.sha256(data).hexdigest() != digests.get(name):
            raise ValueError(f"{name} is not what was written")
    return files


def _newest_first(folder: Path) -> list[Path]:
    """Return the checkpoints by descending step; a replaced one (`step-000040-1`) comes after its replacement."""
    numbered = [([int(part) for part in path.name.split("-")[1:]], path) for path in folder.glob("step-[0-9]*")]
    return [path for _, path in sorted(numbered, key=lambda item: (-item[0][0], len(item[0]), item[0]))]


def _free_name(target: Path) -> Path:
    taken = (target.with_name(f"{target.name}-{number}") for number in range(1, 1000))
    return next(path for path in taken if not path.exists())


def _failure(folder: Path, target: Path, error: OSError) -> str:
    earlier = _newest_first(folder)
    state = f"{earlier[0]} is intact" if earlier else "there is no earlier checkpoint"
    return f"could not save checkpoint {target} ({error.strerror or error}); {state}; free some space and resume"

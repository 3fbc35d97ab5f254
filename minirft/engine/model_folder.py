"""This module checks that a model's folder is whole, before it is loaded: tokenizer, picture processor, weights.

transformers replaces missing files: without `tokenizer.json` it makes a tokenizer of the control tokens alone, and
every answer is empty.  Of the weights only the headers are read, so the check takes a second for 7B.
"""

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedTokenizerBase

from minirft import UserError, as_user_error
from minirft.engine.families import Family

INDEX = "model.safetensors.index.json"
# A prompt cannot hold a picture without these tokens.
CONTROL = {
    "image_token_id": "<|image_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}
Shapes = dict[str, list[int]]


def check_processor(source: str) -> None:
    """Raise `UserError` if the tokenizer or the picture processor is missing.

    A hub id is not checked, because its files are downloaded completely.
    """
    folder = Path(source)
    if not folder.is_dir():
        return
    path, old_form = folder / "tokenizer.json", [folder / "vocab.json", folder / "merges.txt"]
    if not path.is_file() and not all(file.is_file() for file in old_form):
        raise UserError(f"{folder} has no tokenizer.json: copy it there from the model's first folder")
    if not any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
        raise UserError(f"{folder} has no picture processor: copy preprocessor_config.json there")
    templates = any((folder / name).is_file() for name in ("chat_template.jinja", "chat_template.json"))
    if not templates and "chat_template" not in _json(folder / "tokenizer_config.json"):
        raise UserError(f"{folder} has no chat template: copy chat_template.json from the model's first folder")


def check_tokens(source: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise `UserError` if the ids of a folder's tokenizer are not those of its config.json."""
    folder = Path(source)
    if not (folder / "config.json").is_file():
        return
    ids, config = tokenizer.get_vocab(), _json(folder / "config.json")
    for key, token in CONTROL.items():
        if ids.get(token) != config.get(key, ids.get(token, "an id")):
            has = f"{token} as {ids[token]}" if token in ids else f"no {token}"
            raise UserError(
                f"the tokenizer of {folder} has {has}, and config.json has {key} {config.get(key)}: the two are of "
                f"different models; copy the tokenizer of this one there"
            )
    size = config.get("text_config", config).get("vocab_size")
    if isinstance(size, int) and max(ids.values()) >= size:
        raise UserError(
            f"the tokenizer of {folder} has the id {max(ids.values())}, and config.json a vocab_size of {size}: they "
            f"are of different models; copy the tokenizer of this one there"
        )


def check_weights(source: str, family: Family) -> None:
    """Raise `UserError` if a weight is missing, damaged or of another shape than in the configuration."""
    folder = Path(source)
    if not folder.is_dir():
        return
    whole = folder / "model.safetensors"
    named = {} if whole.is_file() or not (folder / INDEX).is_file() else _json(folder / INDEX).get("weight_map", {})
    found: Shapes = {}
    for file in sorted({folder / name for name in named.values()}) or [whole]:
        if not file.is_file():
            said = f", which {INDEX} names" if named else " (and no index of several)"
            raise UserError(f"{folder} has no {file.name}{said}: copy the weights there as safetensors")
        found |= _header(file)
    if not _json(folder / "config.json").get("quantization_config"):  # quantised weights are packed to other shapes
        _compare(family, folder, {_plain(name): shape for name, shape in found.items()}, named)


def how_to_fetch(source: str) -> str:
    """Write the advice for a machine without a network: the command that downloads a model of the hub to a folder.

    >>> how_to_fetch("Qwen/Qwen2-VL-2B-Instruct")[:75]
    'without a network: `hf download Qwen/Qwen2-VL-2B-Instruct --local-dir Qwen2'
    """
    folder = source.rpartition("/")[2]
    return (
        f"without a network: `hf download {source} --local-dir {folder}` on a machine that has one, bring the folder "
        f"{folder} here, and give --model {folder}"
    )


def _compare(family: Family, folder: Path, found: Shapes, named: dict[str, str]) -> None:
    config = family.config_class.from_pretrained(folder)
    with torch.device("meta"):
        model = family.model_class(config)
    wanted = {_plain(name): list(weight.shape) for name, weight in model.named_parameters()}
    if missing := sorted(wanted.keys() - found.keys()):
        where = next((f" of {file}" for name, file in named.items() if _plain(name) == missing[0]), "")
        raise UserError(
            f"{folder}: {len(missing)} weights are missing, first {missing[0]}{where}; copy the whole model again"
        )
    for name, shape in wanted.items():
        if found[name] != shape:
            raise UserError(
                f"{folder}: the weight {name} is {found[name]}, and config.json makes it {shape}: they are of "
                f"different models; copy the whole model again"
            )


def _plain(name: str) -> str:
    """Remove from a weight's name the prefixes that versions of transformers add.

    >>> _plain("model.layers.0.x"), _plain("model.language_model.layers.0.x"), _plain("model.visual.y")
    ('layers.0.x', 'layers.0.x', 'visual.y')
    """
    return re.sub(r"^(model\.|language_model\.)+", "", name)


def _header(file: Path) -> Shapes:
    """Read the shapes of the tensors in a safetensors file by name, without reading the tensors."""
    fault = f"{file} is not a whole safetensors file ({{why}}); copy it again"
    with as_user_error(fault, OSError, SafetensorError), safe_open(file, "pt") as stored:
        return {name: stored.get_slice(name).get_shape() for name in stored.keys()}  # noqa: SIM118


def _json(path: Path) -> dict[str, Any]:
    with as_user_error(f"{path} cannot be read ({{why}}); copy it again", OSError, ValueError):
        found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise UserError(f"{path} is not an object of JSON; copy it again")
    return found

"""A family of models has one small file here with all its differences; no other file depends on the family.

All families have what the engine needs: a vision tower `model.visual`, a language model `model.language_model`, a
standard `lm_head`, and `get_rope_index` for the positions of a picture (contiguous or interleaved M-RoPE is inside the
language model, window attention inside the tower).  All other models, and layers of a kind that a family does not name,
are refused by name, because a packed pass over them could give wrong results without an error.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import transformers
from transformers import PreTrainedConfig, PreTrainedModel

from minirft import UserError

KNOWN = (
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
    "qwen3_5",
)  # `model_type` in a config.json, and the file of the family here
CHANGING_ROPE = ("dynamic", "longrope")  # frequencies that depend on the length, and a packed sequence is long
LANGUAGE_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Family:
    """A family lists the differences between its models and those of other families.

    `prefix` begins the names of its classes in transformers.  `vision_linears` and `language_linears` are the linear
    layers of the two parts, as PEFT finds them; `layers` are the kinds of layers in the language model.  `unmasked` is
    the attention mask that means "no mask", so that none is made for a decoded token.  `pixel_boxes` is true if its
    boxes are in pixels of the resized picture, not in thousandths.  `quantises` is false if its makers advise against
    weights in 4 bits.  `levels` counts the extra features of a picture token.  `prepare` replaces what the packed pass
    needs otherwise.
    """

    name: str
    prefix: str
    vision_linears: tuple[str, ...]
    language_linears: tuple[str, ...] = LANGUAGE_LINEARS
    layers: tuple[str, ...] = ("full_attention",)
    unmasked: Any = None
    pixel_boxes: bool = False
    quantises: bool = True
    levels: Callable[[PreTrainedConfig], int] = lambda config: 0
    prepare: Callable[[PreTrainedModel], None] = lambda model: None

    @property
    def config_class(self) -> type[PreTrainedConfig]:
        """Return the class of its configuration.  Raises `UserError` if the installed transformers has none."""
        return self._class("Config")

    @property
    def model_class(self) -> type[PreTrainedModel]:
        """Return the class of its weights.  Raises `UserError` if the installed transformers has none."""
        return self._class("ForConditionalGeneration")

    def _class(self, kind: str) -> Any:
        found = getattr(transformers, self.prefix + kind, None)
        if found is None:
            raise UserError(f"transformers {transformers.__version__} has no {self.name}: pip install -U transformers")
        return found


def family_of(model_type: str | None, source: str) -> Family:
    """Return the family of a `model_type`; the `UserError` for an unknown type names `source`.

    >>> family_of("qwen2_vl", "my folder").name
    'Qwen2-VL'
    """
    if model_type not in KNOWN:
        names = ", ".join(f"{family_of(known, source).name} ({known})" for known in KNOWN)
        raise UserError(f"{source} is a {model_type or 'nameless'} model; minirft trains {names}")
    return importlib.import_module(f"{__name__}.{model_type}").FAMILY


def check_layers(config: PreTrainedConfig, family: Family, source: str) -> None:
    """Raise `UserError` for kinds of layers with which the packed pass and the decoders would be silently wrong."""
    text = config.get_text_config()
    if strange := sorted({*(getattr(text, "layer_types", None) or ())} - {*family.layers}):
        known = " and ".join(family.layers)
        raise UserError(f"{source} has layers of {', '.join(strange)}; minirft knows {known} alone in {family.name}")
    if (rope := (getattr(text, "rope_parameters", None) or {}).get("rope_type")) in CHANGING_ROPE:
        raise UserError(f"{source} has {rope} rotary positions, which change with the length; minirft needs fixed ones")

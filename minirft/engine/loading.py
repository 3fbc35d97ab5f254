"""This module loads a model from its name: it finds and checks it, in 4 bits or not, with LoRA; errors are one line."""

import contextlib
import ctypes
import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import BitsAndBytesConfig, PreTrainedConfig, PreTrainedModel

from minirft import UserError, as_user_error
from minirft.engine.families import Family, check_layers, family_of
from minirft.engine.layers import SHARED_PREFIX, embed_patches_by_product, fuse_adapters
from minirft.engine.versions import quiet_peft

TINY = Path(__file__).parents[1] / "tiny" / "checkpoint"  # the embedded model
HUB = {
    "qwen2-vl-2b": "Qwen/Qwen2-VL-2B-Instruct",
    "qwen2-vl-7b": "Qwen/Qwen2-VL-7B-Instruct",
    "qwen2.5-vl-3b": "Qwen/Qwen2.5-VL-3B-Instruct",
    "qwen2.5-vl-7b": "Qwen/Qwen2.5-VL-7B-Instruct",
    "qwen3-vl-2b": "Qwen/Qwen3-VL-2B-Instruct",
    "qwen3-vl-4b": "Qwen/Qwen3-VL-4B-Instruct",
    "qwen3-vl-8b": "Qwen/Qwen3-VL-8B-Instruct",
    "qwen3.5-0.8b": "Qwen/Qwen3.5-0.8B",
    "qwen3.5-2b": "Qwen/Qwen3.5-2B",
    "qwen3.5-4b": "Qwen/Qwen3.5-4B",
}
# Part of the model with LoRA -> modules to leave out, because tower and language model can have the same layer names.
PARTS = {"language": r"(.*\.)?visual\..*", "vision": r"(.*\.)?language_model\..*", "all": None}
UNFIT = (OSError, SafetensorError, RuntimeError, ValueError)  # what libraries raise for weights that are not as asked


@dataclass(frozen=True)
class LoraSettings:
    """LoRA makes the linear layers of the chosen parts W + (alpha / r)·B·A (https://arxiv.org/abs/2106.09685).

    `lm_head` gets none.  There is no dropout, because training must compute the same log-probs as sampling.
    `seed` draws A; B starts at zero.  Both are stored in float32 and compute in the model's number format.
    """

    r: int = 16
    alpha: int = 32
    targets: Literal["language", "vision", "all"] = "language"
    seed: int = 0

    def part(self, train_vision: bool) -> str:
        """Return the part with adapters, a key of `PARTS`; `train_vision` widens "language" to "all"."""
        return "all" if train_vision and self.targets == "language" else self.targets


def resolve(name: str) -> str:
    """Resolve a model's name to a folder or a hub id.  Raises `UserError` when it can be neither."""
    if name == "tiny":
        return str(TINY)
    name = HUB.get(name, name)
    folder = Path(name)
    if not folder.exists():
        if name.count("/") != 1 or name.startswith((".", "/", "~")):
            raise UserError(f"no model folder at {name}; give a folder, a hub id, or one of tiny, {', '.join(HUB)}")
        return name
    if (folder / "adapter_config.json").exists() and not (folder / "config.json").exists():
        base = json.loads((folder / "adapter_config.json").read_text()).get("base_model_name_or_path")
        raise UserError(
            f"{name} holds an adapter, not a model; give its base model ({base}) and load the adapter on it"
        )
    if not (folder / "config.json").is_file():
        raise UserError(f"{name} is not a model folder: it has no config.json; give the folder of a whole model")
    return name


def pick_device(device: str | torch.device | None) -> torch.device:
    """Choose a device; the default is the first CUDA card, else the CPU.  Raises `UserError` for a missing one."""
    try:
        found = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        raise UserError(f"device is {device}; choose auto, cpu, cuda or cuda:1") from None
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"device is {found}, and torch {torch.__version__} finds {torch.cuda.device_count()} CUDA cards here: set "
            f"device = cpu, or install a driver and a torch with CUDA"
        )
    return found


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Choose a number format; "auto" is float32 on a CPU, bfloat16 on a card that has it, else float16.

    >>> pick_dtype("auto", torch.device("cpu"))
    torch.float32
    """
    if dtype == "auto":
        if device.type == "cpu":
            return torch.float32
        return torch.bfloat16 if device.type != "cuda" or torch.cuda.is_bf16_supported() else torch.float16
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype not in known:
        raise UserError(f"dtype is {dtype}; choose auto, {', '.join(known)}")
    return known[dtype]


def load_model(source: str, family: Family, quantize: str, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """Load the weights to the device, with shared-prefix attention in the language model.

    "nf4" stores every linear layer except `lm_head` in 4 bits (https://arxiv.org/abs/2305.14314), with quantised
    scales, on a CPU too.  Each layer is quantised as soon as it is read, so at most one full tensor is in memory.
    Raises `UserError` when `source` does not hold all weights of its `family` in safetensors, before any is loaded.
    """
    from minirft.engine.model_folder import check_weights  # here: a step loads nothing

    check_weights(source, family)
    if quantize not in ("none", "nf4"):
        raise UserError(f"quantize is {quantize}; choose none or nf4")
    if quantize == "nf4":
        if not family.quantises:
            raise UserError(f"{source}: {family.name} loses too much in 4 bits, say its makers; set quantize to none")
        need_bitsandbytes('quantize = "none"')
        if device.type == "cpu":
            _give_freed_memory_back()
    message = f"{source}: the weights do not load ({{why}}); it needs the safetensors of a {family.name}"
    with as_user_error(message, *UNFIT):
        model, report = family.model_class.from_pretrained(
            source,
            dtype=dtype,
            quantization_config=nf4_settings(dtype) if quantize == "nf4" else None,
            device_map={"": device},
            use_safetensors=True,
            attn_implementation={"text_config": SHARED_PREFIX, "vision_config": "sdpa"},
            output_loading_info=True,
        )
    if missing := sorted(report["missing_keys"]):
        raise UserError(f"{source}: {len(missing)} weights are missing, first {missing[0]}; copy the whole model again")
    if quantize == "nf4":
        tidy_after_quantising(model, device)
    embed_patches_by_product(model)
    return model


def need_bitsandbytes(instead: str) -> ModuleType:
    """Import the package bitsandbytes, which 4 and 8 bits need.  Raises `UserError` if it does not load."""
    message = f"bitsandbytes does not load ({{why}}): pip install bitsandbytes, or set {instead}"
    with as_user_error(message, ImportError, OSError, RuntimeError):
        return importlib.import_module("bitsandbytes")


def _give_freed_memory_back() -> None:
    """Make glibc return every freed block over 256 KB to the system, for the rest of the process.

    By default it keeps larger and larger blocks in its heap, where the 4-bit weights that stay lie between the gaps of
    the freed 16-bit ones: a 2B model took 3.2 to 6.2 GiB in a step, now 2.3 (`results/real_size`).
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):  # of a system without glibc
        ctypes.CDLL(None).mallopt(-3, 2**18)  # M_MMAP_THRESHOLD


def tidy_after_quantising(model: PreTrainedModel, device: torch.device) -> None:
    """Make 4-bit layers learn after a rollout, and on a CPU release the file of the weights."""
    bitsandbytes = need_bitsandbytes('quantize = "none"')
    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            # On CPUs with AVX512-BF16, bitsandbytes repacks a layer in place in eval mode, and the packed layer gives
            # no gradient to its input: rollout-then-train would learn nothing below the last layer.
            module.support_avx512bf16_for_cpu = False
    if device.type == "cpu":
        # safetensors memory-maps weights that need no conversion.  One small tensor would keep the whole file in
        # memory, so these are copied.
        for weight in model.parameters():
            if weight.dtype.is_floating_point:
                weight.data = weight.data.clone()


def read_config(source: str) -> PreTrainedConfig:
    """Read the configuration of a model folder or hub id; raises `UserError` for an unknown family or kind of layer."""
    from minirft.engine.model_folder import how_to_fetch

    message = f"{source}: no folder of that name, and the hub did not give it ({{why}}); {how_to_fetch(source)}"
    with as_user_error(message, OSError, ValueError):
        stored, _ = PreTrainedConfig.get_config_dict(source)
    family = family_of(stored.get("model_type"), source)
    with as_user_error(f"{source}: config.json is not that of a {family.name} ({{why}})", *UNFIT):
        config = family.config_class.from_pretrained(source)
    check_layers(config, family, source)
    return config


def read_family(source: str) -> Family:
    """Read the family of a model folder or hub id; raises `UserError` as `read_config` does."""
    return family_of(read_config(source).model_type, source)


def nf4_settings(dtype: torch.dtype) -> BitsAndBytesConfig:
    """Make transformers' settings for weights in NF4 with quantised scales; arithmetic is in `dtype`."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def lora_config(family: Family, lora: LoraSettings, train_vision: bool = False) -> LoraConfig:
    """Make PEFT's settings: linear layers by name, without the other part of the model, where names may be the same."""
    part = lora.part(train_vision)
    language, vision = family.language_linears, family.vision_linears
    targets = {"language": language, "vision": vision, "all": {*language, *vision}}
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        target_modules=list(targets[part]),
        exclude_modules=PARTS[part],
        task_type="CAUSAL_LM",
    )


def add_lora(model: PreTrainedModel, lora: LoraSettings, train_vision: bool) -> PeftModel:
    """Add adapters to the chosen parts and freeze all other weights; `train_vision` widens "language" to "all"."""
    if lora.targets not in PARTS:
        raise UserError(f"lora targets are {lora.targets}; choose one of {', '.join(PARTS)}")
    if lora.r < 1:
        raise UserError(f"lora rank is {lora.r}; it must be at least 1")
    config = lora_config(family_of(model.config.model_type, model.name_or_path), lora, train_vision)
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(lora.seed)
        with quiet_peft():
            adapted = get_peft_model(model, config)  # in float32, whatever the model's dtype
    fuse_adapters(adapted)
    return adapted


def copy_trained(model: PreTrainedModel | PeftModel, folder: Path) -> None:
    """Copy the learned weights in `folder` into `model`, in place.  Raises `UserError` when they do not fit."""
    with as_user_error(f"{folder}: the saved weights do not fit this policy ({{why}}); check model and lora", *UNFIT):
        if isinstance(model, PeftModel):
            result = set_peft_model_state_dict(model, load_file(folder / "adapter_model.safetensors"))
            missing = [key for key in result.missing_keys if "lora_" in key]
            if missing or result.unexpected_keys:
                raise ValueError(f"{(missing + result.unexpected_keys)[0]} does not match")
        else:
            saved = type(model).from_pretrained(folder, dtype=model.dtype, use_safetensors=True)
            model.load_state_dict(saved.state_dict())

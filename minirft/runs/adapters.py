"""Which policy a command line means: that of a run, of an export, of a config's model, or an adapter from anywhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from peft import PeftConfig, PeftModel
from safetensors import SafetensorError

from minirft import UserError, as_user_error
from minirft.engine import quiet_peft
from minirft.policy import Policy
from minirft.runs.config import GRPOConfig
from minirft.runs.folder import load_policy, load_run_policy


def source_policy(source: str | Path, config: GRPOConfig, adapter: Path | None = None) -> Policy:
    """The policy is loaded that `source`, the folder of a run or of an export or a config, and `config` name.

    With `adapter` it is the config's model under that PEFT adapter.  Raises `UserError` for what cannot be loaded.
    """
    if adapter:
        return adapted_policy(adapter, config)
    return load_run_policy(Path(source), config) if Path(source).is_dir() else load_policy(config)


def adapted_policy(folder: Path, config: GRPOConfig) -> Policy:
    """The config's model gets the adapter in `folder`, whichever trainer wrote it, as what learns.

    It may be of any of PEFT's kinds that sit inside layers (LoRA, DoRA, IA3, ...).  Raises `UserError` where there is
    none, where it puts tokens before the prompt, or where it does not fit the model.
    """
    if not (folder / "adapter_config.json").is_file():
        raise UserError(f"{folder} holds no PEFT adapter (there is no adapter_config.json in it); check --adapter")
    base = load_policy(replace(config, train="lora"))  # so that the model may be one of 4 bits
    core = base.model.unload()
    message = f"{folder}: the adapter does not fit {config.model} ({{why}}); name its base model"
    with as_user_error(message, OSError, SafetensorError, RuntimeError, ValueError, TypeError, KeyError):
        kind = PeftConfig.from_pretrained(str(folder))
        if kind.is_prompt_learning:
            raise UserError(f"{folder}: a {kind.peft_type.value} adapter puts tokens before the prompt; use LoRA")
        vars(core).pop("peft_config", None)  # of the adapters taken off; not every version of PEFT takes it along
        with quiet_peft():
            model = PeftModel.from_pretrained(core, str(folder), is_trainable=True)
    return Policy(model, base.processor, name=f"{config.model} + {folder}")

"""This module loads the policy that a command line names: of a run, an export, a config's model, or any adapter."""

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
    """Load the policy of `source` (the folder of a run or an export, or a config) with the settings `config`.

    With `adapter`, load the config's model and put that PEFT adapter on it.  Raises `UserError` if it cannot be loaded.
    """
    if adapter:
        return adapted_policy(adapter, config)
    return load_run_policy(Path(source), config) if Path(source).is_dir() else load_policy(config)


def adapted_policy(folder: Path, config: GRPOConfig) -> Policy:
    """Load the config's model and put the adapter in `folder`, from any trainer, on it as its trainable weights.

    All PEFT kinds that change layers work (LoRA, DoRA, IA3, ...).  Raises `UserError` if there is no adapter, if it
    puts tokens before the prompt, or if it does not fit the model.
    """
    if not (folder / "adapter_config.json").is_file():
        raise UserError(f"{folder} holds no PEFT adapter (there is no adapter_config.json in it); check --adapter")
    base = load_policy(replace(config, train="lora"))  # "lora" because a 4-bit model cannot be trained in full
    core = base.model.unload()
    message = f"{folder}: the adapter does not fit {config.model} ({{why}}); name its base model"
    with as_user_error(message, OSError, SafetensorError, RuntimeError, ValueError, TypeError, KeyError):
        kind = PeftConfig.from_pretrained(str(folder))
        if kind.is_prompt_learning:
            raise UserError(f"{folder}: a {kind.peft_type.value} adapter puts tokens before the prompt; use LoRA")
        vars(core).pop("peft_config", None)  # some versions of PEFT leave the settings of the removed adapters here
        with quiet_peft():
            model = PeftModel.from_pretrained(core, str(folder), is_trainable=True)
    return Policy(model, base.processor, name=f"{config.model} + {folder}")

"""The policy is the model that learns.

`engine.Model` runs the model.  `Policy` adds what learning needs: which weights learn, their names, how they are saved.
The vision tower is frozen by default; it then runs once per picture, outside the autograd graph.

Deviation: LoRA and 4-bit weights are our addition; the paper does not use them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast, overload

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from minirft import UserError
from minirft.engine import (
    FeatureCache,
    LoraSettings,
    LossScale,
    Model,
    Processor,
    PromptCache,
    Rows,
    add_lora,
    copy_trained,
    keep_in_host_memory,
    load_model,
    load_processor,
    pick_device,
    pick_dtype,
    read_family,
    recompute_layers,
    resolve,
    rollout_logprobs,
)
from minirft.samples import Prompt, Rollout, Sample

__all__ = ["LoraSettings", "Policy"]


class Policy(Model):
    """A policy is a model of which some weights learn.

    `loss_scale` multiplies a loss before `backward`; it is 1, except for a float16 model.
    """

    def __init__(self, model: PreTrainedModel | PeftModel, processor: Processor, **options: Any) -> None:
        super().__init__(model, processor, **options)
        self.prompts = PromptCache()
        self.loss_scale = LossScale.of(self.dtype)

    @classmethod
    def load(
        cls,
        name: str | Path,
        *,
        quantize: str = "none",
        lora: LoraSettings | None = None,
        train_vision: bool = False,
        dtype: str = "auto",
        device: str | torch.device | None = None,
        max_pixels: int | None = None,
        checkpointing: bool = False,
        max_prompt_length: int | None = None,
        offload_vision: bool = False,
        offload_embedding: bool = False,
        shared_prefix: bool = True,
        decoder: str = "growing",
    ) -> Policy:
        """Load a policy: "tiny", a name of `engine.HUB` such as "qwen2-vl-2b", a folder or a hub id.

        `quantize` is "none" or "nf4" (4-bit, needs `lora`).  `dtype` is "auto", "float32", "bfloat16" or
        "float16".  `max_pixels` bounds the area of the resized picture, `max_prompt_length` the prompt in
        tokens.  `checkpointing` recomputes the language model's layers in the backward pass to save memory.
        `offload_vision` and `offload_embedding` keep these frozen weights in host memory (see `offload.py`).
        `shared_prefix` and `decoder` choose how the policy samples and scores everywhere (see `Model`).
        Raises `UserError` for anything that cannot be loaded.
        """
        if quantize == "nf4" and lora is None:
            raise UserError("quantize = nf4 trains LoRA adapters only; give lora settings or set quantize to none")
        source = resolve(str(name))
        device = pick_device(device)
        family = read_family(source)
        processor = load_processor(source, max_pixels, max_prompt_length, family.pixel_boxes)  # a fault shows at once
        core = load_model(source, family, quantize, pick_dtype(dtype, device), device)
        if lora is None:
            core.model.visual.requires_grad_(train_vision)
        policy = cls(
            core if lora is None else add_lora(core, lora, train_vision),
            processor,
            name=str(name),
            checkpointing=checkpointing,
            shared_prefix=shared_prefix,
            decoder=decoder,
        )
        keep_in_host_memory(policy, offload_vision, offload_embedding)
        if checkpointing:
            recompute_layers(policy.language_model)
        return policy

    @property
    def has_lora(self) -> bool:
        """Check whether the policy learns in LoRA adapters."""
        return isinstance(self.model, PeftModel)

    @property
    def tokenizer(self):
        return self.processor.tokenizer

    @property
    def image_processor(self):
        return self.processor.image_processor

    def encode(self, sample: Sample) -> Prompt:
        """Encode a sample as the model's input, on the CPU, and cache it.  Raises `UserError` (see `Processor`)."""
        return self.prompts.get(sample, lambda: self._encode(sample))

    def _encode(self, sample: Sample) -> Prompt:
        tensors = self.processor(sample)
        positions, delta = self.core.model.get_rope_index(
            input_ids=tensors["input_ids"][None],
            mm_token_type_ids=tensors["mm_token_type_ids"][None],
            image_grid_thw=tensors["image_grid_thw"],
        )
        return Prompt(sample=sample, **tensors, position_ids=positions[:, 0], rope_delta=int(delta))

    def decode(self, ids: Tensor, prompt: Prompt | None = None) -> str:
        """Decode token ids (T,) to text without control tokens; with `prompt`, boxes become thousandths."""
        text = self.processor.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        text = cast(str, text)  # one row of ids gives one string; the library's type allows a list too
        return self.processor.rescaled(text, prompt, written=False) if prompt and self.family.pixel_boxes else text

    @overload
    def logprobs(self, rollout: Rollout, rows: Rows = None, *, shared: bool | None = None) -> Tensor: ...
    @overload
    def logprobs(
        self, rollout: Rollout, rows: Rows = None, *, shared: bool | None = None, entropy: Literal[True]
    ) -> tuple[Tensor, Tensor]: ...
    def logprobs(
        self, rollout: Rollout, rows: Rows = None, *, shared: bool | None = None, entropy: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Compute log π of the sampled tokens: (rows, T) float32, 0 on padding, differentiable.

        See `rollout_logprobs`.
        """
        return rollout_logprobs(self, rollout, rows, shared=shared, entropy=entropy)

    @contextmanager
    def without_adapters(self) -> Iterator[None]:
        """Switch the LoRA adapters off inside a `with` block: the policy is then the base model.

        Raises `ValueError` for a policy without adapters.
        """
        if not self.has_lora:
            raise ValueError(f"policy {self.name!r} has no adapters to switch off: its own weights learn")
        with self.model.disable_adapter():
            yield

    def trainable(self) -> dict[str, nn.Parameter]:
        """Return the weights that learn, by name, in the order of the model."""
        return {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}

    def describe(self) -> str:
        """Describe the model in one line: its name, its weights, the weights that learn, precision and device."""
        total = sum(
            p.quant_state.shape.numel() if hasattr(p, "quant_state") else p.numel() for p in self.model.parameters()
        )
        learning = sum(p.numel() for p in self.trainable().values())
        kind = "LoRA" if self.has_lora else "full"
        bits = ", nf4" if getattr(self.core, "is_quantized", False) else ""
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.name}: {total:,} weights, {learning:,} learning ({kind}), {dtype}{bits} on {self.device}"

    def save(self, folder: str | Path) -> None:
        """Save the adapter in PEFT's format, or all weights and the processor in transformers' format (safetensors)."""
        if self.has_lora:
            self.model.save_pretrained(str(folder), save_embedding_layers=False)
            return
        self.core.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        self.image_processor.save_pretrained(folder)

    def load_trainable(self, folder: str | Path) -> None:
        """Load the weights that a policy of the same kind saved.  Raises `UserError` when they do not fit."""
        copy_trained(self.model, Path(folder))
        self.cache = FeatureCache()

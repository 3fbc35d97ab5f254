"""The policy: a Qwen2-VL with its processor, whatever its size, and which of its weights learn.

One class serves the embedded tiny model, Qwen2-VL-2B and 7B.  The vision tower is frozen by default; it then runs
once per picture, outside the graph.  Deviation from the paper: LoRA and 4-bit weights, which it does not use.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import Qwen2VLForConditionalGeneration

from minirft.engine.features import FeatureCache, PromptCache
from minirft.engine.loading import LoraSettings, add_lora, copy_trained, load_model, pick_device, pick_dtype, resolve
from minirft.engine.offload import look_up_in_host_memory, visit_while_running
from minirft.engine.precision import LossScale
from minirft.engine.processor import Processor, load_processor
from minirft.engine.versions import recompute_layers
from minirft.samples import Prompt, Sample, UserError

__all__ = ["LoraSettings", "Policy"]


class Policy:
    """Weights, processor and token rules.  Always in `eval()` mode: nothing here uses dropout.

    `eos_ids` end a completion; `banned` (K,) are never sampled: control tokens, and rows of the vocabulary
    that have no token.  `loss_scale` multiplies a loss before `backward`; 1 but for a float16 model.
    """

    def __init__(
        self,
        model: Qwen2VLForConditionalGeneration | PeftModel,
        processor: Processor,
        *,
        name: str = "",
        checkpointing: bool = False,
    ) -> None:
        self.model = model.eval()
        self.processor = processor
        self.name = name
        self.checkpointing = checkpointing
        self.cache = FeatureCache()
        self.prompts = PromptCache()
        self.loss_scale = LossScale.of(self.dtype)
        self.eos_ids = _eos_ids(self.core, processor)
        self.banned = _banned_ids(self.core, processor, self.eos_ids).to(self.device)

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
    ) -> Policy:
        """A policy from "tiny", "qwen2-vl-2b", "qwen2-vl-7b", a folder or a hub id.

        `quantize` is "none" or "nf4" (4-bit, needs `lora`).  `dtype` is "auto", "float32", "bfloat16" or
        "float16".  `max_pixels` bounds the area of the resized picture, `max_prompt_length` the prompt in
        tokens.  `checkpointing` recomputes the language model's layers in the backward pass to save memory.
        `offload_vision` and `offload_embedding` keep these frozen weights in host memory (see `offload.py`).
        Raises `UserError` for anything that cannot be loaded.
        """
        if quantize == "nf4" and lora is None:
            raise UserError("quantize = nf4 trains LoRA adapters only; give lora settings or set quantize to none")
        source = resolve(str(name))
        device = pick_device(device)
        core = load_model(source, quantize, pick_dtype(dtype, device), device)
        processor = load_processor(source, max_pixels, max_prompt_length)
        if lora is None:
            core.model.visual.requires_grad_(train_vision)
        policy = cls(
            core if lora is None else add_lora(core, lora, train_vision),
            processor,
            name=str(name),
            checkpointing=checkpointing,
        )
        policy._offload(offload_vision, offload_embedding)
        if checkpointing:
            recompute_layers(policy.language_model)
        return policy

    def _offload(self, vision: bool, embedding: bool) -> None:
        table, device = cast(nn.Embedding, self.core.get_input_embeddings()), self.device
        if vision and self.trains_vision:
            raise UserError(
                "offload_vision needs a frozen vision tower, and here it learns (train_vision, or the targets of "
                "lora): leave one of the two out"
            )
        if embedding and table.weight is self.lm_head.weight:
            raise UserError(
                f"offload_embedding: in {self.name} the embedding is also the head, which every token needs on the "
                "device; leave it out (7B has two tables)"
            )
        if embedding and table.weight.requires_grad:
            raise UserError('offload_embedding needs a frozen embedding: set train = "lora"')
        if vision:
            visit_while_running(self.core.model.visual, device)
        if embedding:
            look_up_in_host_memory(table, device)

    @property
    def core(self) -> Qwen2VLForConditionalGeneration:
        """The model itself, without PEFT's wrapper (adapter layers stay inside)."""
        wrapped = isinstance(self.model, PeftModel)
        return cast(Qwen2VLForConditionalGeneration, self.model.get_base_model() if wrapped else self.model)

    @property
    def has_lora(self) -> bool:
        return isinstance(self.model, PeftModel)

    @property
    def language_model(self) -> nn.Module:
        return self.core.model.language_model

    @property
    def lm_head(self) -> nn.Linear:
        return self.core.lm_head

    @property
    def tokenizer(self):
        return self.processor.tokenizer

    @property
    def image_processor(self):
        return self.processor.image_processor

    @property
    def device(self) -> torch.device:
        return self.lm_head.weight.device  # the head is never quantised, never offloaded

    @property
    def dtype(self) -> torch.dtype:
        return self.lm_head.weight.dtype

    @property
    def trains_vision(self) -> bool:
        """Does any weight of the vision tower learn?"""
        return any(parameter.requires_grad for parameter in self.core.model.visual.parameters())

    def encode(self, sample: Sample) -> Prompt:
        """The sample as the model reads it, on the CPU; remembered.  Raises `UserError` (see `Processor`)."""
        return self.prompts.get(sample, lambda: self._encode(sample))

    def _encode(self, sample: Sample) -> Prompt:
        tensors = self.processor(sample)
        positions, delta = self.core.model.get_rope_index(
            input_ids=tensors["input_ids"][None],
            mm_token_type_ids=tensors["mm_token_type_ids"][None],
            image_grid_thw=tensors["image_grid_thw"],
        )
        return Prompt(sample=sample, **tensors, position_ids=positions[:, 0], rope_delta=int(delta))

    def decode(self, ids: Tensor) -> str:
        """Token ids (T,) as text, control tokens skipped."""
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def features(self, prompt: Prompt) -> Tensor:
        """What the vision tower says about the prompt's picture, shape (picture tokens, hidden).

        A frozen tower runs under `no_grad` and once per picture; a learning one runs afresh, in the graph.
        """
        if self.trains_vision:
            return self.see(prompt)
        with torch.no_grad():
            return self.cache.get(prompt, lambda: self.see(prompt)).to(self.device)

    def see(self, prompt: Prompt) -> Tensor:
        """The vision tower's features of the prompt's picture, (picture tokens, hidden), computed whatever is known."""
        pixels, grid = prompt.pixel_values.to(self.device, self.dtype), prompt.image_grid_thw.to(self.device)
        return self.core.model.visual(pixels, grid_thw=grid).pooler_output.to(self.dtype)

    def embed(self, ids: Tensor) -> Tensor:
        """Token embeddings, shape (..., hidden)."""
        return self.core.get_input_embeddings()(ids.to(self.device))

    def embed_prompt(self, prompt: Prompt, features: Tensor | None = None) -> Tensor:
        """Token embeddings of the prompt with the picture's features in their places, shape (S, hidden)."""
        features = self.features(prompt) if features is None else features
        places = prompt.mm_token_type_ids.nonzero()[:, 0].to(self.device)
        return self.embed(prompt.input_ids).index_copy(0, places, features)

    @contextmanager
    def base(self) -> Iterator[None]:
        """Inside, the adapters are off and the policy is the untouched base model.  LoRA only."""
        if not self.has_lora:
            raise ValueError(f"policy {self.name!r} has no adapters to switch off: its own weights learn")
        with self.model.disable_adapter():
            yield

    @contextmanager
    def recomputing(self) -> Iterator[None]:
        """Inside, the language model's layers are checkpointed, if the policy was loaded so.

        transformers checkpoints in train mode only, and in that mode drops the cache without an error: the mode
        must not outlive the forward pass.  (Recomputation itself happens later and asks no mode.)
        """
        self.language_model.train(self.checkpointing and torch.is_grad_enabled())
        try:
            yield
        finally:
            self.language_model.eval()

    def trainable(self) -> dict[str, nn.Parameter]:
        """The weights that learn, by name, in the order of the model."""
        return {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}

    def describe(self) -> str:
        """One line: the model, how many weights it has and how many learn, precision and device."""
        total = sum(
            p.quant_state.shape.numel() if hasattr(p, "quant_state") else p.numel() for p in self.model.parameters()
        )
        learning = sum(p.numel() for p in self.trainable().values())
        kind = "LoRA" if self.has_lora else "full"
        bits = ", nf4" if getattr(self.core, "is_quantized", False) else ""
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.name}: {total:,} weights, {learning:,} learning ({kind}), {dtype}{bits} on {self.device}"

    def save(self, folder: str | Path) -> None:
        """Writes what plain PEFT (adapter) or plain transformers (full weights, processor) loads; safetensors."""
        if self.has_lora:
            self.model.save_pretrained(str(folder), save_embedding_layers=False)
            return
        self.core.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        self.image_processor.save_pretrained(folder)

    def load_trainable(self, folder: str | Path) -> None:
        """Takes over the weights a policy of the same kind saved.  Raises `UserError` when they do not fit."""
        copy_trained(self.model, Path(folder))
        self.cache = FeatureCache()


def _eos_ids(core: Qwen2VLForConditionalGeneration, processor: Processor) -> tuple[int, ...]:
    stated = core.generation_config.eos_token_id
    stated = stated if isinstance(stated, list) else [stated]
    ids = {*stated, processor.tokenizer.eos_token_id} - {None}
    # A configuration may name an id from another vocabulary: only ids with a token can be sampled.
    return tuple(sorted(i for i in ids if i < len(processor.tokenizer)))


def _banned_ids(core: Qwen2VLForConditionalGeneration, processor: Processor, eos_ids: tuple[int, ...]) -> Tensor:
    tokenizer, config, vocabulary = processor.tokenizer, core.config, core.lm_head.out_features
    control = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    control |= set(tokenizer.all_special_ids) | {config.image_token_id, config.video_token_id}
    control |= {config.vision_start_token_id, config.vision_end_token_id}
    control |= set(range(len(tokenizer), vocabulary))
    return torch.tensor(sorted(i for i in control - set(eos_ids) if i < vocabulary))

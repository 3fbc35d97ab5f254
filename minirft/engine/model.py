"""A model runs a vision-language model: it has its parts, token rules, picture features and loss scale.

The embedded tiny model and the models of all families (`families`) use this class.  `policy.Policy` is a model that
learns.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from minirft.engine.families import family_of
from minirft.engine.processor import FeatureCache, Processor
from minirft.engine.versions import CACHE
from minirft.samples import Prompt


class Model:
    """A model has weights, a processor and token rules, and stays in `eval()` mode, because nothing uses dropout.

    `eos_ids` end a completion; `banned` (K,) are never sampled: control tokens, and rows of the vocabulary
    without a token.  With `shared_prefix` a group's prompt passes the model once, in sampling and in scoring;
    `decoder` is a name in `decoding.DECODERS`.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        processor: Processor,
        *,
        name: str = "",
        checkpointing: bool = False,
        shared_prefix: bool = True,
        decoder: str = "growing",
    ) -> None:
        self.model = model.eval()
        self.processor = processor
        self.name = name
        self.checkpointing = checkpointing
        self.shared_prefix = shared_prefix
        self.decoder = decoder
        self.cache = FeatureCache()
        self.family = family_of(self.core.config.model_type, name)
        self.family.prepare(self.core)
        # Width of the extra features of a picture token; a text token has zeros there.
        self.beside = self.family.levels(self.core.config) * self.lm_head.in_features
        self.eos_ids = _eos_ids(self.core, processor)
        self.banned = _banned_ids(self.core, processor, self.eos_ids).to(self.device)

    @property
    def core(self) -> Any:
        """Return the model, of its family's class, without PEFT's wrapper (adapter layers stay inside)."""
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model

    @property
    def language_model(self) -> nn.Module:
        return self.core.model.language_model

    @property
    def lm_head(self) -> nn.Linear:
        return self.core.lm_head

    @property
    def device(self) -> torch.device:
        return self.lm_head.weight.device  # the head is never quantised, never offloaded

    @property
    def dtype(self) -> torch.dtype:
        return self.lm_head.weight.dtype

    @property
    def trains_vision(self) -> bool:
        """Check whether any weight of the vision tower learns."""
        return any(parameter.requires_grad for parameter in self.core.model.visual.parameters())

    def features(self, prompt: Prompt) -> Tensor:
        """Return the vision tower's features of the prompt's picture, (picture tokens, hidden), or wider (see `embed`).

        A frozen tower runs under `no_grad` and once per picture; a tower that learns runs again, in the autograd graph.
        """
        if self.trains_vision:
            return self.run_vision_tower(prompt)
        with torch.no_grad():
            return self.cache.get(prompt, lambda: self.run_vision_tower(prompt)).to(self.device)

    def run_vision_tower(self, prompt: Prompt) -> Tensor:
        """Run the vision tower on the prompt's picture, ignoring the cache: features with the shape of `features`."""
        pixels, grid = prompt.pixel_values.to(self.device, self.dtype), prompt.image_grid_thw.to(self.device)
        found = self.core.model.visual(pixels, grid_thw=grid)
        return torch.cat([found.pooler_output, *(getattr(found, "deepstack_features", None) or ())], -1).to(self.dtype)

    def embed(self, ids: Tensor) -> Tensor:
        """Return token embeddings, (..., hidden), padded with zeros to the width of a picture token (DeepStack)."""
        return nn.functional.pad(self.core.get_input_embeddings()(ids.to(self.device)), (0, self.beside))

    def embed_prompt(self, prompt: Prompt, features: Tensor | None = None) -> Tensor:
        """Return the prompt's token embeddings with the picture's features in their places, (S, hidden) or wider."""
        features = self.features(prompt) if features is None else features
        places = prompt.mm_token_type_ids.nonzero()[:, 0].to(self.device)
        return self.embed(prompt.input_ids).index_copy(0, places, features)

    def run(
        self, embeds: Tensor, positions: Tensor, mask: Any = None, cache: Cache | None = None, **layout: Any
    ) -> Tensor:
        """Run the language model over embeddings (n, L, D or wider) at positions (3, n, L): hidden states (n, L, D).

        `layout` replaces the mask (see `layers.shared_prefix_attention`).  Without a cache and with gradients, layers
        are checkpointed if `checkpointing` is set.  transformers checkpoints in train mode only, and in train mode it
        drops the cache without an error, so the mode must end with the pass.  (Recomputation itself happens later, and
        works in any mode.)
        """
        inputs = {"inputs_embeds": embeds, "position_ids": positions.to(self.device), "attention_mask": mask}
        # Setting the mode of every layer takes a tenth of a small pass.
        if self.language_model.training != (learns := self.checkpointing and cache is None and torch.is_grad_enabled()):
            self.language_model.train(learns)
        try:
            found = self.language_model(**inputs, **{CACHE: cache}, use_cache=cache is not None, **layout)
        finally:
            if learns:
                self.language_model.eval()
        return found.last_hidden_state


@dataclass
class LossScale:
    """The loss scale multiplies a loss before `backward` and divides its gradient after; as a power of 2 it is exact.

    It is 1 and fixed unless the model computes in float16.  There the gradient of a logit, at most 1 / tokens, would
    often be below the smallest float16, 6e-8, and become 0.  The scale starts at 65,536, as in torch's `GradScaler`; an
    overflow halves it, and `GROWTH` updates without overflow double it.

    >>> scale = LossScale(65536.0)
    >>> scale.halve(), scale.value
    (True, 32768.0)
    >>> LossScale().halve()
    False
    """

    value: float = 1.0
    updates: int = 0  # without overflow, since the last change

    GROWTH = 200

    @classmethod
    def of(cls, dtype: torch.dtype) -> LossScale:
        """Make the initial scale for a model of this number format."""
        return cls(2.0**16 if dtype == torch.float16 else 1.0)

    def remove_from(self, weights: Iterable[nn.Parameter]) -> None:
        """Divide the gradients by the scale."""
        if self.value == 1:
            return
        for weight in weights:
            if weight.grad is not None:
                weight.grad /= self.value

    def halve(self) -> bool:
        """Halve the scale after an overflow; return False if it is 1: then the gradient itself is not finite."""
        if self.value <= 1:
            return False
        self.value, self.updates = self.value / 2, 0
        return True

    def worked(self) -> None:
        """Count an update with a finite gradient; after `GROWTH` of them, double the scale."""
        if self.value > 1:
            self.updates += 1
            if self.updates == self.GROWTH:
                self.value, self.updates = self.value * 2, 0

    def state(self) -> dict[str, Any]:
        """Return the state for a checkpoint; `LossScale(**state)` restores it."""
        return asdict(self)


def _eos_ids(core: PreTrainedModel, processor: Processor) -> tuple[int, ...]:
    stated = core.generation_config.eos_token_id
    stated = stated if isinstance(stated, list) else [stated]
    ids = {*stated, processor.tokenizer.eos_token_id} - {None}
    # A configuration may name an id from another vocabulary: only ids with a token can be sampled.
    return tuple(sorted(i for i in ids if i < len(processor.tokenizer)))


def _banned_ids(core: PreTrainedModel, processor: Processor, eos_ids: tuple[int, ...]) -> Tensor:
    tokenizer, config, vocabulary = processor.tokenizer, core.config, core.lm_head.out_features
    control = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    control |= set(tokenizer.all_special_ids) | {config.image_token_id, config.video_token_id}
    control |= {config.vision_start_token_id, config.vision_end_token_id}
    control |= set(range(len(tokenizer), vocabulary))
    return torch.tensor(sorted(i for i in control - set(eos_ids) if i < vocabulary))

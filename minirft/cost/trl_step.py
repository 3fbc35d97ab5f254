"""TRL's trainer of the comparison: that of `minirft train --engine trl`, on a model as plain transformers has it.

TRL may be missing, so its import is local.

Where TRL's defaults (in brackets) differ, its settings are set to ours: loss "grpo" ("dapo"), plain KL, float32 (bf16),
checkpointing as requested (on), a frozen vision tower also without adapters.  Every completion has exactly C tokens.
"""

import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from functools import lru_cache
from typing import Any
from unittest import mock

import torch
from peft import PeftModel, get_peft_model
from transformers import Qwen2VLForConditionalGeneration, TrainerCallback

from minirft.cost.shapes import questions
from minirft.cost.steps import Found, Ours, loss_and_gradients, reward, taken_gradients
from minirft.cost.work import Mark
from minirft.engine import lora_config, nf4_settings, resolve, tidy_after_quantising
from minirft.policy import Policy
from minirft.runs import PictureProcessor, trl_settings, with_trl
from minirft.samples import Rollout


class Trl:
    """A TRL trainer to measure, on the weights in `source`.  Raises `ImportError` if TRL is not installed."""

    def __init__(self, ours: Ours, turns: int, source: str, device: str = "cpu", nf4: bool = False) -> None:
        self.ours, self.shape = ours, ours.shape
        with with_trl.quietly():  # warnings of TRL and its libraries about each other
            import trl

            self.policy = Policy(plain_model(ours, source, device, nf4), ours.policy.processor)
            config = replace(ours.config, steps=turns, device=device)
            exactly = {"min_new_tokens": config.max_completion_length}
            changes = {"bf16": nf4, "generation_kwargs": exactly, "logging_strategy": "no"}
            args = trl.GRPOConfig(**trl_settings(config) | changes, output_dir=tempfile.gettempdir())
            feed = lru_cache(2)(lambda step: questions(ours.text, ours.shape, step - 1))
            self.trainer = with_trl.new_trainer(trl, args, config, self.policy, feed, reward, [])

    @property
    def marks(self) -> list[Mark]:
        """Return the phase of each marked function; the rest of the step is "update"."""
        return [
            (self.trainer, "_generate_and_score_completions", "score"),  # less the others: rewards and reference
            (self.trainer, "_tokenize_prompts", "prepare"),
            (self.trainer, "_generate_single_turn", "generate"),
            (PictureProcessor, "__call__", "prepare"),
        ]

    def run(self, watch: Callable[[int], AbstractContextManager], between: Callable[[int], None]) -> None:
        """Run `GRPOTrainer.train`, each step inside `watch(turn)`; `between(turn)` then does the others' steps."""
        self.trainer.add_callback(_Turns(watch, between))
        with with_trl.quietly():
            self.trainer.train()

    def loss_and_gradients(self, rollout: Rollout) -> Found:
        """Return TRL's loss on our rollout with our weights, and its gradient by weight."""
        trainer, model = self.trainer, self.policy.model
        model.load_state_dict(self.ours.policy.trainable(), strict=False)
        model.train()
        trainer.current_gradient_accumulation_steps = 1
        rows = [with_trl.row_of(rollout.sample_of(b)) for b in range(len(rollout.texts))]
        answers = mock.Mock(return_value=(rollout.completion_ids.tolist(), None))
        with with_trl.quietly(), mock.patch.object(trainer, "_generate_single_turn", answers):
            inputs = trainer._generate_and_score_completions(rows)
            inputs |= {f"{name}_per_token_logps": rollout.logprobs for name in ("old", "ref")}
            loss = trainer._compute_loss(model, inputs)
            loss.backward()
        return loss.item(), taken_gradients(self.policy)


class _Turns(TrainerCallback):
    """The callback that measures each step of TRL's loop."""

    def __init__(self, watch: Callable[[int], AbstractContextManager], between: Callable[[int], None]) -> None:
        self.watch, self.between, self.stack = watch, between, ExitStack()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start to measure a step: generation, rewards, loss and optimiser follow."""
        self.stack.enter_context(self.watch(state.global_step))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End the measurement; `global_step` has been incremented."""
        self.stack.close()
        self.between(state.global_step - 1)


def plain_model(ours: Ours, source: str, device: str, nf4: bool) -> Qwen2VLForConditionalGeneration | PeftModel:
    """Load the model as a user of transformers and PEFT does: in float32, or in 4 bits; the tower is frozen."""
    dtype = torch.bfloat16 if nf4 else torch.float32
    model = Qwen2VLForConditionalGeneration.from_pretrained(
        resolve(source),
        dtype=dtype,
        device_map={"": device},
        quantization_config=nf4_settings(dtype) if nf4 else None,
    )
    if nf4:
        tidy_after_quantising(model, torch.device(device))
    model.model.visual.requires_grad_(False)
    return get_peft_model(model, lora_config(ours.policy.family, ours.config.lora)) if ours.policy.has_lora else model


def our_loss_over_all_tokens(ours: Ours, rollout: Rollout) -> Found:
    """Compute our loss with TRL's log-probs: normalised over the whole vocabulary, with banned tokens."""
    with mock.patch.object(ours.policy, "banned", ours.policy.banned[:0]):
        return loss_and_gradients(ours.policy, rollout, ours.config, shared=True)

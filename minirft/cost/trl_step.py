"""TRL's trainer of the comparison: its `GRPOTrainer.train` on the same model, text, pictures and lengths.

TRL is used only here, so its import is local, and it may be missing.

Where TRL's defaults (in brackets) differ, its settings are set to ours: loss "grpo" ("dapo"), plain KL, float32 (bf16),
checkpointing as requested (on), a frozen vision tower also without adapters.  Every completion has exactly C tokens.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from transformers import PrinterCallback, Qwen2VLForConditionalGeneration, TrainerCallback

from minirft import UserError
from minirft.advantages import group_advantages
from minirft.cost.shapes import questions
from minirft.cost.steps import Ours, loss_and_gradients, reward
from minirft.cost.work import Mark
from minirft.engine import LoraSettings, lora_config, nf4_settings, resolve, tidy_after_quantising
from minirft.runs import PictureProcessor, trl_settings
from minirft.samples import Rollout

Watch = Callable[[int], AbstractContextManager]
"""Turn -> the context in which that turn's step runs."""
Load = Callable[[], Qwen2VLForConditionalGeneration]


class Trl:
    """A TRL trainer to measure.  Raises `ImportError` if TRL is not installed."""

    def __init__(self, ours: Ours, lora: LoraSettings | None, turns: int, load: Load, **changes: Any) -> None:
        self.ours, self.turns = ours, turns
        self.image_processor = ours.image_processor
        with warnings.catch_warnings(action="ignore"):  # warnings of TRL and its libraries about each other
            self.trainer = new_trainer(ours, lora, turns, load, **changes)

    @property
    def core(self) -> nn.Module:
        """Return the model for the hooks."""
        model = self.trainer.model
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    @property
    def marks(self) -> list[Mark]:
        """Return the phase of each marked function; the rest of the step is "update"."""
        # Without the three others, "score" has the rewards and the reference.
        own = {
            "_generate_and_score_completions": "score",
            "_tokenize_prompts": "prepare",
            "_generate_single_turn": "generate",
        }
        marks = [(self.trainer, name, phase) for name, phase in own.items()]
        return [*marks, (PictureProcessor, "__call__", "prepare")]

    def run(self, watch: Watch, between: Callable[[int], None]) -> None:
        """Run `GRPOTrainer.train`; after each of its steps, `between` does the steps of the other trainers."""
        self.trainer.add_callback(_Turns(watch, between))
        with warnings.catch_warnings(action="ignore"):
            self.trainer.train()

    def loss_and_gradients(self, rollout: Rollout) -> tuple[float, dict[str, Tensor]]:
        """Return TRL's loss on our rollout with our weights, and its gradient by weight."""
        model, weights = self.trainer.model, self.ours.policy.trainable()
        mine = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        if mine.keys() != weights.keys():
            raise UserError(f"TRL and ours train other weights: {sorted(mine.keys() ^ weights.keys())[:3]}")
        with torch.no_grad():
            for name, weight in weights.items():
                mine[name].copy_(weight)
        self.trainer.current_gradient_accumulation_steps = 1
        model.train()
        with warnings.catch_warnings(action="ignore"):
            loss = self.trainer._compute_loss(model, trl_inputs(rollout))
            loss.backward()
        gradients = {name: weight.grad for name, weight in mine.items()}
        model.zero_grad(set_to_none=True)
        return loss.item(), gradients


class _Turns(TrainerCallback):
    """The callback that measures each step of TRL's loop."""

    def __init__(self, watch: Watch, between: Callable[[int], None]) -> None:
        self.watch, self.between, self.stack = watch, between, ExitStack()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start to measure a step: generation, rewards, loss and optimiser follow."""
        self.stack.enter_context(self.watch(state.global_step))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End the measurement; `global_step` has been incremented."""
        self.stack.close()
        self.between(state.global_step - 1)


def plain_model(source: str, device: str = "cpu", nf4: bool = False) -> Qwen2VLForConditionalGeneration:
    """Load the model as a user of transformers does: in float32, or in 4 bits and bfloat16; the tower is frozen."""
    dtype = torch.bfloat16 if nf4 else torch.float32
    quantised = {"quantization_config": nf4_settings(dtype)} if nf4 else {}
    model = Qwen2VLForConditionalGeneration.from_pretrained(
        resolve(source), dtype=dtype, device_map={"": device}, **quantised
    )
    if nf4:
        tidy_after_quantising(model, torch.device(device))
    model.model.visual.requires_grad_(False)
    return model


def new_trainer(ours: Ours, lora: LoraSettings | None, turns: int, load: Load, **changes: Any) -> Any:
    """Make a `GRPOTrainer` with our settings and `changes`, for the model that `load` returns.

    Raises `UserError` if its prompt differs from ours.
    """
    import datasets
    import trl

    config, shape = ours.config, ours.shape
    samples = [sample for turn in range(turns) for sample in questions(ours.text, shape, turn)]
    processor = PictureProcessor.of(ours.policy, samples[0])
    settings = trl_settings(config) | {
        "generation_kwargs": {"min_new_tokens": config.max_completion_length},
        "use_cpu": True,
        "max_steps": turns,
        "logging_strategy": "no",
    }
    rows = [{"prompt": [{"role": "user", "content": s.problem}], "image": s.picture()} for s in samples]
    trainer = trl.GRPOTrainer(
        model=load(),
        reward_funcs=text_rewards,
        args=trl.GRPOConfig(**settings | changes, output_dir=tempfile.gettempdir()),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=processor,
        peft_config=lora_config(ours.policy.family, lora) if lora else None,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def text_rewards(completions: list[list[dict[str, str]]], **_: Any) -> list[float]:
    """Compute our reward with TRL's signature."""
    return [reward(completion[0]["content"], "").total for completion in completions]


def trl_inputs(rollout: Rollout) -> dict[str, Any]:
    """Convert our rollout for TRL's loss: every row has its own copy of prompt and picture."""
    rows, size = range(len(rollout.texts)), rollout.group_size
    prompts = [rollout.prompts[b // size] for b in rows]
    ids = torch.stack([prompt.input_ids for prompt in prompts])
    types = torch.stack([prompt.mm_token_type_ids for prompt in prompts])
    scores = torch.tensor([reward(text, "").total for text in rollout.texts]).view(-1, size)
    return {
        "prompt_ids": ids,
        "prompt_mask": torch.ones_like(ids),
        "completion_ids": rollout.completion_ids,
        "completion_mask": rollout.completion_mask.long(),
        "advantages": group_advantages(scores).flatten(),
        "old_per_token_logps": rollout.logprobs,
        "ref_per_token_logps": rollout.logprobs,
        "num_items_in_batch": rollout.completion_mask.sum(),
        "pixel_values": torch.cat([prompt.pixel_values for prompt in prompts]),
        "image_grid_thw": torch.cat([prompt.image_grid_thw for prompt in prompts]),
        "num_images": [1] * len(rows),
        "mm_token_type_ids": torch.nn.functional.pad(types, (0, rollout.completion_ids.shape[1])),
    }


def our_loss_over_all_tokens(ours: Ours, rollout: Rollout) -> tuple[float, dict[str, Tensor]]:
    """Compute our loss with TRL's log-probs: normalised over the whole vocabulary, with banned tokens."""
    with mock.patch.object(ours.policy, "banned", ours.policy.banned[:0]):
        return loss_and_gradients(ours.policy, rollout, ours.config, shared=True)

"""TRL's side of the comparison: its own `GRPOTrainer.train`, on the same model, text, pictures and lengths.

TRL is needed for this and nothing else, so it is imported here only, and its absence is no error.

Settings are made equal to ours, where TRL's defaults differ: loss "grpo" (default "dapo"), plain KL, float32 (bf16),
checkpointing as asked (on), a frozen vision tower also without adapters.  No completion may end before its C tokens.
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
from transformers import PrinterCallback, ProcessorMixin, Qwen2VLForConditionalGeneration, TrainerCallback
from transformers.models.qwen2_vl import Qwen2VLProcessor

from minirft import UserError
from minirft.advantages import group_advantages
from minirft.cost.shapes import questions
from minirft.cost.steps import Ours, loss_and_gradients, reward
from minirft.cost.work import Mark
from minirft.engine import LoraSettings, lora_config, resolve
from minirft.policy import Policy
from minirft.runs import GRPOConfig
from minirft.samples import Rollout, Sample

Watch = Callable[[int], AbstractContextManager]
"""Turn -> the context in which that turn's step runs."""
Load = Callable[[], Qwen2VLForConditionalGeneration]


class PictureProcessor(Qwen2VLProcessor):
    """Qwen2-VL's processor without the video part, which needs torchvision."""

    def __init__(self, image_processor: Any, tokenizer: Any, chat_template: str | None = None) -> None:
        self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    @classmethod
    def get_attributes(cls) -> list[str]:
        """The parts a processor is made of, for transformers."""
        return ["image_processor", "tokenizer"]


class Trl:
    """A TRL trainer to measure.  Raises `ImportError` where TRL is not installed."""

    def __init__(self, ours: Ours, lora: LoraSettings | None, turns: int, load: Load, **changes: Any) -> None:
        self.ours, self.turns = ours, turns
        self.image_processor = ours.image_processor
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of TRL and its libraries, about each other
            self.trainer = new_trainer(ours, lora, turns, load, **changes)

    @property
    def core(self) -> nn.Module:
        """The model to hang hooks on."""
        model = self.trainer.model
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    @property
    def marks(self) -> list[Mark]:
        """Which function belongs to which phase; the rest of the step is "update"."""
        return [
            (self.trainer, "_generate_and_score_completions", "score"),  # less the three below: rewards, reference
            (self.trainer, "_tokenize_prompts", "prepare"),
            (self.trainer, "_generate_single_turn", "generate"),
            (PictureProcessor, "__call__", "prepare"),
        ]

    def run(self, watch: Watch, between: Callable[[int], None]) -> None:
        """`GRPOTrainer.train`; after each of its steps, `between` does the other trainers'."""
        self.trainer.add_callback(_Turns(watch, between))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.trainer.train()

    def loss_and_gradients(self, rollout: Rollout) -> tuple[float, dict[str, Tensor]]:
        """TRL's loss on our rollout with our weights, and its gradient by weight."""
        model, weights = self.trainer.model, self.ours.policy.trainable()
        mine = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        if mine.keys() != weights.keys():
            raise UserError(f"TRL and ours train other weights: {sorted(mine.keys() ^ weights.keys())[:3]}")
        with torch.no_grad():
            for name, weight in weights.items():
                mine[name].copy_(weight)
        self.trainer.current_gradient_accumulation_steps = 1
        model.train()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loss = self.trainer._compute_loss(model, trl_inputs(rollout))
            loss.backward()
        gradients = {name: weight.grad for name, weight in mine.items()}
        model.zero_grad(set_to_none=True)
        return loss.item(), gradients


class _Turns(TrainerCallback):
    """Around each step of TRL's loop."""

    def __init__(self, watch: Watch, between: Callable[[int], None]) -> None:
        self.watch, self.between, self.stack = watch, between, ExitStack()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A step of TRL's begins: its generation, rewards, loss and optimiser follow."""
        self.stack.enter_context(self.watch(state.global_step))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """It has ended; `global_step` has been counted up."""
        self.stack.close()
        self.between(state.global_step - 1)


def plain_model(source: str) -> Qwen2VLForConditionalGeneration:
    """The model in float32, its vision tower frozen."""
    model = Qwen2VLForConditionalGeneration.from_pretrained(resolve(source), dtype=torch.float32)
    model.model.visual.requires_grad_(False)
    return model


def new_trainer(ours: Ours, lora: LoraSettings | None, turns: int, load: Load, **changes: Any) -> Any:
    """A `GRPOTrainer` with our settings, and `changes` to them, of the model that `load` makes.

    Raises `UserError` when it would read another prompt than we do."""
    import datasets
    import trl

    config, shape = ours.config, ours.shape
    processor = PictureProcessor(ours.image_processor, ours.policy.tokenizer, ours.policy.tokenizer.chat_template)
    samples = [sample for turn in range(turns) for sample in questions(ours.text, shape, turn)]
    _check_same_prompt(processor, ours.policy, samples[0])
    rows = [{"prompt": [{"role": "user", "content": s.problem}], "image": s.picture()} for s in samples]
    trainer = trl.GRPOTrainer(
        model=load(),
        reward_funcs=text_rewards,
        args=trl.GRPOConfig(**trl_arguments(config, turns) | changes, output_dir=tempfile.gettempdir()),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=processor,
        peft_config=lora_config(ours.policy.family, lora) if lora else None,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def text_rewards(completions: list[list[dict[str, str]]], **_: Any) -> list[float]:
    """The reward of ours, called as TRL calls one."""
    return [reward(completion[0]["content"], "").total for completion in completions]


def trl_arguments(config: GRPOConfig, turns: int) -> dict[str, Any]:
    """TRL's names for our settings."""
    return {
        "per_device_train_batch_size": config.prompts_per_step * config.group_size,
        "num_generations": config.group_size,
        "max_completion_length": config.max_completion_length,
        "generation_kwargs": {"min_new_tokens": config.max_completion_length},
        "temperature": config.temperature,
        "loss_type": config.loss,
        "epsilon": config.clip_eps,
        "beta": config.kl_coef,
        "use_bias_correction_kl": False,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": config.lr_schedule,
        "max_grad_norm": config.max_grad_norm,
        "gradient_checkpointing": config.checkpointing,
        "bf16": False,
        "use_cpu": True,
        "max_steps": turns,
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
    }


def _check_same_prompt(processor: PictureProcessor, policy: Policy, sample: Sample) -> None:
    content = [{"type": "image", "image": sample.picture()}, {"type": "text", "text": sample.problem}]
    theirs = processor.apply_chat_template(
        [[{"role": "user", "content": content}]], add_generation_prompt=True, tokenize=True, return_dict=True
    )
    mine = policy.encode(sample).input_ids.tolist()
    if list(theirs["input_ids"][0]) != mine:
        raise UserError(
            f"TRL reads {len(theirs['input_ids'][0])} prompt tokens where we read {len(mine)}: use --no-trl"
        )


def trl_inputs(rollout: Rollout) -> dict[str, Any]:
    """Our rollout in the form in which TRL's loss takes it: every row with its own copy of prompt and picture."""
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
    """Our loss as TRL defines log-probs: normalised over the whole vocabulary, tokens never sampled included."""
    with mock.patch.object(ours.policy, "banned", ours.policy.banned[:0]):
        return loss_and_gradients(ours.policy, rollout, ours.config, shared=True)

"""Seconds of a whole GRPO step on a card, ours and TRL's taking turns, split into the same phases.

Both train adapters of rank 16, held in bfloat16, on a frozen 4-bit model with gradient checkpointing; TRL without
vLLM.  The card is waited for at every change of phase, which costs both the same few microseconds.
"""

from __future__ import annotations

import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit
from peft import LoraConfig
from transformers import BitsAndBytesConfig, PrinterCallback, Qwen2VLForConditionalGeneration

from minirft.cost.gpu_parts import Cases, Row, Sizes, endless, one_line, synchronise
from minirft.cost.shapes import Shape, filler, fit_shape, questions
from minirft.cost.steps import Ours, settings
from minirft.cost.trl_step import PictureProcessor, Trl, text_rewards, trl_arguments
from minirft.cost.work import PHASES, Phases, marked
from minirft.engine import DECODERS, TARGETS, FeatureCache, LoraSettings
from minirft.policy import Policy

LORA = LoraSettings(dtype="bfloat16")  # TRL casts the adapters of a 4-bit model to bfloat16
Spent = dict[str, float]  # phase -> seconds


def times(source: str, device: str, sizes: Sizes) -> Cases:
    """One case a shape."""
    for prompt, completion, group in sizes.shapes:
        shape = Shape(prompt, completion, group)
        yield f"P {prompt}, C {completion}, G {group}", partial(step_seconds, source, device, shape, sizes.steps)


def step_seconds(source: str, device: str, shape: Shape, steps: int) -> Row:
    """Medians over `steps` steps of TRL and of ours with each decoder, after one that warms up.

    Who fails leaves an error and the others go on.
    """
    trainers = new_ours(source, device, shape)
    policy = trainers["growing"].policy
    spent: dict[str, list[Spent]] = {name: [] for name in [*trainers, "trl"]}
    errors: dict[str, str] = {}
    turns_done = 0

    def ours(turn: int) -> None:
        nonlocal turns_done
        for name in [name for name in trainers if name not in errors]:
            policy.cache = FeatureCache()  # every step sees its picture for the first time
            try:
                trainers[name].step(turn, timed(trainers[name], torch.device(device), spent[name], turn))
            except Exception as failure:
                errors[name] = one_line(failure)
        turns_done = turn + 1

    try:
        trl = CardTrl(source, device, trainers["growing"], steps + 1)
        trl.run(lambda turn: timed(trl, torch.device(device), spent["trl"], turn), ours)
    except Exception as failure:  # whatever it is, ours can be timed
        errors["trl"] = one_line(failure)
    for turn in range(turns_done, steps + 1):
        ours(turn)
    rows = {name: summary(seconds) for name, seconds in spent.items() if name not in errors}
    whole = rows["trl"]["seconds"] if "trl" in rows else None
    ratios = {name: whole / rows[name]["seconds"] for name in trainers if name in rows} if whole else {}
    return {"seconds": rows, "trl_to_ours": ratios, "errors": errors}


def new_ours(source: str, device: str, shape: Shape) -> dict[str, Ours]:
    """Our trainer with each decoder: the real `grpo_step` on a prompt of exactly the shape's length."""
    policy = endless(
        Policy.load(source, quantize="nf4", lora=LORA, dtype="bfloat16", device=device, checkpointing=True)
    )
    shape = fit_shape(policy, shape)
    config = replace(settings(shape, checkpointing=True, kl_coef=0.0), quantize="nf4", train="lora", lora=LORA)
    text = filler(policy, shape)
    return {name: Ours(policy, None, replace(config, decoder=name), shape, text) for name in DECODERS}


class CardTrl(Trl):
    """TRL on a 4-bit model, on the card."""

    def __init__(self, source: str, device: str, ours: Ours, turns: int) -> None:
        self.ours, self.turns, self.image_processor = ours, turns, ours.image_processor
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of TRL and its libraries, about each other
            self.trainer = _new_trainer(source, device, ours, turns)


def _new_trainer(source: str, device: str, ours: Ours, turns: int) -> Any:
    import datasets
    import trl

    samples = [sample for turn in range(turns) for sample in questions(ours.text, ours.shape, turn)]
    rows = [{"prompt": [{"role": "user", "content": s.problem}], "image": s.picture()} for s in samples]
    changes = {"use_cpu": device == "cpu", "bf16": True, "output_dir": tempfile.gettempdir()}
    trainer = trl.GRPOTrainer(
        model=_four_bit(source, device),
        reward_funcs=text_rewards,
        args=trl.GRPOConfig(**trl_arguments(ours.config, turns) | changes),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=PictureProcessor(
            ours.image_processor, ours.policy.tokenizer, ours.policy.tokenizer.chat_template
        ),
        peft_config=LoraConfig(
            r=LORA.r, lora_alpha=LORA.alpha, target_modules=TARGETS[LORA.targets], task_type="CAUSAL_LM"
        ),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _four_bit(source: str, device: str) -> Qwen2VLForConditionalGeneration:
    """The model as a user of transformers loads it, with its own sdpa attention."""
    model = Qwen2VLForConditionalGeneration.from_pretrained(
        source,
        dtype=torch.bfloat16,
        device_map={"": device},
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        ),
    )
    for module in model.modules():
        if isinstance(module, Linear4bit):  # on some CPUs it would not learn after a rollout, see `loading`
            module.support_avx512bf16_for_cpu = False
    return model


@contextmanager
def timed(trainer: Ours | Trl, device: torch.device, spent: list[Spent], turn: int) -> Iterator[None]:
    """Appends the seconds of the step that runs inside, by phase; not those of turn 0, which warms up."""

    def clock() -> tuple[float]:
        synchronise(device)
        return (time.perf_counter(),)

    phases = Phases(clock)
    with marked(phases, trainer.marks), phases.running():
        yield
    if turn:
        spent.append({phase: phases.spent.get(phase, [0.0])[0] for phase in PHASES})


def summary(spent: list[Spent]) -> Row:
    """Median and spread of the whole step, and medians by phase."""
    whole = [sum(step.values()) for step in spent]
    return {
        "seconds": statistics.median(whole),
        "spread": [min(whole), max(whole)],
        "by_phase": {phase: statistics.median(step[phase] for step in spent) for phase in PHASES},
        "steps": len(spent),
    }

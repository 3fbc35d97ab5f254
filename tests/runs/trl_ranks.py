"""What each process of `torchrun` does in test_with_trl.py, and what one process alone does beside it.

    torchrun --nproc_per_node 2 tests/runs/trl_ranks.py MODEL FOLDER [split]

On a fixed rollout a step's gradient is taken; then the command line trains 20 steps on a reward of one's own.  With
`split` the weights are split by FSDP 2, and the command line trains 2 steps.
"""

import os
import sys
import warnings
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from accelerate.state import AcceleratorState, DistributedType, PartialState
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from minirft.commands import main
from minirft.data import training_feed
from minirft.rewards import reward_for
from minirft.runs import GRPOConfig, with_trl
from minirft.runs.folder import load_policy
from minirft.samples import Sample

LOSSES = ("grpo", "dapo", "dr_grpo")
STEPS = 20
REWARD = """
def digits(completion, sample):
    return sum(c.isdigit() for c in completion) / (len(completion) + 1)
"""


def length(completion: str, sample: Sample) -> float:
    """A reward that differs between almost any two completions."""
    return float(len(completion))


def fixed_tokens(prompt_ids: list[list[int]], *_: Any) -> tuple[list[list[int]], None]:
    """In place of sampling: completions of 3 to 9 tokens that depend on the prompt and the place in the group."""
    rows, place = [], {}
    for ids in prompt_ids:
        place[tuple(ids)] = k = place.get(tuple(ids), -1) + 1
        stream = torch.Generator().manual_seed(sum(ids) + k)
        rows.append(
            torch.randint(5, 60, (int(torch.randint(3, 10, (1,), generator=stream)),), generator=stream).tolist()
        )
    return rows, None


class Keep(TrainerCallback):
    """Takes the gradients just before TRL's optimiser does, summed over processes as DDP does it."""

    def __init__(self) -> None:
        self.gradients: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, *_: Any, model: torch.nn.Module, **__: Any) -> None:
        """TRL is about to step."""
        named = ((name.removeprefix("module."), weight.grad) for name, weight in model.named_parameters())
        self.gradients = {name: whole(gradient.clone()) for name, gradient in named if gradient is not None}


def whole(weight: torch.Tensor) -> torch.Tensor:
    """All of a weight or gradient, of which FSDP gives each process a part."""
    return weight.full_tensor() if isinstance(weight, DTensor) else weight


def split_on_a_cpu() -> None:
    """Let accelerate run FSDP 2 on a CPU, as it does on cards: by itself it would run DDP in its place."""
    settings = {"VERSION": "2", "AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP", "RESHARD_AFTER_FORWARD": "true"}
    settings |= {"CPU_RAM_EFFICIENT_LOADING": "true", "STATE_DICT_TYPE": "SHARDED_STATE_DICT"}
    os.environ.update({f"FSDP_{name}": value for name, value in settings.items()}, ACCELERATE_USE_FSDP="true")
    as_it_is = AcceleratorState.__init__

    def with_fsdp(self: AcceleratorState, *given: Any, **named: Any) -> None:
        as_it_is(self, *given, **named)
        if named.get("fsdp_plugin"):
            self.fsdp_plugin, self.distributed_type = named["fsdp_plugin"], DistributedType.FSDP
            PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    AcceleratorState.__init__ = with_fsdp


def gradients(model: Path, out: Path, processes: int, losses: Sequence[str] = LOSSES) -> dict[str, torch.Tensor]:
    """The gradient of one step on 2 groups of 4, under each loss: one group each for two processes."""
    found = {}
    for loss in losses:
        config = GRPOConfig(
            model=str(model), out=out, loss=loss, steps=1, prompts_per_step=2, group_size=4, max_completion_length=10,
            max_grad_norm=1e9, threads=1,
        )  # fmt: skip
        policy, keep = load_policy(config), Keep()
        trl = with_trl.import_trl()
        args = trl.GRPOConfig(**with_trl.trl_settings(config, processes), output_dir=str(out))
        feed = lru_cache(2)(training_feed(config))
        trainer = with_trl.new_trainer(trl, args, config, policy, feed, reward_for("detection", length), [])
        trainer.add_callback(keep)
        with mock.patch.object(trainer, "_generate_single_turn", fixed_tokens):
            trainer.train()
        found |= {f"{loss} {name}": gradient for name, gradient in keep.gradients.items()}
    return found


def train_by_command(model: Path, out: Path, *changes: str) -> float:
    """Run `minirft train` on the reward of one's own; returns a sum over the weights that were trained."""
    made = []

    def kept(*given: Any) -> Any:
        made.append(with_trl_new_trainer(*given))
        return made[0]

    (out.parent / "own.py").write_text(REWARD)
    line = f"train tiny_detection --engine trl --model {model} --reward {out.parent / 'own.py'}:digits --out {out} "
    line += f"--steps {STEPS} --prompts-per-step 2 --group-size 8 --max-completion-length 10 --learning-rate 6e-3 "
    line += "--eval-every 10 --eval-samples 4 --save-every 10"
    with_trl_new_trainer = with_trl.new_trainer
    with mock.patch.object(with_trl, "new_trainer", kept):
        assert not main([*line.split(), *changes])
    if changes:  # the processes have parted, and each has a part
        return 0.0
    weights = torch.cat([weight.detach().flatten() for weight in made[0].model.parameters() if weight.requires_grad])
    return (weights.double() * torch.arange(1, len(weights) + 1)).sum().item()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    given, folder, rank = Path(sys.argv[1]), Path(sys.argv[2]), int(os.environ["RANK"])
    losses, short = LOSSES, []
    if "split" in sys.argv:
        split_on_a_cpu()
        losses, short = LOSSES[:1], ["--steps", "2", "--eval-every", "0", "--train", "lora", "--dtype", "bfloat16"]
    torch.save(gradients(given, folder / "fixed", 2, losses), folder / f"gradients-{rank}.pt")
    (folder / f"weights-{rank}.txt").write_text(repr(train_by_command(given, folder / "two", *short)))

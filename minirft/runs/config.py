"""This module defines all settings of a run in one frozen dataclass, and reads them from TOML files.

Each field is documented with its unit, its symbol, and the source of the default: *paper* (Visual-RFT, arXiv
2503.01785), *released* (github.com/Liuziyu77/Visual-RFT), *TRL* (1.16), or *measured* (by us, on the embedded model).
The defaults train the embedded model on one CPU core; `configs/coco_8cate_4shot.toml` holds the paper's settings.

A mistake in a file or a flag raises a `UserError` of one line: what is wrong, where, and what to do.
"""

import difflib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from minirft import UserError, as_user_error
from minirft.data import DataConfig, Rule, check
from minirft.policy import LoraSettings
from minirft.rewards import Variant, is_own
from minirft.runs.toml import from_table, read_toml

SHIPPED = Path(__file__).parents[1] / "configs"


@dataclass(frozen=True)
class GRPOConfig:
    """`GRPOConfig` holds all settings of one run.  `dataclasses.replace(config, group_size=4)` makes a variant.

    >>> GRPOConfig(group_size=1)
    Traceback (most recent call last):
    minirft.UserError: group_size = 1: a group needs at least 2 completions to compare; the paper uses 8
    """

    # --- the policy
    model: str = "tiny"
    """`tiny` (the embedded model), `qwen2-vl-2b`, another name or the folder of a model (docs/models.md)."""
    quantize: Literal["none", "nf4"] = "none"
    """`nf4` stores the frozen linear layers in 4 bits (bitsandbytes); it needs `train = "lora"`."""
    train: Literal["lora", "full"] = "full"
    """Trainable weights: low-rank adapters, or all language-model weights.  Released: full."""
    train_vision: bool = False
    """Train the vision tower too.  Released: yes; ours: no, so that picture features are computed once."""
    lora: LoraSettings = field(default_factory=LoraSettings)
    """Adapter settings, used when `train = "lora"`."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of the weights; `auto` is float32 on a CPU and bfloat16 on a GPU."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, ..."""
    threads: int = 0
    """CPU threads; 0 keeps torch's default.  Measured: the embedded model is fastest with 1."""
    checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time.  Released: off."""
    shared_prefix: bool = True
    """Run the model on prompt and picture once per group; false gives the same numbers more slowly."""
    offload_vision: bool = False
    """Keep the frozen vision tower in host memory, and copy it to the GPU only for a new picture."""
    offload_embedding: bool = False
    """Look up tokens in host memory; possible only if the embedding is not also the head, as in 7B."""

    # --- the data
    data: DataConfig = field(default_factory=DataConfig)
    """Settings of the data."""
    max_pixels: int | None = None
    """Largest picture in pixels (a token is 28 x 28, in Qwen3-VL 32 x 32); None: the model's own.  Released: 401408."""
    max_prompt_length: int = 1024
    """Longest prompt S in tokens, picture included; a longer one is refused, never cut.  Released: 1024."""

    # --- the rollout
    seed: int = 0
    """Seed of the run; all randomness of a step is a function of (seed, step)."""
    steps: int = 60
    """Training steps, one rollout each.  Paper: 200 for few-shot."""
    prompts_per_step: int = 8
    """P, prompts in a step.  Released: 16 (8 GPUs x accumulation 2).  Measured: 8 are enough for `tiny`."""
    group_size: int = 8
    """G, completions per prompt.  Paper: 8 for 2B, 4 for 7B."""
    temperature: float = 1.0
    """Divisor of the logits, in sampling and in every log-probability.  Released: 1."""
    max_completion_length: int = 96
    """T, longest completion in tokens.  TRL: 256, which the released scripts use; `tiny` answers in about 40."""

    decoder: Literal["growing", "graph"] = "growing"
    """Decoding method: `growing` drops rows that have ended; `graph` replays a CUDA graph (not measured yet)."""
    prompts_per_decode: int = 0
    """Prompts whose groups are decoded together; 0 = all of the step.  Fewer need less memory; the completions are the
    same."""

    # --- reward and advantage
    reward: str = "strict"
    """Reading of the reward: `strict` (ours), `paper` (its equations) or `official` (the released code); or a function
    of your own, FILE.py:NAME."""
    reward_timeout: float = 10.0
    """Time limit for one call of a function of your own, in seconds; 0 = no limit."""
    reward_weights: dict[str, float] = field(default_factory=dict)
    """Weight of each part, such as {"confidence": 0.0}; the default is 1.  Paper, equation 5: all 1."""
    advantage_scale: Literal["std", "mean", "batch", "none"] = "std"
    """Divide by the group's standard deviation (`std`, GRPO), by nothing (`mean`, Dr. GRPO), or by the batch's
    (`batch`); `none` uses the rewards themselves as advantages."""
    advantage_eps: float = 1e-4
    """Added to the standard deviation, in reward units.  TRL, released: 1e-4."""
    skip_degenerate: bool = False
    """Leave groups of equal rewards out of the update.  Their advantages are 0, but their tokens count in the loss.
    Refused with `advantage_scale = "none"`, where their advantages are not 0."""

    # --- the loss
    loss: Literal["grpo", "dr_grpo", "dapo", "bnpo", "gspo", "cispo"] = "grpo"
    """Member of the GRPO family.  Paper: grpo."""
    clip_eps: float = 0.2
    """epsilon, the amount by which the ratio may fall below 1 before its gradient becomes 0.  TRL: 0.2."""
    clip_eps_high: float = 0.2
    """epsilon above 1, the amount by which the ratio may exceed 1.  TRL: equal to `clip_eps`; DAPO: 0.28."""
    importance_cap: float = 0.0
    """Multiply each token's loss by min(π_learning / π_sampling, cap), for one policy computed in two ways; 0 = off.
    TRL's `token_truncate`: 3."""
    kl_coef: float = 0.0
    """beta, weight of the divergence from the reference, per nat; 0 needs no reference.  The paper's runs had
    0.04 (TRL <= 0.18); the default of later TRL is 0.  Measured: no benefit on `tiny`."""
    kl: Literal["k1", "k2", "k3"] = "k3"
    """Estimator of that divergence.  DeepSeekMath, TRL: k3."""

    # --- the optimiser (AdamW)
    optimiser: Literal["adamw", "adamw8bit"] = "adamw"
    """`adamw8bit` keeps the two moments in 8 bits (bitsandbytes): 2 bytes a weight instead of 8."""
    updates_per_rollout: int = 1
    """mu, optimiser steps on one rollout; clipping has an effect from the second on.  TRL: 1."""
    learning_rate: float = 2e-4
    """Peak step size.  Released: 1e-6, full-parameter 2B.  Measured on `tiny`: 5e-5 to 2e-4 give equal results."""
    lr_schedule: Literal["constant", "linear"] = "constant"
    """`linear` falls to 0 at the last step.  TRL: linear."""
    warmup_steps: int = 0
    """Steps over which the rate rises from 0.  Released: 0."""
    weight_decay: float = 0.0
    """AdamW decay per unit of learning rate.  TRL: 0."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this 2-norm.  TRL: 1."""
    rows_per_pass: int = 0
    """Completions per backward pass; 0 = all of the step.  Fewer need less memory; the gradient is the same."""

    # --- supervised fine-tuning, the baseline
    sft_target: Literal["answer", "reasoning"] = "answer"
    """Completions to imitate: the answer alone (the paper's baseline) or with its reasoning."""
    sft_steps: int = 60
    """Optimiser steps of `minirft sft`."""
    sft_learning_rate: float = 4e-4
    """Peak step size of `minirft sft`.  Ours, not tuned."""

    # --- evaluation, saving
    eval_every: int = 0
    """Steps between greedy evaluations; 0 = none during training."""
    eval_samples: int = 300
    """Held-out samples in an evaluation; 0 = all there are (1000 for `tiny`)."""
    eval_batch: int = 32
    """Samples evaluated at a time."""
    save_every: int = 20
    """Steps between checkpoints; the last step is always saved.  Released: 100."""
    keep_checkpoints: int = 2
    """Number of newest checkpoints to keep; 2 allow for a damaged one."""
    out: Path = Path("runs/train")
    """Folder of the run."""

    def __post_init__(self) -> None:
        check(self, _rules(self))


def _rules(c: GRPOConfig) -> Iterator[Rule]:
    yield c.group_size >= 2, "group_size", "a group needs at least 2 completions to compare; the paper uses 8"
    yield 0 < c.temperature < math.inf, "temperature", "sampling needs a positive temperature; the paper uses 1.0"
    for name in ("steps", "prompts_per_step", "max_completion_length", "max_prompt_length", "updates_per_rollout",
                 "sft_steps", "save_every", "keep_checkpoints", "eval_batch"):  # fmt: skip
        yield getattr(c, name) >= 1, name, "use a whole number of at least 1"
    for name in ("seed", "threads", "warmup_steps", "rows_per_pass", "prompts_per_decode", "eval_every",
                 "eval_samples"):  # fmt: skip
        yield getattr(c, name) >= 0, name, "use a whole number of at least 0"
    for name in ("learning_rate", "sft_learning_rate", "max_grad_norm", "clip_eps", "clip_eps_high"):
        yield 0 < getattr(c, name) < math.inf, name, "use a positive number"
    for name in ("kl_coef", "weight_decay", "advantage_eps", "importance_cap", "reward_timeout"):
        yield 0 <= getattr(c, name) < math.inf, name, "use a number of at least 0"
    yield c.clip_eps < 1, "clip_eps", "a ratio cannot fall below 0: use a number below 1, such as 0.2"
    yield c.max_pixels is None or c.max_pixels >= 28 * 28, "max_pixels", "one picture token is 28 x 28 = 784 pixels"
    known = c.reward in get_args(Variant) or is_own(c.reward)
    plain = c.reward != "official" or c.data.categories_per_question == 1
    yield plain, "reward", "the released code knows no labels of boxes: set data.categories_per_question = 1"
    yield known, "reward", f"use {', '.join(get_args(Variant))}, or a function of your own as FILE.py:NAME"
    yield all(map(math.isfinite, c.reward_weights.values())), "reward_weights", "use finite numbers"
    # The rewards are the advantages then, so a group of equal rewards changes the weights too.
    keeps = c.advantage_scale != "none" or not c.skip_degenerate
    yield keeps, "skip_degenerate", 'with advantage_scale = "none" such groups carry advantage: leave it off'
    yield c.quantize == "none" or c.train == "lora", "train", 'quantised weights cannot learn: set train = "lora"'
    frozen = not c.train_vision and (c.train == "full" or c.lora.targets == "language")
    yield frozen or not c.offload_vision, "offload_vision", "the vision tower learns, so it must stay on the device"
    frozen = c.train == "lora"
    yield frozen or not c.offload_embedding, "offload_embedding", 'the embedding learns: set train = "lora"'


def load_config(source: str | Path) -> GRPOConfig:
    """Read the configuration in a TOML file; `source` is its path, the folder of a run, or a shipped name.

    Raises `UserError` for a missing file, wrong syntax (with the line), an unknown key (with the nearest right
    one), a wrong type, or a value that cannot work.

    >>> load_config("tiny_detection").group_size
    8
    """
    path = find_config(source)
    with as_user_error(f"{path}: {{why}}", UserError):
        return from_table(GRPOConfig, read_toml(path))


def find_config(source: str | Path) -> Path:
    """Return the TOML file that `source` names: a path, the folder of a run, or a shipped file without its ending."""
    for path in (SHIPPED / f"{source}.toml", Path(source), Path(source) / "config.toml"):
        if path.is_file():
            return path
    names = sorted(file.stem for file in SHIPPED.glob("*.toml"))
    near = difflib.get_close_matches(str(source), names, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise UserError(f"no config {source}: {hint}give a TOML file, the folder of a run, or one of {', '.join(names)}")

"""Counts of the work of a step, by phase: arithmetic, pictures, tokens and memory.

A trainer is measured from outside: its functions are marked with their phase, and hooks on the model count.  The hooks
are the same for ours, for the naive path and for TRL.
"""

import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import wraps
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from minirft.policy import Policy

PHASES = ("prepare", "generate", "score", "update")
Mark = tuple[Any, str, str]
"""(owner, name of its function, phase of the function)."""
Spent = dict[str, np.ndarray]
"""What was spent in each phase, one number for each that is read."""


class Phases:
    """Split the measurements of `read` by phase; an inner phase interrupts an outer one.

    >>> ticks = iter([(0,), (1,), (3,), (6,)])
    >>> with (phases := Phases(lambda: next(ticks))).running([]), phases.during("generate"):
    ...     pass
    >>> phases.spent["update"].tolist(), phases.spent["generate"].tolist()
    ([4], [2])
    """

    def __init__(self, read: Callable[[], tuple[float, ...]]) -> None:
        self.read = read
        self.now = "update"
        self.spent: Spent = {}
        self._last = np.zeros(0)

    @contextmanager
    def running(self, marks: Sequence[Mark]) -> Iterator[Spent]:
        """Measure the step inside this context, in which the calls of the marked functions count for their phases."""
        with ExitStack() as stack:
            for owner, name, phase in marks:
                stack.enter_context(mock.patch.object(owner, name, self.during(phase)(getattr(owner, name))))
            self._last = np.array(self.read())
            self.spent.update({phase: np.zeros_like(self._last) for phase in PHASES})
            yield self.spent
            self._turn("update")

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Assign the code inside this context, or the calls of a function that it decorates, to a phase."""
        before = self.now
        self._turn(phase)
        try:
            yield
        finally:
            self._turn(before)

    def _turn(self, phase: str) -> None:
        reading = np.array(self.read())
        self.spent[self.now] += reading - self._last
        self.now, self._last = phase, reading


def clock(device: torch.device) -> tuple[float, float]:
    """Wait until `device` has done what was launched; return seconds of wall and of this process's processor time."""
    torch.get_device_module(device).synchronize(device)
    return time.perf_counter(), time.process_time()


# ------------------------------------------------------------------ arithmetic


def flop_counter() -> FlopCounterMode:
    """Make torch's counter, which lacks the attention kernel of CPUs, with the formulas of CUDA's for it."""
    counter, name = FlopCounterMode(display=False), "_scaled_dot_product_flash_attention"
    for end in ("", "_backward"):
        cpu, cuda = (getattr(torch.ops.aten, name + kind + end) for kind in ("_for_cpu", ""))
        counter.flop_registry[cpu] = counter.flop_registry[cuda]
    # torch's record of who calls whom fails where a checkpoint runs a module again in backward.
    counter.mod_tracker = nullcontext()
    counter.mod_tracker.parents = ("Global",)
    return counter


# ------------------------------------------------------------------ memory


class SavedActivations:
    """The bytes that autograd keeps for the backward pass: at present, and at the peak.

    A storage counts once, whatever the number of its views; parameters do not count.  Under checkpointing these are the
    tensors kept between the passes, without the layer that the backward pass computes again.
    """

    def __init__(self, parameters: Iterator[nn.Parameter]) -> None:
        self.held: Counter[int] = Counter()
        self.bytes = self.peak = 0
        self._weights = {weight.untyped_storage().data_ptr() for weight in parameters}

    def hooks(self) -> torch.autograd.graph.saved_tensors_hooks:
        """Return the context in which graphs are counted."""
        return torch.autograd.graph.saved_tensors_hooks(self._keep, lambda kept: kept)

    def _keep(self, tensor: Tensor) -> Tensor:
        """Return what the graph keeps in place of a tensor, and count it until the graph lets go of it."""
        kept, storage = tensor.detach(), tensor.untyped_storage()
        if storage.data_ptr() not in self._weights:
            self._add(storage.data_ptr(), storage.nbytes(), 1)
            weakref.finalize(kept, self._add, storage.data_ptr(), storage.nbytes(), -1)
        return kept

    def _add(self, place: int, size: int, sign: int) -> None:
        """Count one more (or one fewer) tensor of the storage at a place."""
        before = self.held[place] > 0
        self.held[place] += sign
        self.bytes += size * ((self.held[place] > 0) - before)
        self.peak = max(self.peak, self.bytes)


# ------------------------------------------------------------------ one step


@dataclass
class Work:
    """The work of one step, with tokens and FLOPs by phase."""

    flops_by_phase: dict[str, int] = field(default_factory=dict)
    vision_passes: int = 0  # pictures through the vision tower
    vision_patches: int = 0
    preprocessings: int = 0  # pictures cut into patches on the CPU
    prompt_tokens: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PHASES, 0))  # of the language model
    completion_tokens: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PHASES, 0))
    saved_bytes: int = 0


@contextmanager
def counting(policy: Policy, marks: Sequence[Mark], prompt: int) -> Iterator[Work]:
    """Count the step inside this context.  `prompt` is the length of every prompt."""
    work, saved, flops = Work(), SavedActivations(policy.core.parameters()), flop_counter()
    phases = Phases(lambda: (flops.get_total_flops(),))

    def seen(_: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        pixels = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        grid = kwargs["grid_thw"] if "grid_thw" in kwargs else args[1]
        work.vision_passes += len(grid)
        work.vision_patches += len(pixels)

    def read(_: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        positions = kwargs["position_ids"][-1]
        # Of all tokens only the first of a prompt lies at position 0, however prompts and completions are packed.
        prompts = prompt * int((positions == 0).sum())
        work.prompt_tokens[phases.now] += prompts
        work.completion_tokens[phases.now] += positions.numel() - prompts

    preprocess = policy.image_processor.preprocess

    @wraps(preprocess)
    def cut(*args: Any, **kwargs: Any) -> Any:
        batch = preprocess(*args, **kwargs)
        work.preprocessings += len(batch["image_grid_thw"])
        return batch

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(policy.image_processor, "preprocess", cut))
        for module, hook in ((policy.core.model.visual, seen), (policy.language_model, read)):
            stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
        for context in (saved.hooks(), flops, phases.running(marks)):
            stack.enter_context(context)
        yield work
    work.flops_by_phase = {phase: int(spent.sum()) for phase, spent in phases.spent.items()}
    work.saved_bytes = saved.peak

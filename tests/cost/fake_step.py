"""One training step on tensors without storage, to check the memory ledger against the real code.

`FakeTensorMode` gives tensors a shape and a number format but no memory, so Qwen2-VL-7B at full size takes less than a
minute on any machine.  The step calls the package's own code (`prefill`, the decoder, `pick`, `Policy.logprobs`, the
optimiser), with bitsandbytes' 4-bit layers and PEFT's adapters.  `MemTracker` sums what torch would have allocated.

Only the weights are fake; the mode is not switched on.  An operation is fake if one of its inputs is fake, so index
tensors stay real, and code can read their values.  This does not count memory inside kernels, the allocator's rounding,
or loading.  The two offload settings are ignored, since host and card are one here.  Attention is computed as on CUDA.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from math import isqrt
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import bitsandbytes as bnb
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from transformers import PreTrainedConfig
from transformers.integrations.bitsandbytes import replace_with_bnb_linear

from minirft.cost.sizes import Shape
from minirft.engine import DECODERS, add_lora, family_of, layers, nf4_settings, prefill, recompute_layers
from minirft.policy import Policy
from minirft.reference import make_reference
from minirft.runs import GRPOConfig, make_optimiser
from minirft.sampler import pick
from minirft.samples import Prompt, Rollout


def counted(model: PreTrainedConfig, config: GRPOConfig) -> dict[str, int]:
    """Count the peak bytes of each phase of a step with torch's MemTracker, under the ledger's names."""
    shape = Shape.of(model, replace(config, offload_vision=False, offload_embedding=False, device="cpu"))
    with patch.object(layers, "_attend", _attend_as_on_cuda(layers._attend)), warnings.catch_warnings():
        # torch itself warns when it makes a real tensor with a gradient fake, or copies a fake one.
        warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a leaf")
        warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
        return phases(_Step(shape, policy_of_shape(shape)), _tracked)


def phases(step: _Step, peak_of: Callable[[_Step, Callable[[], None]], int]) -> dict[str, int]:
    """Return the peak of each phase of a step by name, as measured by `peak_of`."""
    config, found = step.shape.config, {}
    step.fill_gradients()
    step.optimise()  # the moments exist from the second step on
    for phase in (step.see, step.prefill, step.decode, step.reference, step.update, step.optimise):
        if phase == step.update and step.shape.rows < config.prompts_per_step * config.group_size:
            step.fill_gradients()
        if phase != step.reference or step.frozen:
            found[phase.__name__] = peak_of(step, phase)
    return found


def _tracked(step: _Step, phase: Callable[[], None]) -> int:
    tracker = MemTracker()
    tracker._mod_tracker = _Unhooked()
    models = {id(held.core): held.core for held in (step.policy, step.frozen and step.frozen.policy) if held}
    tracker.track_external(*models.values(), step.optimiser, *_loose_tensors(step))
    with tracker:
        phase()
    return sum(snapshot["Total"] for snapshot in tracker.get_tracker_snapshot("peak").values())


class _Unhooked:
    """A replacement for MemTracker's hooks on modules, which fail on frozen weights."""

    is_bw = False

    def _nothing(self, *_: Any) -> None: ...

    register_user_hooks = clear_user_hooks = __enter__ = __exit__ = _nothing


class _Step:
    """The phases of a step, one method each, to be called inside the tracker."""

    def __init__(self, shape: Shape, policy: Policy) -> None:
        self.shape, self.policy, self.optimiser = shape, policy, make_optimiser(policy, shape.config)
        for group in self.optimiser.param_groups:
            group["foreach"] = shape.config.optimiser == "adamw"  # as is the default on CUDA
        longest, shorter = _prompt(shape, shape.prompt), _prompt(shape, shape.prompt - 1)  # so there is padding
        self.prompts = [longest, *[shorter] * (max(shape.prompts, shape.together) - 1)]
        self.frozen = make_reference(policy, shape.config.kl_coef)
        self.kept: Any = None  # the result of a phase that the next one needs

    @torch.no_grad()
    def see(self) -> None:
        self.policy.features(self.prompts[0])

    @torch.no_grad()
    def prefill(self) -> None:
        self.kept = prefill(self.policy, self.prompts[: self.shape.together])

    @torch.no_grad()
    def decode(self) -> None:
        g, start, self.kept = self.shape.config.group_size, self.kept, None
        hidden = start.hidden.repeat_interleave(g, 0)
        going = DECODERS["growing"](self.policy, start, g, self.shape.config.max_completion_length)
        del start
        uniforms = torch.zeros(len(hidden), device=self.policy.device)
        pick(self.policy.lm_head(hidden), uniforms, 1.0, self.policy.banned)
        going.step(torch.zeros(len(hidden), dtype=torch.long, device=self.policy.device))

    def reference(self) -> None:
        if self.frozen:
            self.frozen.logprobs(*self._rows())

    def update(self) -> None:
        """Do a pass after others, whose gradients exist."""
        logprobs, _ = self.policy.logprobs(*self._rows(), entropy=True)
        logprobs.sum().backward()

    def fill_gradients(self) -> None:
        """Allocate gradients, as after earlier passes."""
        for weight in self.policy.trainable().values():
            weight.grad = torch.empty_like(weight)

    def optimise(self) -> None:
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)

    def _rows(self) -> tuple[Rollout, list[int]]:
        """Return the last pass of a step whose completions all have the greatest length."""
        config, prompts = self.shape.config, self.prompts[: self.shape.prompts]
        n, length = len(prompts) * config.group_size, config.max_completion_length
        ids = torch.zeros(n, length, dtype=torch.long)
        whole = Rollout(prompts, ids, ids == 0, ids.float(), [""] * n, ids[:, 0] == 0, config.group_size, 1.0)
        return whole, list(range(n - self.shape.rows, n))


def policy_of_shape(shape: Shape, device: str = "meta") -> Policy:
    """Make the policy that `runs.load_policy` would load, with fake weights on "meta", else with random ones.

    Its tokenizer has no tokens.
    """
    config, dtype = shape.config, {2: torch.bfloat16, 4: torch.float32}[shape.b]
    with torch.device(device):
        core = family_of(shape.model.model_type, config.model).model_class._from_config(
            shape.model, dtype=dtype, attn_implementation={"text_config": layers.SHARED_PREFIX, "vision_config": "sdpa"}
        )
    if config.quantize == "nf4":
        _put_4_bit_layers(core, dtype)
    if config.train == "lora":
        model = add_lora(core, config.lora, config.train_vision)
    else:
        model = core
        core.model.visual.requires_grad_(config.train_vision)
    if device == "meta":
        _make_fake(model, dtype)
        core.tie_weights()
    policy = Policy(model, SimpleNamespace(tokenizer=_NoTokens()), checkpointing=config.checkpointing)
    if config.checkpointing:
        recompute_layers(policy.language_model)
    return policy


class _NoTokens:
    eos_token_id = 0
    added_tokens_decoder: dict[int, Any] = {}  # noqa: RUF012
    all_special_ids = ()

    def __len__(self) -> int:
        return 1 << 30


def _put_4_bit_layers(core: nn.Module, dtype: torch.dtype) -> None:
    replace_with_bnb_linear(core, modules_to_not_convert=["lm_head"], quantization_config=nf4_settings(dtype))
    core.is_loaded_in_4bit = True  # PEFT reads this
    for module in core.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False
            if module.bias is not None:
                module.bias.data = module.bias.data.to(dtype)


def _make_fake(model: nn.Module, dtype: torch.dtype) -> None:
    """Replace every weight and buffer by a tensor without storage; 4-bit weights get bitsandbytes' state."""
    mode, made = FakeTensorMode(allow_non_fake_inputs=True), {}

    def fake(shape: torch.Size, dtype: torch.dtype) -> Tensor:
        with mode:
            return torch.empty(shape, dtype=dtype)

    for module in model.modules():
        for name, old in list(module._parameters.items()):
            if old is None:
                continue
            if old not in made and isinstance(old, bnb.nn.Params4bit):
                data, state = bnb.functional.quantize_4bit(
                    fake(old.shape, dtype), blocksize=64, compress_statistics=True, quant_type="nf4"
                )
                made[old] = nn.Parameter(data, requires_grad=False)
                made[old].quant_state = module.quant_state = state
            elif old not in made:
                made[old] = nn.Parameter(fake(old.shape, old.dtype), requires_grad=old.requires_grad)
            module._parameters[name] = made[old]
        for name, old in module._buffers.items():
            module._buffers[name] = None if old is None else fake(old.shape, old.dtype)


def _loose_tensors(step: _Step) -> list[Tensor]:
    """List the tensors that the tracker cannot find: the statistics of 4-bit weights, and the last phase's result."""
    found = [step.policy.banned]
    for module in step.policy.core.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            state = module.weight.quant_state
            found += [state.absmax, state.code, state.offset, state.state2.absmax]
    if step.kept is not None:
        for layer in step.kept.cache.layers:
            held = (
                ({0: layer.keys}, {0: layer.values})
                if hasattr(layer, "keys")
                else (layer.conv_states, layer.recurrent_states)
            )
            found += [tensor for tensors in held for tensor in tensors.values()]
    return [tensor for tensor in found if isinstance(tensor, FakeTensor)]


def _prompt(shape: Shape, length: int) -> Prompt:
    """Make a prompt with the largest picture that the settings allow, and text up to `length`."""
    vision = shape.model.vision_config
    merge = vision.spatial_merge_size
    pictured = min(shape.pictured, length)
    pixels = torch.zeros(pictured * merge**2, vision.in_channels * vision.temporal_patch_size * vision.patch_size**2)
    types = (torch.arange(length) < pictured).long()
    high = max(n for n in range(1, isqrt(pictured) + 1) if pictured % n == 0)  # near to square, as pictures are
    grid = torch.tensor([[1, high * merge, pictured // high * merge]])
    prompt = Prompt(None, torch.zeros_like(types), types, pixels, grid, torch.arange(length).expand(3, -1), 0)
    assert prompt.picture_key  # computed here, so that the tracker does not count pixels in host memory
    return prompt


def _attend_as_on_cuda(attend: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Copy keys and values to every head, because CUDA's fast attention under a mask has no grouped key heads."""

    def copied(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, scaling: float) -> Tensor:
        if visible is not None:
            k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
        return attend(q, k, v, visible, scaling)

    return copied

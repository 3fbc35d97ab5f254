"""Settings that save memory: what each saves, that it changes nothing else, and what it refuses."""

import math
import shutil
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import conftest
import pytest
import torch
from bitsandbytes.nn import Linear4bit, Params4bit
from bitsandbytes.optim import AdamW8bit
from conftest import byte_tokenizer, miniature_config, shaken, write_miniature
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import Qwen2VLForConditionalGeneration

from minirft import UserError
from minirft.engine.logprobs import naive_logprobs
from minirft.engine.model import LossScale
from minirft.engine.offload import look_up_in_host_memory, visit_while_running
from minirft.policy import LoraSettings, Policy
from minirft.runs.config import GRPOConfig
from minirft.runs.step import make_optimiser, optimiser_step
from minirft.sampler import sample_groups
from minirft.samples import Rollout, Sample
from minirft.train import add_gradients

LORA = LoraSettings(r=4, alpha=8)
META = torch.device("meta")


class LiveBytes(TorchDispatchMode):
    """Bytes of all tensors alive that were made while it is on: now, and at the peak."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, int] = {}

    def __torch_dispatch__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.device.type != "meta":
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known[key] = size
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        self.now -= self._known.pop(key)


def test_live_bytes_counts_storages_once():
    """A meter that counts views, or forgets to let go, would make every figure below meaningless."""
    with LiveBytes() as meter:
        one = torch.zeros(1000)
        two = (one + 1).view(10, 100)
        assert (meter.now, meter.peak) == (8000, 8000)
        del one, two
        assert (meter.now, meter.peak) == (0, 8000)


def rollout_of(policy: Policy, samples: list[Sample], length: int = 8) -> Rollout:
    prompts = [policy.encode(sample) for sample in samples]
    generator = torch.Generator().manual_seed(0)
    return sample_groups(policy, prompts, 4, max_completion_length=length, generator=generator)


def gradients(policy: Policy, rollout: Rollout) -> dict[str, Tensor]:
    loss = -policy.logprobs(rollout).sum() / rollout.lengths.sum()
    weights = policy.trainable()
    return dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))


def distance(one: dict[str, Tensor], two: dict[str, Tensor]) -> float:
    """Relative distance of two gradients, ‖one - two‖ / ‖two‖."""
    difference = sum((one[name].double() - two[name].double()).square().sum() for name in two)
    return math.sqrt(difference / sum(gradient.double().square().sum() for gradient in two.values()))


# ------------------------------------------------------------------ adapters of 16 bits


def miniature_with(folder: Path, **text: Any) -> Path:
    """The miniature with other sizes of its language model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conftest, "miniature_config", partial(miniature_config, **text))
        return write_miniature(folder, byte_tokenizer(), 320)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose activations outweigh all else: an intermediate size of 1024 at 64 hidden."""
    return miniature_with(tmp_path_factory.mktemp("wide"), intermediate_size=1024)


def as_peft_has_it(policy: Policy) -> Policy:
    """PEFT's own adapters: float32, to which they cast their input."""
    for layer in policy.model.modules():
        if isinstance(layer, LoraLayer):
            layer.__class__ = layer.__class__.__mro__[1]
    return policy


def lora_policy(folder: Path, dtype: str, adapters: str = "float32", **settings: Any) -> Policy:
    policy = Policy.load(folder, lora=LORA, dtype=dtype, device="cpu", **settings)
    for weight in policy.trainable().values():
        weight.data = weight.data.to(getattr(torch, adapters))
    return shaken(policy)


@pytest.mark.parametrize("quantize", ["none", "nf4"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_adapters_do_not_widen_the_activations(wide: Path, samples: list[Sample], checkpointing: bool, quantize: str):
    """The input of every linear layer copied to float32, which costs more than all that LoRA saves elsewhere."""

    def peak(policy: Policy) -> int:
        policy.features(rollout.prompts[0])
        with LiveBytes() as meter:
            gradients(policy, rollout)
        return meter.peak

    settings: dict[str, Any] = {"quantize": quantize, "checkpointing": checkpointing}
    rollout = rollout_of(lora_policy(wide, "bfloat16", **settings), samples[:1], 32)
    ours = peak(lora_policy(wide, "bfloat16", **settings))
    assert ours < 0.87 * peak(as_peft_has_it(lora_policy(wide, "bfloat16", **settings)))
    assert ours <= 1.02 * peak(lora_policy(wide, "bfloat16", "bfloat16", **settings))


def drawn_again(policies: list[Policy], dtype: str, seed: int) -> None:
    """Gives all of them the same new language model and adapters, of the old spread, rounded to `dtype`."""
    generator = torch.Generator().manual_seed(seed)
    weights = zip(*(p.language_model.named_parameters() for p in policies), strict=True)
    for (name, first), *others in weights:
        if "lora_A" in name or "norm" in name:
            continue
        fresh = first.detach().float().std() * torch.randn(first.shape, generator=generator)
        fresh = fresh if "lora_" in name else fresh.to(getattr(torch, dtype))
        for weight in (first, *(other for _, other in others)):
            weight.data.copy_(fresh)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_gradients_of_16_bits_are_as_good_as_pefts(miniature: Path, samples: list[Sample], dtype: str):
    """A branch that rounds more than the rest of the model does.  The oracle is the model in float32.

    One draw of a random model says little: the ratio of two such errors spreads by a factor of 1.3 to 1.5 (standard
    deviation of its logarithm .28 to .42), and another instruction set of the processor deals another draw.  So the
    geometric mean of 40: it spreads by 7% at most, and 1.25 is more than three of that.
    """
    exact = lora_policy(miniature, "float32")
    ours = [lora_policy(miniature, dtype, checkpointing=checkpointing) for checkpointing in (False, True)]
    if dtype == "bfloat16":  # adapters in 16 bits lose nothing to a model that rounds as they do
        ours.append(lora_policy(miniature, dtype, "bfloat16"))
    theirs = as_peft_has_it(lora_policy(miniature, dtype))
    policies = [exact, *ours, theirs]
    for weight in exact.model.parameters():  # the same numbers, computed with more bits
        weight.data = weight.data.to(getattr(torch, dtype)).float()
    rollout, logs = rollout_of(exact, samples), []
    for draw in range(40):
        drawn_again(policies, dtype, draw)
        expected = gradients(exact, rollout)
        found = gradients(ours[draw % len(ours)], rollout)
        formats = {gradient.dtype for gradient in found.values()}
        assert formats == {torch.bfloat16 if draw % len(ours) == 2 else torch.float32}
        logs.append(math.log(distance(found, expected) / distance(gradients(theirs, rollout), expected)))
    assert math.exp(sum(logs) / len(logs)) < 1.25


@pytest.mark.parametrize(
    ("dtype", "quantize", "optimiser"),
    [
        ("bfloat16", "nf4", "adamw8bit"),
        ("bfloat16", "none", "adamw"),
        ("float16", "nf4", "adamw"),
        ("float32", "none", "adamw8bit"),
    ],
)
def test_every_kind_of_adapter_learns(
    miniature: Path, samples: list[Sample], dtype: str, quantize: str, optimiser: str
):
    """Weights that never move, or move the wrong way, in one of the combinations."""
    config = GRPOConfig(train="lora", optimiser=optimiser)
    policy = Policy.load(miniature, lora=replace(LORA, r=32), dtype=dtype, quantize=quantize, device="cpu")
    stepper, rollout, losses = make_optimiser(policy, config), rollout_of(policy, samples[:1]), []

    while len(losses) < 6:
        loss = -policy.logprobs(rollout).sum() / rollout.lengths.sum()
        (loss * policy.loss_scale.value).backward()
        if optimiser_step(policy, stepper, 5e-3, 1.0, rollout, [0], 1) is not None:
            losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1
    assert {weight.dtype for weight in policy.trainable().values()} == {torch.float32}
    moments = [state for weight in stepper.state.values() for state in weight.values() if isinstance(state, Tensor)]
    assert {moment.dtype for moment in moments} <= {torch.float32, torch.uint8}
    assert any(moment.dtype == torch.uint8 for moment in moments) == (optimiser == "adamw8bit")


# ------------------------------------------------------------------ the optimiser


def test_a_whole_model_of_16_bits_is_refused(miniature: Path):
    """Full-parameter training in bfloat16, whose steps round to nothing."""
    with pytest.raises(UserError, match='set dtype = "float32"'):
        make_optimiser(Policy.load(miniature, dtype="bfloat16"), GRPOConfig())


def test_8_bit_adamw_that_does_not_run_is_said_at_once(policy: Policy, monkeypatch: pytest.MonkeyPatch):
    """A traceback from bitsandbytes after the first rollout."""

    def step(self: Any, closure: Any = None) -> None:
        raise NotImplementedError("no kernel for cpu\nlong explanation")

    monkeypatch.setattr(AdamW8bit, "step", step)
    with pytest.raises(UserError, match=r"no 8-bit AdamW on cpu \(no kernel for cpu long explanation\): upgrade it"):
        make_optimiser(policy, GRPOConfig(optimiser="adamw8bit"))


def test_8_bit_moments_take_a_quarter_of_the_memory(miniature: Path):
    """States of 8 bits that are not; small tensors, which bitsandbytes keeps in 32 bits, excepted."""
    weight = nn.Parameter(torch.zeros(64, 256))
    policy = type("P", (), {"trainable": lambda self: {"w": weight}, "has_lora": False, "device": weight.device})()
    sizes = {}
    for name in ("adamw", "adamw8bit"):
        stepper = make_optimiser(policy, GRPOConfig(optimiser=name))
        weight.grad = torch.ones_like(weight)
        stepper.step()
        state = stepper.state[weight]
        sizes[name] = sum(v.nbytes for k, v in state.items() if isinstance(v, Tensor) and not k.startswith("qmap"))
    assert sizes["adamw"] == pytest.approx(8 * weight.numel(), abs=8)
    assert sizes["adamw8bit"] <= 2.05 * weight.numel()


# ------------------------------------------------------------------ float16


def test_small_gradients_survive_float16(miniature: Path, samples: list[Sample], lora_policy: Policy):
    """Gradients of unlikely tokens, 1e-9 and less at a logit, that float16 turns to 0 without a word."""
    rollout = rollout_of(lora_policy, samples)
    config = GRPOConfig(train="lora")

    def gradient(dtype: str, scale: float) -> dict[str, Tensor]:
        policy = shaken(Policy.load(miniature, lora=LORA, dtype=dtype))
        policy.loss_scale = LossScale(scale)
        # Advantages of 1e-7 stand for a long completion: the loss divides by its tokens.
        advantages, rows = torch.full((len(rollout.texts),), 1e-7), list(range(len(rollout.texts)))
        add_gradients(policy, rollout, torch.zeros_like(rollout.logprobs), None, advantages, config, rows, rows)
        policy.loss_scale.remove_from(policy.trainable().values())
        return {name: weight.grad for name, weight in policy.trainable().items()}

    expected = gradient("float32", 1.0)
    assert distance(gradient("float16", 1.0), expected) > 0.5
    assert distance(gradient("float16", 2.0**16), expected) < 0.02


def test_only_a_float16_model_scales_its_loss(miniature: Path):
    """A scale on a model that needs none, or none on the one that does."""
    scales = [Policy.load(miniature, lora=LORA, dtype=d).loss_scale.value for d in ("float32", "bfloat16", "float16")]
    assert scales == [1.0, 1.0, 65536.0]


def test_scale_grows_after_updates_without_overflow():
    """A scale that only falls ends where gradients vanish; one that is off must stay off."""
    scale, off = LossScale(4.0), LossScale()
    for _ in range(LossScale.GROWTH):
        scale.worked()
        off.worked()
    assert (scale, off) == (LossScale(8.0, 0), LossScale())
    scale.worked()
    assert scale.halve() and scale == LossScale(4.0, 0)


def test_an_overflow_is_taken_again_and_said(
    lora_policy: Policy, samples: list[Sample], capsys: pytest.CaptureFixture[str]
):
    """A step lost without a word; a share of the metrics counted twice; a broken gradient retried for ever."""
    [*weights] = lora_policy.trainable().values()
    before, tries, norm = weights[0].detach().clone(), [], None
    lora_policy.loss_scale = LossScale(2.0**3)
    optimiser, rollout = torch.optim.SGD(weights, lr=0.0), rollout_of(lora_policy, samples[:1])
    while norm is None:
        tries.append(lora_policy.loss_scale.value)
        weights[0].grad = torch.full_like(weights[0], math.inf if len(tries) < 3 else tries[-1])
        norm = optimiser_step(lora_policy, optimiser, 1e-3, math.inf, rollout, [0], 1)
    assert tries == [8.0, 4.0, 2.0]
    assert norm == pytest.approx(math.sqrt(weights[0].numel()))
    assert torch.allclose(weights[0], before - 1e-3)
    assert capsys.readouterr().err.count("a float16 gradient overflowed") == 2
    for left in (True, False):  # 2.0, then 1.0, at which the scale is not to blame
        weights[0].grad = weights[0].detach() * math.nan
        if left:
            assert optimiser_step(lora_policy, optimiser, 1e-3, 1.0, rollout, [0], 1) is None
            continue
        with pytest.raises(UserError, match="step 1: the sum of all gradients is not finite"):
            optimiser_step(lora_policy, optimiser, 1e-3, 1.0, rollout, [0], 1)
    assert lora_policy.loss_scale.value == 1.0


# ------------------------------------------------------------------ the vision tower in host memory


def held(module: nn.Module) -> list[Tensor]:
    """A module's weights, and their 4-bit statistics."""
    states = [w.quant_state for w in module.parameters() if isinstance(w, Params4bit)]
    statistics = [t for s in states for t in (s.absmax, s.code, s.offset, s.state2.absmax, s.state2.code)]
    return [*module.parameters(), *statistics]


class Tower(nn.Module):
    """A tower of one layer, which notes where each tensor is when it runs, and fails anywhere but on the CPU."""

    def __init__(self, layer: nn.Module, note: Callable[[set[tuple[str, int]]], None]) -> None:
        super().__init__()
        self.layer, self.note = layer, note

    def places(self) -> set[tuple[str, int]]:
        return {(tensor.device.type, tensor.data_ptr()) for tensor in held(self)}

    def forward(self, x: Tensor) -> Tensor:
        self.note(self.places())
        if x.device != self.layer.weight.device:
            raise torch.OutOfMemoryError
        return self.layer(x)


@pytest.mark.parametrize(("quantize", "device"), [("none", META), ("none", "cpu"), ("nf4", "cpu")])
def test_tower_visits_the_device_only_while_it_runs(miniature: Path, quantize: str, device: Any):
    """Weights or 4-bit statistics left behind on either side, also when the tower fails."""
    layer, seen = Policy.load(miniature, quantize=quantize, lora=LORA).core.model.visual.blocks[0].mlp.fc1, []
    assert isinstance(layer, Linear4bit) == (quantize == "nf4")
    tower, x = Tower(layer, seen.append), torch.ones(3, layer.in_features)
    expected, home = tower(x), tower.places()
    visit_while_running(tower, torch.device(device))
    with pytest.raises(torch.OutOfMemoryError) if device == META else nullcontext():
        assert torch.equal(tower(x), expected)
    first, visiting = seen
    assert first == home == tower.places() and {place[0] for place in visiting} == {str(device)}
    assert not visiting & home, "what happens to the visitor must not reach what stays"


def test_tower_runs_once_per_picture(miniature: Path, samples: list[Sample]):
    """A tower that travels at every step although its features are remembered."""
    policy, seen = Policy.load(miniature, lora=LORA, offload_vision=True), []
    policy.core.model.visual.register_forward_pre_hook(lambda *_: seen.append(1))
    for _ in range(2):
        gradients(policy, rollout_of(policy, samples))
    assert len(seen) == len(samples)


@pytest.mark.parametrize("quantize", ["none", "nf4"])
def test_offloading_changes_no_number(miniature: Path, samples: list[Sample], quantize: str):
    """Rows of the wrong token, or features of a tower that lost its scales, on both paths."""
    plain = shaken(Policy.load(miniature, quantize=quantize, lora=LORA))
    moved = shaken(Policy.load(miniature, quantize=quantize, lora=LORA, offload_vision=True, offload_embedding=True))
    rollout = rollout_of(plain, samples)
    assert torch.equal(rollout_of(moved, samples).completion_ids, rollout.completion_ids)
    expected = gradients(plain, rollout)
    assert all(torch.equal(gradient, expected[name]) for name, gradient in gradients(moved, rollout).items())
    group = [(rollout.prompts[0], [rollout.tokens(b) for b in range(4)])]
    assert torch.equal(naive_logprobs(moved, group, 1.0)[0], naive_logprobs(plain, group, 1.0)[0])


@pytest.mark.parametrize("settings", [{"train_vision": True}, {"lora": replace(LORA, targets="vision")}])
def test_a_tower_that_learns_stays(miniature: Path, settings: dict[str, Any]):
    """Gradients for weights that are elsewhere by then."""
    with pytest.raises(UserError, match="offload_vision needs a frozen vision tower"):
        Policy.load(miniature, offload_vision=True, **settings)


# ------------------------------------------------------------------ the embedding in host memory


def test_embedding_is_read_in_host_memory():
    """A table that travels to the device instead of its rows."""
    table = nn.Embedding(10, 4)
    look_up_in_host_memory(table, META)
    rows = table(torch.tensor([[3, 1]], device="cpu"))
    assert (rows.device.type, rows.shape, table.weight.device.type) == ("meta", (1, 2, 4), "cpu")


def test_device_and_dtype_do_not_hang_on_the_embedding(miniature: Path):
    """A policy that takes the place of its largest table for its own."""
    policy = Policy.load(miniature, lora=LORA, dtype="bfloat16")
    policy.core.get_input_embeddings().to(META, torch.float32)
    assert (policy.device.type, policy.dtype) == ("cpu", torch.bfloat16)


def test_an_embedding_that_is_the_head_or_learns_stays(miniature: Path, tiny_random: Path):
    """A head in host memory, which every token needs; gradients of a table on another device."""
    with pytest.raises(UserError, match="the embedding is also the head"):
        Policy.load(tiny_random, lora=LORA, offload_embedding=True)
    with pytest.raises(UserError, match='set train = "lora"'):
        Policy.load(miniature, offload_embedding=True)


# ------------------------------------------------------------------ loading


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bfloat16 model of 8 layers in shards of 2 MB."""
    folder = miniature_with(tmp_path_factory.mktemp("one"), num_hidden_layers=8, intermediate_size=2048)
    several = tmp_path_factory.mktemp("shards")
    shutil.copytree(folder, several, dirs_exist_ok=True)
    (several / "model.safetensors").unlink()
    model = Qwen2VLForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16)
    model.save_pretrained(several, max_shard_size="2MB")
    assert len(list(several.glob("*.safetensors"))) > 3
    return several


def test_loading_never_holds_more_than_the_weights_and_one_tensor(shards: Path):
    """A whole shard, or the whole model, in 16 bits beside the 4-bit weights: 7B would not load where it trains."""
    with LiveBytes() as meter:
        policy = Policy.load(shards, quantize="nf4", lora=LORA, dtype="bfloat16")
        after, peak = meter.now, meter.peak
    widest = max(w.quant_state.shape.numel() for w in policy.model.parameters() if isinstance(w, Params4bit))
    # On a CPU bitsandbytes quantises by plain torch operations, whose float32 intermediates are 5 copies of a tensor.
    assert peak < after + 6 * 4 * widest
    wide = sum(w.quant_state.shape.numel() for w in policy.model.parameters() if isinstance(w, Params4bit))
    assert after < 2 * wide  # fewer bytes than the linear layers alone have in bfloat16
    assert 6 * 4 * widest < 2 * wide  # or the first line would show nothing


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads /proc")
def test_no_file_stays_mapped_after_quantising(shards: Path):
    """One bias that keeps gigabytes of a shard in the process."""
    policy = Policy.load(shards, quantize="nf4", lora=LORA, dtype="bfloat16", device="cpu")
    assert isinstance(policy.core.model.language_model.layers[0].mlp.up_proj.base_layer, Linear4bit)
    assert str(shards) not in Path("/proc/self/maps").read_text()

"""One test for each way this combination of libraries goes wrong without an error.

Each of these costs nothing but the right result, and most were met once.  Some are guarded where they live:

    rollout in train mode: transformers drops the cache      test_prefix: test_checkpointing_leaves_no_trace
    4-bit layers repacked by a rollout, no gradient then     test_policy: test_nf4_gradient_does_not_depend_on_...
    frozen vision tower in the graph                         test_prefix: test_vision_tower_runs_once_per_picture
    rows mixed up when prompts are copied to their groups    test_sampler: test_shared_equals_naive
    logits in chunks without a checkpoint, or the reverse    test_logprobs: test_nothing_of_vocabulary_size_is_kept
    a random model that repeats one token                    test_sampler: test_greedy_paths_agree_and_are_not_...

The rest, and what these leave open, is here.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from conftest import FORWARD, apart, rounding, shaken
from torch import Tensor
from transformers import AttentionMaskInterface, Qwen2VLForConditionalGeneration

from minirft.engine.decoding import DECODERS, prefill
from minirft.engine.layers import SHARED_PREFIX
from minirft.engine.logprobs import gather_logprobs
from minirft.policy import LoraSettings, Policy
from minirft.sampler import sample_groups
from minirft.samples import Rollout, Sample

LORA = LoraSettings(r=4, alpha=8)
AS_TRAINED = {"lora": LORA, "quantize": "nf4", "checkpointing": True}


def rollout_of(policy: Policy, samples: list[Sample], **settings: object) -> Rollout:
    prompts = [policy.encode(sample) for sample in samples]
    settings = {"max_completion_length": 12, "generator": torch.Generator().manual_seed(0)} | settings
    return sample_groups(policy, prompts, 4, **settings)


# ------------------------------------------------------------------ train mode and checkpointing


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_rollout_keeps_its_cache_under_checkpointing(decoder: str, miniature: Path, samples: list[Sample]) -> None:
    """Catches a rollout in train mode: transformers drops the cache, and each token sees only itself (6% equal)."""
    policy = shaken(Policy.load(miniature, **AS_TRAINED))
    assert not any(module.training for module in policy.model.modules())
    fresh = rollout_of(policy, samples, decoder=decoder)
    policy.logprobs(fresh).sum().backward()
    after = rollout_of(policy, samples, decoder=decoder)
    naive = rollout_of(policy, samples, shared=False)
    for rollout in (fresh, after):
        assert torch.equal(rollout.completion_ids, naive.completion_ids)
    assert len(naive.completion_ids.unique()) > 6


def test_checkpointing_leaves_the_vision_tower_out(miniature: Path, samples: list[Sample]) -> None:
    """Catches checkpointing switched on for the whole model, whose hook on the patches puts the tower in the graph.

    TRL's default does that; the tower's backward pass took 36% of its step.
    """
    policy = shaken(Policy.load(miniature, **AS_TRAINED))
    tower, passes = policy.core.model.visual, []
    tower.blocks[0].register_forward_pre_hook(lambda *_: passes.append(1))
    rollout = rollout_of(policy, samples)
    assert not policy.features(rollout.prompts[0]).requires_grad
    assert not any(getattr(module, "gradient_checkpointing", False) for module in tower.modules())
    policy.logprobs(rollout).sum().backward()
    assert len(passes) == 3, "the tower ran again, for training or when backward recomputed it"
    assert all(weight.grad is not None for weight in policy.trainable().values())


# ------------------------------------------------------------------ masks


def test_attention_is_never_eager(miniature: Path) -> None:
    """Catches an attention that *adds* its mask: a bool mask then hides nothing (logits 0.7 to 1.6 off)."""
    core = Policy.load(miniature, lora=LORA).core
    assert core.config.text_config._attn_implementation == SHARED_PREFIX
    assert core.config.vision_config._attn_implementation == "sdpa"


def test_packed_pass_equals_eager_attention_with_an_added_mask(policy: Policy, miniature: Path, samples: list[Sample]):
    """Catches a mask that only sdpa reads as we mean it: the same pass, other attention code, a mask of -inf."""
    rollout = rollout_of(policy, samples[:1])
    prompt, rows, length = rollout.prompts[0], [rollout.tokens(b) for b in range(4)], len(rollout.prompts[0])
    lengths = [len(ids) for ids in rows]
    owner = torch.tensor([0] * length + [c + 1 for c, n in enumerate(lengths) for _ in range(n)])
    sees = ((owner == 0) | (owner == owner[:, None])).tril()[None, None]
    first = length + prompt.rope_delta
    inputs = {
        "inputs_embeds": torch.cat([policy.embed_prompt(prompt), policy.embed(torch.cat(rows))])[None],
        "position_ids": torch.cat(
            [prompt.position_ids, *(torch.arange(first, first + n).expand(3, -1) for n in lengths)], dim=1
        )[:, None],
    }
    eager = Qwen2VLForConditionalGeneration.from_pretrained(miniature, attn_implementation="eager")
    # Each token is predicted at the one before it; the first of each row at the prompt's last.
    ends = torch.tensor(lengths).cumsum(0) + length
    places = torch.cat(
        [torch.tensor([length - 1, *range(end - n, end - 1)]) for n, end in zip(lengths, ends, strict=True)]
    )

    def score(mask: Tensor) -> Tensor:
        hidden = eager.model.language_model(attention_mask={"full_attention": mask}, **inputs).last_hidden_state[0]
        logits = eager.lm_head(hidden[places]).index_fill(-1, policy.banned, -torch.inf)
        return gather_logprobs(logits, torch.cat(rows))

    packed = policy.logprobs(rollout)[rollout.completion_mask]
    assert torch.allclose(packed, score(torch.zeros(sees.shape).masked_fill(~sees, -torch.inf)), atol=1e-4)
    assert not torch.allclose(packed, score(sees), atol=0.1), "eager reads bool masks now: this pitfall is gone"


def test_left_padding_is_seen_under_our_attention(policy: Policy, samples: list[Sample]) -> None:
    """Catches an attention name without a mask function: transformers then drops the mask of padded prompts."""
    assert SHARED_PREFIX in AttentionMaskInterface().valid_keys()
    prompts = [policy.encode(sample) for sample in samples]
    together = prefill(policy, prompts)
    assert not together.mask.all()
    for p, prompt in enumerate(prompts):
        assert apart(together.hidden[p], prefill(policy, [prompt]).hidden[0]) < rounding(FORWARD)


# ------------------------------------------------------------------ positions


@pytest.mark.parametrize("shared", [True, False])
def test_positions_do_not_depend_on_what_the_model_saw_before(
    shared: bool, policy: Policy, samples: list[Sample]
) -> None:
    """Catches `rope_deltas`, which the model keeps from its last picture, used for the next prompt."""
    one, other = ([sample] for sample in samples[:2])
    wanted = rollout_of(policy, one, shared=shared)
    scores = policy.logprobs(wanted, shared=shared)
    for leave_behind in (
        lambda: rollout_of(policy, other, shared=False),
        lambda: setattr(policy.core.model, "rope_deltas", torch.tensor([[1000]])),
    ):
        leave_behind()
        assert torch.equal(rollout_of(policy, one, shared=shared).completion_ids, wanted.completion_ids)
        leave_behind()
        assert torch.equal(policy.logprobs(wanted, shared=shared), scores)
    assert policy.encode(samples[0]).rope_delta != policy.encode(samples[1]).rope_delta


# ------------------------------------------------------------------ precision


def saved_bytes(compute: Callable[[], Tensor], policy: Policy) -> dict[torch.dtype, int]:
    """Bytes that autograd keeps between forward and backward, by number format; weights are not among them."""
    weights = {weight.untyped_storage().data_ptr() for weight in policy.model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = compute()
    sizes: dict[torch.dtype, int] = {}
    for tensor in kept.values():
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.untyped_storage().nbytes()
    assert result.requires_grad
    return sizes


def test_adapters_of_32_bits_keep_no_activations_of_32_bits(miniature: Path, samples: list[Sample]) -> None:
    """Catches PEFT's cast of every linear layer's input to the format of the adapter: 57% more memory in a layer."""
    found = {}
    for dtype in ("float32", "bfloat16"):
        policy = Policy.load(miniature, lora=LoraSettings(r=4, alpha=8), quantize="nf4", dtype="bfloat16")
        assert {weight.dtype for weight in policy.trainable().values()} == {torch.float32}
        for weight in policy.trainable().values():
            weight.data = weight.data.to(getattr(torch, dtype))
        rollout = rollout_of(policy, samples)
        found[dtype] = saved_bytes(lambda: policy.logprobs(rollout), policy)  # noqa: B023
    assert found["float32"][torch.float32] == found["bfloat16"][torch.float32]
    assert sum(found["float32"].values()) < 1.05 * sum(found["bfloat16"].values())


def test_4_bit_layers_are_not_repacked(miniature: Path, samples: list[Sample]) -> None:
    """Catches bitsandbytes repacking weights in eval mode on CPUs with AVX512-BF16: after a rollout nothing learns."""
    policy = shaken(Policy.load(miniature, **AS_TRAINED))
    layers = [module for module in policy.model.modules() if isinstance(module, Linear4bit)]
    before = [layer.weight.clone() for layer in layers]
    rollout_of(policy, samples)
    assert not any(layer.support_avx512bf16_for_cpu for layer in layers)
    assert all(torch.equal(layer.weight, weight) for layer, weight in zip(layers, before, strict=True))
    policy.logprobs(rollout_of(policy, samples)).sum().backward()
    assert all(weight.grad.abs().sum() > 0 for weight in policy.trainable().values())

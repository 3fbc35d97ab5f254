"""Parity with TRL: its own code, run on the same numbers as ours.  `pytest -s` prints the table."""

import inspect
import textwrap
import warnings
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from minirft.advantages import group_advantages
from minirft.lessons import gdpo_advantages
from minirft.loss import LOSSES, policy_loss

LENGTH = 7
CLIP = {"clip_eps": 0.1, "clip_eps_high": 0.3}


@pytest.fixture(scope="module")
def trainer():
    """TRL's GRPO module.  Importing it warns about torch's and other libraries' deprecations, none of them ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("trl")
        from trl.trainer import grpo_trainer
    return grpo_trainer


def trl_loss(trainer, kind, data, kl_coef, passes=1, total_tokens=None, correction=None):
    """`GRPOTrainer._compute_loss` itself, on an object with just the settings it reads.

    `correction` (B, T) is its `importance_sampling_ratio`, which it reads for samples of another engine only.
    """
    logprobs, old, ref, advantages, mask = data
    leaf = logprobs.clone().requires_grad_()
    one_process = SimpleNamespace(num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x)
    stub = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *args, **kwargs: (leaf, torch.zeros_like(leaf), None),
        loss_type={"gspo": "grpo"}.get(kind, kind),
        importance_sampling_level="sequence" if kind == "gspo" else "token",
        epsilon_low=CLIP["clip_eps"],
        epsilon_high=CLIP["clip_eps_high"] + (kind == "cispo"),  # TRL's CISPO gives the bound itself
        beta=kl_coef,
        max_completion_length=LENGTH,
        current_gradient_accumulation_steps=passes,
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=passes),
        model=SimpleNamespace(training=True),
        accelerator=one_process,
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=correction is not None,
        vllm_importance_sampling_correction=correction is not None,
        _entropy_bonus_enabled=False,
        _metrics=defaultdict(lambda: defaultdict(list)),
    )
    ids = torch.zeros_like(mask, dtype=torch.long)
    inputs = {
        "prompt_ids": ids,
        "prompt_mask": ids,
        "completion_ids": ids,
        "completion_mask": mask.long(),
        "advantages": advantages,
        "old_per_token_logps": old,
        "ref_per_token_logps": ref,
        "num_items_in_batch": mask.sum() if total_tokens is None else total_tokens,
        "importance_sampling_ratio": correction,
    }
    loss = trainer.GRPOTrainer._compute_loss(stub, None, inputs)
    loss.backward()
    return loss.detach(), leaf.grad, {key: values[-1] for key, values in stub._metrics["train"].items()}


def our_loss(kind, data, kl_coef, **totals):
    logprobs, *rest = data
    leaf = logprobs.clone().requires_grad_()
    options = {"kl_coef": kl_coef, "max_completion_length": LENGTH, **CLIP, **totals}
    loss, metrics = policy_loss(kind, leaf, *rest, **options)
    loss.backward()
    return loss.detach(), leaf.grad, metrics


def batch(seed, rows=8, drift=0.3):
    generator = torch.Generator().manual_seed(seed)
    old, noise, shift = (torch.randn(rows, LENGTH, generator=generator) for _ in range(3))
    old = -old.abs() - 0.05
    mask = torch.arange(LENGTH) < torch.randint(1, LENGTH + 1, (rows, 1), generator=generator)
    advantages = group_advantages(torch.rand(2, rows // 2, generator=generator)).flatten()
    return old + drift * noise, old, old + 0.3 * shift, advantages, mask


@pytest.mark.parametrize("kind", LOSSES)
def test_loss_and_gradient_are_trls(trainer, kind):
    """Bug: a loss that only shares its name with the one in the paper and in TRL."""
    rows = []
    for seed, drift, kl_coef in ((0, 0.0, 0.0), (1, 0.3, 0.0), (2, 0.3, 0.04)):  # first update; later; with KL
        data = batch(seed, drift=drift)
        ours, theirs = our_loss(kind, data, kl_coef), trl_loss(trainer, kind, data, kl_coef)
        torch.testing.assert_close(ours[0], theirs[0], atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(ours[1], theirs[1], atol=1e-6, rtol=1e-6)
        assert theirs[1].abs().max() > 1e-3
        same_metrics(kind, ours[2], theirs[2], kl_coef)
        rows.append((drift, kl_coef, ours[0].item(), theirs[0].item(), (ours[1] - theirs[1]).abs().max().item()))
    print()
    for drift, kl_coef, mine, their, gap in rows:
        print(
            f"{kind:8} drift {drift:.1f} kl_coef {kl_coef:.2f}  "
            f"loss {mine:+.7f}  TRL {their:+.7f}  max |gradient - TRL's| {gap:.1e}"
        )


def same_metrics(kind, ours, theirs, kl_coef):
    pairs = {"clip_fraction_low": "clip_ratio/low_mean", "clip_fraction_high": "clip_ratio/high_mean"}
    if kind == "cispo":
        pairs = {"clip_fraction_high": "cispo_clip_ratio"}
    for our_key, their_key in {**pairs, **({"kl": "kl"} if kl_coef else {})}.items():
        assert ours[our_key].item() == pytest.approx(theirs[their_key], abs=1e-6), our_key


@pytest.mark.parametrize("kind", sorted(LOSSES.keys() - {"bnpo"}))
def test_accumulated_passes_are_trls(trainer, kind):
    """Bug: totals of the pass for totals of the step.  TRL's bnpo changes with the split; ours does not."""
    data = batch(3)
    tokens = int(data[-1].sum())
    for half in (slice(0, 4), slice(4, 8)):
        part = [tensor[half] for tensor in data]
        ours = our_loss(kind, part, 0.04, step_rows=8, step_tokens=tokens)
        theirs = trl_loss(trainer, kind, part, 0.04, passes=2, total_tokens=torch.tensor(tokens))
        torch.testing.assert_close(ours[0], theirs[0], atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(ours[1], theirs[1], atol=1e-6, rtol=1e-6)


def trl_advantages(trainer, rewards_per_func, group_size, **settings):
    """The lines of TRL that turn rewards into advantages, cut from its source and run."""
    source = inspect.getsource(trainer.GRPOTrainer._generate_and_score_completions)
    start = source.index("        unscorable_mask = ")
    stop = source.index("        # Slice to keep only the local part", start)
    weights = torch.ones(rewards_per_func.shape[1])
    names = {
        "torch": torch,
        "nanstd": trainer.nanstd,
        "rewards_per_func": rewards_per_func,
        "num_generations": group_size,
        "device": "cpu",
        "self": SimpleNamespace(reward_weights=weights, reward_funcs=list(weights), **settings),
    }
    exec(textwrap.dedent(source[start:stop]), names)
    return names["advantages"].view(-1, group_size)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("std", {"multi_objective_aggregation": "sum_then_normalize", "scale_rewards": "group"}),
        ("batch", {"multi_objective_aggregation": "sum_then_normalize", "scale_rewards": "batch"}),
        ("mean", {"multi_objective_aggregation": "sum_then_normalize", "scale_rewards": "none"}),
        ("gdpo", {"multi_objective_aggregation": "normalize_then_sum"}),
    ],
    ids=["group", "batch", "none (our mean)", "gdpo"],
)
def test_advantages_are_trls(trainer, ours, theirs):
    """Bug: another ddof or eps.  The degenerate group is of 1/4: of 0.3, TRL makes 5e-4 out of rounding, ours 0."""
    parts = torch.rand(3, 4, 6, generator=torch.Generator().manual_seed(0))
    parts[:, 2] = 0.25
    expected = trl_advantages(trainer, parts.flatten(1).T, 6, **theirs)
    found = gdpo_advantages(parts) if ours == "gdpo" else group_advantages(parts.sum(0), ours)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)

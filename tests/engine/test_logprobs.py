"""Token log-probabilities: equal to the plain way in value and gradient, and (N, V) is never kept."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minirft.engine.logprobs import gather_logprobs, token_logprobs

VOCABULARY = 50


def problem(tokens=10, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    head = torch.nn.Linear(8, VOCABULARY, bias=False, dtype=dtype)
    head.weight.data = torch.randn(VOCABULARY, 8, generator=generator).to(dtype)
    hidden = torch.randn(tokens, 8, generator=generator).to(dtype).requires_grad_()
    return hidden, head, torch.randint(5, VOCABULARY, (tokens,), generator=generator)


def gradients(value, hidden, head):
    weights = torch.linspace(-1, 1, len(value))  # one weight per token, so that a permutation shows
    return torch.autograd.grad((value * weights).sum(), [hidden, head.weight], retain_graph=True)


@settings(max_examples=25, deadline=None)
@given(tokens=st.integers(1, 20), chunk=st.integers(1, 25), temperature=st.sampled_from([0.3, 1.0, 1.7]))
def test_equals_the_plain_way_in_value_and_gradient(tokens, chunk, temperature):
    """Bug: a chunk lost or swapped, temperature applied twice or not at all, gradients from one chunk only."""
    hidden, head, ids = problem(tokens, torch.float32)
    plain = gather_logprobs(head(hidden) / temperature, ids)
    ours = token_logprobs(hidden, head, ids, temperature, chunk=chunk)
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(gradients(ours, hidden, head), gradients(plain, hidden, head))


def test_banned_tokens_leave_the_softmax():
    """Bug: banned tokens keep their mass: the log-probs are then not those of what was sampled."""
    hidden, head, ids = problem(dtype=torch.float32)
    allowed = torch.arange(5, VOCABULARY)
    plain = gather_logprobs(head(hidden)[:, allowed], ids - 5)
    ours = token_logprobs(hidden, head, ids, banned=torch.arange(5), chunk=4)
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(gradients(ours, hidden, head), gradients(plain, hidden, head))
    assert (gradients(ours, hidden, head)[1][:5] == 0).all()
    assert token_logprobs(hidden[:1], head, torch.tensor([2]), banned=torch.arange(5)).item() == -torch.inf


@pytest.mark.parametrize("banned", [None, torch.arange(5)])
def test_entropy(banned):
    """Bug: 0 * -inf = NaN on banned tokens; the entropy of another temperature; a gradient nobody asked for."""
    hidden, head, ids = problem(dtype=torch.float32)
    logits = head(hidden)[:, 0 if banned is None else 5 :] / 0.7
    logprobs, entropy = token_logprobs(hidden, head, ids, 0.7, banned, chunk=4, entropy=True)
    torch.testing.assert_close(entropy, torch.distributions.Categorical(logits=logits).entropy())
    assert not entropy.requires_grad
    assert torch.equal(logprobs, token_logprobs(hidden, head, ids, 0.7, banned, chunk=4))


def test_finite_differences_at_the_output():
    """Bug: a gradient that agrees with autograd of the same mistake.  Float32 inside, so a loose central step."""
    hidden, head, ids = problem(4, torch.float32)
    [gradient, _] = gradients(token_logprobs(hidden, head, ids, chunk=3), hidden, head)
    step = torch.zeros_like(hidden)
    step[2, 5] = 1e-2
    weights = torch.linspace(-1, 1, 4)
    with torch.no_grad():
        up, down = (token_logprobs(hidden + sign * step, head, ids, chunk=3) for sign in (1, -1))
    assert ((up - down) @ weights / 2e-2).item() == pytest.approx(gradient[2, 5].item(), abs=1e-3)


def test_logits_become_float32():
    """Bug: a softmax in bfloat16, whose sum over a large vocabulary loses the small terms."""
    hidden, head, ids = problem(dtype=torch.bfloat16)
    logprobs = token_logprobs(hidden, head, ids)
    assert logprobs.dtype == torch.float32
    torch.testing.assert_close(logprobs, gather_logprobs(head(hidden), ids))


def saved_elements(compute):
    """Elements of the largest and of all tensors that autograd keeps for backward."""
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        compute()
    return max(sizes), sum(sizes)


def test_nothing_of_vocabulary_size_is_kept():
    """Bug: chunks without a checkpoint keep every chunk; a checkpoint without chunks keeps nothing but builds all."""
    hidden, head, ids = problem(200, torch.float32)
    head.weight.requires_grad_(False)
    largest, _ = saved_elements(lambda: gather_logprobs(head(hidden), ids))
    assert largest == 200 * VOCABULARY  # the hook does see it
    largest, total = saved_elements(lambda: token_logprobs(hidden, head, ids, chunk=16, entropy=True))
    assert largest <= 200 * 8
    assert total < 200 * 12


def test_no_more_than_a_chunk_of_logits_exists():
    """Bug: the head applied to all hidden states at once, in forward or when backward recomputes."""
    hidden, head, ids = problem(50, torch.float32)
    seen = []
    handle = head.register_forward_hook(lambda module, args, logits: seen.append(len(logits)))
    token_logprobs(hidden, head, ids, chunk=16).sum().backward()
    handle.remove()
    assert seen[:4] == [16, 16, 16, 2]
    assert sorted(seen[4:]) == [2, 16, 16, 16]


def test_no_tokens_and_no_gradient():
    """Bug: an empty completion batch, or scoring under no_grad, that crashes in the checkpoint."""
    hidden, head, ids = problem()
    assert token_logprobs(hidden[:0], head, ids[:0]).shape == (0,)
    with torch.no_grad():
        assert not token_logprobs(hidden, head, ids).requires_grad


def test_what_does_not_fit_is_refused():
    """Bug: temperature 0 gives NaN; ids of another length are silently cut by zip."""
    hidden, head, ids = problem()
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        token_logprobs(hidden, head, ids, temperature=0)
    with pytest.raises(ValueError, match=r"got \(10, 8\), \(9,\)"):
        token_logprobs(hidden, head, ids[:9])

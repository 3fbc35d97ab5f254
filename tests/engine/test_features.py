"""What is kept so that it need not be computed twice."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from minirft.engine.processor import ByteCache
from minirft.policy import Policy
from minirft.samples import Sample


@given(st.integers(0, 30), st.lists(st.integers(1, 12), max_size=60))
def test_never_more_than_the_budget_and_always_the_right_value(budget: int, keys: list[int]):
    """A cache that grows past its budget, forgets to count what it dropped, or answers with a neighbour's value."""
    cache: ByteCache[str] = ByteCache(budget)
    for key in keys:
        value = cache.remember(key, lambda key=key: "x" * key, len)
        assert value == "x" * key
        assert cache.used == sum(size for _, size in cache._entries.values()) <= budget


def test_a_picture_is_prepared_once(policy: Policy, samples: list[Sample]):
    """A picture opened, resized and cut up again in every epoch."""
    first = policy.encode(samples[0])
    policy.processor = None  # a second visit would fail
    assert policy.encode(samples[0]) is first


def test_an_equal_sample_that_is_another_object_is_prepared_anew(policy: Policy, samples: list[Sample]):
    """Comparing samples would compare pictures, and an id used again would hand out another sample's prompt."""
    first = policy.encode(samples[0])
    for i in range(50):
        other = replace(samples[0], problem=f"a cat number {i}?")
        assert policy.encode(other).sample is other
    assert policy.encode(replace(samples[0])) is not first

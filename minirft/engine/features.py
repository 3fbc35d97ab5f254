"""What need not be computed twice, in host memory: prompts, and what the frozen vision tower said of each picture."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from torch import Tensor

from minirft.samples import Prompt, Sample

T = TypeVar("T")


class ByteCache(Generic[T]):
    """Least-recently-used values, at most `budget` bytes of them.

    >>> cache = ByteCache(budget=5)
    >>> for text in ("abc", "de", "abc", "f", "de"):
    ...     _ = cache.remember(text, lambda: print("made", text) or text, len)
    made abc
    made de
    made f
    made de
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.used = 0
        self._entries: OrderedDict[Hashable, tuple[T, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def remember(self, key: Hashable, make: Callable[[], T], nbytes: Callable[[T], int]) -> T:
        """The value of `key`, made only if it is not remembered.  One larger than the whole budget is not kept."""
        if key in self._entries:
            self._entries.move_to_end(key)
            return self._entries[key][0]
        value = make()
        if (size := nbytes(value)) <= self.budget:
            self._entries[key] = value, size
            self.used += size
        while self.used > self.budget:
            _, (_, oldest) = self._entries.popitem(last=False)
            self.used -= oldest
        return value


class FeatureCache(ByteCache[Tensor]):
    """Picture features, in host memory.

    The key is the picture itself (patches and grid), so two samples about one picture share an entry.
    A picture of 401,408 pixels takes 1.5 MB in bf16 for Qwen2-VL-2B.
    """

    def __init__(self, budget: int = 2**29) -> None:
        super().__init__(budget)

    def get(self, prompt: Prompt, compute: Callable[[], Tensor]) -> Tensor:
        """The features of the prompt's picture, computed only if they are not remembered."""
        return self.remember(prompt.picture_key, lambda: compute().cpu(), lambda features: features.nbytes)


class PromptCache(ByteCache[tuple[Sample, Prompt]]):
    """Samples already turned into prompts, so that a picture is opened, resized and cut up once in a run.

    A sample is known by its identity, and kept so that the identity stays its own: a training set is gone through
    with the same objects in every epoch.  A picture of 401,408 pixels takes 9.6 MB.
    """

    def __init__(self, budget: int = 2**28) -> None:
        super().__init__(budget)

    def get(self, sample: Sample, encode: Callable[[], Prompt]) -> Prompt:
        """The sample as a prompt, encoded only if it is not remembered."""
        return self.remember(id(sample), lambda: (sample, encode()), lambda pair: pair[1].pixel_values.nbytes)[1]

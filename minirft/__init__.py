"""minirft is visual reinforcement fine-tuning that you can read: GRPO on Qwen2-VL, on a laptop or one consumer GPU.

A **policy** is compared with its **reference**; a **sampler** draws groups; **rewards** score them; **advantages**
compare; the **loss** weighs; **train** repeats.  These are the files beside this one; everything else has a room.
"""

import ast
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minirft import data, show, tiny
    from minirft.advantages import group_advantages
    from minirft.loss import policy_loss
    from minirft.policy import Policy
    from minirft.reference import make_reference
    from minirft.rewards import reading as reward
    from minirft.runs import GRPOConfig, load_config
    from minirft.sampler import sample_groups
    from minirft.samples import Rollout, Sample
    from minirft.train import grpo_step, run, score

STARTED = time.monotonic()  # before torch is imported, which takes seconds
# On some CPUs bitsandbytes, when it is imported, misses a package that would fetch faster kernels from the network.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


class UserError(Exception):
    """A `UserError` is a mistake that the user can correct: its message names the mistake, the place and the remedy."""


@contextmanager
def as_user_error(message: str, *kinds: type[Exception]) -> Iterator[None]:
    """Turn an error of one of `kinds`, raised inside, into a `UserError`; {why} in `message` is the error's own text.

    >>> with as_user_error("depth is no number ({why}); write 1, 2, ...", ValueError):
    ...     int("two")
    Traceback (most recent call last):
    minirft.UserError: depth is no number (invalid literal for int() with base 10: 'two'); write 1, 2, ...
    """
    try:
        yield
    except kinds as error:
        why = str(getattr(error, "strerror", None) or error).strip() or type(error).__name__
        raise UserError(message.replace("{why}", shorten(why, 300, placeholder=" ..."))) from None


def lazily(package: str) -> tuple[Callable[[str], Any], list[str]]:
    """Export the imports of a package's `if TYPE_CHECKING:` block, each one imported at its first use (PEP 562).

    The result is the package's `__getattr__` and `__all__`.  Type checkers and readers see plain imports, and
    `import minirft.show` still does not load matplotlib.  An exported name must differ from the names of the package's
    files: after an import of such a file, the name would be the module.
    """
    source = Path(str(sys.modules[package].__file__)).read_text(encoding="utf-8")
    homes = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            for line in node.body:
                if isinstance(line, ast.ImportFrom):
                    homes |= {alias.asname or alias.name: (str(line.module), alias.name) for alias in line.names}

    def touch(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, original = homes[name]
        return import_module(f"{module}.{original}") if module == package else getattr(import_module(module), original)

    return touch, sorted(homes)


__getattr__, __all__ = lazily(__name__)
__all__ += ["UserError"]

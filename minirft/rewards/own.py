"""A reward of your own is a Python function that scores one completion of one sample.

    def short(completion: str, sample: Sample) -> float | dict[str, float]

A number is one part, with the name of the function.  The entries of a dict are parts; each is logged, and R = Σ w_k R_k
with the weights of `reward_weights` (default 1).  The function can use the question (`sample.problem`), the truth
(`sample.solution`, `rewards.true_boxes(sample)`), the picture (`sample.picture()`) and the parsed answer
(`rewards.parse(sample.task, completion)`).  The package's own rewards have the same form, so a function can start from
one: `strict(completion, sample).parts | {"short": ...}`.

A function that raises, does not return numbers, or runs too long must not stop the run.  Its score is then NaN with a
reason, and `train.grpo_step` leaves the whole group out, because an advantage compares all completions of a group.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import inspect
import math
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from textwrap import shorten
from types import FrameType, ModuleType
from typing import Any, get_args

from minirft import UserError, as_user_error
from minirft.rewards.answers import Answer
from minirft.rewards.readings import Reward, RewardFn, Score, Variant, reading
from minirft.samples import Sample, Task

OwnFunction = Callable[[str, Sample], float | Mapping[str, float] | Score]
Scorer = RewardFn | OwnFunction


@dataclass(frozen=True)
class OwnReward:
    """`OwnReward` wraps your function as a reward with named parts, their weighted sum, and a reason if it fails.

    `timeout` is in seconds per call; 0 is no limit.  It interrupts Python code and regular expressions on Linux and
    macOS in the main thread; elsewhere a call that takes too long is detected only after it has ended.

    >>> cat = Sample("s0", Path("cat.jpg"), "classification", "What is it?", "<answer>cat</answer>")
    >>> pay = OwnReward(lambda text, sample: {"short": 1.0, "cats": text.count("cat")}, {"cats": 0.5})
    >>> pay("a cat", cat)
    Score(total=1.5, parts={'short': 1.0, 'cats': 1.0}, failure='no answer block')
    """

    function: OwnFunction
    weights: Mapping[str, float] = field(default_factory=dict)
    timeout: float = 10.0

    def __call__(self, completion: str, sample: Sample) -> Score:
        try:
            with _time_limit(self.timeout):
                parts = self._parts(self.function(completion, sample))
        except (Exception, SystemExit) as error:  # an error in the function loses its group, not the run
            file = getattr(getattr(self.function, "__code__", None), "co_filename", "")
            return Score(math.nan, {}, f"the reward failed: {described(error, file)}")
        failure = Answer.of(sample.task, completion).failure
        return Score(sum(self.weights.get(name, 1.0) * value for name, value in parts.items()), parts, failure)

    @property
    def name(self) -> str:
        """Return the function's name, which names its part if it returns a number."""
        return getattr(self.function, "__name__", type(self.function).__name__).replace("<lambda>", "own")

    def _parts(self, value: Any) -> dict[str, float]:
        """Convert the function's result to parts.  Raises `TypeError` or `ValueError` for anything but numbers."""
        value = value.parts if isinstance(value, Score) else value
        value = value if isinstance(value, Mapping) else {self.name: value}
        parts = {str(name): _number(str(name), part) for name, part in value.items()}
        if unknown := self.weights.keys() - parts.keys():
            raise ValueError(f"reward_weights names {', '.join(sorted(unknown))}; the parts are {', '.join(parts)}")
        return parts


def reward_for(
    task: Task, source: str | Scorer, weights: Mapping[str, float] | None = None, timeout: float = 10.0
) -> RewardFn:
    """Make the reward of a task from the name of a reading, FILE.py:NAME, or a function.

    Raises `UserError` as `reading` and `load_function` do.

    >>> reward_for("presence", "strict").weights
    {'accuracy': 1.0, 'format': 1.0}
    """
    if isinstance(source, Reward | OwnReward):
        return source
    if isinstance(source, str) and not is_own(source):
        return reading(task, source, weights or None)  # type: ignore[arg-type]  # `reading` refuses any other name
    function = load_function(source) if isinstance(source, str) else source
    return OwnReward(function, dict(weights or {}), timeout)


def is_own(source: str) -> bool:
    """Check whether a config's `reward` names a function, FILE.py:NAME, instead of a reading.

    >>> is_own("rewards/short.py:short"), is_own("strict")
    (True, False)
    """
    path, _, name = source.rpartition(":")
    return path.endswith(".py") and name.isidentifier()


def load_function(source: str) -> OwnFunction:
    """Load the function that FILE.py:NAME names.

    Raises `UserError` when the file is missing or does not run, or holds no such function of two arguments.
    """
    path, _, name = source.rpartition(":")
    module = _module(Path(path).resolve())
    function = getattr(module, name, None)
    if not callable(function):
        found = [key for key, value in vars(module).items() if inspect.isfunction(value) and not key.startswith("_")]
        raise UserError(f"{path} has no function {name}; it has {', '.join(found) or 'none'}")
    wrong = f"{source} cannot be called as {name}(completion, sample): {{why}}"
    with contextlib.suppress(ValueError), as_user_error(wrong, TypeError):  # a builtin may have no signature
        inspect.signature(function, follow_wrapped=False).bind("completion", "sample")
    return function


def fingerprint(reward: Scorer) -> str:
    """Hash (SHA-256) the functions of a reward, their parts' names and their weights.

    With it a resumed run checks that it scores as before.  A function of a file stands for the whole file; one of a
    notebook for its own source; one of this package for its name, because the package's version fixes it.
    """
    functions = (
        list(reward.parts.items()) if isinstance(reward, Reward) else [("", getattr(reward, "function", reward))]
    )
    texts = [f"{name}: {_source(function)}" for name, function in functions]
    weights = sorted(getattr(reward, "weights", {}).items())
    return hashlib.sha256(repr([texts, weights]).encode()).hexdigest()


def _source(function: Any) -> str:
    """Return what identifies a function: its file's text, its source, or its name."""
    function = inspect.unwrap(getattr(function, "func", function))  # of a `partial` the function
    name = str(getattr(function, "__qualname__", type(function).__qualname__))
    if getattr(function, "__module__", "").startswith("minirft."):
        return name
    with contextlib.suppress(OSError, TypeError):
        file = inspect.getsourcefile(function)
        return Path(file).read_text(encoding="utf-8") if file and Path(file).is_file() else inspect.getsource(function)
    return name


def described(error: BaseException, file: str) -> str:
    """Describe an exception in one line, with the line of the user's `file` that raised it."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    place = f"{Path(frames[-1].filename).name} line {frames[-1].lineno}: " if frames else ""
    return f"{place}{type(error).__name__}: {shorten(str(error), 300, placeholder=' ...')}".rstrip(": ")


def _module(path: Path) -> ModuleType:
    if not path.is_file():
        raise UserError(f"no reward file at {path}; give FILE.py:NAME or one of {', '.join(get_args(Variant))}")
    spec = importlib.util.spec_from_file_location(f"minirft_reward_{path.stem}", path)
    assert spec and spec.loader  # a name that ends with .py has a loader
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))  # so that the file can import its neighbours
    try:
        sys.modules[spec.name] = module  # dataclasses need to find their module
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        where = f"line {error.lineno}: {error.msg}" if isinstance(error, SyntaxError) else described(error, str(path))
        raise UserError(f"the reward file {path} does not run: {where}") from None
    finally:
        sys.path.remove(str(path.parent))
    return module


def _number(name: str, value: Any) -> float:
    value = value.item() if hasattr(value, "item") else value  # NumPy's and torch's numbers
    if not isinstance(value, Real):
        raise TypeError(f"part {name} is {type(value).__name__} {str(value)[:40]!r}, which is no number")
    if not math.isfinite(value):
        raise ValueError(f"part {name} is {value}")
    return float(value)


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise `TimeoutError` in the code inside after `seconds`; 0 is no limit."""
    start, late = time.monotonic(), f"it took longer than reward_timeout = {seconds:g} s"
    alarm = seconds > 0 and hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()

    def on_alarm(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(late)

    if alarm:
        before = signal.signal(signal.SIGALRM, on_alarm)
        signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        if alarm:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
    if 0 < seconds < time.monotonic() - start:
        raise TimeoutError(late)

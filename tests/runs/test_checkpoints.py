"""Checkpoints: bit-exact, whole or absent whatever stops the save, damage found and passed over."""

import errno
import functools
import os
import shutil
import signal
import sys
import time

import pytest
import torch
from bitsandbytes.optim import AdamW8bit

from minirft import UserError
from minirft.runs import checkpoints
from minirft.runs.checkpoints import load_checkpoint, save_checkpoint

FILES = ["manifest.json", "optimizer.safetensors", "state.json", "weights.safetensors"]


def training(seed=0, steps=3, kind=torch.optim.AdamW, size=3):
    """Two weights and an AdamW that has made `steps` steps, with two param groups."""
    generator = torch.Generator().manual_seed(seed)
    weights = {"a": torch.randn(size, 4, generator=generator), "b": torch.randn(5, generator=generator).bfloat16()}
    parameters = {name: torch.nn.Parameter(weight) for name, weight in weights.items()}
    groups = [{"params": [parameters["a"]]}, {"params": [parameters["b"]], "lr": 1 / 3, "weight_decay": 0.1}]
    optimizer = kind(groups, lr=1e-3)
    for step in range(1, steps + 1):
        update(parameters, optimizer, step)
    return parameters, optimizer


def update(parameters, optimizer, step):
    for parameter in parameters.values():
        parameter.grad = (parameter.detach().float() * step).sin().to(parameter.dtype)
    optimizer.step()


state_to_save = functools.cache(training)


def save(folder, step=3, seed=0, **options):
    parameters, optimizer = state_to_save(seed)
    return save_checkpoint(folder, step, parameters, optimizer, {"seed": seed, "place": [1, 2.5, None]}, **options)


def bits(tree):
    """A nested state with its tensors as (dtype, shape, bytes), so that == is bit for bit."""
    if isinstance(tree, torch.Tensor):
        return tree.dtype, tree.shape, tree.detach().contiguous().view(-1).view(torch.uint8).tolist()
    if isinstance(tree, dict):
        return {key: bits(item) for key, item in tree.items()}
    return type(tree)(bits(item) for item in tree) if isinstance(tree, list | tuple) else tree


# --- the round trip


def test_round_trip_is_bit_for_bit(tmp_path):
    """Bug: AdamW's step counter or betas lost, bfloat16 widened, integer keys turned into text."""
    parameters, optimizer = training()
    save(tmp_path)
    loaded = load_checkpoint(tmp_path)
    assert (loaded.step, loaded.extra, loaded.notes) == (3, {"seed": 0, "place": [1, 2.5, None]}, [])
    assert bits(loaded.weights) == bits({name: parameter.data for name, parameter in parameters.items()})
    assert bits(loaded.optimizer) == bits(optimizer.state_dict())


@pytest.mark.parametrize(("kind", "size"), [(torch.optim.AdamW, 3), (AdamW8bit, 3), (AdamW8bit, 2000)])
def test_training_goes_on_as_if_never_stopped(tmp_path, kind, size):
    """Bug: an optimiser that starts again from zero moments after a resume, or rounds 8-bit ones a second time.

    bitsandbytes keeps the moments of fewer than 4096 weights in 32 bits.
    """
    straight, optimizer = training(steps=3, kind=kind, size=size)
    save_checkpoint(tmp_path, 3, straight, optimizer, {})
    resumed, fresh = training(seed=9, steps=0, kind=kind, size=size)
    loaded = load_checkpoint(tmp_path)
    for name, parameter in resumed.items():
        parameter.data.copy_(loaded.weights[name])
    fresh.load_state_dict(loaded.optimizer)
    for step in (4, 5):
        update(straight, optimizer, step)
        update(resumed, fresh, step)
    assert bits(resumed) == bits(straight)
    assert bits(fresh.state_dict()) == bits(optimizer.state_dict())


def test_bitsandbytes_state_round_trips(tmp_path):
    """Bug: quantised moments that are not float, maps shared between weights, nested dicts, plain numbers."""
    shared_map = torch.linspace(-1, 1, 256)
    state = {
        index: {
            "step": 7,
            "state1": torch.arange(6, dtype=torch.uint8),
            "absmax1": torch.tensor(0.5),
            "__bnb_optimizer_quant_state__": {"qmap1": shared_map, "empty": torch.zeros(0)},
        }
        for index in (0, 1)
    }
    groups = [{"betas": (0.9, 0.999), "lr": torch.tensor(1e-3), "name": "all", "alpha": None, "params": [0, 1]}]
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    optimizer.state_dict = lambda: {"state": state, "param_groups": groups}
    folder = save_checkpoint(tmp_path, 1, {}, optimizer, {})
    assert bits(load_checkpoint(tmp_path).optimizer) == bits(optimizer.state_dict())
    assert (folder / "optimizer.safetensors").stat().st_size < 2 * 256 * 4  # the shared map once


def test_nothing_but_safetensors_and_json(tmp_path):
    """Bug: a pickle, which runs code when it is loaded."""
    folder = save(tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == FILES
    from safetensors.torch import load_file

    assert load_file(folder / "weights.safetensors").keys() == {"a", "b"}


def test_the_last_ones_are_kept(tmp_path):
    """Bug: a disk full of checkpoints; the newest removed for the oldest; text order, where 10 is below 9."""
    for step in (999_999, 1_000_000, 8, 9, 10):
        save(tmp_path, step, keep=3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000010", "step-1000000", "step-999999"]
    assert load_checkpoint(tmp_path).step == 1_000_000


def test_saving_a_step_again_replaces_it(tmp_path):
    """Bug: a resumed run that cannot save because the damaged folder of that step is in its way."""
    save(tmp_path, seed=1)
    save(tmp_path, seed=2, keep=1)
    assert load_checkpoint(tmp_path).extra["seed"] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["step-000003"]


# --- damage


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", ["cut", "emptied", "flipped", "removed"])
def test_damage_is_found_said_and_passed_over(tmp_path, name, harm):
    """Bug: a truncated or bit-flipped file that loads as wrong numbers, or stops the resume."""
    save(tmp_path, 1)
    damaged = save(tmp_path, 2) / name
    data = bytearray(damaged.read_bytes())
    if harm == "flipped":
        data[len(data) // 2] ^= 1
    damaged.write_bytes({"cut": data[: len(data) // 2], "emptied": b""}.get(harm, data))
    if harm == "removed":
        damaged.unlink()
    loaded = load_checkpoint(tmp_path)
    assert loaded.step == 1
    assert len(loaded.notes) == 1
    assert str(damaged.parent) in loaded.notes[0]
    if name != "manifest.json" and harm != "removed":
        assert name in loaded.notes[0]
    shutil.rmtree(tmp_path / "step-000001")
    with pytest.raises(UserError, match="is intact; start the run again"):
        load_checkpoint(tmp_path)


def test_no_byte_can_be_flipped_unseen(tmp_path):
    """Bug: a part of a file that the digest does not cover."""
    folder = save(tmp_path)
    for name in FILES:
        data = (folder / name).read_bytes()
        for at in range(0, len(data), max(1, len(data) // 40)):
            (folder / name).write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
            with pytest.raises(UserError):
                load_checkpoint(tmp_path)
        (folder / name).write_bytes(data)
    load_checkpoint(tmp_path)


def test_no_checkpoint_is_said(tmp_path):
    """Bug: resuming an empty folder starts from scratch without a word."""
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UserError, match="there is no checkpoint in"):
            load_checkpoint(folder)


# --- what stops a save


def intact_after(folder, allowed):
    """The seed found after an interrupted save; a later save and load work, and leave nothing lying about."""
    loaded = load_checkpoint(folder)
    assert loaded.notes == []  # a folder with a checkpoint's name holds a whole one
    found = loaded.extra["seed"]
    assert found in allowed
    save(folder, 9, seed=9, keep=1)
    assert load_checkpoint(folder).extra["seed"] == 9
    assert [path.name for path in folder.iterdir()] == ["step-000009"]
    return found


@pytest.mark.parametrize("step", [1, 2])  # over the checkpoint of the same step, and beside it
def test_a_full_disk_at_any_operation(tmp_path, monkeypatch, step):
    """Bug: a half-written checkpoint, the earlier one lost, a temporary folder left, or a bare traceback."""
    failures = 0
    for nth in range(100):
        folder = tmp_path / str(nth)
        save(folder, 1, seed=1)
        calls = 0

        def failing(real, nth=nth):
            def operation(*args, **kwargs):
                nonlocal calls
                calls += 1
                if calls == nth + 1:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return real(*args, **kwargs)

            return operation

        with monkeypatch.context() as patch:
            for owner, name in ((os, "fsync"), (os, "replace"), (os, "open"), (checkpoints.Path, "open")):
                patch.setattr(owner, name, failing(getattr(owner, name)))
            patch.setattr(checkpoints.Path, "mkdir", failing(checkpoints.Path.mkdir))
            try:
                save(folder, step, seed=2)
                break
            except UserError as error:
                failures += 1
                assert f"could not save checkpoint {folder / f'step-00000{step}'} (No space left" in str(error)
                assert "is intact" in str(error)
        assert not list(folder.glob(".*"))
        intact_after(folder, {1, 2})
    assert failures >= 14  # a folder, four files each opened and flushed, two renames, two folders flushed


def test_a_write_that_really_fails(tmp_path):
    """Bug: an error code that only a mock raises.  The kernel's own limit on file size stops the write."""
    resource = pytest.importorskip("resource")
    save(tmp_path, 1, seed=1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, before[1]))
        with pytest.raises(UserError, match=r"\(File too large\); .*step-000001 is intact"):
            save(tmp_path, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a file left open by the interrupt
def test_an_exception_at_any_line(tmp_path):
    """Bug: Ctrl-C at the wrong line.  Raised at the first visit to each line that saving a step again runs."""
    reached = set()  # lines of checkpoints.py interrupted so far

    def trace(frame, event, arg):
        if frame.f_code.co_filename != checkpoints.__file__:
            return None
        if event == "line" and frame.f_lineno not in reached:
            reached.add(frame.f_lineno)
            raise KeyboardInterrupt
        return trace

    while True:
        folder = tmp_path / str(len(reached))
        save(folder, 1, seed=1)
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            save(folder, 1, seed=2)
            break
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)
        intact_after(folder, {1, 2})
    assert len(reached) > 40


def child(work):
    """Run `work` in a forked process that never returns into pytest; its process id."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(1)
    return pid


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
fork_warning = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # Python 3.12, several threads


@needs_fork
@fork_warning
def test_kill_at_any_file_operation(tmp_path):
    """Bug: an order of operations in which kill -9 between two of them leaves no whole checkpoint."""
    seen = set()
    for nth in range(100):
        folder = tmp_path / str(nth)
        save(folder, 1, seed=1, keep=1)

        def work(folder=folder, nth=nth):
            calls = iter(range(10_000))

            def dying(real):
                return lambda *args, **kw: os.kill(os.getpid(), 9) if next(calls) == nth else real(*args, **kw)

            for name in ("fsync", "replace", "open"):
                setattr(os, name, dying(getattr(os, name)))
            for name in ("open", "mkdir"):
                setattr(checkpoints.Path, name, dying(getattr(checkpoints.Path, name)))
            checkpoints.shutil.rmtree = dying(checkpoints.shutil.rmtree)
            save(folder, 1, seed=2, keep=1)
            os._exit(0)

        status = os.waitpid(child(work), 0)[1]
        seen.add(intact_after(folder, {1, 2}))
        if status == 0:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
    assert nth >= 15
    assert seen == {1, 2}


@needs_fork
@fork_warning
def test_kill_at_random_moments(tmp_path):
    """Bug: a checkpoint that was announced as saved and is not there after kill -9."""
    generator = torch.Generator().manual_seed(0)
    for attempt in range(12):
        folder = tmp_path / str(attempt)
        reading, writing = os.pipe()

        def work(folder=folder, writing=writing):
            for step in range(1, 100_000):
                save(folder, step, seed=step, keep=1 + step % 2)
                os.write(writing, f"{step}\n".encode())

        pid = child(work)
        os.close(writing)
        with os.fdopen(reading) as announced:
            assert announced.readline() == "1\n"
            time.sleep(0.05 * torch.rand(1, generator=generator).item())
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            last = max([1, *map(int, announced)])
        loaded = load_checkpoint(folder)
        assert loaded.notes == []
        assert loaded.step == loaded.extra["seed"] in (last, last + 1)
        expected, _ = training(seed=loaded.step)
        assert bits(loaded.weights) == bits(expected)

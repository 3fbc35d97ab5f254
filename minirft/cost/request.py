"""The settings of `minirft bench`; the command line reads them too, so this module imports nothing heavy."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Request:
    """The settings of a measurement; a length that is None is the model's default."""

    model: str = "tiny"
    """tiny, small or mid (random weights), or a folder or name of a Qwen2-VL; all but tiny train LoRA, r = 16."""
    prompt: int | None = None
    """P, prompt tokens; by default 45 for tiny, else 512."""
    completion: int | None = None
    """C, completion tokens; 35 for tiny, else 64."""
    group: int | None = None
    """G, completions of a prompt; 8."""
    prompts: int | None = None
    """Prompts in a step; 8 for tiny, as in its shipped config, else 1."""
    steps: int = 5
    """Timed steps, after one warm-up step and one counted step."""
    checkpointing: bool = False
    """Recompute activations in the backward pass, ours, naive and TRL (whose default it is)."""
    kl_coef: float = 0.0
    """beta; above 0 there is a reference."""
    cached: bool = False
    """Our pictures are in the cache, as in any epoch but the first."""
    naive: bool = True
    """Measure the naive path too; --no-naive leaves it out."""
    trl: bool = True
    """Measure TRL too, where it is installed; --no-trl leaves it out."""
    threads: int = 1
    """CPU threads.  With 1, seconds are processor time, which other processes disturb least; else wall time."""

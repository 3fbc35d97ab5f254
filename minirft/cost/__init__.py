"""Cost: the memory and time of a run, predicted before it starts, and measured beside the least possible."""

from typing import TYPE_CHECKING

from minirft import lazily

if TYPE_CHECKING:
    from minirft.cost import dryrun, fit
    from minirft.cost.benchmark import measure
    from minirft.cost.dryrun import Method, Rates, dry_run, plan, spell
    from minirft.cost.gpu import run_gpu_bench
    from minirft.cost.memory import GIB, ledger
    from minirft.cost.report import table
    from minirft.cost.request import Request
    from minirft.cost.scaling import measure_scaling, panels, scaling_table
    from minirft.cost.sizes import NF4, adapter_weights, architecture, count_weights

__getattr__, __all__ = lazily(__name__)

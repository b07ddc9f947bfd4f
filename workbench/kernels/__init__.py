"""One operation, three bodies, one truth.

Each operation is a folder: `reference.py` (slow, obvious, the definition), `cpu.py` (Numba), `kernel.cu` with its
launcher `cuda.py`, and `__init__.py` with the public function and its one `SPEC`. The operations load on first use:

    from workbench import kernels
    kernels.skinny_matmul(x, weight)                 # backend="auto": where the arrays live decides
    with kernels.used() as ran: ...                  # ran: {operation: {"backend": ..., "why": ...}}
    kernels.all(); kernels.report(); kernels.warm_up()
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from workbench import threads
from workbench.errors import unknown
from workbench.kernels.spec import KernelWarning, Spec, note, used

if TYPE_CHECKING:
    from workbench.kernels.attention_mass import attention_mass
    from workbench.kernels.expert_dispatch import expert_dispatch
    from workbench.kernels.gumbel_topk import gumbel_topk
    from workbench.kernels.int8_matmul import int8_matmul
    from workbench.kernels.plane_sweep import plane_sweep
    from workbench.kernels.row_statistics import row_statistics
    from workbench.kernels.skinny_matmul import skinny_matmul
    from workbench.kernels.tree_attention import tree_attention

threads.prepare()  # before Numba or torch load: one OpenMP pool, one cache of compiled code for each source version

NAMES = (
    "skinny_matmul",
    "int8_matmul",
    "tree_attention",
    "gumbel_topk",
    "row_statistics",
    "attention_mass",
    "plane_sweep",
    "expert_dispatch",
)
__all__ = [
    "NAMES",
    "KernelWarning",
    "Spec",
    "all",
    "attention_mass",
    "expert_dispatch",
    "gumbel_topk",
    "int8_matmul",
    "note",
    "plane_sweep",
    "report",
    "row_statistics",
    "skinny_matmul",
    "tree_attention",
    "used",
    "warm_up",
]


class _Operations(ModuleType):
    """This module's type: loading the folder `skinny_matmul` must bind the function of that name, not the folder."""

    def __setattr__(self, name: str, value: Any) -> None:
        function = name in NAMES and isinstance(value, ModuleType)
        super().__setattr__(name, getattr(value, name) if function else value)


sys.modules[__name__].__class__ = _Operations


def __getattr__(name: str) -> Any:
    if name not in NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{name}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)


def _spec(name: str) -> Spec:
    if name not in NAMES:
        raise unknown("kernel", name, NAMES)
    return import_module(f"{__name__}.{name}").SPEC


def all() -> dict[str, Spec]:
    """Return every operation's spec by name, in the order of `NAMES`."""
    return {name: _spec(name) for name in NAMES}


def report() -> list[dict[str, str]]:
    """Return one row for each operation for `workbench doctor`: name, title, backend for host arrays and for GPU
    arrays, and why."""
    from workbench.kernels.spec import missing

    rows = []
    cpu, cuda = missing("cpu"), missing("cuda")
    for name, spec in all().items():
        host = "reference" if cpu else "cpu"
        why = "; ".join(part for part in (f"cpu: {cpu}" if cpu else "", f"cuda: {cuda}" if cuda else "") if part)
        rows.append({"name": name, "title": spec.title, "host": host, "gpu": host if cuda else "cuda", "why": why})
    return rows


def warm_up(names: Iterable[str] | None = None) -> dict[str, float]:
    """Compile, or load from the disk cache, the CPU body of these operations; return seconds by name.

    Args:
        names: operations; None warms all. Fit for a background thread: Numba compiles under its own lock.
    """
    threads.configure()
    seconds = {}
    for name in NAMES if names is None else names:
        spec, start = _spec(name), time.perf_counter()
        for sizes in spec.sizes[:2]:
            __getattr__(name)(**spec.make(_generator(), **sizes), backend="cpu")
        seconds[name] = time.perf_counter() - start
    return seconds


def _generator() -> Any:
    import numpy as np

    return np.random.default_rng(0)

"""From a CUDA source to a result: compile once, check, launch, collect.

An operation's `cuda.py` holds one function `plan(xp, threads, **arguments)` that allocates with `xp` (CuPy on a GPU,
numpy where the tests run the same source on the CPU) and returns the launches and a function that gives the result.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from workbench.errors import KernelError

HERE = Path(__file__).parent
THREADS = 256  # threads of a block; every kernel takes any multiple of 32
WARP = 32
HELD = 4  # values of a row that a thread of `common.cuh` keeps in registers


@dataclass(frozen=True)
class Launch:
    """One kernel call: its name in the source, blocks in x, y and z, bytes of dynamic shared memory, arguments.

    Arguments are arrays of `xp`, C-contiguous, and numpy scalars of the kernel's own types.
    """

    kernel: str
    grid: tuple[int, int, int]
    arguments: tuple[Any, ...]
    shared: int = 0

    def check(self, threads: int) -> None:
        """Raise KernelError for a launch that a GPU would refuse or that would read past an array's memory layout."""
        x, y, z = self.grid
        if not (0 < x < 2**31 and 0 < y < 2**16 and 0 < z < 2**16 and threads % WARP == 0 and 0 < threads <= 1024):
            raise KernelError(f"{self.kernel}: a grid of {self.grid} with {threads} threads cannot be launched.")
        if self.shared > 48 * 1024:
            raise KernelError(f"{self.kernel}: {self.shared} bytes of shared memory, and 49152 are available.")
        for argument in self.arguments:
            if hasattr(argument, "flags") and not argument.flags.c_contiguous:
                raise KernelError(f"{self.kernel}: an array is not C-contiguous.")


Plan = tuple[list[Launch], Callable[[], Any]]


def source(name: str) -> str:
    """Return the CUDA C++ source of an operation; it includes `common.cuh` from this folder."""
    return (HERE / name / "kernel.cu").read_text()


def options() -> tuple[str, ...]:
    """Return the NVRTC options; no fast maths: results must not depend on the backend more than the spec says."""
    return ("-std=c++17", f"-I{HERE}")


@lru_cache(maxsize=64)
def _module(name: str, device: int) -> Any:
    cupy = import_module("cupy")
    return cupy.RawModule(code=source(name), options=options(), backend="nvrtc")


@lru_cache(maxsize=256)
def _function(name: str, kernel: str, device: int) -> Any:
    return _module(name, device).get_function(kernel)


def compiled(name: str, launch: Launch) -> Any:
    """Return the function of a launch on the current GPU, compiled on first use."""
    return _function(name, launch.kernel, import_module("cupy").cuda.Device().id)


def run(name: str, plan: Callable[..., Plan], arguments: dict[str, Any]) -> Any:
    """Return the result of an operation on the current device and stream."""
    cupy = import_module("cupy")
    launches, result = plan(cupy, THREADS, **arguments)
    for launch in launches:
        launch.check(THREADS)
        compiled(name, launch)(launch.grid, (THREADS, 1, 1), launch.arguments, shared_mem=launch.shared)
    return result()


class _Queue:
    """A CUDA stream by its address, as the CUDA stream protocol hands it on; not every torch speaks it."""

    def __init__(self, address: int) -> None:
        self.address = address

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.address


@contextlib.contextmanager
def stream(device: int | None) -> Iterator[None]:
    """Work on this GPU (None: the current one), behind what torch has queued there if torch uses the GPU."""
    cupy, torch = import_module("cupy"), sys.modules.get("torch")
    with cupy.cuda.Device(device):
        queue = cupy.cuda.get_current_stream()
        if torch is not None and torch.cuda.is_available():
            queue = cupy.cuda.Stream.from_external(_Queue(torch.cuda.current_stream(device).cuda_stream))
        with queue:
            yield


def integer(value: int) -> np.int32:
    """Return a kernel's `int`; refuse what does not fit."""
    if not -(2**31) <= value < 2**31:
        raise KernelError(f"{value} does not fit the kernel's 32-bit sizes; split the call.")
    return np.int32(value)


def blocks(work: int, each: int) -> int:
    """Return how many blocks of `each` cover `work`."""
    return -(-work // each)

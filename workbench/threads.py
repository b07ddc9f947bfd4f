"""The one place that sets thread pools: Numba, torch and the OpenMP library under both.

torch ships its own copy of GNU OpenMP and Numba asks for the system's. With both loaded each keeps a pool whose idle
workers spin, and two spinning pools fight for the same cores: a Numba call of 30 us right after a torch call then has
a 95th percentile of several milliseconds. Loading the system's copy *first* makes the dynamic linker hand the same
library to torch, because both copies carry the same soname; then there is one pool. `share_openmp` does that and costs
no import, so it must run before `import torch`.

Environment: `WORKBENCH_THREADS`, else `OMP_NUM_THREADS`, else the processors this process may use.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
from functools import lru_cache
from pathlib import Path
from typing import Any

from workbench.errors import InputError, expected

_LAYERS = "omp tbb workqueue"  # OpenMP starts a parallel region in 4 us here, workqueue in 100 us
_SPIN = "2000"  # turns of a waiting worker before it sleeps, tens of microseconds; the default is 150 times that
_workqueue_lock = threading.RLock()


def available() -> int:
    """Return the number of processors this process may use: its affinity, cut to a container's quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(count, -(-int(quota) // int(period))))
    except (OSError, ValueError):  # no cgroup v2, or quota "max"
        return count


def wanted(threads: int | None = None) -> int:
    """Return the number of threads to use: the argument, the environment, or all processors, in this order.

    Raises:
        InputError: the argument or the environment variable is not a positive whole number.
    """
    if threads is not None:
        return _positive("threads", threads)
    for name in ("WORKBENCH_THREADS", "OMP_NUM_THREADS"):
        if os.environ.get(name):
            return _positive(name, os.environ[name].split(",")[0])
    return available()


def _positive(what: str, value: Any) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = 0
    if number < 1:
        raise InputError(expected(what, "a whole number of at least 1", repr(value), then="Give a number of threads"))
    return number


@lru_cache(maxsize=1)
def share_openmp() -> bool:
    """Return whether the system's GNU OpenMP was loaded before torch's own copy (see the module's head)."""
    os.environ.setdefault("GOMP_SPINCOUNT", _SPIN)  # read once, when the library loads
    if not sys.platform.startswith("linux"):
        return False
    early = "torch" not in sys.modules
    try:
        ctypes.CDLL("libgomp.so.1.0.0")  # the very name that Numba's layer asks for
    except OSError:
        return False
    return early


def whole(name: str) -> Any:
    """Return a module that has been imported to its end; None where it is not imported, or another thread is in the middle of it.

    A page replays a run while the model's packages still load in the background: half of torch has no `Tensor`.
    """
    module = sys.modules.get(name)
    return None if getattr(getattr(module, "__spec__", None), "_initializing", False) else module


def prepare() -> None:
    """Set what Numba and OpenMP read from the environment; cheap, and of use only before they load.

    Compiled code is cached in the user's cache folder, in a folder of its own for each version of the sources: Numba
    looks at the time stamp of one file, and would keep stale code after a change in a function that the file calls.
    """
    share_openmp()
    os.environ.setdefault("NUMBA_THREADING_LAYER_PRIORITY", _LAYERS)
    os.environ.setdefault("NUMBA_CACHE_DIR", _cache())
    os.environ.setdefault("NUMBA_NUM_THREADS", str(wanted()))
    if "numba" in sys.modules:
        import numba  # waits where another thread is in the middle of it

        numba.config.reload_config()


@lru_cache(maxsize=1)
def _cache() -> str:
    import hashlib

    from platformdirs import user_cache_path

    here = Path(__file__).parent
    sources = sorted([*here.glob("kernels/**/*.py"), *here.glob("models/fused.py"), Path(__file__)])
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12]
    return str(user_cache_path("workbench") / "compiled" / digest)


def configure(threads: int | None = None) -> int:
    """Set the pools of Numba and, where it is imported, torch to one size; return that size.

    Numba fixes its largest size when its first parallel function runs; a later call can only go below it, and then
    holds for the calling thread alone.

    Args:
        threads: at least 1; None takes the environment's or the machine's number.
    """
    prepare()
    count = wanted(threads)
    if "numba" not in sys.modules or not _launched():
        os.environ["NUMBA_NUM_THREADS"] = str(count)
    import numba

    numba.config.reload_config()
    numba.set_num_threads(min(count, vars(numba.config)["NUMBA_NUM_THREADS"]))
    torch = whole("torch")
    if torch is not None:
        torch.set_num_threads(count)
    _layer()
    return count


def _launched() -> bool:
    from numba.np.ufunc import parallel

    return bool(parallel._is_initialized)


@lru_cache(maxsize=1)
def _layer() -> str:
    import numba

    numba.get_num_threads()  # starts the pool, which decides the layer
    return numba.threading_layer()


def guard() -> contextlib.AbstractContextManager[Any]:
    """Return a context for one parallel kernel call: a process-wide lock under `workqueue`, which is not thread-safe
    and ends the process when two threads enter it; nothing under OpenMP and TBB."""
    return _workqueue_lock if _layer() == "workqueue" else contextlib.nullcontext()


def report() -> dict[str, Any]:
    """Return what `workbench doctor` shows: layer, pool sizes, processors, OpenMP libraries loaded, and advice."""
    configure()
    import numba

    torch = whole("torch")
    libraries = _openmp_libraries()
    advice = []
    if len(libraries) > 1:
        advice.append("Two OpenMP pools are loaded: import workbench before torch, or set OMP_WAIT_POLICY=passive.")
    if _layer() == "workqueue":
        advice.append("Numba found neither OpenMP nor TBB: install libgomp1; calls are serialised until then.")
    return {
        "layer": _layer(),
        "compiled_code": os.environ["NUMBA_CACHE_DIR"],
        "processors": available(),
        "numba_threads": numba.get_num_threads(),
        "torch_threads": torch.get_num_threads() if torch else None,
        "openmp_libraries": libraries,
        "advice": advice,
    }


def _openmp_libraries() -> list[str]:
    try:
        mapped = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return []
    paths = {line.split()[-1] for line in mapped if "r-xp" in line}
    return sorted(path for path in paths if any(name in Path(path).name for name in ("libgomp", "libomp", "libiomp")))

"""How an operation is declared, how a backend is chosen, and how a run learns which one ran.

Every operation has one `Spec`. Its public function calls `SPEC.run`, which checks the arguments once, chooses the
backend, moves the arrays where that backend works and gives results of the caller's kind back.

numpy arrays, torch tensors and CuPy arrays are accepted. Floats are fp32, or fp16 and bf16, which are widened to fp32
(exactly); sums are fp32 and so are floating results. fp64 is refused rather than silently narrowed.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from typing import Any

import numpy as np

from workbench import threads
from workbench.errors import InputError, KernelError, KindError, expected, unknown

_LEGAL: dict[str, tuple[str, ...]] = {
    "f": ("float32", "float16", "bfloat16"),
    "i": ("int64", "int32", "int16", "int8", "uint8"),
    "b": ("int8",),
}
BACKENDS = ("auto", "reference", "cpu", "cuda")
_collectors: ContextVar[tuple[dict[str, dict[str, str]], ...]] = ContextVar("kernels_used", default=())
_warned: set[tuple[str, str]] = set()


class KernelWarning(UserWarning):
    """A kernel fell back to a slower backend than the arrays ask for."""


@dataclass(frozen=True)
class Spec:
    """One operation: its meaning, its bodies, its proof and its cost.

    Attributes:
        name: the folder below `workbench.kernels` and the public function's name.
        title: what it computes, in one line.
        signature: the shapes, in the letters of `axes`.
        axes: letter -> meaning.
        check: raises InputError for arguments that do not fit; gets the converted arguments.
        make: (generator, **sizes) -> arguments of the public function as numpy arrays and numbers.
        sizes: shapes worth testing, each a dict for `make`.
        bench: the shape of the speed figures, a dict for `make`.
        tolerance: dtype -> (relative, absolute) largest difference from the reference.
        flops, bytes: floating-point operations, and bytes that must move, of a call with these sizes.
        arrays: names of the arguments that are arrays, and the dtype kind each has: "f" float, "i" integer, "b" int8.
        host: those of `arrays` that every backend gets as numpy arrays: small ones, from which a launch is planned.
    """

    name: str
    title: str
    signature: str
    axes: Mapping[str, str]
    arrays: Mapping[str, str]
    check: Callable[..., None]
    make: Callable[..., dict[str, Any]]
    sizes: tuple[dict[str, Any], ...]
    bench: dict[str, Any]
    flops: Callable[..., float]
    bytes: Callable[..., float]
    host: tuple[str, ...] = ()
    tolerance: Mapping[str, tuple[float, float]] = field(default_factory=lambda: {"float32": (1e-4, 1e-5)})

    def run(self, backend: str, arguments: dict[str, Any]) -> Any:
        """Return the operation's results from the chosen backend, as arrays of the caller's kind."""
        given = [value for name in self.arrays if (value := arguments[name]) is not None]
        chosen, why = self.choose(backend, *given)
        note(self.name, chosen, why)
        with _place(chosen, given):
            ready = arguments | self._ready(arguments, _to_cupy if chosen == "cuda" else _to_numpy)
            self.check(**ready)
            return _like(given[0], self.body(chosen)(**ready))

    def choose(self, backend: str, *arrays: Any) -> tuple[str, str]:
        """Return (backend, why) for these arrays. A fall-back warns once and says so in `why`.

        Raises:
            UnknownNameError: no such backend. KernelError: the backend asked for cannot run here.
        """
        if backend not in BACKENDS:
            raise unknown(f"{self.name}: backend", backend, BACKENDS)
        if backend != "auto":
            if reason := missing(backend):
                raise KernelError(
                    expected(f"{self.name}: backend {backend!r}", "a backend that runs here", reason,
                             then='Use backend="auto", or install what is missing')
                )  # fmt: skip
            return backend, "asked for"
        on_gpu = any(is_cuda(array) for array in arrays)
        wanted, fallbacks = ("cuda", ("cpu", "reference")) if on_gpu else ("cpu", ("reference",))
        place = "the arrays are on a GPU" if on_gpu else "the arrays are in host memory"
        reason = missing(wanted)
        if not reason:
            return wanted, place
        chosen = next(name for name in fallbacks if not missing(name))
        if (self.name, reason) not in _warned:
            _warned.add((self.name, reason))
            warnings.warn(f"{self.name}: {wanted} cannot run ({reason}); using {chosen}.", KernelWarning, stacklevel=4)
        return chosen, f"{place}, but {wanted} cannot run: {reason}"

    def body(self, backend: str) -> Callable[..., Any]:
        """Return the function of a backend; it takes numpy (or, for cuda, CuPy) arrays."""
        return import_module(f"workbench.kernels.{self.name}.{backend}").run

    def _ready(self, arguments: dict[str, Any], convert: Callable[[Any], Any]) -> dict[str, Any]:
        kinds = [(name, kind) for name, kind in self.arrays.items() if arguments[name] is not None]
        typed = {name: self._typed(name, arguments[name], kind) for name, kind in kinds}
        return {name: (_to_numpy if name in self.host else convert)(array) for name, array in typed.items()}

    def _typed(self, name: str, array: Any, kind: str) -> Any:
        if not (isinstance(array, np.ndarray) or is_torch(array) or is_cupy(array)):
            raise KindError(expected(f"{self.name}: {name}", "a numpy, torch or CuPy array", type(array).__name__))
        dtype = str(array.dtype).removeprefix("torch.")
        legal = _LEGAL[kind]
        if dtype not in legal:
            raise InputError(expected(f"{self.name}: {name}", " or ".join(legal), dtype, then=f"Convert it to {legal[0]} first"))
        return array


def _place(backend: str, arrays: list[Any]) -> contextlib.AbstractContextManager[Any]:
    """Return the context of one call: the GPU and stream of the arrays, or the lock that Numba may need."""
    if backend == "cuda":
        devices = [array.device.index if is_torch(array) else array.device.id for array in arrays if is_cuda(array)]
        return import_module("workbench.kernels.launch").stream(devices[0] if devices else None)
    return import_module("workbench.threads").guard() if backend == "cpu" else contextlib.nullcontext()


def missing(backend: str) -> str:
    """Return why a backend cannot run on this machine, or "" when it can."""
    if backend == "cuda":
        return _missing_cuda()
    return "" if backend != "cpu" else _missing_numba()


@lru_cache(maxsize=1)
def _missing_numba() -> str:
    try:
        import_module("numba")
    except ImportError as problem:
        return f"numba does not import: {problem}"
    return ""


@lru_cache(maxsize=1)
def _missing_cuda() -> str:
    try:
        cupy = import_module("cupy")
        return "" if cupy.cuda.runtime.getDeviceCount() else "no NVIDIA GPU"
    except ImportError as problem:
        return f"cupy does not import: {problem}"
    except Exception as problem:  # a missing or too old driver raises CUDARuntimeError
        return f"no usable NVIDIA GPU: {problem}"


@contextlib.contextmanager
def used() -> Iterator[dict[str, dict[str, str]]]:
    """Collect what ran inside the block: {operation: {"backend": ..., "why": ...}}, the record's `kernels`.

    Blocks nest, and a block sees only the calls of its own thread or task. An operation that ran on two backends names
    both.
    """
    collected: dict[str, dict[str, str]] = {}
    token = _collectors.set((*_collectors.get(), collected))
    try:
        yield collected
    finally:
        _collectors.reset(token)


def note(name: str, backend: str, why: str) -> None:
    """Enter an operation into every open `used` block; for code that calls a compiled body directly."""
    for collected in _collectors.get():
        before = collected.get(name)
        if before is None or backend in before["backend"].split(", "):
            collected.setdefault(name, {"backend": backend, "why": why})
        else:
            collected[name] = {
                "backend": f"{before['backend']}, {backend}",
                "why": f"{before['why']}; {backend}: {why}",
            }


def is_torch(array: Any) -> bool:
    """Return whether this is a torch tensor, without importing torch."""
    torch = threads.whole("torch")
    return torch is not None and isinstance(array, torch.Tensor)


def is_cupy(array: Any) -> bool:
    """Return whether this is a CuPy array, without importing CuPy."""
    cupy = threads.whole("cupy")
    return cupy is not None and isinstance(array, cupy.ndarray)


def is_cuda(array: Any) -> bool:
    """Return whether the array lives on an NVIDIA GPU."""
    return bool(array.is_cuda) if is_torch(array) else is_cupy(array)


def _to_numpy(array: Any) -> np.ndarray:
    """Return the array in host memory, C-contiguous, halves widened to fp32; no copy where none is needed."""
    if is_torch(array):
        tensor = array.detach().cpu()
        host = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    else:
        host = sys.modules["cupy"].asnumpy(array) if is_cupy(array) else array
    return np.ascontiguousarray(host, dtype=np.float32 if host.dtype.kind == "f" else None)


def _to_cupy(array: Any) -> Any:
    """Return the array on the GPU, C-contiguous, halves widened to fp32; a fitting torch CUDA tensor uncopied."""
    cupy = import_module("cupy")
    if is_torch(array):
        tensor = array.detach()
        tensor = (tensor.float() if tensor.is_floating_point() else tensor).contiguous()
        array = _borrowed(cupy, tensor) if tensor.is_cuda else tensor.numpy()
    device = cupy.asarray(array)
    return cupy.ascontiguousarray(device, dtype=cupy.float32 if device.dtype.kind == "f" else None)


def _borrowed(cupy: Any, tensor: Any) -> Any:
    """Return a CuPy array on a contiguous tensor's memory, which it keeps alive; DLPack does the same in ten times as long."""
    place = tensor.device.index
    memory = cupy.cuda.UnownedMemory(tensor.data_ptr(), tensor.numel() * tensor.element_size(), tensor, place)
    return cupy.ndarray(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), cupy.cuda.MemoryPointer(memory, 0))


def _like(example: Any, results: Any) -> Any:
    """Return results as arrays of the example's kind and place; tuples keep their type and their plain members."""
    if isinstance(results, tuple):
        parts = [_like(example, part) for part in results]
        return type(results)(*parts) if hasattr(results, "_fields") else tuple(parts)
    if results is None or not hasattr(results, "dtype"):
        return results
    if is_torch(example):
        torch = sys.modules["torch"]
        if is_cupy(results):  # as_tensor is quicker than DLPack, which alone takes an array without elements
            tensor = torch.as_tensor(results) if results.size else torch.from_dlpack(results)
        else:
            tensor = torch.from_numpy(results)
        return tensor.to(example.device)
    if is_cupy(example):
        return sys.modules["cupy"].asarray(results)
    return sys.modules["cupy"].asnumpy(results) if is_cupy(results) else results


def shape_error(where: str, name: str, wanted: str, array: Any, then: str = "") -> InputError:
    """Return the error for an array of the wrong shape."""
    return InputError(expected(f"{where}: {name}", wanted, f"shape {tuple(array.shape)}", then=then))

"""Compiles a CUDA source with g++ against `cuda_host.h` and runs its kernels on numpy arrays."""

from __future__ import annotations

import ctypes
import hashlib
import re
import subprocess
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from workbench.kernels.launch import HERE as KERNELS
from workbench.kernels.launch import Launch, source

HERE = Path(__file__).parent
THREADS = 64  # two warps: the smallest block in which warps can race
_ENTRY = re.compile(r'extern "C" __global__ void (\w+)\(')
_WRAPPER = """
extern "C" int host_{name}(unsigned x, unsigned y, unsigned z, unsigned threads, unsigned long shared, void** arguments) {{
    return cuda_host::launch({name}, {{x, y, z}}, threads, shared, arguments);
}}
"""


def compile_source(code: str, sanitize: str = "") -> Path:
    """Return the shared library made of a CUDA source; compiled once for each text. `sanitize`: address, thread."""
    code = code + "".join(_WRAPPER.format(name=name) for name in _ENTRY.findall(code))
    headers = b"".join(path.read_bytes() for path in (HERE / "cuda_host.h", KERNELS / "common.cuh"))
    digest = hashlib.sha256(code.encode() + headers + sanitize.encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"workbench-cuda-host-{Path.home().stat().st_uid}"
    folder.mkdir(exist_ok=True)
    library = folder / f"{digest}.so"
    if not library.exists():
        flags = [
            "-std=c++20",
            "-O1",
            "-g",
            "-fPIC",
            "-shared",
            "-pthread",
            "-ffp-contract=off",
            "-Wall",
            "-Werror",
            "-Wno-unused-function",
        ]
        flags += ["-Wno-unknown-pragmas", "-Wno-maybe-uninitialized"]  # pragma unroll; sanitizers blur initialisation
        flags += [f"-fsanitize={sanitize}"] if sanitize else []
        partial = library.with_suffix(f".{id(code)}.so")
        command = ["g++", *flags, "-I", str(KERNELS), "-include", str(HERE / "cuda_host.h"), "-x", "c++", "-", "-o", str(partial)]
        done = subprocess.run(command, input=code, text=True, capture_output=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr)
        partial.rename(library)
    return library


def call(library: Path, launches: Sequence[Launch], threads: int = THREADS) -> None:
    """Run launches in order; their arguments are numpy arrays and scalars."""
    loaded = ctypes.CDLL(str(library))
    for launch in launches:
        launch.check(threads)
        cells = [_cell(argument) for argument in launch.arguments]
        pointers = (ctypes.c_void_p * len(cells))(*(ctypes.addressof(cell) for cell in cells))
        function = getattr(loaded, f"host_{launch.kernel}")
        function.argtypes = [ctypes.c_uint] * 4 + [ctypes.c_ulong, ctypes.c_void_p]
        assert function(*launch.grid, threads, launch.shared, pointers) == 0


def _cell(argument: Any) -> Any:
    if isinstance(argument, np.ndarray):
        return ctypes.c_void_p(argument.ctypes.data)
    kinds = {"int32": ctypes.c_int, "uint32": ctypes.c_uint, "float32": ctypes.c_float}
    return kinds[str(argument.dtype)](argument.item())


def run(name: str, arguments: dict[str, Any], sanitize: str = "") -> Any:
    """Return an operation's result from its CUDA source, executed on the CPU."""
    plan = import_module(f"workbench.kernels.{name}.cuda").plan
    launches, result = plan(np, THREADS, **arguments)
    call(compile_source(source(name), sanitize), launches)
    return result()

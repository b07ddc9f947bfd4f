"""Every CUDA source compiles, without a warning, for the oldest to the newest GPU; no GPU is needed for that."""

from __future__ import annotations

import ctypes
from importlib import import_module
from pathlib import Path

import pytest

from workbench.kernels import NAMES
from workbench.kernels.launch import options, source

CARDS = [75, 80, 86, 89, 90]


@pytest.fixture(scope="module")
def nvrtc():
    try:
        folders = import_module("nvidia").__path__
    except ImportError:
        pytest.skip("the package nvidia-cuda-nvrtc is not installed")
    [library] = [path for folder in folders for path in Path(folder).glob("**/libnvrtc.so.*")]
    for builtins in library.parent.glob("libnvrtc-builtins.so.*"):
        ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)  # NVRTC 13.0 does not look for it beside itself
    return ctypes.CDLL(str(library))


def newest(nvrtc):
    count = ctypes.c_int()
    assert nvrtc.nvrtcGetNumSupportedArchs(ctypes.byref(count)) == 0
    cards = (ctypes.c_int * count.value)()
    assert nvrtc.nvrtcGetSupportedArchs(cards) == 0
    return max(cards)


def compile_for(nvrtc, code, card):
    """Return (status, log) of compiling for sm_`card`; every warning stands in the log (NVRTC 13.0 knows no -Werror)."""
    program = ctypes.c_void_p()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), code.encode(), b"kernel.cu", 0, None, None) == 0
    flags = [*options(), f"--gpu-architecture=sm_{card}"]
    status = nvrtc.nvrtcCompileProgram(program, len(flags), (ctypes.c_char_p * len(flags))(*map(str.encode, flags)))
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return status, log.value.decode()


@pytest.mark.parametrize("card", [*CARDS, None], ids=[*(f"sm_{card}" for card in CARDS), "newest"])
@pytest.mark.parametrize("name", NAMES)
def test_source_compiles_without_a_warning(nvrtc, name, card):
    assert compile_for(nvrtc, source(name), card or newest(nvrtc)) == (0, "")


def test_a_warning_is_seen(nvrtc):
    _, log = compile_for(nvrtc, 'extern "C" __global__ void f() { int unused = 3; }', 80)
    assert "never referenced" in log

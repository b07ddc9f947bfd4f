"""The shim itself: it runs what CUDA runs, and it finds what a GPU would only sometimes show."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.cuda_host import host
from workbench.errors import KernelError
from workbench.kernels import NAMES
from workbench.kernels.launch import Launch

ROOT = Path(__file__).parents[2]

REVERSE = """
#include "common.cuh"
extern "C" __global__ void reverse(const float* x, float* out, int count) {
    DYNAMIC_SHARED(memory);
    memory[threadIdx.x] = x[blockIdx.x * blockDim.x + threadIdx.x];
    BARRIER
    out[blockIdx.x * blockDim.x + threadIdx.x] = memory[blockDim.x - 1 - threadIdx.x];
}
"""
COLLECTIVES = """
#include "common.cuh"
extern "C" __global__ void collectives(float* sums, float* most, int* votes, int* total, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    sums[i] = warp_sum(float(i));
    most[i] = warp_max(float(i % 7));
    votes[i] = __popc(__ballot_sync(EVERY_LANE, i % 3 == 0));
    atomicAdd(total, 1);
    float value = float(threadIdx.x % 5);
    int index = threadIdx.x;
    block_best(value, index);
    if (threadIdx.x == 0) total[1 + blockIdx.x] = index;
}
"""
BEYOND = """
extern "C" __global__ void beyond(float* out, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i <= count) out[i] = 1.0f;
}
"""


def reverse(barrier, sanitize=""):
    """Run one block-wise reversal; `barrier` is the text between the write and the read of shared memory."""
    x = np.arange(4 * host.THREADS, dtype=np.float32)
    out = np.zeros_like(x)
    launch = Launch("reverse", (4, 1, 1), (x, out, np.int32(x.size)), shared=4 * host.THREADS)
    host.call(host.compile_source(REVERSE.replace("BARRIER", barrier), sanitize), [launch])
    return out, x.reshape(4, -1)[:, ::-1].ravel()


def in_sanitizer(kind, code):
    """Return the finished process of Python code under g++'s `address` or `thread` sanitizer."""
    library = {"address": "libasan.so", "thread": "libtsan.so"}[kind]
    path = subprocess.run(["g++", f"-print-file-name={library}"], capture_output=True, text=True, check=True).stdout.strip()
    options = {"ASAN_OPTIONS": "detect_leaks=0", "TSAN_OPTIONS": "report_signal_unsafe=0 exitcode=66"}
    fixed = ["setarch", "-R"] if kind == "thread" else []  # its shadow memory wants addresses that are not randomised
    environment = {**os.environ, **options, "LD_PRELOAD": path, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run([*fixed, sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


def test_barrier_and_shared_memory():
    got, wanted = reverse("__syncthreads();")
    np.testing.assert_array_equal(got, wanted)


def test_collectives():
    count = 2 * host.THREADS
    sums, most = np.zeros((2, count), np.float32)
    votes, total = np.zeros(count, np.int32), np.zeros(3, np.int32)
    launch = Launch("collectives", (2, 1, 1), (sums, most, votes, total, np.int32(count)))
    host.call(host.compile_source(COLLECTIVES), [launch])
    lanes = np.arange(count).reshape(-1, 32)
    np.testing.assert_array_equal(sums.reshape(-1, 32), np.tile(lanes.sum(1, keepdims=True), 32))
    np.testing.assert_array_equal(most, 6)
    np.testing.assert_array_equal(votes.reshape(-1, 32), np.tile((lanes % 3 == 0).sum(1, keepdims=True), 32))
    assert total.tolist() == [count, 4, 4]


def test_a_missing_barrier_gives_wrong_results():
    """Shared memory starts as NaN, and a thread that runs ahead reads it before its partner wrote."""
    assert any(np.isnan(got).any() or (got != wanted).any() for got, wanted in (reverse("") for _ in range(20)))


@pytest.mark.parametrize(("barrier", "races"), [("", True), ("__syncthreads();", False)])
def test_the_thread_sanitizer_reports_a_missing_barrier(barrier, races):
    code = f"from tests.cuda_host.test_cuda_host import reverse; reverse({barrier!r}, 'thread')"
    done = in_sanitizer("thread", code)
    assert ("data race" in done.stderr) == races, done.stderr[-2000:]
    assert (done.returncode != 0) == races, done.stderr[-2000:]


@pytest.mark.parametrize(("extra", "found"), [(0, True), (1, False)])
def test_the_address_sanitizer_reports_a_write_out_of_bounds(extra, found):
    code = (
        "import numpy as np; from tests.cuda_host import host, test_cuda_host as t; from workbench.kernels.launch import Launch;"
        f"out = np.zeros(50 + {extra}, np.float32);"
        "host.call(host.compile_source(t.BEYOND, 'address'), [Launch('beyond', (1, 1, 1), (out, np.int32(50)))])"
    )
    done = in_sanitizer("address", code)
    assert ("heap-buffer-overflow" in done.stderr) == found, done.stderr[-2000:]
    assert (done.returncode != 0) == found


SOUND = """
import sys
from importlib import import_module
import numpy as np
from tests.cuda_host import host
from workbench.kernels import spec as s
for name in {names}:
    spec = import_module(f"workbench.kernels.{{name}}").SPEC
    for sizes in spec.sizes:
        if spec.flops(**sizes) < {most}:
            arguments = spec.make(np.random.default_rng(0), **sizes)
            host.run(name, arguments | spec._ready(arguments, s._to_numpy), {kind!r})
"""


@pytest.mark.parametrize(("kind", "most"), [("address", 1e5), ("thread", 1e5)])
def test_every_kernel_is_sound(kind, most):
    """No operation reads or writes out of bounds, and no two threads race, on the odd small shapes of its spec."""
    done = in_sanitizer(kind, SOUND.format(names=list(NAMES), kind=kind, most=most))
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_launch_that_a_gpu_refuses_is_refused():
    for launch, threads in (
        (Launch("f", (0, 1, 1), ()), 64),
        (Launch("f", (1, 70_000, 1), ()), 64),
        (Launch("f", (1, 1, 1), ()), 48),
        (Launch("f", (1, 1, 1), (), shared=50_000), 64),
        (Launch("f", (1, 1, 1), (np.ones((4, 4))[:, ::2],)), 64),
    ):
        with pytest.raises(KernelError):
            launch.check(threads)

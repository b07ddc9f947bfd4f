"""Every operation on every backend of this machine against its reference."""

from __future__ import annotations

import sys
import warnings
from importlib import import_module

import numpy as np
import pytest
import torch

from tests.cuda_host import host
from workbench import kernels
from workbench.errors import InputError, KernelError, KindError, UnknownNameError
from workbench.kernels import spec as spec_module

HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
SPECS = {name: import_module(f"workbench.kernels.{name}").SPEC for name in kernels.NAMES}
CASES = [
    pytest.param(name, sizes, id=f"{name}-{'-'.join(f'{k}{v}' for k, v in sizes.items())}")
    for name, spec in SPECS.items()
    for sizes in spec.sizes
]
GPU = pytest.param("cuda", marks=pytest.mark.gpu)
HOST_LIMIT = 3e6  # FLOPs: operating-system threads stand in for GPU threads
HOST_CASES = [case for case in CASES if SPECS[case.values[0]].flops(**case.values[1]) < HOST_LIMIT]


def make(name, sizes):
    return SPECS[name].make(np.random.default_rng(7), **sizes)


def parts(result):
    return result if isinstance(result, tuple) else (result,)


def assert_close(name, got, wanted, dtype="float32"):
    relative, absolute = SPECS[name].tolerance[dtype]
    for number, (a, b) in enumerate(zip(parts(got), parts(wanted), strict=True)):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, relative, absolute, err_msg=f"{name}, result {number}")


def run(name, arguments, backend="auto"):
    return getattr(kernels, name)(**arguments, backend=backend)


def to_torch(arguments, dtype=None, device="cpu"):
    moved = {}
    for key, value in arguments.items():
        if isinstance(value, np.ndarray):
            tensor = torch.from_numpy(value)
            tensor = tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor
            value = tensor.to(device)
        moved[key] = value
    return moved


@pytest.mark.parametrize(("name", "sizes"), CASES)
def test_cpu_equals_the_reference(name, sizes):
    arguments = make(name, sizes)
    assert_close(name, run(name, arguments, "cpu"), run(name, arguments, "reference"))


@pytest.mark.parametrize(("name", "sizes"), HOST_CASES)
def test_cuda_source_on_the_host_equals_the_reference(name, sizes):
    spec, arguments = SPECS[name], make(name, sizes)
    ready = arguments | spec._ready(arguments, spec_module._to_numpy)
    assert_close(name, host.run(name, ready), run(name, arguments, "reference"))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", *HALVES])
@pytest.mark.parametrize(("name", "sizes"), CASES)
def test_gpu_equals_the_reference(name, sizes, dtype):
    arguments = to_torch(make(name, sizes), HALVES.get(dtype))
    wanted = run(name, arguments, "reference")
    got = run(name, to_torch(arguments_as_numpy(arguments), HALVES.get(dtype), "cuda"))
    assert all(part.is_cuda for part in parts(got))
    assert_close(name, tuple(p.cpu().numpy() for p in parts(got)), tuple(p.numpy() for p in parts(wanted)), dtype)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["skinny_matmul", "int8_matmul"])
def test_gpu_takes_tensors_that_start_anywhere(name):
    arguments = to_torch(make(name, {"R": 3, "in": 64, "out": 9}))
    shifted = {}
    for key, value in arguments.items():  # contiguous, yet not where a wide read may start
        flat = torch.empty(value.numel() + 1, dtype=value.dtype, device="cuda")
        flat[1:] = value.flatten().cuda()
        shifted[key] = flat[1:].view(value.shape)
    np.testing.assert_allclose(run(name, shifted).cpu(), run(name, arguments, "reference"), *SPECS[name].tolerance["float32"])


@pytest.mark.gpu
def test_gpu_works_on_torchs_own_stream():
    logits = torch.randn(64, 49152, generator=torch.Generator().manual_seed(0))
    wanted = kernels.row_statistics(logits, 3)
    with torch.cuda.stream(torch.cuda.Stream()):
        late = logits.to("cuda", non_blocking=True)
        for _ in range(200):  # work for the stream to be behind with
            late = late + 0
        got = kernels.row_statistics(late, 3)
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a.cpu(), b, 1e-5, 1e-5)


def arguments_as_numpy(arguments):
    return {k: spec_module._to_numpy(v) if torch.is_tensor(v) else v for k, v in arguments.items()}


@pytest.mark.parametrize("name", kernels.NAMES)
def test_torch_in_torch_out_and_the_same_numbers(name):
    arguments = make(name, SPECS[name].sizes[0])
    from_torch = parts(run(name, to_torch(arguments)))
    for a, b in zip(from_torch, parts(run(name, arguments)), strict=True):
        assert torch.is_tensor(a)
        np.testing.assert_array_equal(a.numpy(), b)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", kernels.NAMES)
def test_halves_are_widened_exactly(name, dtype):
    arguments = to_torch(make(name, SPECS[name].sizes[0]), HALVES[dtype])
    wide = to_torch(arguments_as_numpy(arguments))
    for a, b in zip(parts(run(name, arguments)), parts(run(name, wide)), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


@pytest.mark.parametrize("name", kernels.NAMES)
def test_non_contiguous_input_gives_the_same_numbers(name):
    arguments = make(name, SPECS[name].sizes[0])
    strided = {}
    for key, value in arguments.items():
        if isinstance(value, np.ndarray) and value.ndim:
            value = np.repeat(value, 2, axis=-1)[..., ::2]
        strided[key] = value
    for a, b in zip(parts(run(name, strided)), parts(run(name, arguments)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("backend", ["cpu", "host", GPU])
@pytest.mark.parametrize("name", ["row_statistics", "gumbel_topk"])
def test_extreme_logits(name, backend):
    logits = np.zeros((6, 99), np.float32)
    logits[0, 5], logits[1, 7], logits[2] = 1e4, -1e4, -np.inf
    logits[3], logits[3, 98] = -np.inf, -1e4
    logits[4] = np.linspace(-1e4, 1e4, 99)
    logits[5, ::2] = -np.inf
    more = {"top_k": 5} if name == "row_statistics" else {"k": 5, "temperature": 1.0, "seed": 3}
    arguments = {"logits": logits, **more}
    got = host.run(name, arguments) if backend == "host" else run(name, arguments, backend)
    wanted = run(name, arguments, "reference")
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, 1e-5, 2e-3)  # 2e-3: fp32 next to 1e4


@pytest.mark.parametrize("backend", ["cpu", "host", GPU])
@pytest.mark.parametrize("name", ["skinny_matmul", "int8_matmul"])
def test_a_row_does_not_depend_on_the_others(name, backend):
    arguments = make(name, {"R": 9, "in": 99, "out": 21})
    call = (lambda a: host.run(name, a)) if backend == "host" else (lambda a: run(name, a, backend))
    whole = call(arguments)
    for rows in (1, 2, 3, 5, 8):
        np.testing.assert_array_equal(call(arguments | {"x": arguments["x"][:rows]}), whole[:rows])


@pytest.mark.parametrize("name", kernels.NAMES)
def test_the_number_of_threads_does_not_change_a_bit(name):
    import numba

    arguments = make(name, SPECS[name].sizes[0])
    before, threads = parts(run(name, arguments, "cpu")), numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        for a, b in zip(parts(run(name, arguments, "cpu")), before, strict=True):
            np.testing.assert_array_equal(a, b)
    finally:
        numba.set_num_threads(threads)


def test_fp64_is_refused_with_advice():
    with pytest.raises(InputError, match=r"skinny_matmul: x: expected float32 .* got float64\. Convert"):
        kernels.skinny_matmul(np.ones((1, 2)), np.ones((3, 2), np.float32))


def test_lists_are_refused():
    with pytest.raises(KindError, match="expected a numpy, torch or CuPy array, got list"):
        kernels.row_statistics([[1.0]])


def test_unknown_backend_names_the_nearest():
    with pytest.raises(UnknownNameError, match="Did you mean 'cuda'"):
        kernels.row_statistics(np.ones((1, 1), np.float32), backend="cudda")


WRONG = [
    ("skinny_matmul", {"weight": np.ones((3, 5), np.float32)}, "weight"),
    ("int8_matmul", {"scale": np.ones(3, np.float32)}, "scale"),
    ("tree_attention", {"k_prefix": np.ones((4, 1, 3), np.float32)}, "k_prefix"),
    ("tree_attention", {"parents": np.array([-1, 5, 0, 0, 0, 0, 0])}, "-1 to 0 for node 1, got 5"),
    ("gumbel_topk", {"k": 10**6}, "k"),
    ("gumbel_topk", {"temperature": 0.0}, "temperature"),
    ("row_statistics", {"top_k": -1}, "top_k"),
    ("attention_mass", {"query_bins": 0}, "query_bins"),
    ("attention_mass", {"probes": np.array([1000])}, "probes"),
    ("plane_sweep", {"depths": np.array([-1.0], np.float32)}, "depths"),
    ("plane_sweep", {"border": -1}, "border"),
    ("plane_sweep", {"intrinsics": np.ones((3, 3), np.float32)}, "intrinsics"),
    ("plane_sweep", {"temperature": -1.0}, "temperature"),
    ("expert_dispatch", {"capacity": -1}, "capacity"),
    ("expert_dispatch", {"num_experts": 2}, "experts"),
]


@pytest.mark.parametrize(("name", "change", "words"), WRONG, ids=[f"{n}-{'-'.join(c)}" for n, c, _ in WRONG])
def test_wrong_arguments_name_themselves(name, change, words):
    with pytest.raises(InputError, match=words):
        run(name, make(name, SPECS[name].sizes[0]) | change)


def test_cuda_asked_for_without_a_gpu_is_an_error(monkeypatch):
    monkeypatch.setattr(spec_module, "missing", lambda backend: "no NVIDIA GPU" if backend == "cuda" else "")
    with pytest.raises(KernelError, match="no NVIDIA GPU"):
        kernels.row_statistics(np.ones((1, 1), np.float32), backend="cuda")


def test_falling_back_warns_once_and_enters_the_record(monkeypatch):
    monkeypatch.setattr(spec_module, "missing", lambda backend: "numba is broken" if backend == "cpu" else "")
    monkeypatch.setattr(spec_module, "_warned", set())
    with kernels.used() as ran:
        with pytest.warns(kernels.KernelWarning, match=r"numba is broken.*using reference"):
            kernels.row_statistics(np.ones((1, 1), np.float32))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            kernels.row_statistics(np.ones((1, 1), np.float32))
    assert ran["row_statistics"]["backend"] == "reference"
    assert "numba is broken" in ran["row_statistics"]["why"]


def test_used_collects_nests_and_ends():
    rows = np.ones((1, 2), np.float32)
    with kernels.used() as outer:
        kernels.row_statistics(rows)
        with kernels.used() as inner:
            kernels.row_statistics(rows, backend="reference")
        kernels.note("tree_attention", "cpu", "fused step")
    kernels.gumbel_topk(rows, 1)
    assert inner == {"row_statistics": {"backend": "reference", "why": "asked for"}}
    assert outer["row_statistics"]["backend"] == "cpu, reference"
    assert set(outer) == {"row_statistics", "tree_attention"}


def test_the_list_of_operations_is_complete():
    assert list(kernels.all()) == list(kernels.NAMES)
    assert [row["name"] for row in kernels.report()] == list(kernels.NAMES)
    for name, spec in kernels.all().items():
        assert callable(getattr(kernels, name))
        assert spec.flops(**spec.bench) > 0
        assert spec.bytes(**spec.bench) > 0


def test_importing_the_package_loads_no_heavy_library():
    import subprocess

    code = "import sys, workbench.kernels; print([m for m in ('numba', 'torch', 'cupy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", kernels.NAMES)
def test_docstring_example_holds(name):
    import doctest

    module = import_module(f"workbench.kernels.{name}")
    function = getattr(module, name)
    tests = doctest.DocTestFinder().find(function, name, globs={name: function})
    results = [doctest.DocTestRunner().run(test) for test in tests]
    assert sum(result.attempted for result in results) > 0
    assert sum(result.failed for result in results) == 0

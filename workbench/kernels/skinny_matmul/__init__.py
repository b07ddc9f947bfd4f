"""Product of a few rows with a large weight matrix, each weight read once."""

from __future__ import annotations

from typing import Any

import numpy as np

from workbench.kernels.spec import Spec, shape_error


def skinny_matmul(x: Any, weight: Any, *, backend: str = "auto") -> Any:
    """Return x @ weight.T, with a layout made for few rows: a step's cost stays that of reading the weights once.

    Args:
        x: (R, in) fp32, fp16 or bf16; fast for R <= 32, legal for any R.
        weight: (out, in), the same kinds; as `torch.nn.Linear` stores it.
        backend: "auto", "reference", "cpu" or "cuda".

    Returns:
        (R, out) fp32, of x's kind. Row r does not depend on the other rows or on R, bit for bit (cpu, cuda).

    Raises:
        InputError: shapes or dtypes do not fit. KernelError: the backend cannot run here.

    Example:
        >>> import numpy as np
        >>> skinny_matmul(np.ones((2, 3), np.float32), np.eye(3, dtype=np.float32)).tolist()
        [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """
    return SPEC.run(backend, {"x": x, "weight": weight})


def _check(x: Any, weight: Any) -> None:
    if x.ndim != 2:
        raise shape_error("skinny_matmul", "x", "(R, in)", x)
    if weight.ndim != 2 or weight.shape[1] != x.shape[1]:
        raise shape_error("skinny_matmul", "weight", f"(out, {x.shape[1]})", weight, "Pass it as torch.nn.Linear has it")


def _make(rng: np.random.Generator, R: int, out: int, **sizes: int) -> dict[str, Any]:
    wide = sizes["in"]
    return {
        "x": rng.standard_normal((R, wide), dtype=np.float32),
        "weight": rng.standard_normal((out, wide), dtype=np.float32),
    }


SPEC = Spec(
    name="skinny_matmul",
    title="x @ weight.T for up to 32 rows, each weight read once",
    signature="x (R, in), weight (out, in) -> (R, out)",
    axes={"R": "rows", "in": "inputs", "out": "outputs"},
    arrays={"x": "f", "weight": "f"},
    check=_check,
    make=_make,
    sizes=(
        {"R": 1, "in": 513, "out": 99},
        {"R": 7, "in": 99, "out": 1},
        {"R": 33, "in": 64, "out": 35},
        {"R": 3, "in": 1, "out": 7},
        {"R": 0, "in": 7, "out": 7},
        {"R": 2, "in": 0, "out": 3},
    ),
    bench={"R": 8, "in": 576, "out": 49152},
    flops=lambda R, out, **sizes: 2.0 * R * out * sizes["in"],
    bytes=lambda R, out, **sizes: 4.0 * (out * sizes["in"] + R * (out + sizes["in"])),
    tolerance={"float32": (1e-4, 1e-4), "float16": (1e-4, 1e-4), "bfloat16": (1e-4, 1e-4)},
)

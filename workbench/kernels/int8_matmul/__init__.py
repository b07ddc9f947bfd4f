"""Product of a few fp32 rows with an int8 weight matrix and its scales."""

from __future__ import annotations

from typing import Any

import numpy as np

from workbench.kernels.spec import Spec, shape_error


def int8_matmul(x: Any, weight: Any, scale: Any, *, backend: str = "auto") -> Any:
    """Return x @ (scale * weight).T; the weights stay int8 in memory, so a step moves a quarter of the bytes.

    Args:
        x: (R, in) fp32, fp16 or bf16; fast for R <= 32, legal for any R. It is not quantised.
        weight: (out, in) int8.
        scale: (out,) one for each output, or (out, groups) with `groups` dividing `in`; floats.
        backend: "auto", "reference", "cpu" or "cuda".

    Returns:
        (R, out) fp32, of x's kind. Row r does not depend on the other rows or on R, bit for bit (cpu, cuda).

    Raises:
        InputError: shapes or dtypes do not fit. KernelError: the backend cannot run here.

    Example:
        >>> import numpy as np
        >>> int8_matmul(np.ones((1, 2), np.float32), np.array([[3, 4]], np.int8), np.array([0.5], np.float32)).tolist()
        [[3.5]]
    """
    return SPEC.run(backend, {"x": x, "weight": weight, "scale": scale})


def _check(x: Any, weight: Any, scale: Any) -> None:
    if x.ndim != 2:
        raise shape_error("int8_matmul", "x", "(R, in)", x)
    if weight.ndim != 2 or weight.shape[1] != x.shape[1]:
        raise shape_error("int8_matmul", "weight", f"(out, {x.shape[1]})", weight, "Pass it as torch.nn.Linear has it")
    outs, wide = weight.shape
    grouped = scale.ndim == 2 and scale.shape[0] == outs and scale.shape[1] > 0 and wide % scale.shape[1] == 0
    if scale.shape != (outs,) and not grouped:
        raise shape_error("int8_matmul", "scale", f"({outs},) or ({outs}, groups), groups dividing {wide}", scale)


def _make(rng: np.random.Generator, R: int, out: int, groups: int = 0, **sizes: int) -> dict[str, Any]:
    wide = sizes["in"]
    return {
        "x": rng.standard_normal((R, wide), dtype=np.float32),
        "weight": rng.integers(-128, 128, (out, wide)).astype(np.int8),
        "scale": rng.random((out, groups) if groups else out, dtype=np.float32) / 127,
    }


SPEC = Spec(
    name="int8_matmul",
    title="fp32 rows times int8 weights, dequantised in registers",
    signature="x (R, in), weight int8 (out, in), scale (out,) or (out, groups) -> (R, out)",
    axes={"R": "rows", "in": "inputs", "out": "outputs", "groups": "scales of an output row"},
    arrays={"x": "f", "weight": "b", "scale": "f"},
    check=_check,
    make=_make,
    sizes=(
        {"R": 1, "in": 513, "out": 99},
        {"R": 7, "in": 99, "out": 5, "groups": 3},
        {"R": 33, "in": 64, "out": 35},
        {"R": 3, "in": 128, "out": 7, "groups": 2},
        {"R": 0, "in": 7, "out": 7},
        {"R": 2, "in": 0, "out": 3},
    ),
    bench={"R": 1, "in": 576, "out": 49152},
    flops=lambda R, out, **sizes: 2.0 * R * out * sizes["in"],
    bytes=lambda R, out, groups=1, **sizes: out * (sizes["in"] + 4.0 * groups) + 4.0 * R * (out + sizes["in"]),
    tolerance={"float32": (1e-4, 1e-4), "float16": (1e-4, 1e-4), "bfloat16": (1e-4, 1e-4)},
)

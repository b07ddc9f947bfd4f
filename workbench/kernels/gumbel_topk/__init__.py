"""k samples without replacement from a softmax law: the k largest log-probabilities plus Gumbel noise."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from workbench.errors import InputError, expected
from workbench.kernels.spec import Spec, shape_error


def gumbel_topk(logits: Any, k: int, temperature: float = 1.0, seed: int = 0, *, backend: str = "auto") -> Any:
    """Return (ids, perturbed, logprobs) of k ids drawn without replacement from softmax(logits / temperature).

    Args:
        logits: (N, V) floats; -inf excludes an id. No NaN.
        k: 0 to V.
        temperature: above 0, finite.
        seed: any integer, used modulo 2**64. The noise depends on seed, row and id only.
        backend: "auto", "reference", "cpu" or "cuda"; the ids are the same on each.

    Returns:
        ids (N, k) int64, in the order drawn; perturbed (N, k) fp32, log-probability plus noise, descending;
        logprobs (N, k) fp32, nats. Where fewer than k ids are possible: id -1 and -inf.

    Raises:
        InputError: a shape or value does not fit. KernelError: the backend cannot run here.

    Source:
        Kool, van Hoof, Welling, "Stochastic beams and where to find them", ICML 2019, section 3.

    Example:
        >>> import numpy as np
        >>> ids, _, _ = gumbel_topk(np.array([[0.0, -np.inf, 0.0]], np.float32), k=3)
        >>> sorted(ids[0].tolist())
        [-1, 0, 2]
    """
    arguments = {"logits": logits, "k": int(k), "temperature": float(temperature), "seed": int(seed)}
    return SPEC.run(backend, arguments)


def _check(logits: Any, k: int, temperature: float, seed: int) -> None:
    if logits.ndim != 2:
        raise shape_error("gumbel_topk", "logits", "(N, V)", logits)
    if not 0 <= k <= logits.shape[1]:
        raise InputError(expected("gumbel_topk: k", f"0 to {logits.shape[1]} (the vocabulary)", k))
    if not (math.isfinite(temperature) and np.float32(temperature) > 0):
        then = "For the greedy choice use row_statistics(logits, top_k=k)"
        raise InputError(expected("gumbel_topk: temperature", "a finite number above 0", temperature, then=then))


def _make(rng: np.random.Generator, N: int, V: int, k: int, excluded: int = 0) -> dict[str, Any]:
    logits = 3 * rng.standard_normal((N, V), dtype=np.float32)
    logits[:, rng.permutation(V)[:excluded]] = -np.inf
    return {"logits": logits, "k": k, "temperature": 0.7, "seed": int(rng.integers(2**63))}


SPEC = Spec(
    name="gumbel_topk",
    title="k ids without replacement, counter-based noise, the same ids on every backend",
    signature="logits (N, V), k, temperature, seed -> ids, perturbed, logprobs (N, k)",
    axes={"N": "rows", "V": "vocabulary", "k": "draws"},
    arrays={"logits": "f"},
    check=_check,
    make=_make,
    sizes=(
        {"N": 2, "V": 4099, "k": 9},
        {"N": 1, "V": 1, "k": 1},
        {"N": 7, "V": 99, "k": 7, "excluded": 95},
        {"N": 1, "V": 513, "k": 99},
        {"N": 0, "V": 9, "k": 2},
        {"N": 2, "V": 7, "k": 0},
    ),
    bench={"N": 8, "V": 49152, "k": 8},
    flops=lambda N, V, k, excluded=0: 120.0 * N * V,
    bytes=lambda N, V, k, excluded=0: 4.0 * N * V,
    tolerance={"float32": (1e-5, 1e-4), "float16": (1e-5, 1e-4), "bfloat16": (1e-5, 1e-4)},
)

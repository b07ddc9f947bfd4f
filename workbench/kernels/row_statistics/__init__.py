"""What a decoder's confidence rules ask of every row of logits, in one pass."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from workbench.errors import InputError, expected
from workbench.kernels.spec import Spec, shape_error


class RowStatistics(NamedTuple):
    """Statistics of softmax(logits) for M rows.

    Attributes:
        argmax: (M,) int64, the lowest index among equals.
        p1, p2: (M,) fp32, the largest and second largest probability; p2 = 0 for a vocabulary of one.
        entropy: (M,) fp32, nats. logsumexp: (M,) fp32.
        top_ids: (M, top_k) int64, by falling probability, lower index first among equals. top_probs: (M, top_k) fp32.
    """

    argmax: Any
    p1: Any
    p2: Any
    entropy: Any
    logsumexp: Any
    top_ids: Any
    top_probs: Any


def row_statistics(logits: Any, top_k: int = 0, *, backend: str = "auto") -> RowStatistics:
    """Return arg-max, two largest probabilities, entropy, log-sum-exp and the top k of every row's softmax.

    Args:
        logits: (M, V) floats, V >= 1; -inf excludes an id. No NaN. A row of nothing but -inf has NaN probabilities.
        top_k: 0 to V.
        backend: "auto", "reference", "cpu" or "cuda".

    Raises:
        InputError: a shape or value does not fit. KernelError: the backend cannot run here.

    Example:
        >>> import numpy as np
        >>> found = row_statistics(np.zeros((1, 4), np.float32))
        >>> float(found.p1[0]), round(float(found.entropy[0]), 4)
        (0.25, 1.3863)
    """
    return SPEC.run(backend, {"logits": logits, "top_k": int(top_k)})


def _check(logits: Any, top_k: int) -> None:
    if logits.ndim != 2 or logits.shape[1] == 0:
        raise shape_error("row_statistics", "logits", "(M, V) with V of at least 1", logits)
    if not 0 <= top_k <= logits.shape[1]:
        raise InputError(expected("row_statistics: top_k", f"0 to {logits.shape[1]} (the vocabulary)", top_k))


def _make(rng: np.random.Generator, M: int, V: int, top_k: int = 0, ties: int = 0) -> dict[str, Any]:
    logits = 3 * rng.standard_normal((M, V), dtype=np.float32)
    logits[:, :ties] = 20.0
    return {"logits": logits, "top_k": top_k}


SPEC = Spec(
    name="row_statistics",
    title="arg-max, p1, p2, entropy, log-sum-exp and top k of every row, one pass",
    signature="logits (M, V), top_k -> argmax, p1, p2, entropy, logsumexp (M,), top_ids, top_probs (M, top_k)",
    axes={"M": "rows", "V": "vocabulary"},
    arrays={"logits": "f"},
    check=_check,
    make=_make,
    sizes=(
        {"M": 7, "V": 513, "top_k": 5},
        {"M": 3, "V": 1, "top_k": 1},
        {"M": 1, "V": 4099},
        {"M": 5, "V": 99, "top_k": 9, "ties": 4},
        {"M": 2, "V": 7, "top_k": 7},
        {"M": 0, "V": 9, "top_k": 2},
    ),
    bench={"M": 64, "V": 49152},
    flops=lambda M, V, top_k=0, ties=0: 25.0 * M * V,
    bytes=lambda M, V, top_k=0, ties=0: 4.0 * M * V,
    tolerance={"float32": (1e-5, 1e-5), "float16": (1e-5, 1e-5), "bfloat16": (1e-5, 1e-5)},
)

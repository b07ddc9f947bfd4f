"""Pooled causal attention of long inputs, without ever holding the attention map."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from workbench.errors import InputError, expected
from workbench.kernels.spec import Spec, shape_error


class AttentionMass(NamedTuple):
    """What causal attention does, pooled.

    Attributes:
        mass: (H, Bq, Bk) fp32; mass[h, i, j] is the mean, over the queries of bin i, of the probability that they put
            on the keys of bin j. Rows sum to 1; NaN for a bin that holds no probe.
        column_sum: (H, T) fp32; the probability that each key receives, summed over the queries (or probes).
    """

    mass: Any
    column_sum: Any


def attention_mass(
    q: Any,
    k: Any,
    query_bins: int,
    key_bins: int,
    probes: Any = None,
    *,
    window: int | None = None,
    softcap: float | None = None,
    backend: str = "auto",
) -> AttentionMass:
    """Return the pooled mass and the column sums of causal softmax(q k^T / sqrt(d)); memory is linear in T.

    Args:
        q: (H, T, d) floats; k: (K, T, d), H a multiple of K, head h reads key head h // (H // K).
        query_bins, key_bins: 1 to T; bins are `numpy.array_split` of the positions.
        probes: (m,) integers 0..T-1: count these queries only; None counts all.
        window: 1 or more: a query sees itself and the window - 1 keys before it (a sliding window); None: its whole past.
        softcap: above 0: scores s become softcap * tanh(s / softcap) before the softmax; None: as they are.
        backend: "auto", "reference", "cpu" or "cuda".

    Raises:
        InputError: shapes, bins or probes do not fit. KernelError: the backend cannot run here.

    Example:
        >>> import numpy as np
        >>> zero = np.zeros((1, 2, 1), np.float32)
        >>> attention_mass(zero, zero, 2, 2).mass[0].tolist()
        [[1.0, 0.0], [0.5, 0.5]]
    """
    arguments = {"q": q, "k": k, "query_bins": int(query_bins), "key_bins": int(key_bins), "probes": probes}
    arguments |= {"window": None if window is None else int(window), "softcap": None if softcap is None else float(softcap)}
    return SPEC.run(backend, arguments)


def bin_edges(length: int, bins: int) -> np.ndarray:
    """Return the bins + 1 edges that `numpy.array_split` gives `length` positions."""
    size, longer = divmod(length, bins)
    return np.concatenate([[0], np.cumsum([size + 1] * longer + [size] * (bins - longer))]).astype(np.int64)


def _check(q: Any, k: Any, query_bins: int, key_bins: int, probes: Any, window: int | None, softcap: float | None) -> None:
    if q.ndim != 3 or 0 in q.shape:
        raise shape_error("attention_mass", "q", "(H, T, d), none of them 0", q)
    if k.ndim != 3 or k.shape[1:] != q.shape[1:] or k.shape[0] == 0 or q.shape[0] % k.shape[0]:
        raise shape_error("attention_mass", "k", f"(K, {q.shape[1]}, {q.shape[2]}), K dividing {q.shape[0]}", k)
    for name, bins in (("query_bins", query_bins), ("key_bins", key_bins)):
        if not 1 <= bins <= q.shape[1]:
            raise InputError(expected(f"attention_mass: {name}", f"1 to {q.shape[1]} (the positions)", bins))
    if window is not None and window < 1:
        raise InputError(expected("attention_mass: window", "1 or more keys, or None", window))
    if softcap is not None and not 0 < softcap < np.inf:
        raise InputError(expected("attention_mass: softcap", "a finite number above 0, or None", softcap))
    if probes is not None and (probes.ndim != 1 or (probes.size and not 0 <= probes.min() <= probes.max() < q.shape[1])):
        raise InputError(expected("attention_mass: probes", f"(m,) positions 0 to {q.shape[1] - 1}", "others"))


def _make(
    rng: np.random.Generator, H: int, T: int, d: int, K: int = 1, bins: int = 1, m: int = -1, window: int = 0, cap: float = 0.0
) -> dict[str, Any]:
    return {
        "q": 2 * rng.standard_normal((H, T, d), dtype=np.float32),
        "k": rng.standard_normal((K, T, d), dtype=np.float32),
        "query_bins": bins,
        "key_bins": min(T, bins + 1),
        "probes": None if m < 0 else rng.choice(T, m, replace=False),
        "window": window or None,
        "softcap": cap or None,
    }


SPEC = Spec(
    name="attention_mass",
    title="pooled causal attention and column sums, memory linear in the length",
    signature="q (H, T, d), k (K, T, d), bins, probes (m,) -> mass (H, Bq, Bk), column_sum (H, T)",
    axes={"H": "heads", "K": "key heads", "T": "positions", "d": "head width", "m": "probes"},
    arrays={"q": "f", "k": "f", "probes": "i"},
    host=("probes",),
    check=_check,
    make=_make,
    sizes=(
        {"H": 4, "K": 2, "T": 99, "d": 17, "bins": 7},
        {"H": 2, "T": 35, "d": 5, "bins": 3},
        {"H": 1, "T": 1, "d": 1},
        {"H": 2, "T": 513, "d": 64, "bins": 64},
        {"H": 3, "K": 3, "T": 130, "d": 8, "bins": 130},
        {"H": 2, "T": 200, "d": 16, "bins": 9, "m": 33},
        {"H": 2, "T": 190, "d": 16, "bins": 9, "window": 37},
        {"H": 2, "K": 2, "T": 70, "d": 9, "bins": 5, "m": 11, "window": 1, "cap": 2.0},
        {"H": 2, "T": 100, "d": 16, "bins": 4, "window": 64, "cap": 3.0},
        {"H": 2, "T": 33, "d": 8, "bins": 3, "cap": 1.5},
    ),
    bench={"H": 9, "K": 3, "T": 2048, "d": 64, "bins": 64},
    flops=lambda H, T, d, K=1, bins=1, m=-1, **_: H * (T if m < 0 else m) * T / 2 * (2.0 * d + 16),
    bytes=lambda H, T, d, K=1, bins=1, m=-1, **_: 4.0 * T * (H * d + K * d + H),
    tolerance={"float32": (1e-4, 1e-5), "float16": (1e-4, 1e-5), "bfloat16": (1e-4, 1e-5)},
)

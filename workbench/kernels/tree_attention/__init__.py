"""Attention of a tree of draft tokens over a shared prefix and over each node's ancestors."""

from __future__ import annotations

from typing import Any

import numpy as np

from workbench.errors import InputError, expected
from workbench.kernels.spec import Spec, shape_error


def tree_attention(q: Any, k_prefix: Any, v_prefix: Any, k_tree: Any, v_tree: Any, parents: Any, *, backend: str = "auto") -> Any:
    """Return (out, lse): every node's attention over the whole prefix, its ancestors and itself; scale 1 / sqrt(d).

    Args:
        q: (N, H, d) floats; H is a multiple of K, head h reads key head h // (H // K).
        k_prefix, v_prefix: (P, K, d); P = 0 is legal.
        k_tree, v_tree: (M, K, d), M >= N; the last N nodes ask (a tree that grows keeps its earlier keys).
        parents: (M,) integers; parents[n] < n, and -1 where the parent is the last prefix token.
        backend: "auto", "reference", "cpu" or "cuda".

    Returns:
        out (N, H, d) and lse (N, H), fp32, of q's kind. lse is the log of the sum of exponentials (nats), enough to
        merge this attention with one over further keys.

    Raises:
        InputError: shapes or parents do not fit. KernelError: the backend cannot run here.

    Source:
        Online softmax: Milakov and Gimelshein 2018; a prefix read once for all queries: Hydragen, arXiv 2402.05099.

    Example:
        >>> import numpy as np
        >>> one, none = np.ones((1, 1, 2), np.float32), np.ones((0, 1, 2), np.float32)
        >>> out, lse = tree_attention(one, none, none, one, one, np.array([-1]))
        >>> out.ravel().tolist(), round(float(lse[0, 0]), 4)
        ([1.0, 1.0], 1.4142)
    """
    arrays = {"q": q, "k_prefix": k_prefix, "v_prefix": v_prefix, "k_tree": k_tree, "v_tree": v_tree}
    return SPEC.run(backend, {**arrays, "parents": parents})


def _check(q: Any, k_prefix: Any, v_prefix: Any, k_tree: Any, v_tree: Any, parents: Any) -> None:
    where = "tree_attention"
    if q.ndim != 3 or q.shape[2] == 0:
        raise shape_error(where, "q", "(N, H, d) with d > 0", q)
    nodes, heads, width = q.shape
    if k_tree.ndim != 3 or k_tree.shape[2] != width or k_tree.shape[0] < nodes:
        raise shape_error(where, "k_tree", f"(at least {nodes}, K, {width})", k_tree)
    if k_tree.shape[1] == 0 or heads % k_tree.shape[1]:
        raise shape_error(where, "k_tree", f"K key heads with K dividing {heads}", k_tree)
    if k_prefix.ndim != 3 or k_prefix.shape[1:] != k_tree.shape[1:]:
        raise shape_error(where, "k_prefix", f"(P, {k_tree.shape[1]}, {width})", k_prefix)
    for name, keys, values in (("v_prefix", k_prefix, v_prefix), ("v_tree", k_tree, v_tree)):
        if values.shape != keys.shape:
            raise shape_error(where, name, f"{tuple(keys.shape)} like its keys", values)
    if parents.shape != (k_tree.shape[0],):
        raise shape_error(where, "parents", f"({k_tree.shape[0]},)", parents)
    check_parents(where, parents)


def check_parents(where: str, parents: Any) -> None:
    """Raise InputError unless every parent comes before its node and is -1 or a node."""
    bad = np.flatnonzero((parents < -1) | (parents >= np.arange(len(parents))))
    if bad.size:
        n = int(bad[0])
        wanted, then = f"-1 to {n - 1} for node {n}", "Order the nodes so that each parent comes first"
        raise InputError(expected(f"{where}: parents", wanted, int(parents[n]), then=then))


def _make(rng: np.random.Generator, N: int, H: int, K: int, d: int, P: int, M: int = 0) -> dict[str, Any]:
    count = max(M, N)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    return {
        "q": 2 * normal(N, H, d),
        "k_prefix": normal(P, K, d),
        "v_prefix": normal(P, K, d),
        "k_tree": normal(count, K, d),
        "v_tree": normal(count, K, d),
        "parents": np.array([int(rng.integers(-1, n)) for n in range(count)], np.int64),
    }


SPEC = Spec(
    name="tree_attention",
    title="attention of draft-tree nodes over a shared prefix and their ancestors, with log-sum-exp",
    signature="q (N, H, d), k/v prefix (P, K, d), k/v tree (M, K, d), parents (M,) -> out (N, H, d), lse (N, H)",
    axes={"N": "asking nodes", "M": "tree nodes", "H": "heads", "K": "key heads", "d": "head width", "P": "prefix"},
    arrays={"q": "f", "k_prefix": "f", "v_prefix": "f", "k_tree": "f", "v_tree": "f", "parents": "i"},
    host=("parents",),
    check=_check,
    make=_make,
    sizes=(
        {"N": 7, "H": 6, "K": 2, "d": 64, "P": 99},
        {"N": 1, "H": 1, "K": 1, "d": 1, "P": 0},
        {"N": 70, "H": 2, "K": 1, "d": 17, "P": 130},
        {"N": 3, "H": 4, "K": 4, "d": 32, "P": 1, "M": 9},
        {"N": 2, "H": 2, "K": 1, "d": 128, "P": 513},
        {"N": 0, "H": 2, "K": 1, "d": 8, "P": 3},
    ),
    bench={"N": 8, "H": 9, "K": 3, "d": 64, "P": 1024},
    flops=lambda N, H, K, d, P, M=0: 4.0 * N * H * d * (P + max(M, N)),
    bytes=lambda N, H, K, d, P, M=0: 4.0 * (2 * K * d * (P + max(M, N)) + 2 * N * H * d),
    tolerance={"float32": (1e-4, 1e-5), "float16": (1e-4, 1e-5), "bfloat16": (1e-4, 1e-5)},
)

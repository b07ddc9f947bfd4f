"""Launcher of `row_statistics` on a GPU."""

from __future__ import annotations

from typing import Any

from workbench.kernels.launch import HELD, Launch, Plan, blocks, integer
from workbench.kernels.launch import run as launch
from workbench.kernels.row_statistics import RowStatistics


def plan(xp: Any, threads: int, *, logits: Any, top_k: int) -> Plan:
    """Return the launches of `share` and `merge` and their result."""
    rows, vocabulary = logits.shape
    shares = blocks(vocabulary, HELD * threads)
    wanted = min(max(top_k, 2), vocabulary)
    kept = min(wanted, HELD * threads)
    parts, values = xp.empty((rows, shares, 3), xp.float32), xp.empty((rows, shares, kept), xp.float32)
    ids = xp.empty(values.shape, xp.int32)
    argmax, (p1, p2, entropy, total) = xp.empty(rows, xp.int64), xp.empty((4, rows), xp.float32)
    top_ids, top_probs = xp.empty((rows, top_k), xp.int64), xp.empty((rows, top_k), xp.float32)
    results = (argmax, p1, p2, entropy, total, top_ids, top_probs)
    sizes = (integer(size) for size in (shares, kept, wanted, top_k))
    launches = [
        Launch("share", (rows, shares, 1), (logits, parts, values, ids, integer(vocabulary), integer(kept))),
        Launch("merge", (rows, 1, 1), (parts, values, ids, *results, *sizes)),
    ]
    return launches if rows else [], lambda: RowStatistics(*results)


def run(**arguments: Any) -> Any:
    """Return the operation's result as CuPy arrays."""
    return launch("row_statistics", plan, arguments)

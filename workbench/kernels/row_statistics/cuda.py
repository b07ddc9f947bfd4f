"""Launcher of `row_statistics` on a GPU."""

from __future__ import annotations

from typing import Any

from workbench.kernels.launch import Launch, Plan, integer
from workbench.kernels.launch import run as launch
from workbench.kernels.row_statistics import RowStatistics


def plan(xp: Any, threads: int, *, logits: Any, top_k: int) -> Plan:
    """Return the launch of `statistics` and its result."""
    rows, vocabulary = logits.shape
    kept = min(max(top_k, 2), vocabulary)
    values, ids = xp.zeros((rows, kept), xp.float32), xp.zeros((rows, kept), xp.int64)
    entropy, total = xp.zeros(rows, xp.float32), xp.zeros(rows, xp.float32)
    arguments = (logits, values, ids, entropy, total, integer(vocabulary), integer(kept))

    def result() -> RowStatistics:
        impossible = total[:, None] == -xp.inf
        probs = xp.where(impossible, xp.float32(xp.nan), xp.exp(values - xp.where(impossible, 0, total[:, None])))
        p2 = probs[:, 1] if kept > 1 else xp.where(impossible[:, 0], xp.float32(xp.nan), xp.float32(0))
        parts = (ids[:, 0], probs[:, 0], p2, entropy, total, ids[:, :top_k], probs[:, :top_k])
        return RowStatistics(*(xp.ascontiguousarray(part) for part in parts))

    return [Launch("statistics", (rows, 1, 1), arguments)] if rows else [], result


def run(**arguments: Any) -> Any:
    """Return the operation's result as CuPy arrays."""
    return launch("row_statistics", plan, arguments)

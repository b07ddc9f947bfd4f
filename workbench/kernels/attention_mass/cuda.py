"""Launcher of `attention_mass` on a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from workbench.kernels.attention_mass import AttentionMass, bin_edges
from workbench.kernels.launch import WARP, Launch, Plan, blocks, integer
from workbench.kernels.launch import run as launch

ROWS = 4  # asked rows of a warp in `kernel.cu`


def plan(
    xp: Any,
    threads: int,
    *,
    q: Any,
    k: Any,
    query_bins: int,
    key_bins: int,
    probes: Any,
    window: int | None = None,
    softcap: float | None = None,
) -> Plan:
    """Return the launch of `pool` and its result."""
    heads, length, width = q.shape
    tile = WARP * (width + 1)  # floats of a tile of keys; what the rest of 48 KB holds of queries decides who asks
    workers = max(1, min(threads // WARP, (12288 - tile) // (ROWS * width)))
    asked = xp.arange(length, dtype=xp.int32) if probes is None else xp.sort(probes).astype(xp.int32)
    bins = [xp.asarray(np.repeat(np.arange(n), np.diff(bin_edges(length, n)))).astype(xp.int32) for n in (query_bins, key_bins)]
    query_bin = xp.ascontiguousarray(bins[0][asked])
    mass = xp.zeros((heads, query_bins, key_bins), xp.float32)
    column_sum = xp.zeros((heads, length), xp.float32)
    sizes = (heads, k.shape[0], length, width, asked.size, query_bins, key_bins)
    seen = (integer(length if window is None else min(window, length)), np.float32(softcap or 0.0))
    arguments = (q, k, asked, query_bin, bins[1], mass, column_sum, *(integer(size) for size in sizes), *seen, integer(workers))
    shared = 4 * (tile + workers * ROWS * width)
    grid = (blocks(asked.size, workers * ROWS), heads, 1)

    def result() -> AttentionMass:
        counts = xp.bincount(query_bin, minlength=query_bins)[None, :, None]
        means = xp.where(counts > 0, mass / xp.maximum(counts, 1), xp.nan).astype(xp.float32)
        return AttentionMass(means, column_sum)

    return [Launch("pool", grid, arguments, shared)] if asked.size else [], result


def run(**arguments: Any) -> Any:
    """Return the operation's result as CuPy arrays."""
    return launch("attention_mass", plan, arguments)

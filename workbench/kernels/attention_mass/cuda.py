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
    rows = np.arange(length) if probes is None else np.sort(probes)
    bins = [np.repeat(np.arange(n), np.diff(bin_edges(length, n))) for n in (query_bins, key_bins)]
    together = xp.asarray(np.concatenate([rows, bins[0][rows], bins[1]]).astype(np.int32))  # one transfer
    asked, query_bin, key_bin = together[: rows.size], together[rows.size : 2 * rows.size], together[2 * rows.size :]
    mass = xp.zeros((heads, query_bins, key_bins), xp.float32)
    column_sum = xp.zeros((heads, length), xp.float32)
    sizes = (heads, k.shape[0], length, width, asked.size, query_bins, key_bins)
    seen = (integer(length if window is None else min(window, length)), np.float32(softcap or 0.0))
    arguments = (q, k, asked, query_bin, key_bin, mass, column_sum, *(integer(size) for size in sizes), *seen, integer(workers))
    shared = 4 * (tile + workers * ROWS * width)
    grid = (blocks(asked.size, workers * ROWS), heads, 1)

    def result() -> AttentionMass:
        with np.errstate(divide="ignore"):  # a bin without asked rows is NaN
            share = 1 / np.bincount(bins[0][rows], minlength=query_bins)
        means = mass * xp.asarray(np.where(share < np.inf, share, np.nan).astype(np.float32))[None, :, None]
        return AttentionMass(means, column_sum)

    return [Launch("pool", grid, arguments, shared)] if asked.size else [], result


def run(**arguments: Any) -> Any:
    """Return the operation's result as CuPy arrays."""
    return launch("attention_mass", plan, arguments)

"""Launcher of `tree_attention` on a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from workbench.errors import InputError, expected
from workbench.kernels.launch import WARP, Launch, Plan, blocks, integer
from workbench.kernels.launch import run as launch

SHARE = 512  # keys of one block: enough blocks for a GPU even with one node


def plan(xp: Any, threads: int, *, q: Any, k_prefix: Any, v_prefix: Any, k_tree: Any, v_tree: Any, parents: Any) -> Plan:
    """Return the launches of `attend` and `merge` and their result, out (N, H, d) and lse (N, H)."""
    (nodes, heads, width), (in_tree, key_heads) = q.shape, k_tree.shape[:2]
    if width > 256:
        raise InputError(expected("tree_attention: q", "a head width of at most 256 on a GPU", width))
    warps, tile, keys = threads // WARP, 32 if width <= 128 else 16, k_prefix.shape[0] + in_tree
    splits = max(1, blocks(keys, SHARE))
    out, lse = xp.empty(q.shape, xp.float32), xp.empty((nodes, heads), xp.float32)
    partial, partial_lse = (xp.empty((splits, *shape), xp.float32) for shape in (q.shape, lse.shape))
    seen = xp.asarray(ancestors(parents))
    sizes = [integer(size) for size in (nodes, heads, key_heads, width, k_prefix.shape[0], in_tree, SHARE, tile)]
    arrays = (q, k_prefix, v_prefix, k_tree, v_tree, seen, partial, partial_lse)
    shared = 4 * (tile * (2 * width + 1) + warps * (width + WARP))
    grid = (heads, blocks(nodes, warps), splits)
    rows, merged = nodes * heads, (partial, partial_lse, out, lse)
    launches = [
        Launch("attend", grid, (*arrays, *sizes), shared),
        Launch("merge", (blocks(rows, warps), 1, 1), (*merged, integer(rows), integer(width), integer(splits))),
    ]
    return launches if out.size else [], lambda: (out, lse)


def ancestors(parents: np.ndarray) -> np.ndarray:
    """Return (M, M) uint8, 1 where node n sees node m: itself and its ancestors."""
    seen = np.eye(len(parents), dtype=np.uint8)
    for n, parent in enumerate(parents):
        if parent >= 0:
            seen[n] |= seen[parent]
    return seen


def run(**arguments: Any) -> Any:
    """Return the operation's result as CuPy arrays."""
    return launch("tree_attention", plan, arguments)

"""CPU body of `tree_attention`: heads in parallel, each tile of keys read once for all nodes, online softmax."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from workbench.kernels.simd import LANES, REASSOCIATE, WIDE, exp32, make_mix, make_tile

TILE = 64  # keys in flight: 64 x 64 fp32 of keys and of values stay in the first-level cache
_KEYS = 4 if WIDE else 2  # keys of one register tile
_tile, _single = make_tile(4, _KEYS, prefetch=False), make_tile(4, 1, prefetch=False)
_mix_one, _mix_four = make_mix(4, 1), make_mix(4, 4)
_MINUS = np.float32(-np.inf)


@njit(fastmath=REASSOCIATE, nogil=True)
def _total(values):
    total = np.float32(0.0)
    for i in range(values.size):
        total += values[i]
    return total


@njit(nogil=True)
def _scores(q, keys, first, count, column, scores):
    """Write scores[n, t] = q[n] . keys[first + t, column : column + d] for t < count; -inf in the rest of the tile."""
    width = q.shape[1]
    chunks = width // LANES
    whole = count // _KEYS * _KEYS
    for n in range(0, q.shape[0], 4):
        for t in range(0, whole, _KEYS):
            part = _tile(q, n, 0, keys, first + t, column, chunks)
            for i in range(4):
                for j in range(_KEYS):
                    scores[n + i, t + j] = part[i * _KEYS + j]
        for t in range(whole, count):
            last = _single(q, n, 0, keys, first + t, column, chunks)
            for i in range(4):
                scores[n + i, t] = last[i]
    if chunks * LANES < width:
        for n in range(q.shape[0]):
            for t in range(count):
                for c in range(chunks * LANES, width):
                    scores[n, t] += q[n, c] * keys[first + t, column + c]
    for n in range(q.shape[0]):
        for t in range(count, TILE):
            scores[n, t] = _MINUS


@njit(nogil=True)
def _absorb(scores, count, values, first, column, peak, mass, mixed):
    """Fold one tile of scores into the running maximum, sum of exponentials and weighted values of every row."""
    rows, width = mixed.shape
    for n in range(rows):
        high = peak[n]
        for t in range(TILE):
            high = max(high, scores[n, t])
        shrink = exp32(peak[n] - high) if peak[n] > _MINUS else np.float32(0.0)
        peak[n] = high
        if high == _MINUS:  # every key of this tile is hidden from the row
            for t in range(TILE):
                scores[n, t] = np.float32(0.0)
            continue
        for t in range(TILE):
            scores[n, t] = exp32(scores[n, t] - high)
        mass[n] = mass[n] * shrink + _total(scores[n])
        for c in range(width):
            mixed[n, c] *= shrink
    for n in range(0, rows, 4):
        c = 0
        while c + 4 * LANES <= width:
            _mix_four(scores, n, count, values, first, column + c, mixed, c)
            c += 4 * LANES
        while c + LANES <= width:
            _mix_one(scores, n, count, values, first, column + c, mixed, c)
            c += LANES
        for i in range(n, n + 4):
            for t in range(count):
                for rest in range(c, width):
                    mixed[i, rest] += scores[i, t] * values[first + t, column + rest]


@njit(nogil=True)
def visibility(parents):
    """Return seen (N, N) bool: node n sees key m when m is n itself or an ancestor. parents[n] < n, -1 = no parent."""
    count = parents.shape[0]
    seen = np.zeros((count, count), np.bool_)
    for n in range(count):
        if parents[n] >= 0:
            for m in range(n):
                seen[n, m] = seen[parents[n], m]
        seen[n, n] = True
    return seen


@njit(nogil=True)
def _head(h, q, k_prefix, v_prefix, prefix_len, k_tree, v_tree, seen, out, lse):
    """Do the work of `attend` for one query head; keys and values are (rows, K * d)."""
    nodes, heads, width = q.shape
    in_tree = k_tree.shape[0]
    column = h // (heads // (k_tree.shape[1] // width)) * width
    rows = (nodes + 3) // 4 * 4
    query, mixed = np.zeros((rows, width), np.float32), np.zeros((rows, width), np.float32)
    peak, mass = np.empty(rows, np.float32), np.zeros(rows, np.float32)
    scores = np.zeros((rows, TILE), np.float32)
    scale = np.float32(1.0 / np.sqrt(width))
    for n in range(rows):
        peak[n] = _MINUS
    for n in range(nodes):
        for c in range(width):
            query[n, c] = q[n, h, c] * scale
    for first in range(0, in_tree, TILE):
        count = min(TILE, in_tree - first)
        _scores(query, k_tree, first, count, column, scores)
        for n in range(nodes):
            for t in range(count):
                if not seen[in_tree - nodes + n, first + t]:
                    scores[n, t] = _MINUS
        _absorb(scores, count, v_tree, first, column, peak, mass, mixed)
    for first in range(0, prefix_len, TILE):
        count = min(TILE, prefix_len - first)
        _scores(query, k_prefix, first, count, column, scores)
        _absorb(scores, count, v_prefix, first, column, peak, mass, mixed)
    for n in range(nodes):
        lse[n, h] = peak[n] + np.log(mass[n])
        for c in range(width):
            out[n, h, c] = mixed[n, c] / mass[n]


@njit(parallel=True, nogil=True, cache=True)
def attend(q, k_prefix, v_prefix, prefix_len, k_tree, v_tree, parents, out, lse):
    """Write the attention of N tree nodes over a shared prefix and their own ancestors; scale 1 / sqrt(d).

    The tree may hold M >= N nodes, of which the last N ask: a tree that grows level by level keeps its earlier keys.

    Args:
        q: (N, H, d) fp32. H is a multiple of K; head h reads key head h // (H // K).
        k_prefix, v_prefix: (P or more, K, d) fp32, the first `prefix_len` rows count.
        k_tree, v_tree: (M, K, d) fp32.
        parents: (M,) int64 with parents[n] < n; -1 for a node whose parent is the last prefix token.
        out: (N, H, d) fp32, written. lse: (N, H) fp32, written: log of the sum of exponentials, nats.
        All C-contiguous.
    """
    seen = visibility(parents)
    long, short, wide = k_prefix.shape[0], k_tree.shape[0], k_tree.shape[1] * k_tree.shape[2]
    keys, values = k_prefix.reshape(long, wide), v_prefix.reshape(long, wide)
    tree_keys, tree_values = k_tree.reshape(short, wide), v_tree.reshape(short, wide)
    for h in prange(q.shape[1]):
        _head(np.int64(h), q, keys, values, prefix_len, tree_keys, tree_values, seen, out, lse)


def run(
    q: np.ndarray, k_prefix: np.ndarray, v_prefix: np.ndarray, k_tree: np.ndarray, v_tree: np.ndarray, parents: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return out (N, H, d) and lse (N, H), fp32."""
    out, lse = np.empty(q.shape, np.float32), np.empty(q.shape[:2], np.float32)
    if q.size:
        attend(q, k_prefix, v_prefix, k_prefix.shape[0], k_tree, v_tree, parents.astype(np.int64), out, lse)
    return out, lse

"""CPU body of `attention_mass`: a few query rows at a time, so that memory grows with T and not with T x T."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from workbench.kernels.attention_mass import AttentionMass, bin_edges
from workbench.kernels.simd import LANES, REASSOCIATE, exp32, make_mix

ROWS = 16  # query rows in flight
PANEL = 4 * LANES  # key columns of one register tile
SLICES = 4  # tasks of a head: their partial sums are added in this order, whatever the number of threads
_mix = make_mix(4, 4)


@njit(parallel=True, nogil=True, cache=True)
def transpose_keys(keys, turned):
    """Write turned (K, d, T padded) = keys (K, T, d) transposed; the padding stays as it is."""
    heads, length, width = keys.shape
    for task in prange(heads * ((length + 63) // 64)):
        head, first = np.int64(task) % heads, np.int64(task) // heads * 64
        for c in range(width):
            for t in range(first, min(length, first + 64)):
                turned[head, c, t] = keys[head, t, c]


@njit(fastmath=REASSOCIATE | {"nnan"}, nogil=True)
def _peak(row, first, last):
    high = row[first]
    for t in range(first, last):
        high = max(high, row[t])
    return high


@njit(nogil=True)
def _capped(row, first, last, cap):
    for t in range(first, last):
        row[t] = cap - np.float32(2.0) * cap / (exp32(np.float32(2.0) * row[t] / cap) + np.float32(1.0))  # cap * tanh(x / cap)


@njit(nogil=True)
def _exponentials(row, first, last, peak):
    for t in range(first, last):
        row[t] = exp32(row[t] - peak)


@njit(fastmath=REASSOCIATE, nogil=True)
def _total(row, first, last):
    total = np.float32(0.0)
    for t in range(first, last):
        total += row[t]
    return total


@njit(fastmath=REASSOCIATE, nogil=True)
def _add(target, row, first, last, factor):
    for t in range(first, last):
        target[t] += row[t] * factor


@njit(nogil=True)
def _flush(columns, key_edges, mass, total):
    """Add one query bin's column sums to its pooled row and to the head's column sums, and clear them."""
    for j in range(key_edges.size - 1):
        mass[j] += _total(columns, key_edges[j], key_edges[j + 1])
    for t in range(columns.size):
        total[t] += columns[t]
        columns[t] = np.float32(0.0)


@njit(nogil=True)
def _slice(q, keys, asked, bins, key_edges, window, cap, mass, total):
    """Do the rows `asked` (ascending) of one head: q (T, d), keys (d, T padded); add to mass (Bq, Bk), total (T,)."""
    length, width = q.shape
    query, scores = np.empty((ROWS, width), np.float32), np.empty((ROWS, keys.shape[1]), np.float32)
    columns = np.zeros(length, np.float32)
    scale, current = np.float32(1.0 / np.sqrt(width)), np.int64(-1)
    for start in range(0, asked.size, ROWS):
        count = min(ROWS, asked.size - start)
        for i in range(ROWS):  # a short tile repeats its last row
            for c in range(width):
                query[i, c] = q[asked[start + min(i, count - 1)], c] * scale
        seen = (asked[start + count - 1] + PANEL) // PANEL * PANEL
        low = max(0, asked[start] + 1 - window) // PANEL * PANEL  # no row of the tile looks further back
        for i in range((count + 3) // 4 * 4):
            for t in range(low, seen):
                scores[i, t] = np.float32(0.0)
        for t in range(low, seen, PANEL):
            for i in range(0, count, 4):
                _mix(query, i, width, keys, 0, t, scores, t)
        for i in range(count):
            row, visible = scores[i], asked[start + i] + 1
            first = max(0, visible - window)
            if bins[start + i] != current:
                if current >= 0:
                    _flush(columns, key_edges, mass[current], total)
                current = bins[start + i]
            if cap > 0:
                _capped(row, first, visible, cap)
            _exponentials(row, first, visible, _peak(row, first, visible))
            _add(columns, row, first, visible, np.float32(1.0) / _total(row, first, visible))
    if current >= 0:
        _flush(columns, key_edges, mass[current], total)


@njit(parallel=True, nogil=True, cache=True)
def pool(q, turned, asked, bins, key_edges, window, cap, mass, total):
    """Fill mass (H, SLICES, Bq, Bk) and total (H, SLICES, T), zero before, with sums over the rows `asked`.

    A row sees the last `window` keys; scores are capped at `cap` if that is above 0.
    """
    heads = q.shape[0]
    group = heads // turned.shape[0]
    edges = np.empty(SLICES + 1, np.int64)
    for s in range(SLICES + 1):  # equal work: a row costs its position, so slices end at square roots
        edges[s] = np.int64(np.sqrt(s / SLICES) * asked.size + 0.5)
    for task in prange(heads * SLICES):
        h, part = np.int64(task) // SLICES, np.int64(task) % SLICES
        rows, their_bins = asked[edges[part] : edges[part + 1]], bins[edges[part] : edges[part + 1]]
        _slice(q[h], turned[h // group], rows, their_bins, key_edges, window, cap, mass[h, part], total[h, part])


def run(
    q: np.ndarray,
    k: np.ndarray,
    query_bins: int,
    key_bins: int,
    probes: np.ndarray | None,
    window: int | None = None,
    softcap: float | None = None,
) -> AttentionMass:
    """Return pooled mass (H, Bq, Bk) and column sums (H, T)."""
    heads, length, width = q.shape
    asked = np.arange(length) if probes is None else np.sort(probes.astype(np.int64))
    bins = np.searchsorted(bin_edges(length, query_bins), asked, side="right") - 1
    mass = np.zeros((heads, SLICES, query_bins, key_bins), np.float32)
    total = np.zeros((heads, SLICES, length), np.float32)
    if q.size:
        turned = np.zeros((k.shape[0], width, -(-length // PANEL) * PANEL), np.float32)
        transpose_keys(k, turned)
        seen = np.int64(length if window is None else min(window, length))
        pool(q, turned, asked, bins, bin_edges(length, key_bins), seen, np.float32(softcap or 0.0), mass, total)
    counts = np.bincount(bins, minlength=query_bins)[None, :, None]
    with np.errstate(invalid="ignore"):  # a bin without a probe has no mean: 0 / 0 is NaN by definition
        pooled = mass.sum(1) / counts.astype(np.float32)
    return AttentionMass(pooled, total.sum(1))

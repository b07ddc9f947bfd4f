"""CPU body of `skinny_matmul`: one pass over the weights for up to 32 rows."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from workbench.kernels.simd import LANES, WIDE, aligned_copy, make_tile

BLOCK = 16  # output rows of one task: one cache line of each result row
_one = make_tile(1, 1, prefetch=False)
_row = make_tile(1, 4, prefetch=True)  # four chains of sums at once: with one, int8 weights wait for the adder, not for memory
_FOUR, _EIGHT = (4, 2) if WIDE else (2, 1)  # weight rows in a tile of 4 and of 8 rows of x
_four = make_tile(4, _FOUR, prefetch=True)
_eight = make_tile(8, _EIGHT, prefetch=True)


@njit(nogil=True)
def _dot(x, r, w, o, start):
    """Return the dot product of the columns from `start` on, in order: what no whole vector covers."""
    total = np.float32(0.0)
    for k in range(start, x.shape[1]):
        total += x[r, k] * np.float32(w[o, k])
    return total


@njit(nogil=True)
def products(x, w, first, count, sums):
    """Write sums[r, i] = x[r] . w[first + i] for i < count <= BLOCK; w fp32 or int8, unscaled."""
    rows, chunks = x.shape[0], x.shape[1] // LANES
    i = 0
    if rows > 4:
        while i + _EIGHT <= count:
            for r in range(0, rows, 8):
                part = _eight(x, r, 0, w, first + i, 0, chunks)
                for t in range(min(8, rows - r)):
                    for j in range(_EIGHT):
                        sums[r + t, i + j] = part[t * _EIGHT + j]
            i += _EIGHT
    elif rows > 1:
        while i + _FOUR <= count:
            part = _four(x, 0, 0, w, first + i, 0, chunks)
            for t in range(rows):
                for j in range(_FOUR):
                    sums[t, i + j] = part[t * _FOUR + j]
            i += _FOUR
    else:
        while i + 4 <= count:
            part = _row(x, 0, 0, w, first + i, 0, chunks)
            for j in range(4):
                sums[0, i + j] = part[j]
            i += 4
    for o in range(i, count):
        for r in range(rows):
            sums[r, o] = _one(x, r, 0, w, first + o, 0, chunks)[0]
    if chunks * LANES < x.shape[1]:
        for o in range(count):
            for r in range(rows):
                sums[r, o] += _dot(x, r, w, first + o, chunks * LANES)


@njit(parallel=True, nogil=True, cache=True)
def skinny(x, weight, out):
    """Write out = x @ weight.T.

    Args:
        x: (R, in) fp32, C-contiguous, R >= 1 (fast to 32).
        weight: (out, in) fp32, C-contiguous; best on a 64-byte boundary.
        out: (R, out) fp32, written. Row r does not depend on R or on the other rows, bit for bit.
    """
    source = aligned_copy(x)
    for block in prange((weight.shape[0] + BLOCK - 1) // BLOCK):
        first = block * BLOCK
        count = min(BLOCK, weight.shape[0] - first)
        sums = np.empty((source.shape[0], BLOCK), np.float32)
        products(source, weight, first, count, sums)
        for r in range(source.shape[0]):
            for i in range(count):
                out[r, first + i] = sums[r, i]


def run(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return x @ weight.T, (R, out) fp32."""
    out = np.zeros((x.shape[0], weight.shape[0]), np.float32)
    if out.size and x.size:
        skinny(x, weight, out)
    return out

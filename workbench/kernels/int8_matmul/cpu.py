"""CPU body of `int8_matmul`: int8 weights become fp32 in registers, so memory moves a quarter of the bytes.

Quantising x as well and multiplying integers would add its own rounding error and buys nothing here: at one row the
fp32 body already waits for memory.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from workbench.kernels.simd import LANES, aligned_copy, make_tile
from workbench.kernels.skinny_matmul.cpu import BLOCK, products

_one = make_tile(1, 1, prefetch=False)
_four = make_tile(4, 1, prefetch=False)


@njit(parallel=True, nogil=True, cache=True)
def int8(x, weight, scale, out):
    """Write out[r, o] = scale[o] * (x[r] . weight[o]).

    Args:
        x: (R, in) fp32, C-contiguous, R >= 1 (fast to 32).
        weight: (out, in) int8, C-contiguous.
        scale: (out,) fp32, one for each output row.
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
                out[r, first + i] = sums[r, i] * scale[first + i]


@njit(nogil=True)
def _group(x, r, w, o, start, size, sums):
    """Write sums[t] = x[r + t, start : start + size] . w[o, ...] for up to four rows."""
    chunks = size // LANES
    if x.shape[0] - r == 1:
        sums[0] = _one(x, r, start, w, o, start, chunks)[0]
    else:
        part = _four(x, r, start, w, o, start, chunks)
        for t in range(4):
            sums[t] = part[t]
    for t in range(min(4, x.shape[0] - r)):
        for k in range(start + chunks * LANES, start + size):
            sums[t] += x[r + t, k] * np.float32(w[o, k])


@njit(parallel=True, nogil=True, cache=True)
def int8_groups(x, weight, scale, out):
    """Write out[r, o] = sum over groups g of scale[o, g] * (x[r, group g] . weight[o, group g]).

    Args:
        x: (R, in) fp32, C-contiguous.
        weight: (out, in) int8, C-contiguous.
        scale: (out, groups) fp32; `groups` divides `in`, a group is in / groups neighbouring columns.
        out: (R, out) fp32, written.
    """
    source = aligned_copy(x)
    groups = scale.shape[1]
    size = x.shape[1] // groups
    for o in prange(weight.shape[0]):
        sums = np.empty(4, np.float32)
        for r in range(0, source.shape[0], 4):
            count = min(4, source.shape[0] - r)
            for t in range(count):
                out[r + t, o] = np.float32(0.0)
            for g in range(groups):
                _group(source, r, weight, o, g * size, size, sums)
                for t in range(count):
                    out[r + t, o] += sums[t] * scale[o, g]


def run(x: np.ndarray, weight: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return x @ (scale * weight).T, (R, out) fp32."""
    out = np.zeros((x.shape[0], weight.shape[0]), np.float32)
    if out.size and x.size:
        (int8 if scale.ndim == 1 else int8_groups)(x, weight, scale, out)
    return out

"""CPU body of `row_statistics`: a row is read from memory once and stays in cache for the sums."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from workbench.kernels.row_statistics import RowStatistics
from workbench.kernels.simd import REASSOCIATE, exp32
from workbench.kernels.topk import insert

BLOCK = 256
_MINUS = np.float32(-np.inf)


@njit(fastmath=REASSOCIATE | {"nnan"}, nogil=True)
def _peak(row, first, last):
    """Return the largest of row[first:last]; without NaN, which is not legal here, so that the loop vectorises."""
    high = _MINUS
    for i in range(first, last):
        high = max(high, row[i])
    return high


@njit(nogil=True)
def _exponentials(row, first, last, peak, gaps, terms):
    for i in range(last - first):
        gap = max(row[first + i] - peak, np.float32(-100.0))  # keeps gap * exp(gap) = 0 for -inf
        gaps[i] = gap
        terms[i] = exp32(gap)


@njit(fastmath=REASSOCIATE, nogil=True)
def _sums(gaps, terms, count):
    mass, slope = np.float32(0.0), np.float32(0.0)
    for i in range(count):
        mass += terms[i]
        slope += gaps[i] * terms[i]
    return mass, slope


@njit(nogil=True)
def _row(row, values, ids, result):
    """Fill the sorted lists of the largest logits, and result = (entropy, log-sum-exp)."""
    count, peak = 0, _MINUS
    for first in range(0, row.size, BLOCK):
        last = min(row.size, first + BLOCK)
        best = _peak(row, first, last)
        peak = max(peak, best)
        if count < values.size or best > values[values.size - 1]:
            for i in range(first, last):
                count = insert(row[i], i, values, ids, count)
    if peak == _MINUS:
        result[0], result[1] = np.float32(np.nan), _MINUS
        return
    gaps, terms = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    mass, slope = 0.0, 0.0
    for first in range(0, row.size, BLOCK):
        last = min(row.size, first + BLOCK)
        _exponentials(row, first, last, peak, gaps, terms)
        m, s = _sums(gaps, terms, last - first)
        mass, slope = mass + m, slope + s
    result[0] = np.float32(np.log(mass) - slope / mass)
    result[1] = np.float32(peak + np.log(mass))


@njit(parallel=True, nogil=True, cache=True)
def statistics(logits, values, ids, results):
    """Write for every row the largest logits and their ids (M, kept), and results (M, 2): entropy, log-sum-exp."""
    for m in prange(logits.shape[0]):
        _row(logits[m], values[m], ids[m], results[m])


def run(logits: np.ndarray, top_k: int) -> RowStatistics:
    """Return the statistics of every row."""
    rows, kept = logits.shape[0], min(max(top_k, 2), logits.shape[1])
    values, ids = np.empty((rows, kept), np.float32), np.zeros((rows, kept), np.int64)
    results = np.empty((rows, 2), np.float32)
    if rows:
        statistics(logits, values, ids, results)
    total = results[:, 1]
    with np.errstate(invalid="ignore"):  # -inf minus -inf, a row without any possible id, is NaN by definition
        probs = np.exp(values - total[:, None])
    p2 = probs[:, 1].copy() if kept > 1 else np.where(np.isnan(probs[:, 0]), probs[:, 0], np.float32(0))
    first = np.ascontiguousarray(ids[:, 0])
    top_ids, top_probs = np.ascontiguousarray(ids[:, :top_k]), np.ascontiguousarray(probs[:, :top_k])
    return RowStatistics(first, probs[:, 0].copy(), p2, results[:, 0].copy(), total.copy(), top_ids, top_probs)

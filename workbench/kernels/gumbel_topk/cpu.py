"""CPU body of `gumbel_topk`: one pass over the logits, no vocabulary-sized noise; rows and parts of rows in parallel."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from workbench.kernels.noise import BLOCK, gumbel_block
from workbench.kernels.philox import split_seed
from workbench.kernels.simd import REASSOCIATE, exp32
from workbench.kernels.topk import insert

PARTS = 4  # tasks of a row, so that one row still uses several processors; fixed, so that sums do not depend on them
_MINUS = np.float32(-np.inf)


@njit(fastmath=REASSOCIATE, nogil=True)
def _total(values):
    total = np.float32(0.0)
    for i in range(values.size):
        total += values[i]
    return total


@njit(nogil=True)
def _part(logits, row, first, last, temperature, k0, k1, values, ids):
    """Find the best of logits[row, first:last]; return (count, peak, mass relative to the peak)."""
    words, noise = np.empty(2 * BLOCK, np.uint32), np.empty(BLOCK, np.float32)
    scaled, terms = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    count, peak, mass = 0, _MINUS, np.float32(0.0)
    for start in range(first, last, BLOCK):
        size = min(BLOCK, last - start)
        high, best = peak, _MINUS
        block = logits[row, start : start + size]  # a view that starts at 0, so that LLVM sees no negative index
        gumbel_block(row, start, k0, k1, words, noise)
        for i in range(size):
            scaled[i] = block[i] / temperature
        for i in range(size, BLOCK):
            scaled[i] = _MINUS
        for i in range(BLOCK):
            noise[i] = scaled[i] + noise[i]
            high = max(high, scaled[i])
            best = max(best, noise[i])
        if high == _MINUS:
            continue
        for i in range(BLOCK):
            terms[i] = exp32(scaled[i] - high)
        mass = mass * (exp32(peak - high) if peak > _MINUS else np.float32(0.0)) + _total(terms)
        peak = high
        if count < values.size or best > values[values.size - 1]:
            for i in range(size):
                if noise[i] > _MINUS:
                    count = insert(noise[i], start + i, values, ids, count)
    return count, peak, mass


@njit(parallel=True, nogil=True, cache=True)
def draw(logits, temperature, k0, k1, ids, perturbed, logprobs):
    """Write the k = ids.shape[1] ids of largest log-probability plus Gumbel noise for every row, best first.

    Args:
        logits: (N, V) fp32, C-contiguous; -inf excludes an id.
        temperature: fp32 > 0.
        k0, k1: uint32, low and high half of the seed. The noise of an id depends on seed, row and id alone.
        ids: (N, k) int64, written; -1 where fewer than k ids have a finite logit.
        perturbed, logprobs: (N, k) fp32, written; -inf there.
    """
    rows, vocabulary = logits.shape
    k = ids.shape[1]
    size = (vocabulary // PARTS // BLOCK + 1) * BLOCK
    values, found = np.empty((rows * PARTS, k), np.float32), np.empty((rows * PARTS, k), np.int64)
    counts, peaks, masses = (
        np.empty(rows * PARTS, np.int64),
        np.empty(rows * PARTS, np.float32),
        np.empty(rows * PARTS, np.float32),
    )
    for task in prange(rows * PARTS):
        row, first = np.int64(task) // PARTS, np.int64(task) % PARTS * size
        last = min(vocabulary, first + size)
        counts[task], peaks[task], masses[task] = _part(logits, row, first, last, temperature, k0, k1, values[task], found[task])
    for one in range(rows):
        _merge(one, logits, temperature, values, found, counts, peaks, masses, ids, perturbed, logprobs)


@njit(nogil=True)
def _merge(row, logits, temperature, values, found, counts, peaks, masses, ids, perturbed, logprobs):
    k, count, peak, mass = ids.shape[1], 0, _MINUS, np.float32(0.0)
    for j in range(k):
        ids[row, j], perturbed[row, j], logprobs[row, j] = -1, _MINUS, _MINUS
    for task in range(row * PARTS, (row + 1) * PARTS):
        peak = max(peak, peaks[task])
        for j in range(counts[task]):
            count = insert(values[task, j], found[task, j], perturbed[row], ids[row], count)
    if count == 0:
        return
    for task in range(row * PARTS, (row + 1) * PARTS):
        if masses[task] > np.float32(0.0):
            mass += masses[task] * exp32(peaks[task] - peak)
    total = np.float64(peak) + np.log(np.float64(mass))
    for j in range(count):
        perturbed[row, j] = np.float32(np.float64(perturbed[row, j]) - total)
        logprobs[row, j] = np.float32(np.float64(logits[row, ids[row, j]] / temperature) - total)


def run(logits: np.ndarray, k: int, temperature: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return ids (N, k) int64, perturbed (N, k) and logprobs (N, k) fp32."""
    ids = np.full((logits.shape[0], k), -1, np.int64)
    perturbed, logprobs = np.full((2, *ids.shape), -np.inf, np.float32)
    if ids.size and logits.size:
        low, high = (np.uint32(word) for word in split_seed(seed))
        draw(logits, np.float32(temperature), low, high, ids, perturbed, logprobs)
    return ids, perturbed, logprobs

"""Counter-based random numbers (Philox4x32-10) and Gumbel noise that are the same, bit for bit, on every backend.

The noise is computed with fp32 additions, multiplications and one division in a fixed order and never fused, so numpy,
Numba and CUDA agree in the last bit, and so do the ids that a sampler picks with it.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011. The logarithm is the degree-9
polynomial on [sqrt(1/2), sqrt(2)] of the Cephes library's logf.
"""

from __future__ import annotations

import numpy as np

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
LOG_SERIES = tuple(
    np.float32(c)
    for c in (
        7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1,
        -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
    )
)  # fmt: skip
SQRT_HALF, LN2_HIGH, LN2_LOW = np.float32(0.707106781186547524), np.float32(0.693359375), np.float32(-2.12194440e-4)
STEP = np.float32(2.0**-32)
BELOW_ONE = np.float32(1.0 - 2.0**-24)
LOG_STREAM = 0x4757424C  # fourth counter word of the Gumbel stream, so that other uses of a seed stay independent


def split_seed(seed: int) -> tuple[int, int]:
    """Return the low and the high 32 bits of a seed taken modulo 2**64."""
    return seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF


def philox(counter: np.ndarray, key: tuple[int, int]) -> np.ndarray:
    """Return four random 32-bit words for each counter.

    Args:
        counter: (..., 4) uint32. key: two 32-bit words.

    Returns:
        (..., 4) uint32.
    """
    x = [counter[..., i].astype(np.uint64) for i in range(4)]
    k = list(key)
    low = np.uint64(0xFFFFFFFF)
    for _ in range(ROUNDS):
        a, b = np.uint64(MULTIPLIERS[0]) * x[0], np.uint64(MULTIPLIERS[1]) * x[2]
        high = np.uint64(32)
        x = [(b >> high) ^ x[1] ^ np.uint64(k[0]), b & low, (a >> high) ^ x[3] ^ np.uint64(k[1]), a & low]
        k = [(k[i] + WEYL[i]) & 0xFFFFFFFF for i in range(2)]
    return np.stack(x, -1).astype(np.uint32)


def log(x: np.ndarray) -> np.ndarray:
    """Return the natural logarithm of normal positive fp32 numbers, in a fixed order of fp32 operations."""
    bits = x.view(np.int32)
    power = ((bits >> 23) - 126).astype(np.float32)
    part = ((bits & 0x007FFFFF) | 0x3F000000).view(np.float32)  # in [1/2, 1)
    small = part < SQRT_HALF
    power = power - small.astype(np.float32)
    rest = np.where(small, part + part, part) - np.float32(1)
    square = rest * rest
    series = np.full_like(rest, LOG_SERIES[0])
    for term in LOG_SERIES[1:]:
        series = series * rest + term
    tail = series * rest * square + power * LN2_LOW - square * np.float32(0.5)
    return (rest + tail) + power * LN2_HIGH


def gumbel(words: np.ndarray) -> np.ndarray:
    """Return standard Gumbel noise, fp32 in [-3, 23], for random 32-bit words.

    -log of an exponential, the exponential as -log(1 - v) with v uniform and finest near 0, where large noise comes
    from: no two of a vocabulary's best tokens share a noise value because of rounding.
    """
    v = np.minimum((words.astype(np.float32) + np.float32(0.5)) * STEP, BELOW_ONE)
    left = np.float32(1) - v
    gone = np.float32(1) - left  # v as far as `left` knows it; log1p after Kahan
    ratio = np.divide(v, gone, out=np.ones_like(v), where=gone > 0)
    exponential = np.where(gone > 0, -log(left) * ratio, v)
    return -log(exponential)

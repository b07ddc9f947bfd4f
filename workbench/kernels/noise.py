"""`workbench.kernels.philox` for Numba: the same numbers, bit for bit, in loops that vectorise."""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from workbench.kernels import philox as P
from workbench.kernels.simd import float_from_bits

_M0, _M1 = np.uint64(P.MULTIPLIERS[0]), np.uint64(P.MULTIPLIERS[1])
_W0, _W1 = np.uint32(P.WEYL[0]), np.uint32(P.WEYL[1])
_HIGH = np.uint64(32)
_STREAM = np.uint32(P.LOG_STREAM)
_C0, _C1, _C2, _C3, _C4, _C5, _C6, _C7, _C8 = P.LOG_SERIES
_HALF, _ONE, _STEP, _TOP = np.float32(0.5), np.float32(1), P.STEP, P.BELOW_ONE
_ROOT, _LN2_HIGH, _LN2_LOW = P.SQRT_HALF, P.LN2_HIGH, P.LN2_LOW
BLOCK = 256  # ids whose noise is made at once


@intrinsic
def bits_from_float(typing, number):
    """Return the 32 bits of an fp32 number as int32."""
    return types.int32(types.float32), lambda context, builder, sig, args: builder.bitcast(args[0], ir.IntType(32))


@njit(inline="always")
def _round(c0, c1, c2, c3, k0, k1):
    a, b = _M0 * np.uint64(c0), _M1 * np.uint64(c2)
    n0 = np.uint32(np.uint32(b >> _HIGH) ^ c1 ^ k0)
    n2 = np.uint32(np.uint32(a >> _HIGH) ^ c3 ^ k1)
    return n0, np.uint32(b), n2, np.uint32(a), np.uint32(k0 + _W0), np.uint32(k1 + _W1)


@njit(inline="always")
def philox4(c0, c1, c2, c3, k0, k1):
    """Return four random 32-bit words for one counter of four words and a key of two."""
    c0, c1, c2, c3, k0, k1 = _round(c0, c1, c2, c3, k0, k1)  # ten lines, not a loop: only so does LLVM make vectors
    c0, c1, c2, c3, k0, k1 = _round(c0, c1, c2, c3, k0, k1)
    c0, c1, c2, c3, k0, k1 = _round(c0, c1, c2, c3, k0, k1)
    c0, c1, c2, c3, k0, k1 = _round(c0, c1, c2, c3, k0, k1)
    c0, c1, c2, c3, k0, k1 = _round(c0, c1, c2, c3, k0, k1)
    c0, c1, c2, c3, k0, k1 = _round(c0, c1, c2, c3, k0, k1)
    c0, c1, c2, c3, k0, k1 = _round(c0, c1, c2, c3, k0, k1)
    c0, c1, c2, c3, k0, k1 = _round(c0, c1, c2, c3, k0, k1)
    c0, c1, c2, c3, k0, k1 = _round(c0, c1, c2, c3, k0, k1)
    c0, c1, c2, c3, k0, k1 = _round(c0, c1, c2, c3, k0, k1)
    return c0, c1, c2, c3


@njit(inline="always")
def _log(x):
    bits = bits_from_float(x)  # type: ignore[call-arg, var-annotated]
    power = np.float32((bits >> np.int32(23)) - np.int32(126))
    part = float_from_bits((bits & np.int32(0x007FFFFF)) | np.int32(0x3F000000))
    if part < _ROOT:
        power -= _ONE
        part = part + part
    rest = part - _ONE
    square = rest * rest
    series = _C0 * rest + _C1
    series = series * rest + _C2
    series = series * rest + _C3
    series = series * rest + _C4
    series = series * rest + _C5
    series = series * rest + _C6
    series = series * rest + _C7
    series = series * rest + _C8
    tail = series * rest * square + power * _LN2_LOW - square * _HALF
    return (rest + tail) + power * _LN2_HIGH


@njit(inline="always")
def _gumbel(word):
    v = min((np.float32(word) + _HALF) * _STEP, _TOP)
    left = _ONE - v
    gone = _ONE - left
    safe = gone if gone > np.float32(0) else _ONE
    exponential = -_log(left) * (v / safe)
    return -_log(exponential if gone > np.float32(0) else v)


@njit(nogil=True)
def gumbel_block(row, first, k0, k1, words, noise):
    """Write noise[i] for the ids first + i of one row; `first` is a multiple of 4, `words` and `noise` hold BLOCK."""
    quarter = BLOCK // 4
    for i in range(quarter):
        counter = np.uint32(first // 4 + i)
        a, b, c, d = philox4(counter, np.uint32(row), np.uint32(0), _STREAM, k0, k1)
        words[i], words[quarter + i], words[2 * quarter + i], words[3 * quarter + i] = a, b, c, d
    for i in range(BLOCK):
        words[BLOCK + i] = words[(i & 3) * quarter + (i >> 2)]
    for i in range(BLOCK):
        noise[i] = _gumbel(words[BLOCK + i])

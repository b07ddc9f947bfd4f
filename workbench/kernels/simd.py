"""Register-tiled dot products and a vectorisable exponential for the Numba kernels.

LLVM's own vectoriser streams several weight rows at once and picks another summation order for every tile shape. Here
the order is fixed: every output is one chain of `LANES` partial sums over the columns, so **a row's result is the same,
bit for bit, whatever the other rows are and however many there are**. A verifier that scores one token or eight draws
the same conclusions. The IR also prefetches the next block of weights as one sequential stream, which the hardware
prefetcher does not manage for interleaved rows.
"""

from __future__ import annotations

import math
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16 if llvm.get_host_cpu_features().get("avx512f") else 8
WIDE = LANES == 16  # 32 vector registers instead of 16: larger tiles stay in registers
REASSOCIATE = {"reassoc", "contract", "nsz"}  # the fast-math flags that keep NaN and infinity exact

_F32, _I8, _I32 = ir.FloatType(), ir.IntType(8), ir.IntType(32)
_VECTOR, _BYTES, _INTS = (ir.VectorType(kind, LANES) for kind in (_F32, _I8, _I32))
_BYTE_POINTER = _I8.as_pointer()


def make_tile(rows: int, columns: int, prefetch: bool) -> Any:
    """Return an intrinsic `tile(x, r, w, o, start, chunks)` for dot products of `rows` x-rows with `columns` w-rows.

    The tile multiplies x[r + i, start:stop] by w[o + j, start:stop], stop = start + LANES * chunks, in fp32, and
    returns rows * columns sums, j fastest. x is fp32, w fp32 or int8, both C-contiguous. Rows past the last row of x
    repeat it, so a short tile needs no code of its own; w must hold o + columns rows.
    """

    @intrinsic
    def tile(typing, x, r, w, o, start, chunks):  # type: ignore[no-untyped-def]
        if x.layout != "C" or w.layout != "C":
            return None
        index = types.intp
        signature = types.UniTuple(types.float32, rows * columns)(x, index, w, index, index, index)
        return signature, lambda context, builder, sig, args: _emit(context, builder, sig, args, rows, columns, prefetch)

    return tile


def _emit(context: Any, builder: Any, sig: Any, args: Any, rows: int, columns: int, prefetch: bool) -> Any:
    x = context.make_array(sig.args[0])(context, builder, args[0])
    w = context.make_array(sig.args[2])(context, builder, args[2])
    index = args[1].type

    def whole(value: int) -> ir.Constant:
        return ir.Constant(index, value)

    def row(array: Any, number: Any) -> Any:
        width = cgutils.unpack_tuple(builder, array.shape, 2)[1]
        return builder.gep(array.data, [builder.add(builder.mul(number, width), args[4])])

    last = builder.sub(cgutils.unpack_tuple(builder, x.shape, 2)[0], whole(1))
    x_rows = []
    for i in range(rows):
        number = builder.add(args[1], whole(i))
        x_rows.append(row(x, builder.select(builder.icmp_signed("<", number, last), number, last)))
    w_rows = [row(w, builder.add(args[3], whole(j))) for j in range(columns)]
    sums = [cgutils.alloca_once_value(builder, ir.Constant(_VECTOR, [0.0] * LANES)) for _ in range(rows * columns)]
    fma = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_VECTOR, [_VECTOR] * 3), f"llvm.fmuladd.v{LANES}f32")
    block_bytes = LANES * columns * sig.args[2].dtype.bitwidth // 8
    ahead = builder.bitcast(row(w, builder.add(args[3], whole(columns))), _BYTE_POINTER)
    with cgutils.for_range(builder, args[5], intp=index) as loop:
        offset = builder.mul(loop.index, whole(LANES))
        if prefetch:
            _prefetch(builder, builder.gep(ahead, [builder.mul(loop.index, whole(block_bytes))]), block_bytes, index)
        x_parts = [_load(builder, builder.gep(pointer, [offset]), types.float32) for pointer in x_rows]
        for j, pointer in enumerate(w_rows):
            w_part = _load(builder, builder.gep(pointer, [offset]), sig.args[2].dtype)
            for i, x_part in enumerate(x_parts):
                place = sums[i * columns + j]
                builder.store(builder.call(fma, [x_part, w_part, builder.load(place)]), place)
    return context.make_tuple(builder, sig.return_type, [_horizontal(builder, builder.load(place)) for place in sums])


def _prefetch(builder: Any, start: Any, size: int, index: Any) -> None:
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(ir.VoidType(), [_BYTE_POINTER, _I32, _I32, _I32]), "llvm.prefetch.p0"
    )
    for line in range(0, size, 64):
        read_keep_data = [ir.Constant(_I32, value) for value in (0, 3, 1)]
        builder.call(function, [builder.gep(start, [ir.Constant(index, line)]), *read_keep_data])


def _load(builder: Any, pointer: Any, dtype: Any) -> Any:
    small = dtype == types.int8
    part = builder.load(builder.bitcast(pointer, (_BYTES if small else _VECTOR).as_pointer()))
    part.align = 1 if small else 4
    return builder.sitofp(builder.sext(part, _INTS), _VECTOR) if small else part


def _horizontal(builder: Any, vector: Any) -> Any:
    width = LANES
    while width > 1:
        width //= 2
        halves = [ir.Constant(ir.VectorType(_I32, width), list(range(s, s + width))) for s in (0, width)]
        low, high = (builder.shuffle_vector(vector, vector, half) for half in halves)
        vector = builder.fadd(low, high)
    return builder.extract_element(vector, ir.Constant(_I32, 0))


@intrinsic
def float_from_bits(typing, bits):  # type: ignore[no-untyped-def]
    """Return the fp32 number with these 32 bits."""
    return types.float32(types.int32), lambda context, builder, sig, args: builder.bitcast(args[0], _F32)


_LOG2E = np.float32(1.0 / math.log(2.0))
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_LOWEST, _HIGHEST = np.float32(-87.3), np.float32(88.0)


@njit(inline="always")
def exp32(x):  # type: ignore[no-untyped-def]
    """Return exp(x) in fp32 for x <= 88, within 2 units in the last place; 0 below -87.3, NaN for NaN.

    Only arithmetic, so that a loop over it vectorises (a call of libm's expf does not). Degree-6 polynomial on
    [-ln 2 / 2, ln 2 / 2] after Cody and Waite's two-part reduction.
    """
    clamped = min(max(x, _LOWEST), _HIGHEST)
    power = np.float32(np.floor(clamped * _LOG2E + np.float32(0.5)))
    rest = clamped - power * _LN2_HIGH
    rest = rest - power * _LN2_LOW
    series = np.float32(1.9875691500e-4)
    series = series * rest + np.float32(1.3981999507e-3)
    series = series * rest + np.float32(8.3334519073e-3)
    series = series * rest + np.float32(4.1665795894e-2)
    series = series * rest + np.float32(1.6666665459e-1)
    series = series * rest + np.float32(5.0000001201e-1)
    value = series * rest * rest + rest + np.float32(1.0)
    value = value * float_from_bits((np.int32(power) + np.int32(127)) << np.int32(23))
    if x < _LOWEST:
        value = np.float32(0.0)
    return value if x == x else x


@njit(nogil=True)
def aligned_copy(x):  # type: ignore[no-untyped-def]
    """Return a copy of x (R, in) fp32 that starts on a cache line: a vector load across two lines costs double."""
    scratch = np.empty(x.size + 16, np.float32)
    skip = (-(scratch.ctypes.data >> 2)) & 15
    copy = scratch[skip : skip + x.size].reshape(x.shape)
    copy[:] = x
    return copy

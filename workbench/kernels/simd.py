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
    """Return an intrinsic `tile(x, r, x_start, w, o, w_start, chunks)`: dot products of x-rows with w-rows.

    The tile multiplies LANES * chunks elements of x[r + i, x_start:] and w[o + j, w_start:] in fp32, and
    returns rows * columns sums, j fastest. x is fp32, w fp32 or int8, both C-contiguous. Rows past the last row of x
    repeat it, so a short tile needs no code of its own; w must hold o + columns rows.
    """

    @intrinsic
    def tile(typing, x, r, x_start, w, o, w_start, chunks):
        if x.layout != "C" or w.layout != "C":
            return None
        index = types.intp
        signature = types.UniTuple(types.float32, rows * columns)(x, index, index, w, index, index, index)
        return signature, lambda context, builder, sig, args: _emit(context, builder, sig, args, rows, columns, prefetch)

    return tile


def _emit(context: Any, builder: Any, sig: Any, args: Any, rows: int, columns: int, prefetch: bool) -> Any:
    x = context.make_array(sig.args[0])(context, builder, args[0])
    w = context.make_array(sig.args[3])(context, builder, args[3])
    index = args[1].type

    def whole(value: int) -> ir.Constant:
        return ir.Constant(index, value)

    def row(array: Any, number: Any, start: Any) -> Any:
        width = cgutils.unpack_tuple(builder, array.shape, 2)[1]
        return builder.gep(array.data, [builder.add(builder.mul(number, width), start)])

    last = builder.sub(cgutils.unpack_tuple(builder, x.shape, 2)[0], whole(1))
    x_rows = []
    for i in range(rows):
        number = builder.add(args[1], whole(i))
        x_rows.append(row(x, builder.select(builder.icmp_signed("<", number, last), number, last), args[2]))
    w_rows = [row(w, builder.add(args[4], whole(j)), args[5]) for j in range(columns)]
    sums = [cgutils.alloca_once_value(builder, ir.Constant(_VECTOR, [0.0] * LANES)) for _ in range(rows * columns)]
    fma = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_VECTOR, [_VECTOR] * 3), f"llvm.fmuladd.v{LANES}f32")
    block_bytes = LANES * columns * sig.args[3].dtype.bitwidth // 8
    ahead = builder.bitcast(row(w, builder.add(args[4], whole(columns)), args[5]), _BYTE_POINTER)
    with cgutils.for_range(builder, args[6], intp=index) as loop:
        offset = builder.mul(loop.index, whole(LANES))
        if prefetch:
            _prefetch(builder, builder.gep(ahead, [builder.mul(loop.index, whole(block_bytes))]), block_bytes, index)
        x_parts = [_load(builder, builder.gep(pointer, [offset]), types.float32) for pointer in x_rows]
        for j, pointer in enumerate(w_rows):
            w_part = _load(builder, builder.gep(pointer, [offset]), sig.args[3].dtype)
            for i, x_part in enumerate(x_parts):
                place = sums[i * columns + j]
                builder.store(builder.call(fma, [x_part, w_part, builder.load(place)]), place)
    return context.make_tuple(builder, sig.return_type, _horizontal(builder, [builder.load(place) for place in sums]))


def _multiply_add(builder: Any) -> Any:
    kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)  # fused where the processor can, else two roundings
    return cgutils.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.v{LANES}f32")


def make_mix(rows: int, parts: int) -> Any:
    """Return an intrinsic `mix(p, r, count, v, t, column, out, out_column)` that adds weighted rows of v to out.

    out[r + i, out_column:] += sum over s < count of p[r + i, s] * v[t + s, column:], for i < rows and LANES * parts
    columns, in the order of s. p, v, out are fp32 C-contiguous; p and out must hold r + rows rows.
    """

    @intrinsic
    def mix(typing, p, r, count, v, t, column, out, out_column):
        if p.layout != "C" or v.layout != "C" or out.layout != "C":
            return None
        index = types.intp
        signature = types.void(p, index, index, v, index, index, out, index)
        return signature, lambda context, builder, sig, args: _emit_mix(context, builder, sig, args, rows, parts)

    return mix


def _emit_mix(context: Any, builder: Any, sig: Any, args: Any, rows: int, parts: int) -> Any:
    p, v, out = (context.make_array(sig.args[i])(context, builder, args[i]) for i in (0, 3, 6))
    index = args[1].type

    def place(array: Any, number: Any, start: Any, plus: int = 0) -> Any:
        width = cgutils.unpack_tuple(builder, array.shape, 2)[1]
        offset = builder.add(builder.mul(number, width), builder.add(start, ir.Constant(index, plus)))
        return builder.gep(array.data, [offset])

    numbers = [builder.add(args[1], ir.Constant(index, i)) for i in range(rows)]
    targets = [place(out, number, args[7], LANES * j) for number in numbers for j in range(parts)]
    sums = [cgutils.alloca_once_value(builder, _load(builder, target, types.float32)) for target in targets]
    fma, splat = _multiply_add(builder), ir.Constant(ir.VectorType(_I32, LANES), [0] * LANES)
    with cgutils.for_range(builder, args[2], intp=index) as loop:
        key = builder.add(args[4], loop.index)
        values = [_load(builder, place(v, key, args[5], LANES * j), types.float32) for j in range(parts)]
        for i, number in enumerate(numbers):
            weight = builder.load(place(p, number, loop.index))
            single = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), weight, ir.Constant(_I32, 0))
            weights = builder.shuffle_vector(single, single, splat)
            for j, value in enumerate(values):
                total = sums[i * parts + j]
                builder.store(builder.call(fma, [weights, value, builder.load(total)]), total)
    for target, total in zip(targets, sums, strict=True):
        builder.store(builder.load(total), builder.bitcast(target, _VECTOR.as_pointer())).align = 4
    return context.get_dummy_value()


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


def _horizontal(builder: Any, vectors: list[Any]) -> list[Any]:
    """Return the sum of each vector's lanes; their number is a power of two, at most LANES.

    Halves are folded onto each other, always in the same pairs, while pairs of vectors share a register: a third of
    the instructions of one vector after the other.
    """

    def fold(a: Any, b: Any, segment: int) -> Any:
        starts = range(0, a.type.count + (b.type.count if b is not a else 0), segment)
        low = [start + i for start in starts for i in range(segment // 2)]
        masks = [ir.Constant(ir.VectorType(_I32, len(low)), [i + shift for i in low]) for shift in (0, segment // 2)]
        return builder.fadd(*(builder.shuffle_vector(a, b, mask) for mask in masks))

    count, segment = len(vectors), LANES
    while len(vectors) > 1:
        vectors = [fold(a, b, segment) for a, b in zip(vectors[::2], vectors[1::2], strict=True)]
        segment //= 2
    while segment > 1:
        vectors = [fold(vectors[0], vectors[0], segment)]
        segment //= 2
    return [builder.extract_element(vectors[0], ir.Constant(_I32, i)) for i in range(count)]


@intrinsic
def float_from_bits(typing, bits):
    """Return the fp32 number with these 32 bits."""
    return types.float32(types.int32), lambda context, builder, sig, args: builder.bitcast(args[0], _F32)


_LOG2E = np.float32(1.0 / math.log(2.0))
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_LOWEST, _HIGHEST = np.float32(-87.3), np.float32(88.0)


@njit(fastmath={"contract"}, nogil=True)
def exp32(x):
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
    value = value * float_from_bits((np.int32(power) + np.int32(127)) << np.int32(23))  # type: ignore[call-arg]
    if x < _LOWEST:
        value = np.float32(0.0)
    return value if x == x else x


@njit(nogil=True)
def aligned_copy(x):
    """Return a copy of x (R, in) fp32 that starts on a cache line: a vector load across two lines costs double."""
    scratch = np.empty(x.size + 16, np.float32)
    skip = (-(scratch.ctypes.data >> 2)) & 15
    copy = scratch[skip : skip + x.size].reshape(x.shape)
    for r in range(x.shape[0]):  # a slice assignment compiles its own error messages: five seconds more
        for k in range(x.shape[1]):
            copy[r, k] = x[r, k]
    return copy

"""CPU body of `plane_sweep`: channels last, so that a tap is one contiguous read; image rows in parallel."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from workbench.kernels.plane_sweep import NEAR, SLACK, DepthSweep, PlaneSweep, projection
from workbench.kernels.simd import REASSOCIATE

_NEAR, _SLACK, _ONE = np.float32(NEAR), np.float32(SLACK), np.float32(1)


@njit(fastmath=REASSOCIATE, nogil=True)
def _difference(target, source, here, left, right, below_left, below_right, a, b, channels):
    """Return the mean |target - bilinear(source)| over channels; the places are pixels, rows of (h * w, C) arrays."""
    w00, w01, w10, w11 = (_ONE - a) * (_ONE - b), a * (_ONE - b), (_ONE - a) * b, a * b
    total = np.float32(0.0)
    for c in range(channels):
        sample = source[left, c] * w00 + source[right, c] * w01
        sample += source[below_left, c] * w10 + source[below_right, c] * w11
        total += abs(target[here, c] - sample)
    return total / np.float32(channels)


@njit(nogil=True)
def _sample(target, source, y, x, qx, qy, qz, height, width, channels, border):
    """Return (valid, cost) of one pixel at one depth; q is its homogeneous place in the source."""
    low = np.float32(border) - _SLACK
    if not qz > _NEAR:
        return False, np.float32(0.0)
    u, v = qx / qz, qy / qz
    if not (u >= low and u <= width - 1 - low and v >= low and v <= height - 1 - low):
        return False, np.float32(0.0)
    u = min(max(u, np.float32(0.0)), np.float32(width - 1))
    v = min(max(v, np.float32(0.0)), np.float32(height - 1))
    left, top = np.int64(u), np.int64(v)
    right, bottom = min(left + 1, width - 1), min(top + 1, height - 1)
    upper, lower = top * width, bottom * width
    cost = _difference(
        target,
        source,
        y * width + x,
        upper + left,
        upper + right,
        lower + left,
        lower + right,
        u - np.float32(left),
        v - np.float32(top),
        channels,
    )
    return True, cost


@njit(parallel=True, nogil=True, cache=True)
def sweep(target, source, homography, shift, depths, border, cost, valid):
    """Write cost (D, h, w) fp32 and valid (D, h, w) bool, both zero before.

    Args:
        target, source: (h, w, C) fp32, C-contiguous.
        homography: (3, 3) fp64, K R K^-1; shift: (3,) fp64, K t: a pixel p at depth d falls on d H p + shift.
        depths: (D,) fp32. border: pixels at the image's edge, of both views, that never count.
    """
    height, width, channels = target.shape
    flat_target, flat_source = target.reshape(height * width, channels), source.reshape(height * width, channels)
    for y in prange(border, height - border):
        for x in range(border, width - border):
            ax = np.float32(homography[0, 0] * x + homography[0, 1] * y + homography[0, 2])
            ay = np.float32(homography[1, 0] * x + homography[1, 1] * y + homography[1, 2])
            az = np.float32(homography[2, 0] * x + homography[2, 1] * y + homography[2, 2])
            for i in range(depths.size):
                qx, qy = ax * depths[i] + np.float32(shift[0]), ay * depths[i] + np.float32(shift[1])
                qz = az * depths[i] + np.float32(shift[2])
                seen, value = _sample(flat_target, flat_source, np.int64(y), x, qx, qy, qz, height, width, channels, border)
                cost[i, y, x], valid[i, y, x] = value, seen


@njit(parallel=True, nogil=True, cache=True)
def law(cost, valid, temperature, probability, best, entropy):
    """Write each pixel's softmax of -c / temperature, arg-min and entropy, image rows in parallel.

    One pass finds the smallest and largest valid cost, a second sums exp and c * exp, from which the entropy follows;
    depth planes run outermost within a row, so that reads and writes are contiguous.
    """
    planes, height, width = cost.shape
    for y in prange(height):
        low, high = np.full(width, np.float32(np.inf)), np.full(width, np.float32(-np.inf))
        best[y] = -1
        for i in range(planes):
            for x in range(width):
                value = cost[i, y, x]
                if valid[i, y, x]:
                    if value < low[x]:
                        low[x], best[y, x] = value, i
                    high[x] = max(high[x], value)
        total, moment = np.zeros(width), np.zeros(width)
        for i in range(planes):
            for x in range(width):
                span = high[x] - low[x] if high[x] > low[x] else _ONE
                scaled = (cost[i, y, x] - low[x]) / span if valid[i, y, x] else _ONE
                weight = np.exp(-scaled / temperature)
                probability[i, y, x] = weight
                total[x] += weight
                moment[x] += weight * scaled
        for x in range(width):
            entropy[y, x] = np.log(total[x]) + moment[x] / total[x] / temperature if planes else 0.0
        for i in range(planes):
            for x in range(width):
                probability[i, y, x] = probability[i, y, x] / total[x]


def run(
    target: np.ndarray,
    source: np.ndarray,
    intrinsics: np.ndarray,
    rotation: np.ndarray,
    translation: np.ndarray,
    depths: np.ndarray,
    border: int,
    temperature: float,
) -> PlaneSweep | DepthSweep:
    """Return cost (D, h, w) fp32, valid (D, h, w) bool and, above temperature 0, each pixel's law over depths."""
    shape = (depths.size, *target.shape[1:])
    cost, valid = np.zeros(shape, np.float32), np.zeros(shape, np.bool_)
    if cost.size and 2 * border < min(shape[1:]):
        to, of = (np.ascontiguousarray(image.transpose(1, 2, 0)) for image in (target, source))
        homography, shift = projection(intrinsics, rotation, translation)
        sweep(to, of, homography, shift, depths, border, cost, valid)
    if not temperature:
        return PlaneSweep(cost, valid)
    probability, entropy = np.empty(shape, np.float32), np.empty(shape[1:], np.float32)
    best = np.empty(shape[1:], np.int32)
    law(cost, valid, np.float32(temperature), probability, best, entropy)
    return DepthSweep(cost, valid, probability, best, entropy)

"""The loops of a volume, plane by plane: averages over windows, and SSIM (warp a plane, compare 3 x 3 windows, forget the plane)."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from workbench.kernels.plane_sweep import projection

_C1, _C2 = np.float32(0.01**2), np.float32(0.03**2)
_NINTH, _ONE = np.float32(1 / 9), np.float32(1)


@njit(nogil=True, cache=True)
def _warp(source, homography, shift, depth, out):
    """Write the source (C, h, w) as plane z = depth shows it to the target; edges are repeated."""
    channels, height, width = source.shape
    for y in range(height):
        for x in range(width):
            qx = (homography[0, 0] * x + homography[0, 1] * y + homography[0, 2]) * depth + shift[0]
            qy = (homography[1, 0] * x + homography[1, 1] * y + homography[1, 2]) * depth + shift[1]
            qz = (homography[2, 0] * x + homography[2, 1] * y + homography[2, 2]) * depth + shift[2]
            z = qz if qz > 1e-6 else 1e-6
            u, v = min(max(qx / z, 0.0), width - 1.0), min(max(qy / z, 0.0), height - 1.0)
            left, top = int(u), int(v)
            right, bottom = min(left + 1, width - 1), min(top + 1, height - 1)
            a, b = np.float32(u - left), np.float32(v - top)
            for c in range(channels):
                upper = source[c, top, left] * (_ONE - a) + source[c, top, right] * a
                lower = source[c, bottom, left] * (_ONE - a) + source[c, bottom, right] * a
                out[c, y, x] = upper * (_ONE - b) + lower * b


@njit(nogil=True, cache=True, fastmath=True)
def _unlike(target, warped, mean, variance, out):
    """Add (1 - SSIM) / 2, clipped to [0, 1], of one colour to `out` (h, w); the window shrinks nowhere: edges stay 0."""
    height, width = target.shape
    one, two, both = np.empty(width, np.float32), np.empty(width, np.float32), np.empty(width, np.float32)
    for y in range(1, height - 1):
        for x in range(width):
            a, b, c = warped[y - 1, x], warped[y, x], warped[y + 1, x]
            one[x], two[x] = a + b + c, a * a + b * b + c * c
            both[x] = a * target[y - 1, x] + b * target[y, x] + c * target[y + 1, x]
        for x in range(1, width - 1):
            other = (one[x - 1] + one[x] + one[x + 1]) * _NINTH
            spread = (two[x - 1] + two[x] + two[x + 1]) * _NINTH - other * other
            joint = (both[x - 1] + both[x] + both[x + 1]) * _NINTH - mean[y, x] * other
            top = (2 * mean[y, x] * other + _C1) * (2 * joint + _C2)
            ssim = top / ((mean[y, x] ** 2 + other**2 + _C1) * (variance[y, x] + spread + _C2))
            out[y, x] += min(max((_ONE - ssim) * np.float32(0.5), np.float32(0)), _ONE)


@njit(parallel=True, nogil=True, cache=True)
def _planes(target, source, mean, variance, homography, shift, depths, out):
    for i in prange(depths.size):
        warped = np.empty_like(source)
        _warp(source, homography, shift, depths[i], warped)
        for c in range(source.shape[0]):
            _unlike(target[c], warped[c], mean[c], variance[c], out[i])


def ssim_sweep(
    target: np.ndarray,
    source: np.ndarray,
    intrinsics: np.ndarray,
    rotation: np.ndarray,
    translation: np.ndarray,
    depths: np.ndarray,
    valid: np.ndarray,
) -> np.ndarray:
    """Return mean over colours of (1 - SSIM) / 2, (D, h, w) fp32, 0 where not valid; arguments as `plane_sweep` takes them."""
    from workbench.systems.geometry.volume import box_sum

    mean = box_sum(target, 3) / 9
    variance = box_sum(target * target, 3) / 9 - mean**2
    out = np.zeros(valid.shape, np.float32)
    turned, shift = projection(intrinsics, rotation, translation)
    _planes(target, source, mean, variance, turned, shift, np.asarray(depths, np.float64), out)
    return np.where(valid, out / len(target), 0).astype(np.float32)


@njit(parallel=True, nogil=True, cache=True)
def pool(cost, valid, half, out):
    """Write means of the valid costs in (2 half + 1)-sided windows, (D, h, w) fp32, 0 where not valid: down, then across."""
    planes, height, width = cost.shape
    for i in prange(planes):
        total, count = np.empty(width, np.float32), np.empty(width, np.float32)
        for y in range(height):
            total[:], count[:] = 0, 0
            for row in range(max(0, y - half), min(height, y + half + 1)):
                for x in range(width):
                    known = np.float32(valid[i, row, x])
                    total[x] += cost[i, row, x] * known
                    count[x] += known
            for x in range(width):
                if valid[i, y, x]:
                    value, known = np.float32(0), np.float32(0)
                    for column in range(max(0, x - half), min(width, x + half + 1)):
                        value += total[column]
                        known += count[column]
                    out[i, y, x] = value / known
                else:
                    out[i, y, x] = 0


@njit(parallel=True, nogil=True, cache=True)
def lowest(cost, best):
    """Write the first depth of the smallest cost of each pixel, (h, w) int64, plane by plane: numpy walks across planes."""
    planes, height, width = cost.shape
    for y in prange(height):
        least = cost[0, y].copy()
        best[y] = 0
        for i in range(1, planes):
            for x in range(width):
                if cost[i, y, x] < least[x]:
                    least[x] = cost[i, y, x]
                    best[y, x] = i


@njit(parallel=True, nogil=True, cache=True)
def second_lowest(cost, best, away, out):
    """Write the smallest cost more than `away` depths from the smallest, (h, w) fp32; inf where there is none."""
    planes, height, width = cost.shape
    for y in prange(height):
        out[y] = np.inf
        for i in range(planes):
            for x in range(width):
                if abs(i - best[y, x]) > away and cost[i, y, x] < out[y, x]:
                    out[y, x] = cost[i, y, x]


@njit(parallel=True, nogil=True, cache=True)
def moments(law, depths, entropy, mean, square):
    """Write each pixel's entropy (nats), mean and mean square of depth under a law over depths, (h, w) fp32."""
    planes, height, width = law.shape
    for y in prange(height):
        entropy[y], mean[y], square[y] = 0, 0, 0
        for i in range(planes):
            depth = depths[i]
            for x in range(width):
                p = law[i, y, x]
                entropy[y, x] -= p * np.log(max(p, np.float32(1e-30)))
                mean[y, x] += p * depth
                square[y, x] += p * depth * depth

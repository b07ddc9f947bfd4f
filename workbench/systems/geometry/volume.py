"""Depth candidates and the matching cost of every pixel at each of them.

A volume compares two frames by L1 (through the kernel `plane_sweep`), by SSIM, or by their mix, and may pool costs over a
window. What cannot be compared, because it falls outside the other image or behind its camera, is kept in a mask of its own:
a cost of 0 is a perfect match here, not a missing one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from workbench import kernels
from workbench.errors import InputError, expected
from workbench.kernels.plane_sweep import NEAR, SLACK

BINNINGS = ("log", "linear", "inverse")
COSTS = ("l1", "ssim", "mix")
C1, C2 = 0.01**2, 0.03**2  # SSIM's constants for intensities in [0, 1]
SSIM_SHARE = 0.85  # of the mix; the rest is L1
BORDER = 2  # pixels at the edge of either image that never count


class Pair(NamedTuple):
    """Two frames and how to get from one to the other.

    Attributes:
        target, source: (h, w, 3) fp32 in [0, 1]. intrinsics: (3, 3) px. rotation (3, 3), translation (3,) m: target to source.
    """

    target: np.ndarray
    source: np.ndarray
    intrinsics: np.ndarray
    rotation: np.ndarray
    translation: np.ndarray


class Volume(NamedTuple):
    """Costs (D, h, w) fp32, where they are known (D, h, w) bool, and the depths (D,) fp32 m they belong to.

    A missing cost holds the pixel's largest known one, 1 where none is known.
    """

    cost: np.ndarray
    valid: np.ndarray
    depths: np.ndarray


def bins(nearest: float, farthest: float, count: int, binning: str) -> np.ndarray:
    """Return `count` depths from `nearest` to `farthest`, fp32, near to far.

    Args:
        nearest, farthest: m, 0 < nearest < farthest. count: at least 2.
        binning: "log" (equal ratios), "linear" (equal steps), "inverse" (equal steps of 1 / depth).
    Raises:
        InputError: the range is empty or reversed, fewer than two depths, an unknown binning.
    Source:
        arXiv 2407.09303, the spacing of the released code ("SID") and of ManyDepth.
    """
    if not 0 < nearest < farthest < np.inf:
        raise InputError(
            expected("depth range", "0 < nearest < farthest", f"{nearest:g} to {farthest:g} m", then="Swap or widen the two")
        )
    if count < 2:
        raise InputError(expected("depth_bins", "at least 2 depths to compare", count, then="Use 64"))
    if binning not in BINNINGS:
        raise InputError(expected("binning", " or ".join(BINNINGS), repr(binning)))
    place = np.linspace(0, 1, count)
    if binning == "linear":
        depths = nearest + place * (farthest - nearest)
    elif binning == "inverse":
        depths = 1 / (1 / nearest + place * (1 / farthest - 1 / nearest))
    else:
        depths = nearest * (farthest / nearest) ** place
    return depths.astype(np.float32)


def check(pair: Pair) -> None:
    """Raise `InputError` unless both frames are pictures of one size and the camera has moved."""
    for name, image in (("target frame", pair.target), ("source frame", pair.source)):
        if image.ndim != 3 or image.shape[2] != 3 or min(image.shape[:2]) < 2 * BORDER + 3:
            raise InputError(expected(name, "(h, w, 3) with at least 7 x 7 pixels", f"shape {image.shape}"))
        if not np.isfinite(image).all():
            raise InputError(
                expected(name, "finite numbers", f"{int((~np.isfinite(image)).sum())} that are not", then="Fill them first")
            )
    if pair.target.shape != pair.source.shape:
        sizes = " and ".join(f"{i.shape[1]} x {i.shape[0]}" for i in pair[:2])
        raise InputError(expected("pair of frames", "two pictures of one size", sizes, then="Crop both alike"))
    if np.linalg.norm(pair.translation) < 1e-6:
        then = "Give the camera some centimetres to move"
        raise InputError(expected("baseline", "a camera that moves", "two frames from one place", then=then))


def homography(pair: Pair, depth: float) -> np.ndarray:
    """Return H_d (3, 3), which takes pixels of the target to the source's for the plane z = depth.

    Source:
        arXiv 2407.09303 section 3.1; Collins 1996. The sign is + because (R, t) maps target to source.
    """
    toward = np.outer(pair.translation, [0, 0, 1.0]) / depth
    return pair.intrinsics @ (pair.rotation + toward) @ np.linalg.inv(pair.intrinsics)


def positions(pair: Pair, pixel: tuple[float, float], depths: np.ndarray) -> np.ndarray:
    """Return where a target pixel (x, y) is looked for in the source, (D, 2) px; NaN behind the camera."""
    ray = np.linalg.inv(pair.intrinsics) @ [*pixel, 1.0]
    seen = (np.outer(depths, pair.rotation @ ray) + pair.translation) @ pair.intrinsics.T
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(seen[:, 2:] > 1e-6, seen[:, :2] / seen[:, 2:], np.nan)


def sweep(pair: Pair, depths: np.ndarray, *, cost: str = "l1", patch: int = 1) -> Volume:
    """Return the cost volume of a pair.

    Args:
        depths: (D,) m, positive. cost: "l1" (mean over colours), "ssim" ((1 - SSIM) / 2 over 3 x 3 windows) or "mix".
        patch: odd side of the window over which costs are averaged; 1 for none.
    Source:
        arXiv 2407.09303 section 3.1 (L1 over features, here over colours); the mix is Monodepth2's photometric error.
    """
    if cost not in COSTS:
        raise InputError(expected("cost", " or ".join(COSTS), repr(cost)))
    if patch < 1 or patch % 2 == 0:
        raise InputError(expected("patch", "an odd side in pixels, 1 for none", patch))
    target, source = (np.ascontiguousarray(image.transpose(2, 0, 1), np.float32) for image in pair[:2])
    k, rotation, translation = (np.asarray(a, np.float32) for a in pair[2:])
    absolute = kernels.plane_sweep(target, source, k, rotation, translation, depths, border=BORDER)
    value, valid = absolute.cost, absolute.valid
    if cost != "l1":
        from workbench.systems.geometry.loops import ssim_sweep

        alike = ssim_sweep(target, source, k, rotation, translation, depths, valid)
        value = alike if cost == "ssim" else SSIM_SHARE * alike + (1 - SSIM_SHARE) * value
    if patch > 1:
        value = pooled(value, valid, patch)
    highest = np.where(valid, value, -1).max(0)
    return Volume(np.where(valid, value, np.where(highest < 0, 1, highest)), valid, np.asarray(depths, np.float32))


def pooled(cost: np.ndarray, valid: np.ndarray, patch: int) -> np.ndarray:
    """Return costs averaged over the valid part of a `patch` x `patch` window, plane by plane; 0 where not valid."""
    from workbench.systems.geometry.loops import pool

    out = np.empty(cost.shape, np.float32)
    pool(cost, valid, patch // 2, out)
    return out


def box_sum(planes: np.ndarray, side: int) -> np.ndarray:
    """Return sums over side x side windows of the last two axes; outside counts as 0."""
    half = side // 2
    for axis in (-1, -2):
        out = planes.copy()
        for shift in range(1, half + 1):
            for ahead, behind in ((slice(shift, None), slice(None, -shift)), (slice(None, -shift), slice(shift, None))):
                to, of = [slice(None)] * planes.ndim, [slice(None)] * planes.ndim
                to[axis], of[axis] = ahead, behind
                out[tuple(to)] += planes[tuple(of)]
        planes = out
    return planes


def ssim(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return SSIM (..., h, w) over 3 x 3 uniform windows, population variances; true one pixel away from the edge."""
    mean_1, mean_2 = box_sum(one, 3) / 9, box_sum(other, 3) / 9
    variance_1, variance_2 = box_sum(one * one, 3) / 9 - mean_1**2, box_sum(other * other, 3) / 9 - mean_2**2
    together = box_sum(one * other, 3) / 9 - mean_1 * mean_2
    top = (2 * mean_1 * mean_2 + C1) * (2 * together + C2)
    return top / ((mean_1**2 + mean_2**2 + C1) * (variance_1 + variance_2 + C2))


def warp(pair: Pair, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (the source as the target would see it (h, w, 3), valid (h, w)) for a depth of every pixel.

    Bilinear; pixel centres are whole numbers. Its derivative by depth exists away from whole positions.
    """
    height, width = depth.shape
    y, x = np.mgrid[0:height, 0:width].astype(float)
    rays = np.stack([x.ravel(), y.ravel(), np.ones(x.size)]).T @ np.linalg.inv(pair.intrinsics).T
    seen = ((depth.reshape(-1, 1) * rays) @ pair.rotation.T + pair.translation) @ pair.intrinsics.T
    with np.errstate(divide="ignore", invalid="ignore"):
        u, v = seen[:, 0] / seen[:, 2], seen[:, 1] / seen[:, 2]
    valid = (
        (seen[:, 2] > NEAR)
        & (np.abs(2 * u - width + 1) <= width - 1 + SLACK)
        & (np.abs(2 * v - height + 1) <= height - 1 + SLACK)
    )
    u, v = (np.clip(np.where(valid, place, 0), 0, size - 1) for place, size in ((u, width), (v, height)))
    left, top = np.minimum(u.astype(int), width - 2), np.minimum(v.astype(int), height - 2)
    a, b = (u - left)[:, None], (v - top)[:, None]
    s = pair.source
    upper = s[top, left] * (1 - a) + s[top, left + 1] * a
    lower = s[top + 1, left] * (1 - a) + s[top + 1, left + 1] * a
    return (upper * (1 - b) + lower * b).reshape(height, width, 3), valid.reshape(height, width)


def photometric(pair: Pair, depth: np.ndarray) -> np.ndarray:
    """Return pe (h, w): 0.85 (1 - SSIM) / 2 + 0.15 L1 between the target and the source warped by a depth; NaN outside.

    Source:
        arXiv 2407.09303, eq. of the photometric loss (from Monodepth2).
    """
    back, valid = warp(pair, np.where(np.isfinite(depth), depth, 1.0))
    planes = [image.transpose(2, 0, 1).astype(np.float32) for image in (pair.target, back)]
    unlike = np.clip((1 - ssim(*planes)) / 2, 0, 1).mean(0)
    error = SSIM_SHARE * unlike + (1 - SSIM_SHARE) * np.abs(planes[0] - planes[1]).mean(0)
    return np.where(valid & np.isfinite(depth), error, np.nan)

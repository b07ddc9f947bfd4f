"""A classical matcher beside ours: OpenCV's semi-global block matching, on rectified pairs, where OpenCV is installed."""

from __future__ import annotations

import math
from importlib.util import find_spec

import numpy as np

from workbench.errors import InputError, expected
from workbench.systems.geometry.pairs import Setting

NAME = "semi-global (OpenCV)"
SIDE = 5  # pixels of the block
SUBPIXEL = 16  # the library's unit of disparity


def available() -> bool:
    """Return whether OpenCV can be imported."""
    return find_spec("cv2") is not None


def matched(setting: Setting, nearest: float, farthest: float) -> np.ndarray:
    """Return the depth (h, w) fp32 m of a rectified pair by semi-global matching, NaN where it finds none.

    No filter removes doubtful matches, so that its bad pixels compare with those of a volume that answers everywhere.

    Args:
        nearest, farthest: m; the disparities between them are searched.
    Raises:
        InputError: the pair is not rectified.
    Source:
        Hirschmueller, IEEE TPAMI 2008, as OpenCV's `StereoSGBM` has it (eight paths), penalties by its manual's rule.
    """
    if setting.offset is None:
        raise InputError(expected("pair", "a rectified one for semi-global matching", "a camera that moves freely"))
    import cv2

    low = math.floor(setting.focal_baseline / farthest - setting.offset)
    count = 16 * math.ceil((setting.focal_baseline / nearest - setting.offset - low + 1) / 16)
    before, after = max(0, low + count), max(0, -low)  # columns that a search would leave: the picture's edge is repeated
    left, right = (
        np.pad(np.rint(np.clip(i, 0, 1) * 255).astype(np.uint8), ((0, 0), (before, after), (0, 0)), mode="edge")
        for i in setting.pair[:2]
    )
    area = 3 * SIDE**2
    matcher = cv2.StereoSGBM.create(
        minDisparity=low, numDisparities=count, blockSize=SIDE, P1=8 * area, P2=32 * area, mode=cv2.STEREO_SGBM_MODE_HH
    )
    raw = matcher.compute(left, right)[:, before : before + setting.true.shape[1]].astype(np.float32) / SUBPIXEL
    total = raw + np.float32(setting.offset)
    with np.errstate(divide="ignore"):
        depth = np.float32(setting.focal_baseline) / total
    return np.where((raw >= low) & (total > 0), depth, np.nan).astype(np.float32)

"""How far off a depth is, and how well a measure finds what moves."""

from __future__ import annotations

import numpy as np


def errors(depth: np.ndarray, true: np.ndarray, where: np.ndarray | None = None) -> dict[str, float]:
    """Return AbsRel, RMSE (m), delta < 1.25 (share) and how many pixels; NaN where none can be judged.

    Args:
        depth, true: (h, w) m; pixels where either is not finite are left out. where: (h, w) bool, a part of the picture.
    """
    known = np.isfinite(depth) & np.isfinite(true)
    known = known if where is None else known & where
    d, t = depth[known].astype(float), true[known].astype(float)
    if not len(d):
        return {"abs_rel": np.nan, "rmse": np.nan, "delta": np.nan, "pixels": 0}
    ratio = np.maximum(d / t, t / d)
    return {
        "abs_rel": float(np.mean(np.abs(d - t) / t)),
        "rmse": float(np.sqrt(np.mean((d - t) ** 2))),
        "delta": float(np.mean(ratio < 1.25)),
        "pixels": len(d),
    }


def bad_pixels(depth: np.ndarray, true: np.ndarray, focal_baseline: float, threshold: float = 2.0) -> float:
    """Return the share of pixels whose disparity is off by more than `threshold` px; a missing depth counts as bad.

    Args:
        focal_baseline: f B, px m. depth, true: m; pixels without true depth are left out.
    """
    known = np.isfinite(true)
    off = np.abs(focal_baseline / depth[known] - focal_baseline / true[known])
    return float(np.mean(~(off <= threshold))) if known.any() else float("nan")


def roc(score: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Return (false alarms, hits, area under the curve) of finding `truth` where `score` is high; equals share a threshold.

    Where nothing is to be found, or nothing else, the area is NaN.
    """
    if not len(score):
        return np.array([0.0, 1.0]), np.array([0.0, 1.0]), float("nan")
    order = np.argsort(-score)  # not a stable sort, which takes three times as long: only the last of equals counts
    sorted_score, found = score[order], truth[order].astype(float)
    last = np.flatnonzero(np.append(np.diff(sorted_score) != 0, True))
    hits, alarms = np.cumsum(found)[last], np.cumsum(1 - found)[last]
    if not hits[-1] or not alarms[-1]:
        return np.array([0.0, 1.0]), np.array([0.0, 1.0]), float("nan")
    x, y = np.append(0, alarms / alarms[-1]), np.append(0, hits / hits[-1])
    return x, y, float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2))

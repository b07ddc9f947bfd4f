"""The definition of `plane_sweep`: project, sample bilinearly, mean absolute difference; fp64, one depth at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from workbench.kernels.plane_sweep import NEAR, SLACK, DepthSweep, PlaneSweep


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
    _, height, width = target.shape
    camera = intrinsics.astype(np.float64)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    rays = np.linalg.inv(camera) @ np.stack([x, y, np.ones_like(x)]).reshape(3, -1)
    cost = np.zeros((len(depths), height, width))
    valid = np.zeros(cost.shape, bool)
    core = _inside(x, y, height, width, border)
    for i, depth in enumerate(depths.astype(np.float64)):
        point = camera @ (rotation.astype(np.float64) @ (depth * rays) + translation.astype(np.float64)[:, None])
        ahead = point[2] > NEAR
        u, v = (np.where(ahead, point[j] / np.where(ahead, point[2], 1), -9).reshape(height, width) for j in (0, 1))
        valid[i] = core & _inside(u, v, height, width, border)
        cost[i] = np.where(valid[i], np.abs(target - _bilinear(source, u, v)).mean(0), 0)
    volume = PlaneSweep(cost.astype(np.float32), valid)
    return law(*volume, temperature) if temperature else volume


def law(cost: np.ndarray, valid: np.ndarray, temperature: float) -> DepthSweep:
    """Return the volume with softmax(-c / temperature), arg-min and entropy (nats) of each pixel; fp64 inside."""
    planes, any_valid = len(cost), valid.any(0)
    exact = cost.astype(np.float64)
    low = np.where(valid, exact, np.inf).min(0, initial=np.inf)
    high = np.where(valid, exact, -np.inf).max(0, initial=-np.inf)
    span = np.where(any_valid & (high > low), high - low, 1.0)
    scaled = np.where(valid, (exact - np.where(any_valid, low, 0.0)) / span, 1.0)
    weight = np.exp(-scaled / temperature)
    probability = weight / weight.sum(0) if planes else weight
    entropy = -(probability * np.log(np.maximum(probability, np.finfo(float).tiny))).sum(0)
    best = np.where(any_valid, np.where(valid, exact, np.inf).argmin(0), -1) if planes else np.full(cost.shape[1:], -1)
    return DepthSweep(cost, valid, probability.astype(np.float32), best.astype(np.int32), entropy.astype(np.float32))


def _inside(u: Any, v: Any, height: int, width: int, border: int) -> Any:
    low = border - SLACK
    return (u >= low) & (u <= width - 1 - low) & (v >= low) & (v <= height - 1 - low)


def _bilinear(source: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    _, height, width = source.shape
    u, v = np.clip(u, 0, width - 1), np.clip(v, 0, height - 1)
    left, top = np.floor(u).astype(int), np.floor(v).astype(int)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    a, b = u - left, v - top
    upper = source[:, top, left] * (1 - a) + source[:, top, right] * a
    lower = source[:, bottom, left] * (1 - a) + source[:, bottom, right] * a
    return upper * (1 - b) + lower * b

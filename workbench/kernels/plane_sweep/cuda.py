"""Launcher of `plane_sweep` on a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from workbench.kernels.launch import Launch, Plan, blocks, integer
from workbench.kernels.launch import run as launch
from workbench.kernels.plane_sweep import NEAR, SLACK, DepthSweep, PlaneSweep, projection


def plan(
    xp: Any,
    threads: int,
    *,
    target: Any,
    source: Any,
    intrinsics: Any,
    rotation: Any,
    translation: Any,
    depths: Any,
    border: int,
    temperature: float,
) -> Plan:
    """Return the launch of `sweep`, then of `law` above temperature 0, and the result."""
    channels, height, width = target.shape
    turn, move = projection(intrinsics, rotation, translation)
    together = xp.asarray(np.concatenate([turn.ravel(), move]).astype(np.float32))  # one transfer
    homography, shift = together[:9], together[9:]
    cost = xp.zeros((depths.size, height, width), xp.float32)
    valid = xp.zeros(cost.shape, xp.uint8)
    sizes = (integer(size) for size in (channels, height, width, depths.size, border))
    arguments = (target, source, homography, shift, depths, cost, valid, *sizes, np.float32(NEAR), np.float32(SLACK))
    launches = [Launch("sweep", (blocks(width, threads), height, depths.size), arguments)] if cost.size else []
    if not temperature:
        return launches, lambda: PlaneSweep(cost, valid.view(bool))
    probability, entropy = xp.zeros(cost.shape, xp.float32), xp.zeros(cost.shape[1:], xp.float32)
    best = xp.full(cost.shape[1:], -1, xp.int32)
    results = (probability, best, entropy, integer(height * width), integer(depths.size), np.float32(temperature))
    if cost.size:
        launches.append(Launch("law", (blocks(height * width, threads), 1, 1), (cost, valid, *results)))
    return launches, lambda: DepthSweep(cost, valid.view(bool), probability, best, entropy)


def run(**arguments: Any) -> Any:
    """Return the operation's result as CuPy arrays."""
    return launch("plane_sweep", plan, arguments)

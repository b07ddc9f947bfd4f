"""Launcher of `plane_sweep` on a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from workbench.kernels.launch import Launch, Plan, blocks, integer
from workbench.kernels.launch import run as launch
from workbench.kernels.plane_sweep import NEAR, SLACK, PlaneSweep, projection


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
) -> Plan:
    """Return the launch of `sweep` and its result."""
    channels, height, width = target.shape
    host = [array.get() if hasattr(array, "get") else array for array in (intrinsics, rotation, translation)]
    homography, shift = (xp.asarray(part.astype(np.float32)) for part in projection(*host))
    cost = xp.zeros((depths.size, height, width), xp.float32)
    valid = xp.zeros(cost.shape, xp.uint8)
    sizes = (integer(size) for size in (channels, height, width, depths.size, border))
    arguments = (target, source, homography, shift, depths, cost, valid, *sizes, np.float32(NEAR), np.float32(SLACK))
    launches = [Launch("sweep", (blocks(width, threads), height, depths.size), arguments)]
    return launches if cost.size else [], lambda: PlaneSweep(cost, valid.astype(bool))


def run(**arguments: Any) -> Any:
    """Return the operation's result as CuPy arrays."""
    return launch("plane_sweep", plan, arguments)

"""Launcher of `gumbel_topk` on a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from workbench.kernels.launch import Launch, Plan, integer
from workbench.kernels.launch import run as launch
from workbench.kernels.philox import split_seed


def plan(xp: Any, threads: int, *, logits: Any, k: int, temperature: float, seed: int) -> Plan:
    """Return the launch of `draw` and its result: ids, perturbed, logprobs (N, k)."""
    rows, vocabulary = logits.shape
    ids = xp.full((rows, k), -1, xp.int64)
    perturbed, logprobs = (xp.full((rows, k), -xp.inf, xp.float32) for _ in range(2))
    low, high = (np.uint32(word) for word in split_seed(seed))
    numbers = (integer(vocabulary), integer(k), np.float32(temperature), low, high)
    launches = [Launch("draw", (rows, 1, 1), (logits, ids, perturbed, logprobs, *numbers))]
    return launches if ids.size else [], lambda: (ids, perturbed, logprobs)


def run(**arguments: Any) -> Any:
    """Return the operation's result as CuPy arrays."""
    return launch("gumbel_topk", plan, arguments)

"""Launcher of `gumbel_topk` on a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from workbench.kernels.launch import HELD, Launch, Plan, blocks, integer
from workbench.kernels.launch import run as launch
from workbench.kernels.philox import split_seed


def plan(xp: Any, threads: int, *, logits: Any, k: int, temperature: float, seed: int) -> Plan:
    """Return the launches of `share` and `merge` and their result: ids, perturbed, logprobs (N, k)."""
    rows, vocabulary = logits.shape
    shares, kept = blocks(vocabulary, HELD * threads), min(k, HELD * threads)
    parts, values = xp.empty((rows, shares, 3), xp.float32), xp.empty((rows, shares, kept), xp.float32)
    picked, ids = xp.empty(values.shape, xp.int32), xp.empty((rows, k), xp.int64)
    perturbed, logprobs = xp.empty((2, rows, k), xp.float32)
    heat, (low, high) = np.float32(temperature), (np.uint32(word) for word in split_seed(seed))
    sizes = [integer(size) for size in (vocabulary, shares, kept, k)]
    launches = [
        Launch("share", (rows, shares, 1), (logits, parts, values, picked, sizes[0], sizes[2], heat, low, high)),
        Launch("merge", (rows, 1, 1), (logits, parts, values, picked, ids, perturbed, logprobs, *sizes, heat)),
    ]
    return launches if ids.size else [], lambda: (ids, perturbed, logprobs)


def run(**arguments: Any) -> Any:
    """Return the operation's result as CuPy arrays."""
    return launch("gumbel_topk", plan, arguments)

"""Launcher of `expert_dispatch` on a GPU."""

from __future__ import annotations

from typing import Any

from workbench.kernels.expert_dispatch import Dispatch, token_order
from workbench.kernels.launch import Launch, Plan, blocks, integer
from workbench.kernels.launch import run as launch


def plan(xp: Any, threads: int, *, experts: Any, weights: Any, num_experts: int, capacity: int, order: str, seed: int) -> Plan:
    """Return the launches of `rank`, `offset` and `place` and their result."""
    tokens, choices = experts.shape
    needed = weights.get() if order == "priority" and hasattr(weights, "get") else weights
    served = xp.asarray(token_order(needed, order, seed))
    chosen = experts.astype(xp.int32)
    slot, load = xp.full(experts.shape, -1, xp.int32), xp.zeros(num_experts, xp.int64)
    offsets, permutation = xp.zeros(num_experts + 1, xp.int64), xp.zeros(experts.size, xp.int64)
    limit = integer(min(capacity, 2**31 - 1))
    launches = [
        Launch("rank", (num_experts, 1, 1), (chosen, served, slot, load, integer(tokens), integer(choices), limit)),
        Launch("offset", (1, 1, 1), (load, offsets, integer(num_experts), limit)),
        Launch("place", (blocks(experts.size, threads), 1, 1), (chosen, slot, offsets, permutation, integer(experts.size))),
    ]
    return launches if experts.size else [], lambda: Dispatch(slot, load, offsets, permutation[: int(offsets[-1])].copy())


def run(**arguments: Any) -> Any:
    """Return the operation's result as CuPy arrays."""
    return launch("expert_dispatch", plan, arguments)

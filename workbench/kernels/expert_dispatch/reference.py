"""The definition of `expert_dispatch`: walk the choices in their order and count."""

from __future__ import annotations

import numpy as np

from workbench.kernels.expert_dispatch import Dispatch, token_order


def run(experts: np.ndarray, weights: np.ndarray, num_experts: int, capacity: int, order: str, seed: int) -> Dispatch:
    """Return slots, loads, offsets and the permutation."""
    slot = np.full(experts.shape, -1, np.int32)
    load = np.zeros(num_experts, np.int64)
    queues: list[list[int]] = [[] for _ in range(num_experts)]
    for choice in range(experts.shape[1]):
        for token in token_order(weights, order, seed):
            expert = experts[token, choice]
            if load[expert] < capacity:
                slot[token, choice] = load[expert]
                queues[expert].append(int(token) * experts.shape[1] + choice)
            load[expert] += 1
    offsets = np.concatenate([[0], np.cumsum([len(queue) for queue in queues])]).astype(np.int64)
    return Dispatch(slot, load, offsets, np.array([i for queue in queues for i in queue], np.int64))

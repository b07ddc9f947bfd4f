"""The definition of `tree_attention`: a plain softmax over the visible keys, in fp64."""

from __future__ import annotations

import numpy as np


def run(
    q: np.ndarray, k_prefix: np.ndarray, v_prefix: np.ndarray, k_tree: np.ndarray, v_tree: np.ndarray, parents: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return out (N, H, d) and lse (N, H), fp32."""
    nodes, heads, width = q.shape
    group = heads // k_tree.shape[1]
    out, lse = np.zeros(q.shape, np.float32), np.zeros((nodes, heads), np.float32)
    for n in range(nodes):
        seen, node = [], len(parents) - nodes + n
        while node >= 0:
            seen.append(node)
            node = parents[node]
        for h in range(heads):
            keys = np.concatenate([k_prefix[:, h // group], k_tree[seen, h // group]]).astype(np.float64)
            values = np.concatenate([v_prefix[:, h // group], v_tree[seen, h // group]]).astype(np.float64)
            scores = keys @ q[n, h].astype(np.float64) / np.sqrt(width)
            weights = np.exp(scores - scores.max())
            out[n, h] = weights @ values / weights.sum()
            lse[n, h] = scores.max() + np.log(weights.sum())
    return out, lse

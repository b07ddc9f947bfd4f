"""The definition of `row_statistics`: softmax in fp64, one row at a time."""

from __future__ import annotations

import numpy as np

from workbench.kernels.row_statistics import RowStatistics


def run(logits: np.ndarray, top_k: int) -> RowStatistics:
    """Return the statistics of every row."""
    rows = logits.shape[0]
    argmax, top_ids = np.zeros(rows, np.int64), np.zeros((rows, top_k), np.int64)
    p1, p2, entropy, total = np.full((4, rows), np.nan)
    top_probs = np.full((rows, top_k), np.nan)
    for i, row in enumerate(logits.astype(np.float64)):
        order = np.argsort(-row, kind="stable")
        argmax[i], top_ids[i] = order[0], order[:top_k]
        peak = row[order[0]]
        if peak == -np.inf:
            total[i] = -np.inf
            continue
        total[i] = peak + np.log(np.exp(row - peak).sum())
        probs = np.exp(row - total[i])
        likely = probs > 0
        entropy[i] = -(probs[likely] * (row[likely] - total[i])).sum()
        p1[i], p2[i] = probs[order[0]], probs[order[1]] if row.size > 1 else 0.0
        top_probs[i] = probs[top_ids[i]]
    p1, p2, entropy, total = (part.astype(np.float32) for part in (p1, p2, entropy, total))
    return RowStatistics(argmax, p1, p2, entropy, total, top_ids, top_probs.astype(np.float32))

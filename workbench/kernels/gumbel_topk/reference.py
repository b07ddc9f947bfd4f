"""The definition of `gumbel_topk`: noise on log-probabilities, then a stable sort."""

from __future__ import annotations

import numpy as np

from workbench.kernels.philox import LOG_STREAM, gumbel, philox, split_seed


def run(logits: np.ndarray, k: int, temperature: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return ids (N, k) int64, perturbed (N, k) and logprobs (N, k) fp32."""
    rows, vocabulary = logits.shape
    ids = np.full((rows, k), -1, np.int64)
    perturbed, logprobs = np.full((2, rows, k), -np.inf, np.float32)
    for row in range(rows):
        scaled = logits[row] / np.float32(temperature)
        counter = np.zeros((-(-vocabulary // 4), 4), np.uint32)
        counter[:, 0], counter[:, 1], counter[:, 3] = np.arange(len(counter)), row, LOG_STREAM
        noise = gumbel(philox(counter, split_seed(seed)).reshape(-1)[:vocabulary])
        noisy = scaled + noise
        finite = np.flatnonzero(noisy > -np.inf)
        best = finite[np.argsort(-noisy[finite], kind="stable")][:k]
        wide = scaled.astype(np.float64)
        peak = wide.max(initial=-np.inf)
        total = peak + np.log(np.exp(wide - peak).sum()) if best.size else 0.0
        ids[row, : best.size] = best
        perturbed[row, : best.size] = noisy[best] - total
        logprobs[row, : best.size] = wide[best] - total
    return ids, perturbed, logprobs

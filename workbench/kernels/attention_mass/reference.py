"""The definition of `attention_mass`: the whole causal attention map of a head, then pooled; fp64."""

from __future__ import annotations

import numpy as np

from workbench.kernels.attention_mass import AttentionMass


def run(
    q: np.ndarray,
    k: np.ndarray,
    query_bins: int,
    key_bins: int,
    probes: np.ndarray | None,
    window: int | None = None,
    softcap: float | None = None,
) -> AttentionMass:
    """Return pooled mass (H, Bq, Bk) and column sums (H, T)."""
    heads, length, width = q.shape
    asked = np.arange(length) if probes is None else probes
    mass = np.full((heads, query_bins, key_bins), np.nan)
    columns = np.zeros((heads, length))
    for h in range(heads):
        keys = k[h // (heads // k.shape[0])].astype(np.float64)
        scores = q[h].astype(np.float64) @ keys.T / np.sqrt(width)
        if softcap is not None:
            scores = softcap * np.tanh(scores / softcap)
        scores[np.triu_indices(length, 1)] = -np.inf
        if window is not None:
            scores[np.tril_indices(length, -window)] = -np.inf
        probs = np.exp(scores - scores.max(1, keepdims=True))
        probs /= probs.sum(1, keepdims=True)
        columns[h] = probs[asked].sum(0)
        for i, rows in enumerate(np.array_split(np.arange(length), query_bins)):
            chosen = asked[np.isin(asked, rows)]
            for j, cols in enumerate(np.array_split(np.arange(length), key_bins)):
                if chosen.size:
                    mass[h, i, j] = probs[np.ix_(chosen, cols)].sum(1).mean()
    return AttentionMass(mass.astype(np.float32), columns.astype(np.float32))

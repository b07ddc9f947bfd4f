"""The two losses that keep a router in order, on torch tensors (so that training can follow their gradient).

Conventions: `logits` (tokens, experts); the load-balance loss is k at perfect balance and E when all tokens go to the same k
experts with all probability there; the z-loss of constant logits a is (a + ln E)^2.
"""

from __future__ import annotations

from typing import Any


def load_balance(logits: Any, top_k: int, chosen: Any = None) -> Any:
    """Return E * sum_i m_i P_i: m_i the share of tokens with expert i among their top k (no gradient), P_i its mean probability.

    Args:
        logits: (T, E) tensor. top_k: k. chosen: (T, k) the experts chosen; the k largest logits where None.
    Source: OpenMoE (arXiv 2402.01739), section 3.2; Switch, eq. 4, sums m to one instead of k.
    """
    import torch

    experts = logits.shape[-1]
    chosen = logits.topk(top_k, -1).indices if chosen is None else chosen
    share = torch.zeros_like(logits).scatter_(1, chosen.long(), 1.0).mean(0).detach()
    return experts * (share * logits.float().softmax(-1).mean(0)).sum()


def z_loss(logits: Any) -> Any:
    """Return the mean over tokens of the squared log-sum-exp of the logits (ST-MoE, arXiv 2202.08906, eq. 5)."""
    return logits.float().logsumexp(-1).square().mean()

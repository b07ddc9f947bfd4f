"""From bits to rounds: how much a round of confident decisions can reveal, and so how many rounds a text needs. Nats.

Fu et al., arXiv 2511.21103. A round that decides a set of k tokens, each with probability at least 1 - f / (k + 1)
(assumption 3.1, the factor rule), reveals at most `joint_budget(k, f)` nats jointly (a union bound over the tokens' errors)
and at most `marginal_budget(k, f)` <= f summed over the tokens. Rounds that decide one token because nothing was trusted
(fallbacks) lie outside the assumption; `corrected` counts them by themselves, and no run violates it.
"""

from __future__ import annotations

import math

import numpy as np


def joint_budget(k: float | np.ndarray, f: float) -> np.ndarray:
    """Return ln((k + 1) / ((1 - f) k + 1)): the most joint information of k tokens decided together; rises with k.

    Infinite where f is above 1 and k so large that the bound says nothing.
    """
    k = np.asarray(k, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        rest = (1 - f) * k + 1
        return np.where(rest > 0, np.log((k + 1) / np.where(rest > 0, rest, 1.0)), np.inf)


def marginal_budget(k: float | np.ndarray, f: float) -> np.ndarray:
    """Return -k ln(1 - f / (k + 1)): the most information of k tokens one by one; at most f where f <= 1 (k + 1 > f elsewhere)."""
    k = np.asarray(k, float)
    least = 1 - f / (k + 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(least > 0, -k * np.log(np.where(least > 0, least, 1.0)), np.inf)


def threshold_joint_budget(k: float | np.ndarray, gamma: float) -> np.ndarray:
    """Return -ln(1 - k (1 - gamma)) for k tokens each at least gamma; infinite where k (1 - gamma) >= 1. Our extension."""
    rest = 1 - np.asarray(k, float) * (1 - gamma)
    return np.where(rest > 0, -np.log(np.where(rest > 0, rest, 1.0)), np.inf)


def threshold_marginal_budget(k: float | np.ndarray, gamma: float) -> np.ndarray:
    """Return -k ln gamma: it grows with k, so a fixed threshold has no budget of its own."""
    return -np.asarray(k, float) * math.log(gamma)


def naive(information: np.ndarray, marginal: np.ndarray, n: int, f: float) -> np.ndarray:
    """Return the theorem's least number of rounds, taking every round for a confident one.

    Args:
        information: -ln p(x), nats. marginal: sum over tokens of their information when decided (= information - epsilon).
        n: largest set that a round may decide (the block length where blocks are used). f: factor, 0 < f <= 1.
    """
    return np.maximum(np.asarray(information) / joint_budget(n, f), np.asarray(marginal) / f)


def corrected(
    information: np.ndarray, marginal: np.ndarray, fallbacks: np.ndarray, joint_fallback: np.ndarray, marginal_fallback: np.ndarray,
    n: int, f: float,
) -> np.ndarray:  # fmt: skip
    """Return the least number of rounds when fallback rounds are counted by themselves.

    Args:
        fallbacks: their number. joint_fallback, marginal_fallback: nats that they revealed. Others as in `naive`.
    """
    rest = naive(np.asarray(information) - joint_fallback, np.asarray(marginal) - marginal_fallback, n, f)
    return np.asarray(fallbacks) + np.maximum(rest, 0.0)


# ---- what a round costs ----------------------------------------------------------------------------------------------


#: Machines of the cost model: name -> (FLOP/s, bytes/s, bytes a parameter).
MACHINES = {
    "H100 (bf16)": (990e12, 3.35e12, 2),
    "A100 (bf16)": (312e12, 2.0e12, 2),
    "RTX 4090 (fp16)": (165e12, 1.0e12, 2),
    "2 cores (fp32)": (50e9, 20e9, 4),
}
#: The model whose rounds are predicted: LLaDA-8B's parameters (reported, unverified).
PARAMETERS = 8.0e9


def round_ms(sequences: float | np.ndarray, tokens: int, machine: str, parameters: float = PARAMETERS) -> np.ndarray:
    """Return the predicted milliseconds of a round of K sequences with `tokens` each: the slower of arithmetic and weights."""
    flops, bandwidth, width = MACHINES[machine]
    return 1e3 * np.maximum(2 * parameters * np.asarray(sequences, float) * tokens / flops, parameters * width / bandwidth)


def free_sequences(tokens: int, machine: str) -> float:
    """Return how many sequences of `tokens` a round may hold before arithmetic takes longer than reading the weights."""
    flops, bandwidth, width = MACHINES[machine]
    return flops * width / (2 * bandwidth) / tokens

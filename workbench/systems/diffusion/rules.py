"""Unmasking rules: which hidden tokens a round decides. Pure functions of confidences; no model, no loop.

| rule | score of a position | what a round commits | source |
|---|---|---|---|
| static | p1, the likeliest token's probability | the k best; the remainder of a block goes to its first rounds | LLaDA, low-confidence remasking |
| margin, entropy | p1 - p2; negative entropy | the k best | Dream |
| random, left-to-right | by lot; by position | k | |
| threshold | p1 | all with p1 >= gamma | Fast-dLLM, arXiv 2505.22618 |
| factor | p1, falling: c_(1) >= c_(2) >= ... | the largest k with (k + 1)(1 - c_(k)) <= f | Fast-dLLM; assumption 3.1 of arXiv 2511.21103 |
| entropy-bounded | entropy, rising | the largest set whose entropies sum to at most the bound | EB-sampler |

The last three may find nothing they trust; then the single most confident token is decided, a *fallback*.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from workbench import kernels

#: How far a confidence may miss a threshold by rounding: row statistics are fp32.
ROUNDING = 1e-6
RULES = ("static", "threshold", "factor", "entropy", "margin", "random", "left-to-right", "entropy-bounded")
#: Rules that decide a fixed number a round, and those that decide by what they see.
COUNTED = ("static", "entropy", "margin", "random", "left-to-right")
TRUSTING = ("threshold", "factor", "entropy-bounded")


@dataclass(frozen=True)
class Look:
    """What one forward shows of B states of n positions; NaN (or -1) where a position is not hidden.

    Attributes:
        masked: (B, n) bool. laws: (B, n, V) logits as the canvas gave them. top1: (B, n) int64 likeliest token.
        confidence, margin, entropy: (B, n) float64; probability, difference of the two largest, nats.
    """

    masked: np.ndarray
    laws: np.ndarray
    top1: np.ndarray
    confidence: np.ndarray
    margin: np.ndarray
    entropy: np.ndarray

    def part(self, rows: np.ndarray) -> Look:
        """Return the look at some of the states."""
        return Look(*(getattr(self, name)[rows] for name in ("masked", "laws", "top1", "confidence", "margin", "entropy")))


def look_at(logits: np.ndarray, masked: np.ndarray, exact: bool) -> Look:
    """Return the statistics of every hidden position's law, in one pass over the logits.

    Args:
        logits: (B, n, V). masked: (B, n) bool. exact: the logits are normalised float64 log-probabilities, and confidences
            keep that precision.
    """
    chosen = logits[masked]  # (M, V)
    found = kernels.row_statistics(np.ascontiguousarray(chosen, np.float32))
    p1 = np.exp(np.take_along_axis(chosen, found.argmax[:, None], 1)[:, 0]) if exact else found.p1
    spread = {name: np.full(masked.shape, np.nan) for name in ("confidence", "margin", "entropy")}
    spread["confidence"][masked] = np.minimum(p1, 1.0)
    spread["margin"][masked] = found.p1 - found.p2
    spread["entropy"][masked] = np.maximum(found.entropy, 0.0)
    top1 = np.full(masked.shape, -1, np.int64)
    top1[masked] = found.argmax
    return Look(masked, logits, top1, spread["confidence"], spread["margin"], spread["entropy"])


def warm() -> None:
    """Compile the row statistics, so that no timing holds the compiler's."""
    kernels.row_statistics(np.zeros((2, 3), np.float32))


@dataclass(frozen=True)
class Rule:
    """A rule and its settings. `name` from `RULES`.

    Attributes:
        k: tokens a round of the counted rules. gamma, factor, bound: of the three trusting rules.
        compat: the factor rule as released: where only the last candidate fails, all are decided.
    """

    name: str = "static"
    k: int = 1
    gamma: float = 0.9
    factor: float = 1.0
    bound: float = 0.5
    compat: bool = False

    @property
    def counted(self) -> bool:
        """Whether the rule decides a fixed number a round."""
        return self.name in COUNTED

    def choose(self, look: Look, eligible: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return (commit (B, n) bool, fallback (B,) bool) among the eligible hidden positions; rows with none commit none."""
        rank = ranked(self._score(look, rng), eligible, rng)
        left = eligible.sum(1)
        count = self.trusted(look, eligible)
        fallback = (count == 0) & (left > 0)
        return eligible & (rank < np.maximum(count, fallback)[:, None]), fallback

    def trusted(self, look: Look, eligible: np.ndarray) -> np.ndarray:
        """Return how many tokens (B,) the rule decides without a fallback: the best ones by its score."""
        if self.counted:
            return scheduled(eligible.sum(1), self.k)
        worst = look.entropy if self.name == "entropy-bounded" else -look.confidence
        ordered = np.sort(np.where(eligible, worst, np.inf), axis=1)
        return _TRUST[self.name](self, ordered)

    def _score(self, look: Look, rng: np.random.Generator) -> np.ndarray:
        if self.name == "random":
            return rng.random(look.confidence.shape)
        if self.name == "left-to-right":
            return np.broadcast_to(-np.arange(look.masked.shape[1], dtype=float), look.masked.shape)
        if self.name == "margin":
            return look.margin
        return -look.entropy if self.name in {"entropy", "entropy-bounded"} else look.confidence


def scheduled(left: np.ndarray, k: int) -> np.ndarray:
    """Return how many to decide now of `left` hidden tokens, k a round: the first rounds take the remainder's share."""
    rounds = np.maximum(1, -(-left // k))
    return -(-left // rounds)


def ranked(score: np.ndarray, eligible: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return each position's rank (B, n) by falling score, equals (to nine digits) in random order, ineligible ones last."""
    lot = rng.random(score.shape)
    keys = np.where(eligible, -np.round(score, 9), np.inf)
    order = np.lexsort((lot, keys), axis=1)
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.broadcast_to(np.arange(score.shape[1]), score.shape), axis=1)
    return rank


def _threshold(rule: Rule, negative: np.ndarray) -> np.ndarray:
    return (-negative >= rule.gamma - ROUNDING).sum(1)


def factor_count(confidence: np.ndarray, factor: float, compat: bool = False) -> np.ndarray:
    """Return the largest k (B,) with (k + 1)(1 - c_(k)) <= factor; 0 where even one token is too uncertain.

    Args:
        confidence: (B, n), falling along each row, -inf behind the last candidate.
        compat: as in Fast-dLLM's release, never 0, and where only the last candidate fails all of them are counted.
    """
    places = np.arange(1, confidence.shape[1] + 1)
    good = (places + 1) * (1 - confidence) <= factor + 1e-12
    count = np.where(good, places, 0).max(1)
    if not compat:
        return count
    candidates = np.isfinite(confidence).sum(1)
    count = np.maximum(count, np.minimum(1, candidates))
    return np.where(count == candidates - 1, candidates, count)


def _factor(rule: Rule, negative: np.ndarray) -> np.ndarray:
    return factor_count(-negative, rule.factor, rule.compat)


def _entropy_bounded(rule: Rule, entropy: np.ndarray) -> np.ndarray:
    return (np.cumsum(entropy, axis=1) <= rule.bound + ROUNDING).sum(1)


_TRUST: dict[str, Callable[[Rule, np.ndarray], np.ndarray]] = {
    "threshold": _threshold,
    "factor": _factor,
    "entropy-bounded": _entropy_bounded,
}


def chosen_tokens(look: Look, where: np.ndarray, temperature: float, rng: np.random.Generator) -> np.ndarray:
    """Return tokens (B, n) for the positions `where` (-1 elsewhere): arg-max at temperature 0, else a draw in float64.

    Equal likeliest tokens are told apart by lot: a fixed choice among them would make an ideal model look better or worse
    than it is.
    """
    out = np.full(where.shape, -1, np.int64)
    logits = look.laws[where].astype(np.float64)  # (M, V)
    if not len(logits):
        return out
    peak = logits.max(1, keepdims=True)
    if temperature == 0:
        equal = logits >= peak - 1e-9
        out[where] = np.argmax(np.where(equal, rng.random(logits.shape), -1.0), 1)
        return out
    law = np.exp((logits - peak) / temperature)
    ladder = np.cumsum(law, axis=1)
    aim = rng.random((len(law), 1)) * ladder[:, -1:]
    out[where] = np.minimum((ladder <= aim).sum(1), law.shape[1] - 1)
    return out


def logprobs(look: Look, tokens: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Return the log-probability (B, n) of tokens under the laws at temperature 1; NaN outside `where`."""
    out = np.full(where.shape, np.nan)
    logits = look.laws[where].astype(np.float64)
    if len(logits):
        peak = logits.max(1)
        total = peak + np.log(np.exp(logits - peak[:, None]).sum(1))
        out[where] = logits[np.arange(len(logits)), tokens[where]] - total
    return out


def window_of(masked: np.ndarray, block_length: int | None, window: int = 0) -> np.ndarray:
    """Return the hidden positions (B, n) of the first block that has any, and of the next `window` blocks."""
    if block_length is None or block_length >= masked.shape[1]:
        return masked
    block = np.arange(masked.shape[1]) // block_length
    current = block[np.argmax(masked, axis=1)]
    return masked & (block[None] >= current[:, None]) & (block[None] <= current[:, None] + window)

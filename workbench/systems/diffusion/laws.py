"""What deciding several tokens at once costs, exactly: total correlations, divergences, closed forms.

Kang et al., arXiv 2510.04767: a decoder that decides the sets S_1, ..., S_T in parallel, each from the exact marginals given
those before, is off by sum_t E[C(S_t | S_<t)] bits, C the conditional total correlation (theorem 1); splitting a set never
hurts (theorem 2). Everything here is numpy on small numbers, so a slider can ask for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product

import numpy as np

from workbench.data import parallel_tasks as tasks
from workbench.errors import InputError, expected
from workbench.models.table_dlm import TableDLM

Schedule = Sequence[Sequence[int]]


def bitmask(positions: Sequence[int]) -> int:
    """Return the index of a set of positions among all subsets."""
    return sum(1 << int(i) for i in positions)


def step_losses(entropies: np.ndarray, schedule: Schedule) -> np.ndarray:
    """Return E[C(S_t | S_<t)] of every step, in the unit of `entropies`.

    Args:
        entropies: (2^n,) entropy of every subset of positions (`TableDLM.subset_entropies`).
        schedule: disjoint sets of positions in the order in which they are decided.
    Source: theorem 1. C(S | Z) = sum_i H(i | Z) - H(S | Z), each from two subset entropies.
    """
    losses, before = [], 0
    for group in schedule:
        after = before | bitmask(group)
        alone = sum(entropies[before | 1 << int(i)] - entropies[before] for i in group)
        losses.append(alone - (entropies[after] - entropies[before]))
        before = after
    return np.array(losses)


def checked_schedule(schedule: Schedule, length: int) -> list[list[int]]:
    """Return the schedule as lists, each position once.

    Raises:
        InputError: a position is missing, twice, or not there.
    """
    groups = [[int(i) for i in group] for group in schedule if len(group)]
    if sorted(i for group in groups for i in group) != list(range(length)):
        then = "Name every position once, like 1 2 | 3 4 | 5 6"
        raise InputError(expected("schedule", f"positions 1 to {length}, each once", _shown(groups), then=then))
    return groups


def _shown(groups: Schedule) -> str:
    return " | ".join(" ".join(str(i + 1) for i in group) for group in groups)[:80] or "nothing"


def read_schedule(text: str, length: int) -> list[list[int]]:
    """Return the schedule that a text names: positions from 1, `|` between steps ("1 2 | 3 4")."""
    try:
        groups = [[int(word) - 1 for word in part.replace(",", " ").split()] for part in text.split("|")]
    except ValueError as error:
        raise InputError(expected("schedule", "numbers with | between steps", repr(text[:60]))) from error
    return checked_schedule(groups, length)


def even_schedule(length: int, k: int) -> list[list[int]]:
    """Return positions left to right, k a step, the remainder shared as the static rule does."""
    from workbench.systems.diffusion.rules import scheduled

    groups, at = [], 0
    while at < length:
        count = int(scheduled(np.array([length - at]), k)[0])
        groups.append(list(range(at, at + count)))
        at += count
    return groups


def sampler_law(model: TableDLM, schedule: Schedule) -> dict[tuple[int, ...], float]:
    """Return the exact output law of the parallel sampler at temperature 1, by enumeration (impossible outputs included)."""
    law: dict[tuple[int, ...], float] = {(model.mask_id,) * model.length: 1.0}
    for group in schedule:
        states = np.array(list(law))
        laws = np.exp(model.log_laws(states))
        new: dict[tuple[int, ...], float] = {}
        for state, probs, mass in zip(states, laws, law.values(), strict=True):
            options = [np.flatnonzero(probs[i] > 0) for i in group]
            for tokens in product(*options):
                out = state.copy()
                out[list(group)] = tokens
                key = tuple(int(t) for t in out)
                new[key] = new.get(key, 0.0) + mass * float(np.prod([probs[i, t] for i, t in zip(group, tokens, strict=True)]))
        law = new
    return law


def divergence(model: TableDLM, schedule: Schedule) -> float:
    """Return KL(data || sampler) in nats, by enumeration."""
    law = sampler_law(model, schedule)
    return float(
        sum(p * (math.log(p) - math.log(law[tuple(row)])) for row, p in zip(model.rows.tolist(), model.probs, strict=True))
    )


def best_losses(entropies: np.ndarray, length: int) -> np.ndarray:
    """Return the least loss of any schedule of T steps, T = 1..n, in the unit of `entropies`; dynamic programming over subsets.

    Source: theorem 2: the result never rises.
    """
    full = 2**length
    cost = {(0, 0): 0.0}
    best = np.full((length + 1, full), np.inf)
    best[0, 0] = cost[0, 0]
    alone = np.array([[entropies[z | 1 << i] - entropies[z] for i in range(length)] for z in range(full)])
    for steps in range(1, length + 1):
        for before in range(full):
            if not np.isfinite(best[steps - 1, before]):
                continue
            rest = full - 1 & ~before
            group = rest
            while group:
                loss = sum(alone[before, i] for i in range(length) if group >> i & 1) - (
                    entropies[before | group] - entropies[before]
                )
                best[steps, before | group] = min(best[steps, before | group], best[steps - 1, before] + loss)
                group = (group - 1) & rest
    return best[1:, full - 1]


# ---- closed forms of the list operations, bits and shares -----------------------------------------------------------------


def total_correlation_bits(task: str, n: int) -> float:
    """Return C(answer | prompt) in bits for a list operation of n items: what one parallel step loses.

    Source: arXiv 2510.04767; insert and remove at random by the same sums of marginal entropies.
    """
    if task in tasks.FIXED:
        return 0.0
    if task == "shuffle":
        return n * math.log2(n) - math.log2(math.factorial(n))
    if task == "replace_random":
        return (n - 1) * (math.log2(n) - math.log2(n - 1)) if n > 1 else 0.0
    places = n + 1 if task == "insert_random" else n
    count = n + 1 if task == "insert_random" else n - 1
    marginals = 0.0
    for i in range(count):
        before, new = i / places, (1 / places if task == "insert_random" else 0.0)
        shares = (before, new, 1 - before - new) if task == "insert_random" else ((i + 1) / places, 1 - (i + 1) / places)
        marginals -= sum(p * math.log2(p) for p in shares if p > 0)
    return marginals - math.log2(places)


def shuffle_loss_bits(sizes: Sequence[int]) -> float:
    """Return the bits that a shuffle loses when its steps decide `sizes` tokens: only the sizes matter."""
    n = sum(sizes)
    left = [n - sum(sizes[:t]) for t in range(len(sizes))]
    return sum(size * math.log2(k) for size, k in zip(sizes, left, strict=True)) - math.log2(math.factorial(n))


def sizes_of(n: int, k: int) -> list[int]:
    """Return how many tokens each round decides of n, k a round."""
    return [len(group) for group in even_schedule(n, k)]


def shuffle_accuracy(n: int, k: int) -> float:
    """Return the share of right shuffles of an ideal model, k tokens a round (identity accepted)."""
    share, left = 1.0, n
    for size in sizes_of(n, k):
        share *= math.perm(left, size) / left**size
        left -= size
    return share


def replace_accuracy(n: int, k: int) -> float:
    """Return the share of right answers to replace-random of an ideal model at temperature 1, k tokens a round."""

    def right(sizes: list[int]) -> float:
        left, size = sum(sizes), sizes[0]
        if len(sizes) == 1:
            return ((left - 1) / left) ** (left - 1) if left > 1 else 1.0
        none = ((left - 1) / left) ** size
        return size / left * ((left - 1) / left) ** (size - 1) + none * right(sizes[1:])

    return right(sizes_of(n, k))


def replace_greedy_accuracy(k: int) -> float:
    """Return the same at temperature 0 with lots among equals, k dividing n: 1, 1/2, then 0."""
    return {1: 1.0, 2: 0.5}.get(k, 0.0)


def threshold_accuracy(task: str, n: int, gamma: float) -> float:
    """Return the share of right answers of the greedy threshold rule (>= gamma) on an ideal model, for gamma above 1/2."""
    if task == "replace_random":
        return float((n - 1) / n < gamma) if n > 2 else 1.0
    return 1.0


#: Closed accuracy at temperature 1 by task: (n, k) -> share; other tasks are enumerated.
CLOSED: dict[str, Callable[[int, int], float]] = {
    "shuffle": shuffle_accuracy,
    "replace_random": replace_accuracy,
    **dict.fromkeys(tasks.FIXED, lambda n, k: 1.0),
}


def ideal_accuracy(task: str, n: int, k: int) -> float:
    """Return the share of right answers of an ideal model at temperature 1, k tokens a round in any order; NaN unknown."""
    return CLOSED[task](n, k) if task in CLOSED else math.nan

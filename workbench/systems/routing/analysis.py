"""What a router's choices say: who is dropped under a capacity, what predicts the expert, when it was learnt (numpy only).

| paper | here | shape |
|---|---|---|
| B, K, E | tokens of a group, choices of a token, experts | |
| C | `capacity`: slots of an expert in a group | |
| N[v, i] | `counts`: how often value v went to expert i first | (values, experts) |
| L_b, L_z | `load_balance`, `z_loss` | |
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from workbench import kernels

LEAST_SLOTS = 4  # of an expert, however small the group (reported from the repository's configuration)
OWN_ERROR = 0.04  # of the share that a value explains, at one half: four kinds of law, simulated, read 0.036 low to 0.038 high
ENOUGH = 50  # occurrences of a token id from which its own shares are shown


def capacity(tokens: int, experts: int, top_k: int, factor: float) -> int:
    """Return C: slots of an expert for a group of `tokens`: floor(K * factor * tokens / E), at least 4, rounded up to even.

    Source: OpenMoE, appendix; the least number and the rounding are reported from its code, unverified.
    """
    slots = max(LEAST_SLOTS, int(top_k * factor * tokens / experts + 1e-9))
    return slots + slots % 2


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return probabilities over the last axis, fp32."""
    shifted = np.exp(logits.astype(np.float32) - logits.max(-1, keepdims=True).astype(np.float32))
    return shifted / shifted.sum(-1, keepdims=True)


def groups_of(text: np.ndarray, domain: np.ndarray, size: int) -> list[slice]:
    """Return the groups of tokens that are dispatched together: `size` texts in a row, all of one domain.

    Args:
        text: (N,) index of each token's text, ascending. domain: (N,) its kind.
    """
    starts = np.flatnonzero(np.r_[True, text[1:] != text[:-1]])
    stops = np.r_[starts[1:], len(text)]
    found: list[slice] = []
    i = 0
    while i < len(starts):
        last = i
        while last + 1 < len(starts) and last + 1 - i < size and domain[starts[last + 1]] == domain[starts[i]]:
            last += 1
        found.append(slice(int(starts[i]), int(stops[last])))
        i = last + 1
    return found


class Service(NamedTuple):
    """Who is served: slot (L, N, k) int32 (-1 = dropped), capacity of each group (G,)."""

    slot: np.ndarray
    slots: np.ndarray


def serve(
    expert: np.ndarray,
    weight: np.ndarray,
    groups: list[slice],
    experts: int,
    factor: float,
    order: str,
    seed: int = 0,
    null: int = 0,
) -> Service:
    """Dispatch every layer and group under the capacity that `factor` gives: one call of the kernel `expert_dispatch`.

    Every expert of every layer and group is an expert of its own there; its ranks then meet the capacity of its group.

    Args:
        expert: (L, N, k) chosen experts, heaviest first. weight: (L, N, k). order: "token", "random" or "priority".
        null: the last experts, which compute nothing: they need no slots and drop nobody.
    """
    layers, tokens, top_k = expert.shape
    group = np.zeros(tokens, np.int32)
    for number, g in enumerate(groups):
        group[g] = number
    slots = np.array([capacity(g.stop - g.start, experts - null, top_k, factor) for g in groups])
    own = np.arange(layers, dtype=np.int32)[:, None] * len(groups) + group
    flat = (own[..., None] * experts + expert).reshape(layers * tokens, top_k)
    count = layers * len(groups) * experts
    rank = kernels.expert_dispatch(flat, weight.reshape(flat.shape), count, tokens * top_k, order, seed).slot.reshape(
        expert.shape
    )
    return Service(np.where((rank < slots[group][:, None]) | (expert >= experts - null), rank, -1), slots)


def drop_probability(position: int, law: np.ndarray, slots: int) -> float:
    """Return the probability that a token at a group position loses its only expert, if all route independently by `law`.

    It is dropped when at least `slots` of the `position` tokens before it chose the same expert: a binomial tail.
    """
    from math import comb

    total = 0.0
    for p in law.astype(float):
        kept = sum(comb(position, j) * p**j * (1 - p) ** (position - j) for j in range(min(slots, position + 1)))
        total += p * max(0.0, 1 - kept)
    return total


def counts(values: np.ndarray, expert: np.ndarray, experts: int) -> np.ndarray:
    """Return N[v, i]: how often each value (0..max) met each expert, (values, E) fp64."""
    size = int(values.max()) + 1 if len(values) else 1
    return (
        np.bincount(values.astype(np.int64) * experts + expert, minlength=size * experts)
        .reshape(size, experts)
        .astype(np.float64)
    )


def entropy(table: np.ndarray) -> float:
    """Return the plug-in entropy of counts, nats."""
    total = table.sum()
    share = table[table > 0] / total if total else np.zeros(0)
    return float(-(share * np.log(share)).sum())


def information(table: np.ndarray, correct: bool = True) -> float:
    """Return I(value; expert) of a table of counts, nats; Miller and Madow's correction takes off what chance alone gives."""
    total = table.sum()
    if not total:
        return 0.0
    rows, columns = table.sum(1), table.sum(0)
    found = entropy(rows) + entropy(columns) - entropy(table)
    if not correct:
        return found
    bins = (rows > 0).sum() + (columns > 0).sum() - (table > 0).sum() - 1
    return found + float(bins) / (2 * total)


def shared(values: np.ndarray, expert: np.ndarray, experts: int) -> float:
    """Return the plug-in I(value; expert) of tokens, nats: `information(counts(...), correct=False)` without the table's sums."""
    cells = np.bincount(values.astype(np.int64) * experts + expert)
    return entropy(np.bincount(values)) + entropy(np.bincount(expert)) - entropy(cells)


class Explained(NamedTuple):
    """Share of an expert's entropy that a value explains beyond chance: estimate, 95 % interval, and the share that chance alone gives."""

    share: float
    low: float
    high: float
    chance: float


def adjusted(
    values: np.ndarray, expert: np.ndarray, experts: int, rng: np.random.Generator, shuffles: int = 5
) -> tuple[float, float]:
    """Return ((I - E I) / (H - E I), E I / H) with I = I(value; expert), H = H(expert), E I its mean over shuffled values.

    1 where the value decides the expert, 0 in expectation where it says nothing, however rare the values are.

    Source: Vinh, Epps, Bailey, "Information Theoretic Measures for Clusterings Comparison", JMLR 11 (2010): adjusted mutual information.
    """
    own, found = entropy(np.bincount(expert)), shared(values, expert, experts)
    null = float(np.mean([shared(rng.permutation(values), expert, experts) for _ in range(shuffles)]))
    return ((found - null) / (own - null) if own - null > 1e-9 else 0.0), (null / own if own else 0.0)


def adjusted_given(
    values: np.ndarray, given: np.ndarray, expert: np.ndarray, experts: int, rng: np.random.Generator, shuffles: int = 5
) -> tuple[float, float]:
    """Return I(value; expert | given) beyond chance, and what chance alone gives, both as shares of H(expert).

    Values are shuffled among the tokens of one `given`. What is adjusted is the share of what `given` leaves open; values that
    came once with their `given` say nothing, so the pairs that repeat speak for all.
    """
    cell = lambda v: np.unique(given.astype(np.int64) * (int(values.max()) + 1) + v, return_inverse=True)[1]  # noqa: E731
    first, own = shared(given, expert, experts), entropy(np.bincount(expert))
    place, nulls = np.argsort(given, kind="stable"), []
    for _ in range(shuffles):
        mixed = np.empty_like(values)
        mixed[place] = values[np.lexsort((rng.random(len(given)), given))]
        nulls.append(shared(cell(mixed), expert, experts) - first)
    found, null, left = shared(cell(values), expert, experts) - first, float(np.mean(nulls)), own - first
    if left - null < 1e-9 or not own:
        return 0.0, (null / own if own else 0.0)
    return (found - null) / (left - null) * (1 - adjusted(given, expert, experts, rng, shuffles)[0]), null / own


def explained(
    values: np.ndarray,
    expert: np.ndarray,
    text: np.ndarray,
    experts: int,
    seed: int = 0,
    folds: int = 10,
    given: np.ndarray | None = None,
) -> Explained:
    """Return how much of the first expert a value explains beyond chance (or beyond what `given` explains), with a 95 % interval.

    The interval is Student's over tenths of the texts left out in turn, and `OWN_ERROR` beside it: between its ends, where it is
    exact, the estimate may read high or low by the form of the law, which no sample of this size tells.
    """
    from scipy.stats import t

    values = np.unique(values, return_inverse=True)[1]  # a vocabulary is large, what a text uses of it is not
    rng, first = np.random.default_rng(seed), None if given is None else np.unique(given, return_inverse=True)[1]

    def found(k: Any, shuffles: int) -> tuple[float, float]:
        if first is None:
            return adjusted(values[k], expert[k], experts, rng, shuffles)
        return adjusted_given(values[k], first[k], expert[k], experts, rng, shuffles)

    share, chance = found(slice(None), 5)
    keep = [text % folds != f for f in range(folds) if (text % folds == f).any()]
    left = np.array([found(k, 2)[0] for k in keep if k.any()])
    n = len(left)
    half = float(t.ppf(0.975, n - 1) * np.sqrt((n - 1) / n * np.sum((left - left.mean()) ** 2))) if n > 1 else float("nan")
    half += OWN_ERROR * 4 * max(0.0, share * (1 - share))
    return Explained(share, share - half, share + half, chance)


def specialisation(table: np.ndarray) -> np.ndarray:
    """Return 1 - H(expert | value) / ln E for each row of counts (NaN for values never seen)."""
    total = table.sum(1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = table / total
        own = -np.where(table > 0, share * np.log(share), 0.0).sum(1)
    return np.where(total[:, 0] > 0, 1 - own / np.log(max(2, table.shape[1])), np.nan)


def table_accuracy(values: np.ndarray, expert: np.ndarray, text: np.ndarray, experts: int) -> tuple[np.ndarray, float]:
    """Return (whether a static table by `values` is right, accuracy of always the commonest expert) on tokens of texts it has not seen.

    The table is learnt on even texts and judged on odd ones, token by token; unseen values get the commonest expert. Without texts
    of both sorts nothing can be judged: (empty, NaN).
    """
    learn = text % 2 == 0
    if learn.all() or not learn.any():
        return np.zeros(0), float("nan")
    table = counts(np.r_[values[learn], values.max()], np.r_[expert[learn], 0], experts)
    table[values.max(), 0] -= 1  # the extra row only fixes the table's size
    common = int(table.sum(0).argmax())
    guess = np.where(table.sum(1) > 0, table.argmax(1), common)[values[~learn]]
    return guess == expert[~learn], float((expert[~learn] == common).mean())


def shared_choices(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return |A and B| / K for each token of (..., N, K) choices."""
    same = one[..., :, None] == other[..., None, :]
    return same.any(-1).mean(-1)


def divergence(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the Jensen-Shannon divergence (nats) of matching rows of counts; NaN where a row is empty."""
    with np.errstate(divide="ignore", invalid="ignore"):
        p, q = one / one.sum(1, keepdims=True), other / other.sum(1, keepdims=True)
        m = (p + q) / 2
        left = np.where(p > 0, p * np.log(p / m), 0).sum(1)
        right = np.where(q > 0, q * np.log(q / m), 0).sum(1)
    return np.where((one.sum(1) > 0) & (other.sum(1) > 0), (left + right) / 2, np.nan)


def load_balance(logits: np.ndarray, expert: np.ndarray) -> float:
    """Return L_b = E * sum_i m_i P_i of (N, E) logits and (N, K) choices: K at perfect balance, E at total collapse."""
    experts = logits.shape[-1]
    share = np.bincount(expert.ravel(), minlength=experts) / len(logits)
    return float(experts * (share * softmax(logits).mean(0)).sum())


def z_loss(logits: np.ndarray) -> float:
    """Return L_z: the mean over tokens of the squared log-sum-exp of the logits."""
    x = logits.astype(np.float64)
    top = x.max(-1, keepdims=True)
    return float(np.mean((np.log(np.exp(x - top).sum(-1)) + top[..., 0]) ** 2))


def told(first: np.ndarray, experts: int) -> np.ndarray:
    """Return the share of H(expert in layer b) that the expert in layer a tells beyond chance, (L, L) fp64 in 0 to 1, of first choices (L, N)."""
    own = [entropy(np.bincount(f, minlength=experts)) for f in first]
    found = np.eye(len(first))
    for a in range(len(first)):
        for b in range(a):
            both = information(counts(first[a], first[b], experts))
            found[a, b], found[b, a] = (min(1.0, max(0.0, both) / h) if h else 0.0 for h in (own[b], own[a]))
    return found


def transitions(one: np.ndarray, other: np.ndarray, experts: int) -> np.ndarray:
    """Return P(expert in the next layer | expert in this layer) of first choices, (E, E) fp64; rows of unused experts are NaN."""
    table = counts(one, other, experts)
    table = np.pad(table, ((0, experts - len(table)), (0, 0)))
    with np.errstate(invalid="ignore"):
        return table / np.where(table.sum(1, keepdims=True) > 0, table.sum(1, keepdims=True), np.nan)

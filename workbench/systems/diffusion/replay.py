"""What another setting of a rule would have done, from the looks of a recorded run: exact until the first decision that differs.

A look belongs to a state: the same tokens hidden, the same ones visible. While the replay visits recorded states, its looks
are the recorded ones. At the first round whose state was never visited it has to guess: it takes the recorded round with
about as many hidden tokens, and all from there is marked estimated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from workbench.systems.diffusion.rules import Look, Rule, window_of


@dataclass(frozen=True)
class Trace:
    """The recorded looks of one sample: (R, n) arrays, NaN or -1 where a position was not hidden; `commit_round` (n,).

    `explored` (n,) bool: decided on purpose. What a candidate's own look showed is not recorded, so a replay repeats the
    whole decision of an exploring round.
    """

    confidence: np.ndarray
    entropy: np.ndarray
    margin: np.ndarray
    top1: np.ndarray
    commit_round: np.ndarray
    explored: np.ndarray


@dataclass(frozen=True)
class Replay:
    """Rounds of the replay.

    Attributes:
        commit_round: (n,) int32, -1 = given. estimated: (n,) bool. source: (R',) recorded round that each look was taken from.
        fallback: (R',) bool. first_estimated: the first round that is a guess, -1 if none.
    """

    commit_round: np.ndarray
    estimated: np.ndarray
    source: np.ndarray
    fallback: np.ndarray
    first_estimated: int


def replay(trace: Trace, rule: Rule, block_length: int | None = None, window: int = 0, seed: int = 0) -> Replay:
    """Return what `rule` decides on the recorded looks."""
    rng, given = np.random.default_rng(seed), trace.commit_round
    hidden = given >= 0
    commit = np.full(len(given), -1, np.int32)
    guessed = np.zeros(len(given), bool)
    sources: list[int] = []
    fallbacks: list[bool] = []
    first = -1
    known = [(given >= r) for r in range(len(trace.confidence))]
    last = _last_values(trace)
    while hidden.any():
        now = len(sources)
        source = next((r for r, state in enumerate(known) if np.array_equal(state, hidden)), -1)
        if source < 0 and first < 0:
            first = now
        at = source if source >= 0 and first < 0 else _nearest(known, int(hidden.sum()))
        look = _look(trace, last, at, hidden)
        chosen, fell = rule.choose(look, window_of(hidden[None], block_length, window), rng)
        repeated = given == at
        if (trace.explored & repeated & hidden).any():
            first = now if first < 0 else first
            chosen = (repeated & hidden)[None]
        commit[chosen[0]] = now
        guessed[chosen[0]] = first >= 0
        hidden = hidden & ~chosen[0]
        sources.append(at)
        fallbacks.append(bool(fell[0]))
    return Replay(commit, guessed, np.array(sources, np.int32), np.array(fallbacks, bool), first)


def _nearest(known: list[np.ndarray], count: int) -> int:
    sizes = np.array([int(state.sum()) for state in known])
    return int(np.argmin(np.abs(sizes - count)))


def _last_values(trace: Trace) -> dict[str, np.ndarray]:
    """Return, for each position, what the last look before its decision showed."""
    rounds = np.maximum(trace.commit_round, 0)
    return {n: getattr(trace, n)[rounds, np.arange(len(rounds))] for n in ("confidence", "entropy", "margin", "top1")}


def _look(trace: Trace, last: dict[str, np.ndarray], at: int, hidden: np.ndarray) -> Look:
    columns = {}
    for name, final in last.items():
        row = getattr(trace, name)[at]
        there = np.isfinite(row) if name != "top1" else row >= 0
        value = np.where(there, row, final)
        columns[name] = np.where(hidden, value, -1 if name == "top1" else np.nan)[None]
    empty = np.zeros((1, len(hidden), 0))
    return Look(
        hidden[None], empty, columns["top1"].astype(np.int64), columns["confidence"], columns["margin"], columns["entropy"]
    )

"""Serving a mixture whose experts are chosen before the model runs: batches by expert, a cache that knows the queue, a clock.

| paper | here | |
|---|---|---|
| Q_e, MaxTokenLen | `serving_loops.form` with "expert-aware", `max_tokens` | tokens waiting for expert e; room of a batch |
| k | `cache_size` | experts (all their layers) that fit beside the permanent part |
| F(e, t) | `serving_loops.victim` with "belady" | next use of e within what the queue tells |

Algorithm 1 as printed takes all tokens of the fullest queue, whatever came before them in their request. A token attends to all
before it, so here an expert's queue holds of each request only the run of tokens that comes next, and the loop ends when no
token waits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from workbench.errors import InputError, expected, unknown

BATCHINGS = ("fifo", "decode-first", "prefill-first", "expert-aware")
POLICIES = ("lru", "lfu", "belady", "random")
MOST_AHEAD = 64  # uses of experts that a plan of the queue holds
WHOLE_QUEUE = 1024  # the same, where all that the queue tells is asked for


@dataclass(frozen=True)
class Requests:
    """Requests in the order of their arrival.

    Attributes:
        expert: (R, T) int64, the expert of each token; what lies beyond a request's length does not matter.
        prompt: (R,) tokens known on arrival, at least 1. length: (R,) all tokens, those it generates included.
        gap: (R,) time since the request before, as a multiple of the mean gap.
    """

    expert: np.ndarray
    prompt: np.ndarray
    length: np.ndarray
    gap: np.ndarray

    @cached_property
    def run_end(self) -> np.ndarray:
        """One past the end of the run of equal experts that each token lies in, (R, T) int64."""
        count, width = self.expert.shape
        end = np.full((count, width), width, np.int64)
        for t in range(width - 2, -1, -1):
            end[:, t] = np.where(self.expert[:, t] == self.expert[:, t + 1], end[:, t + 1], t + 1)
        return np.minimum(end, self.length[:, None])


@dataclass(frozen=True)
class Machine:
    """What things cost on the machine: milliseconds of a batch, by its tokens, and of loading each expert.

    Attributes:
        sizes: (S,) ascending numbers of tokens. rest_ms: (S,) everything but the experts. expert_ms: (S,) one expert, all layers.
        load_ms: (N,) loading what an expert does not share with all others, all layers. layers: how many.
    """

    sizes: np.ndarray
    rest_ms: np.ndarray
    expert_ms: np.ndarray
    load_ms: np.ndarray
    layers: int


@dataclass(frozen=True)
class Rules:
    """How requests are served; the knobs of the same names. A look-ahead of None is all that the queue tells."""

    batching: str = "expert-aware"
    policy: str = "belady"
    cache_size: int = 3
    lookahead: int | None = 16
    max_tokens: int = 64
    arrival_rate: float = 4.0
    prefetch: bool = True
    at_hand_first: bool = False
    seed: int = 0

    @property
    def ahead(self) -> int:
        """The look-ahead in uses."""
        return WHOLE_QUEUE if self.lookahead is None else self.lookahead


class Served(NamedTuple):
    """What happened: B batches, U uses of an expert (one for each expert of each batch), R requests.

    `plans` (B, MOST_AHEAD or WHOLE_QUEUE) and `planned` (B,) are what the queue told after each batch (empty unless asked for).
    """

    start_ms: np.ndarray
    load_ms: np.ndarray
    compute_ms: np.ndarray
    total_ms: np.ndarray
    tokens: np.ndarray
    distinct: np.ndarray
    waiting: np.ndarray
    resident: np.ndarray
    plans: np.ndarray
    planned: np.ndarray
    use_batch: np.ndarray
    use_expert: np.ndarray
    use_tokens: np.ndarray
    hit: np.ndarray
    evicted: np.ndarray
    arrival_ms: np.ndarray
    first_ms: np.ndarray
    finish_ms: np.ndarray

    @property
    def latency_ms(self) -> np.ndarray:
        """From arrival to the last token, (R,)."""
        return self.finish_ms - self.arrival_ms

    @property
    def hit_rate(self) -> float:
        """Share of the uses that found their expert in the cache."""
        return float(self.hit.mean())


def serve(requests: Requests, machine: Machine, rules: Rules, keep_plans: bool = False) -> Served:
    """Serve all requests under the rules: a simulation that is exact for the given costs, in about a millisecond.

    Args:
        keep_plans: also return what the queue told after each batch, whatever the policy (for `replay`).
    """
    from workbench.systems.routing import serving_loops as loops

    count, experts = len(requests.prompt), len(machine.load_ms)
    most = int(requests.length.sum())
    arrival = np.cumsum(requests.gap) * 1e3 / rules.arrival_rate
    times = [np.zeros(most) for _ in range(4)]
    whole = [np.zeros(most, np.int64) for _ in range(3)]
    resident = np.zeros((most, experts), np.bool_)
    width = max(MOST_AHEAD, rules.ahead)
    plans, planned = np.full((most if keep_plans else 1, width), -1, np.int8), np.zeros(most, np.int64)
    uses = [np.zeros(most, np.int64) for _ in range(3)] + [np.zeros(most, np.bool_), np.zeros(most, np.int64)]
    first, finish, counts = np.full(count, -1.0), np.zeros(count), np.zeros(2, np.int64)
    simulate: Any = loops.simulate
    simulate(
        requests.expert.astype(np.int64), requests.run_end, requests.prompt.astype(np.int64), requests.length.astype(np.int64), arrival,
        experts, rules.max_tokens, BATCHINGS.index(rules.batching), rules.cache_size, POLICIES.index(rules.policy), rules.ahead, rules.at_hand_first,
        rules.seed + 1, machine.sizes.astype(np.float64), machine.rest_ms, machine.expert_ms, machine.load_ms.astype(np.float64), machine.layers, rules.prefetch,
        keep_plans, *times, *whole, resident, plans, planned, *uses, first, finish, counts,
    )  # fmt: skip
    b, u = int(counts[0]), int(counts[1])
    of_batches = [*times, *whole, resident, plans, planned]
    return Served._make([a[:b] for a in of_batches] + [a[:u] for a in uses] + [arrival, first, finish])


def replay(served: Served, rules: Rules, experts: int) -> np.ndarray:
    """Return the hits (U,) of another cache on the same batches: size, policy, look-ahead and order of the rules count, each use
    with what the queue told at the time."""
    from workbench.systems.routing import serving_loops as loops

    count = len(served.use_expert)
    hit, evicted = np.zeros(count, np.bool_), np.zeros(count, np.int64)
    loops.replay(
        served.use_expert, served.use_batch, served.plans, served.planned, rules.cache_size, POLICIES.index(rules.policy), rules.ahead, experts,
        rules.at_hand_first, rules.seed + 1, hit, evicted,
    )  # fmt: skip
    return hit


def stream(
    expert: np.ndarray, cache_size: int, policy: str, experts: int, lookahead: int = 0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return (hit, evicted) of a plain sequence of uses whose next `lookahead` uses are known.

    Args:
        expert: (U,) uses, each below `experts`. cache_size: at least 1. policy: one of `POLICIES`.
    Raises:
        InputError, UnknownNameError: an argument out of its range.
    """
    from workbench.systems.routing import serving_loops as loops

    uses = np.asarray(expert, np.int64)
    if policy not in POLICIES:
        raise unknown("policy", policy, POLICIES)
    if cache_size < 1:
        raise InputError(expected("cache_size", "at least 1 expert", cache_size))
    if uses.size and not 0 <= uses.min() <= uses.max() < experts:
        raise InputError(expected("expert", f"uses from 0 to {experts - 1}", f"{uses.min()} to {uses.max()}"))
    hit, evicted = np.zeros(len(uses), np.bool_), np.zeros(len(uses), np.int64)
    one = np.zeros(len(uses), np.int64)  # one batch: what follows in it is known
    loops.replay(
        uses, one, np.zeros((1, 1), np.int8), np.zeros(1, np.int64), cache_size, POLICIES.index(policy), lookahead, experts, False, seed + 1, hit, evicted
    )  # fmt: skip
    return hit, evicted


def most_hits(expert: np.ndarray, cache_size: int, experts: int, batch: np.ndarray | None = None) -> int:
    """Return the most hits any cache of that size can have (the whole future known).

    Args:
        expert: (U,) uses. batch: (U,) ascending; given, the uses of a batch may come in any order, each expert once.
    """
    from workbench.systems.routing import serving_loops as loops

    uses = np.asarray(expert, np.int64)
    if batch is not None:
        return int(loops.hindsight_of_batches(uses, np.asarray(batch, np.int64), cache_size, experts))
    return int(loops.hindsight(uses, cache_size, experts))

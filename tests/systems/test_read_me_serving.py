"""Read-ME's serving: caches against brute force, batches against a plain reference, a clock whose milliseconds can be added up."""

from __future__ import annotations

import itertools
from collections import Counter, OrderedDict
from typing import Any

import numpy as np
import pytest

from workbench.errors import WorkbenchError
from workbench.systems.routing import read_me_serving as report
from workbench.systems.routing import serving
from workbench.systems.routing.openmoe_report import joined
from workbench.systems.routing.serving import Machine, Requests, Rules, most_hits, serve, stream

MACHINE = Machine(
    np.array([1, 4, 16, 64, 256]), np.array([5.0, 6, 9, 20, 60]), np.array([1.0, 1.5, 3, 8, 30]), np.array([4.0, 5, 6, 7]), 10
)


def traffic(seed: int, count: int = 12, experts: int = 4, longest: int = 14, stay: float = 0.6) -> Requests:
    """Return requests whose tokens mostly keep the expert of the token before."""
    rng = np.random.default_rng(seed)
    prompt, output = rng.integers(1, longest, count), rng.integers(0, longest, count)
    expert = rng.integers(0, experts, (count, 2 * longest))
    for t in range(1, expert.shape[1]):
        expert[:, t] = np.where(rng.random(count) < stay, expert[:, t - 1], expert[:, t])
    return Requests(expert, prompt, prompt + output, rng.exponential(1.0, count))


def traces(count: int, longest: int = 14, experts: int = 5) -> list[tuple[np.ndarray, int, int]]:
    """Return (trace, experts, slots) of many random traces, some with few experts."""
    rng = np.random.default_rng(8)
    out = []
    for _ in range(count):
        size = int(rng.integers(2, experts + 1))
        out.append((rng.integers(0, size, int(rng.integers(1, longest + 1))), size, int(rng.integers(1, min(4, size) + 1))))
    return out


# ---- caches -------------------------------------------------------------------------------------------------------------


def best_by_enumeration(trace: np.ndarray, slots: int) -> int:
    """Return the most hits of any cache that loads on every miss: dynamic programming over all cache states."""
    states: dict[frozenset[int], int] = {frozenset(): 0}
    for e in trace.tolist():
        following: dict[frozenset[int], int] = {}
        for held, hits in states.items():
            if e in held:
                options = [(held, hits + 1)]
            elif len(held) < slots:
                options = [(held | {e}, hits)]
            else:
                options = [((held - {gone}) | {e}, hits) for gone in held]
            for state, score in options:
                following[state] = max(following.get(state, -1), score)
        states = following
    return max(states.values())


def test_belady_with_the_whole_future_is_the_best_of_all_caches() -> None:
    for trace, experts, slots in traces(300):
        best = best_by_enumeration(trace, slots)
        assert most_hits(trace, slots, experts) == best
        assert stream(trace, slots, "belady", experts, lookahead=len(trace))[0].sum() == best
        for policy in ("lru", "lfu", "random"):
            assert stream(trace, slots, policy, experts)[0].sum() <= best


def lru_by_hand(trace: np.ndarray, slots: int) -> list[bool]:
    held: OrderedDict[int, None] = OrderedDict()
    hits = []
    for e in trace.tolist():
        hits.append(e in held)
        if e not in held and len(held) == slots:
            held.popitem(last=False)
        held[e] = None
        held.move_to_end(e)
    return hits


def lfu_by_hand(trace: np.ndarray, slots: int) -> list[bool]:
    """Fewest uses so far leaves (uses before it was loaded count too); of equals, the one used longest ago."""
    held: set[int] = set()
    hits = []
    for t, e in enumerate(trace.tolist()):
        past = trace[:t].tolist()
        hits.append(e in held)
        if e not in held and len(held) == slots:
            held.remove(min(held, key=lambda x: (past.count(x), len(past) - past[::-1].index(x))))
        held.add(e)
    return hits


def test_lru_and_lfu_against_plain_references_and_no_lookahead_is_lru() -> None:
    for trace, experts, slots in traces(200, longest=60, experts=7):
        lru = lru_by_hand(trace, slots)
        assert stream(trace, slots, "lru", experts)[0].tolist() == lru
        assert stream(trace, slots, "lfu", experts)[0].tolist() == lfu_by_hand(trace, slots)
        assert stream(trace, slots, "belady", experts, lookahead=0)[0].tolist() == lru


@pytest.mark.parametrize(
    ("policy", "ahead", "hits"),
    [
        ("lru", 0, "0000000000"),
        ("lfu", 0, "0000000000"),
        ("belady", 0, "0000000000"),
        ("belady", 1, "0001010101"),
        ("belady", 9, "0001010101"),
    ],
)
def test_a_cycle_of_three_in_two_slots(policy: str, ahead: int, hits: str) -> None:
    """0 1 2 0 1 2 ...: LRU never hits; seeing the next use is enough for the best, every second."""
    found = stream(np.arange(10) % 3, 2, policy, 3, lookahead=ahead)[0]
    assert "".join(str(int(h)) for h in found) == hits


def residents(trace: np.ndarray, hit: np.ndarray, evicted: np.ndarray) -> list[set[int]]:
    """Return the cache's content after each use, from what it wrote down."""
    held: set[int] = set()
    out = []
    for e, h, gone in zip(trace.tolist(), hit.tolist(), evicted.tolist()):
        assert h == (e in held)
        if gone >= 0:
            assert gone in held
        held = (held - {gone}) | {e}
        out.append(set(held))
    return out


def test_a_larger_lru_cache_holds_all_that_a_smaller_one_holds() -> None:
    for trace, experts, _ in traces(60, longest=50, experts=6):
        contents = [residents(trace, *stream(trace, k, "lru", experts)) for k in range(1, experts + 1)]
        for small, large in itertools.pairwise(contents):
            assert all(a <= b for a, b in zip(small, large))
        assert all(len(held) <= k for k, content in enumerate(contents, 1) for held in content)


def test_even_independent_draws() -> None:
    """LRU hits k/N of an i.i.d. even stream; Belady at N = 7 hits .449, .632, .764, .864 with the whole future."""
    draws, experts = 20_000, 7
    trace = np.random.default_rng(3).integers(0, experts, draws)
    for slots, belady in zip((2, 3, 4, 5), (0.449, 0.632, 0.764, 0.864)):
        share = slots / experts
        assert abs(stream(trace, slots, "lru", experts)[0].mean() - share) < 3 * (share * (1 - share) / draws) ** 0.5 + 1e-3
        assert abs(most_hits(trace, slots, experts) / draws - belady) < 0.01


def test_the_published_rows_are_those_of_even_draws_among_six() -> None:
    """The reading aid on the page: k/6 is the reported LRU row; Belady's is reached with the next one to three *other* draws known."""
    lru = np.array(report.REPORTED["LRU, reported"]) / 100
    np.testing.assert_allclose(lru, np.arange(2, 6) / 6, atol=0.025)
    trace = np.random.default_rng(5).integers(0, 6, 20_000)
    reported = np.array(report.REPORTED["Belady, reported"]) / 100
    rows = [np.array([stream(trace, k, "belady", 6, lookahead=a)[0].mean() for k in range(2, 6)]) for a in (0, 1, 3, len(trace))]
    assert (rows[0] < reported).all()
    assert (reported < rows[3]).all()
    assert (rows[1] < reported).any()
    assert (rows[2] > reported).all()


def test_more_lookahead_helps_on_average() -> None:
    rng = np.random.default_rng(2)
    many = [rng.integers(0, 6, 300) for _ in range(30)]
    means = [np.mean([stream(t, 3, "belady", 6, lookahead=a)[0].mean() for t in many]) for a in (0, 1, 2, 4, 8, 32, 300)]
    assert (np.diff(means) >= 0).all()
    assert means[-1] > means[0] + 0.1


# ---- batches ----------------------------------------------------------------------------------------------------------------


def batches_by_hand(asked: Requests, served: Any, rules: Rules) -> list[dict[int, int]]:
    """Return {request: tokens} of each batch, formed by a plain reference at the simulation's own times."""
    count = len(asked.prompt)
    done, known, out = [0] * count, [0] * count, []
    for now in served.start_ms:
        for r in range(count):
            if served.arrival_ms[r] <= now and known[r] == 0:
                known[r] = int(asked.prompt[r])
        take = one_batch(asked, done, known, rules)
        out.append(take)
        for r, n in take.items():
            done[r] += n
            if done[r] == known[r] < asked.length[r]:
                known[r] += 1
    assert done == asked.length.tolist()
    return out


def one_batch(asked: Requests, done: list[int], known: list[int], rules: Rules) -> dict[int, int]:
    """Take token after token: the slowest way to say what a batch is."""
    take: Counter[int] = Counter()
    rows = range(len(done))
    waits = lambda r: done[r] + take[r] < known[r]  # noqa: E731
    if rules.batching == "expert-aware":
        while sum(take.values()) < rules.max_tokens and any(map(waits, rows)):
            queues: dict[int, list[int]] = {}
            for r in rows:
                at = done[r] + take[r]
                while at < known[r] and asked.expert[r, at] == asked.expert[r, done[r] + take[r]]:
                    queues.setdefault(int(asked.expert[r, at]), []).append(r)
                    at += 1
            best = max(queues, key=lambda e: (len(queues[e]), -e))
            for r in queues[best]:
                if sum(take.values()) < rules.max_tokens:
                    take[r] += 1
        return dict(take)
    decoding = [r for r in rows if done[r] >= asked.prompt[r]]
    fresh = [r for r in rows if done[r] < asked.prompt[r]]
    order = {"fifo": list(rows), "decode-first": decoding + fresh, "prefill-first": fresh + decoding}[rules.batching]
    for r in order:
        while sum(take.values()) < rules.max_tokens and waits(r):
            take[r] += 1
    return dict(take)


@pytest.mark.parametrize("batching", serving.BATCHINGS)
def test_batches_are_those_of_a_plain_reference_and_lose_no_token(batching: str) -> None:
    for seed in range(8):
        asked = traffic(seed)
        rules = Rules(batching=batching, max_tokens=(3, 8, 64)[seed % 3], arrival_rate=30.0, cache_size=2)
        served = serve(asked, MACHINE, rules)
        by_hand = batches_by_hand(asked, served, rules)
        assert [sum(take.values()) for take in by_hand] == served.tokens.tolist()
        assert served.tokens.max() <= rules.max_tokens
        assert served.tokens.sum() == asked.length.sum()
        done = Counter[int]()
        for b, take in enumerate(by_hand):  # in order within a request, each token once; and the experts are theirs
            needs = Counter(int(asked.expert[r, done[r] + i]) for r, n in take.items() for i in range(n))
            mine = served.use_batch == b
            assert needs == dict(zip(served.use_expert[mine].tolist(), served.use_tokens[mine].tolist()))
            done.update(take)


def test_with_one_expert_batches_by_expert_are_first_come() -> None:
    asked = traffic(3)
    alone = Requests(asked.expert * 0, asked.prompt, asked.length, asked.gap)
    found = [serve(alone, MACHINE, Rules(batching=b, max_tokens=9, cache_size=1)) for b in ("fifo", "expert-aware")]
    for one, other in zip(*found):
        np.testing.assert_array_equal(one, other)


def test_batches_by_expert_hold_fewer_experts_when_there_is_a_choice() -> None:
    asked = traffic(4, count=60, longest=30, stay=0.8)
    fewer = [
        serve(asked, MACHINE, Rules(batching=b, max_tokens=16, arrival_rate=500.0)).distinct.mean()
        for b in ("expert-aware", "fifo")
    ]
    assert fewer[0] < 0.8 * fewer[1]


def test_the_clock_of_a_single_request() -> None:
    """Three tokens of prompt on experts 0 0 1, one more on 1: two batches whose milliseconds can be added up by hand."""
    asked = Requests(np.array([[0, 0, 1, 1]]), np.array([3]), np.array([4]), np.array([2.0]))
    machine = Machine(np.array([1, 2, 3]), np.array([10.0, 11, 13]), np.array([2.0, 3, 5]), np.array([20.0, 40]), 4)
    slow = serve(asked, machine, Rules(cache_size=2, arrival_rate=10.0, prefetch=False))
    assert slow.start_ms.tolist() == [200.0, 200 + 60 + 13 + 3 + 2]
    assert slow.load_ms.tolist() == [60.0, 0.0]
    assert slow.compute_ms.tolist() == [18.0, 12.0]
    assert slow.latency_ms.tolist() == [60 + 18 + 12.0]
    ahead = serve(asked, machine, Rules(cache_size=2, arrival_rate=10.0, prefetch=True))
    load, compute = 60 / 4, 18 / 4  # of one layer; the first layer's load is waited for
    np.testing.assert_allclose(ahead.total_ms, [load + 3 * max(load, compute) + compute, 12.0])
    one_slot = serve(asked, machine, Rules(cache_size=1, arrival_rate=10.0, prefetch=False))
    assert one_slot.hit.tolist() == [False, False, True]
    assert one_slot.evicted.tolist() == [-1, 0, -1]


@pytest.mark.parametrize("policy", serving.POLICIES)
@pytest.mark.parametrize("batching", ["fifo", "expert-aware"])
def test_a_replay_of_the_same_cache_gives_the_same_hits(policy: str, batching: str) -> None:
    """Two ways through the code: the cache inside the clock, and the cache over what was written down."""
    for seed in range(4):
        rules = Rules(batching, policy, 2, lookahead=6, max_tokens=12, arrival_rate=40.0, at_hand_first=seed > 1, seed=seed)
        served = serve(traffic(seed, count=20), MACHINE, rules, keep_plans=True)
        np.testing.assert_array_equal(serving.replay(served, rules, 4), served.hit)
        assert 0 < served.hit.sum() < len(served.hit)


def test_plans_hold_what_is_queued_and_nothing_else() -> None:
    """All requests are there from the start and generate nothing: the plan is the truth. What is generated later is not in it."""
    asked = traffic(6, count=16)
    still = Requests(asked.expert, asked.length, asked.length, asked.gap * 0)
    served = serve(still, MACHINE, Rules(max_tokens=10, cache_size=2, at_hand_first=False), keep_plans=True)
    for b in range(len(served.tokens)):
        later = served.use_expert[served.use_batch > b][: serving.MOST_AHEAD]
        assert served.plans[b, : served.planned[b]].tolist() == later.tolist()
    lonely = Requests(asked.expert[:1], asked.prompt[:1], asked.prompt[:1] + 5, np.zeros(1))
    assert serve(lonely, MACHINE, Rules(cache_size=2), keep_plans=True).planned.tolist() == [0] * 6


def test_a_lookahead_without_end_sees_the_whole_queue() -> None:
    """Everything waits from the start and generates nothing: the queue is the future, and Belady's rule is the optimum."""
    asked = traffic(6, count=120)
    still = Requests(asked.expert, asked.length, asked.length, asked.gap * 0)
    rules = Rules("fifo", max_tokens=6, cache_size=2, lookahead=None)
    served = serve(still, MACHINE, rules, keep_plans=True)
    assert served.planned[0] > serving.MOST_AHEAD
    for b in range(len(served.tokens)):
        assert served.plans[b, : served.planned[b]].tolist() == served.use_expert[served.use_batch > b].tolist()
    assert served.hit.sum() == most_hits(served.use_expert, 2, 4)
    np.testing.assert_array_equal(serving.replay(served, rules, 4), served.hit)


@pytest.mark.parametrize("at_hand", [False, True])
def test_no_policy_beats_the_bound_and_a_cache_for_all_misses_once(at_hand: bool) -> None:
    rules = Rules(max_tokens=16, arrival_rate=100.0, at_hand_first=at_hand)
    served = serve(traffic(9, count=40, longest=25), MACHINE, rules, keep_plans=True)
    rows = joined(report.hit_curves(served, rules, 4))
    rate = {n: rows["y"][rows["curve"] == n] for n in dict.fromkeys(rows["curve"])}
    bound = rate["the most any cache can hit"]
    for name in ("Belady, as far as the queue tells", "LRU", "LFU", "random"):
        assert (rate[name] <= bound + 1e-12).all()
        assert rate[name][-1] == bound[-1] == 1 - 4 / len(served.use_expert)
    assert rate["Belady, as far as the queue tells"].mean() > rate["LRU"].mean()


def best_of_batches(batches: list[set[int]], slots: int) -> int:
    """Return the most hits if a batch takes its experts in any order and any `slots` of what was there or needed may stay: all of it tried."""
    states: dict[frozenset[int], int] = {frozenset(): 0}
    for batch in batches:
        following: dict[frozenset[int], int] = {}
        for held, hits in states.items():
            pool = sorted(held | batch)
            for kept in itertools.combinations(pool, min(slots, len(pool))):
                state, score = frozenset(kept), hits + len(held & batch)
                following[state] = max(following.get(state, -1), score)
        states = following
    return max(states.values())


def test_the_bound_of_batches_is_the_best_of_all_caches_and_at_hand_first_serves_what_is_there() -> None:
    rng = np.random.default_rng(6)
    for _ in range(150):
        batches = [set(rng.choice(5, int(rng.integers(1, 5)), replace=False).tolist()) for _ in range(int(rng.integers(1, 8)))]
        uses = np.array([e for batch in batches for e in batch])
        batch = np.repeat(np.arange(len(batches)), [len(b) for b in batches])
        for slots in (1, 2, 3):
            assert most_hits(uses, slots, 5, batch) == best_of_batches(batches, slots)
    served = serve(traffic(2, count=30), MACHINE, Rules(max_tokens=12, cache_size=2, arrival_rate=60.0, at_hand_first=True))
    before = np.vstack([np.zeros((1, 4), bool), served.resident[:-1]])
    for b in range(len(served.tokens)):
        mine = served.use_batch == b
        assert served.hit[mine].sum() == before[b][served.use_expert[mine]].sum()


@pytest.mark.parametrize(
    ("knobs", "sentence"),
    [
        ({"policy": "lur"}, "policy: expected one of .*got 'lur'"),
        ({"cache_size": 0}, "cache_size: expected at least 1 expert, got 0"),
        ({"expert": [0, 4]}, "expert: expected uses from 0 to 3, got 0 to 4"),
        ({"expert": [-1, 2]}, "expert: expected uses from 0 to 3, got -1 to 2"),
    ],
)
def test_a_stream_that_cannot_be_served_is_an_error(knobs: dict[str, Any], sentence: str) -> None:
    with pytest.raises(WorkbenchError, match=sentence):
        stream(**{"expert": np.array([0, 1]), "cache_size": 2, "policy": "lru", "experts": 4} | knobs)

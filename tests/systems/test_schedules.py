"""Schedules over depth: planted needs, brute force, closed forms, scipy and scikit-learn as peers."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.errors import InputError
from workbench.systems.attention import schedules as s


def planted(needs):
    """Return the metric that is 1 if every layer keeps at least what it needs."""
    return lambda counts: float(all(k >= n for k, n in zip(counts, needs, strict=True)))


@pytest.mark.parametrize("seed", range(20))
def test_planted_needs_are_found_exactly(seed):
    layers, tokens = 32, 576
    needs = np.sort(np.random.default_rng(seed).integers(0, tokens + 1, layers))[::-1]
    needs[0] = tokens
    counts, trials = s.g_search(planted(needs), layers, tokens, 1.0)
    assert counts == needs.tolist()
    assert len(trials) <= (layers - 1) * int(np.ceil(np.log2(tokens + 1)))


def all_schedules(layers, tokens):
    tails = itertools.combinations_with_replacement(range(tokens + 1), layers - 1)
    return [[tokens, *sorted(tail, reverse=True)] for tail in tails]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=3, max_size=3))
def test_no_schedule_that_never_grows_is_cheaper(tail):
    """Brute force over every schedule: needs in any order; the greedy answer is the suffix maximum and the cheapest."""
    layers, tokens = 4, 6
    needs = [0, *tail]
    counts, _ = s.g_search(planted(needs), layers, tokens, 1.0)
    assert counts == [tokens, *(max(needs[i:]) for i in range(1, layers))]
    feasible = [k for k in all_schedules(layers, tokens) if planted(needs)(k)]
    for cost in (sum, lambda k: sum(c * c + 3 * c for c in k), lambda k: sum((i + 1) * c for i, c in enumerate(k))):
        assert cost(counts) == min(map(cost, feasible))


def test_where_layers_trade_off_greedy_is_not_optimal():
    """3 layers, feasible iff 2 k_2 + k_3 >= 12: greedy keeps 4 and 4, six tokens in the second would do alone."""
    counts, _ = s.g_search(lambda k: float(2 * k[1] + k[2] >= 12), 3, 12, 1.0)
    assert counts[1:] == [4, 4]
    best = min((k for k in all_schedules(3, 12) if 2 * k[1] + k[2] >= 12), key=sum)
    assert best[1:] == [6, 0]
    assert all(2 * k[1] + k[2] < 12 for k in ([12, 3, 4], [12, 4, 3]))  # no single step down shows it
    assert s.trade_off(lambda k: float(2 * k[1] + k[2] >= 12), counts, 1.0) == [12, 6, 0]  # the probe does


def test_the_probe_finds_nothing_where_layers_do_not_trade_off():
    for seed in range(10):
        needs = [9, *np.sort(np.random.default_rng(seed).integers(0, 10, 4))[::-1]]
        counts, _ = s.g_search(planted(needs), 5, 9, 1.0)
        assert s.trade_off(planted(needs), counts, 1.0) is None


def test_every_step_down_breaks_the_tolerance():
    def metric(counts):
        return 1 - sum(2.0 ** -(k / 3) * w for k, w in zip(counts, (0, 0.3, 0.2, 0.1), strict=True))

    wanted = metric([24] * 4) - 0.05
    counts, _ = s.g_search(metric, 4, 24, wanted)
    assert metric(counts) >= wanted
    for layer in range(1, 4):
        lower = counts.copy()
        lower[layer] -= 1
        if lower[layer] >= 0 and all(a >= b for a, b in itertools.pairwise(lower)):
            assert metric(lower) < wanted


def test_a_lucky_count_is_not_believed():
    """One low count passes by luck; with confirmation the search walks past it."""
    lucky = {10}
    assert s.least(lambda c: c >= 20 or c in lucky, 42) == 10
    assert s.least(lambda c: c >= 20 or c in lucky, 42, confirm=2) == 20
    assert s.least(lambda c: True, 9, confirm=2) == 0
    assert s.least(lambda c: False, 9, confirm=2) == 9


@settings(max_examples=200, deadline=None)
@given(st.floats(0.01, 30), st.floats(0, 0.9), st.floats(0.01, 0.99))
def test_the_midpoint_meets_the_budget(steepness, floor, part):
    share, layers = floor + (1 - floor) * part, np.arange(1, 33)
    rates = s.sigmoid(layers, steepness, s.midpoint_for(share, layers, steepness, floor), floor)
    assert abs(rates.mean() - share) <= 1e-9
    assert (np.diff(rates) <= 1e-12).all()


def test_a_floor_above_the_budget_is_refused():
    with pytest.raises(InputError, match="floor"):
        s.midpoint_for(0.3, np.arange(1, 9), 1.0, 0.3)


def test_the_steep_limit_is_one_step():
    assert s.sigmoid([1, 2, 3, 4], 1e3, 2.5, 0.5).tolist() == [1.0, 1.0, 0.5, 0.5]


@pytest.mark.parametrize("share", [0.2, 0.25, 0.5, 0.75, 1.0])
def test_every_schedule_has_its_budget_and_never_grows(share):
    layers, tokens = 8, 64
    made = [s.p_sigmoid(share, layers, tokens, 1.0, 0.05), s.uniform(share, layers, tokens), s.linear(share, layers, tokens)]
    made += [s.step(share, layers, tokens)] if share >= 0.25 else []
    for counts in made:
        assert counts[0] == tokens
        assert all(a >= b for a, b in itertools.pairwise(counts))
        assert abs(np.mean(counts) / tokens - share) <= 0.5 / tokens + 1e-9


def test_kendall_by_its_definition():
    rng = np.random.default_rng(0)
    scores = rng.random((3, 20))
    scores[1] = scores[0] * 2 + 1
    found = s.kendall(np.stack([*scores, -scores[0]]))
    pairs = list(itertools.combinations(range(20), 2))
    slow = np.mean([np.sign(scores[0, i] - scores[0, j]) * np.sign(scores[2, i] - scores[2, j]) for i, j in pairs])
    assert abs(found[0, 2] - slow) < 1e-12
    assert found[0, 1] == 1
    assert found[0, 3] == -1


def test_random_rankings_scatter_as_they_should():
    rng = np.random.default_rng(1)
    taus = [s.kendall(rng.random((2, 64)))[0, 1] for _ in range(400)]
    expected = np.sqrt(2 * (2 * 64 + 5) / (9 * 64 * 63))
    assert abs(expected - 0.0856) < 1e-4
    assert abs(np.mean(taus)) < 3 * expected / 20
    assert abs(np.std(taus) - expected) < 3 * expected / np.sqrt(800)


def branin(x, y):
    """Return the Branin function, least 0.397887 at three places of [-5, 10] x [0, 15]."""
    return (y - 5.1 / (4 * np.pi**2) * x**2 + 5 / np.pi * x - 6) ** 2 + 10 * (1 - 1 / (8 * np.pi)) * np.cos(x) + 10


def regrets(seed, guided):
    """Return (regret of the search, of as many random points) on Branin, laid over the plane of steepness and floor."""

    def place(steepness, floor):
        return -5 + 15 * (np.log10(steepness) + 1) / 2.5, 15 * floor

    best, tried = s.bayesian(lambda a, floor: -branin(*place(a, floor)), 1.0, first=5, guided=guided, seed=seed)
    drawn = np.random.default_rng(1000 + seed).random((len(tried), 2)) * [15, 15] - [5, 0]
    return -best.metric - 0.397887, min(branin(*p) for p in drawn) - 0.397887


def test_the_search_is_good_on_branin():
    found = np.array([regrets(seed, 25) for seed in range(2)])
    assert (found >= -1e-6).all()
    assert (found[:, 0] < 0.5).all()
    assert np.median(found[:, 0]) < np.median(found[:, 1])


@pytest.mark.long
def test_the_search_is_good_on_branin_whatever_the_seed():
    found = np.array([regrets(seed, 35) for seed in range(20)])
    assert (found[:, 0] < 0.5).sum() >= 18
    assert np.median(found[:, 0]) < np.median(found[:, 1])


def test_expected_improvement_is_that_of_monte_carlo():
    """The library's acquisition against the mean of what draws exceed the best by."""
    from bayes_opt.acquisition import ExpectedImprovement

    rng = np.random.default_rng(0)
    for mean, deviation, best in ((0.2, 0.5, 0.4), (1.0, 0.1, 0.9), (-1.0, 1.0, 0.5)):
        acquisition = ExpectedImprovement(xi=0.0)
        acquisition.y_max = best
        gains = np.maximum(rng.normal(mean, deviation, 200_000) - best, 0)
        found = float(np.squeeze(acquisition.base_acq(np.array([mean]), np.array([deviation]))))
        assert abs(found - gains.mean()) < 3 * gains.std() / 200_000**0.5


def test_the_search_finds_a_planted_optimum_and_is_reproducible():
    def metric(steepness, floor):
        return -((np.log10(steepness) - 0.4) ** 2) - 4 * (floor - 0.2) ** 2

    best, tried = s.bayesian(metric, 0.5, first=5, guided=15, seed=3)
    assert best.metric > -0.01
    assert [g.random for g in tried] == [True] * 5 + [False] * 15
    again, _ = s.bayesian(metric, 0.5, first=5, guided=15, seed=3)
    assert again == best
    rng = np.random.default_rng(3)
    blind = max(metric(10 ** rng.uniform(-1, 1.5), rng.uniform(0, 0.5)) for _ in range(20))
    assert best.metric >= blind


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: s.step(0.14, 8, 64), "budget: expected at least 0.250: the first 2 layers keep everything, got 0.14. Raise it."),
        (lambda: s.uniform(0.1, 8, 64), "budget: expected at least 0.125: the first layer keeps everything, got 0.1. Raise it."),
        (lambda: s.linear(0.1, 8, 64), "budget: expected at least 0.125"),
        (lambda: s.p_sigmoid(0.1, 8, 64, 1.0, 0.0), "budget: expected at least 0.125"),
        (
            lambda: s.p_sigmoid(0.25, 8, 64, 1.0, 0.5),
            "floor: expected at most 0.143 under a budget of 0.25, got 0.5. Lower the floor.",
        ),
    ],
)
def test_a_share_that_a_schedule_cannot_have_is_an_error_and_not_another_share(call: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=re.escape(sentence)):
        call()


@pytest.mark.parametrize("share", [0.25, 0.3, 0.5, 0.9, 1.0])
def test_every_schedule_has_the_share_it_was_asked_for(share: float) -> None:
    for counts in (
        s.step(share, 8, 640),
        s.uniform(share, 8, 640),
        s.linear(share, 8, 640),
        s.p_sigmoid(share, 8, 640, 1.0, 0.1),
    ):
        assert np.mean(counts) / 640 == pytest.approx(share, abs=0.002)

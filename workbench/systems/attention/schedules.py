"""How many tokens each layer keeps: the greedy search, the sigmoid over depth, and what they are compared with. No model here."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from workbench.errors import InputError, expected


@dataclass(frozen=True)
class Trial:
    """One schedule that a search tried: layer (0-based), candidate count, its metric, whether it passed, seconds."""

    layer: int
    candidate: int
    metric: float
    feasible: bool
    seconds: float


def least(passes: Callable[[int], bool], highest: int, confirm: int = 0) -> int:
    """Return the smallest count in [0, highest] that passes, by bisection; `highest` itself is taken to pass.

    Args:
        passes: monotone, or noisy: then `confirm` further counts above the result must pass as well, or the search moves
            up past the one that did not.
        confirm: how many.
    """
    low, high = 0, highest
    while low < high:
        middle = (low + high) // 2
        if passes(middle):
            high = middle
        else:
            low = middle + 1
    above = 1
    while above <= confirm and high + above <= highest:
        if passes(high + above):
            above += 1
        else:
            high, above = high + above + 1, 1
    return min(high, highest)


def g_search(
    metric: Callable[[list[int]], float],
    layers: int,
    tokens: int,
    wanted: float,
    *,
    confirm: int = 0,
    fixed: Callable[[int, int], None] = lambda layer, count: None,
) -> tuple[list[int], list[Trial]]:
    """Return (kept counts of each layer, every trial): from the second layer down, the least count that keeps the metric.

    Args:
        metric: of a schedule of `layers` counts, the deeper ones all equal to the candidate.
        wanted: the least value that passes (baseline minus tolerance).
        confirm: see `least`. fixed: called when a layer's count is settled.

    Source:
        arXiv 2412.00556, scenario I. Optimal for every monotone cost only if what a layer needs never grows with depth;
        otherwise the result is the suffix maximum of the needs, the cheapest schedule that never grows.
    """
    counts, trials = [tokens] * layers, []
    for layer in range(1, layers):
        known: dict[int, bool] = {}

        def passes(count: int, layer: int = layer, known: dict[int, bool] = known) -> bool:
            if count not in known:
                began = time.perf_counter()
                value = metric(counts[:layer] + [count] * (layers - layer))
                known[count] = value >= wanted
                trials.append(Trial(layer, count, value, known[count], time.perf_counter() - began))
            return known[count]

        found = least(passes, counts[layer - 1], confirm)
        counts[layer:] = [found] * (layers - layer)
        fixed(layer, found)
    return counts, trials


def trade_off(metric: Callable[[list[int]], float], counts: Sequence[int], wanted: float) -> list[int] | None:
    """Return the schedule of fewest tokens found by raising one layer and searching the deeper ones again; None if none is cheaper.

    G-Search is optimal only if layers do not trade off. Lowering a count by one never shows that they do; this probe may.
    """
    best: list[int] | None = None
    for layer in range(1, len(counts) - 1):
        for raised in range(counts[layer] + 1, counts[layer - 1] + 1):
            tried = [*counts[:layer], raised]
            while len(tried) < len(counts):
                rest = len(counts) - len(tried)
                tried.append(least(lambda c, t=tried, r=rest: metric([*t, *[c] * r]) >= wanted, counts[len(tried)]))  # type: ignore[misc]
            if sum(tried) < sum(best or counts) and metric(tried) >= wanted:
                best = tried
    return best


def sigmoid(layers: Any, steepness: float, midpoint: float, floor: float, ceiling: float = 1.0) -> np.ndarray:
    """Return the keep-rate of each layer: `ceiling` early, `floor` late, half-way at `midpoint` (layers counted from 1)."""
    from scipy.special import expit

    return floor + (ceiling - floor) * expit(-steepness * (np.asarray(layers, float) - midpoint))


def midpoint_for(share: float, layers: Any, steepness: float, floor: float) -> float:
    """Return the midpoint at which the rates have this mean (unique: the mean grows with the midpoint).

    Raises:
        InputError: the floor alone is above the share, or the share is not below 1.
    """
    from scipy.optimize import brentq

    if not floor < share < 1:
        raise InputError(
            expected("budget", f"a share above the floor {floor:g} and below 1", f"{share:g}", "", "Lower the floor")
        )
    places = np.asarray(layers, float)
    reach = 60 / steepness + 1
    return float(
        brentq(
            lambda b: sigmoid(places, steepness, b, floor).mean() - share,
            places[0] - reach,
            places[-1] + reach,
            xtol=1e-13,
            rtol=1e-14,
        )
    )


def counts_of(rates: Sequence[float] | np.ndarray, tokens: int) -> list[int]:
    """Return whole counts for rates that never grow; the first layer keeps everything, no layer grows."""
    counts = np.minimum.accumulate(np.round(np.asarray(rates) * tokens).astype(int))
    counts[0] = tokens
    return [int(c) for c in counts]


def _affords(share: float, layers: int, full: int) -> None:
    """Raise unless a mean share leaves something for the layers behind `full` ones that keep everything."""
    if share * layers < full - 1e-9:
        first = "the first layer keeps" if full == 1 else f"the first {full} layers keep"
        raise InputError(expected("budget", f"at least {full / layers:.3f}: {first} everything", f"{share:g}", "", "Raise it"))


def p_sigmoid(share: float, layers: int, tokens: int, steepness: float, floor: float) -> list[int]:
    """Return the sigmoid schedule whose mean share over all layers is `share`; the first layer keeps everything."""
    rest = (share * layers - 1) / (layers - 1)  # what the other layers may keep
    if share >= 1:
        return [tokens] * layers
    _affords(share, layers, 1)
    if floor > rest + 1e-9:
        raise InputError(
            expected("floor", f"at most {rest:.3f} under a budget of {share:g}", f"{floor:g}", "", "Lower the floor")
        )
    if rest - floor < 1e-9:
        return counts_of([1.0, *[rest] * (layers - 1)], tokens)
    places = np.arange(2, layers + 1)
    return counts_of([1.0, *sigmoid(places, steepness, midpoint_for(rest, places, steepness, floor), floor)], tokens)


def step(share: float, layers: int, tokens: int, full: int = 2) -> list[int]:
    """Return FastV's schedule of the same mean share: `full` layers keep everything, the others one count.

    Raises:
        InputError: the full layers alone are more than the share.
    """
    _affords(share, layers, full)
    rest = max(0.0, (share * layers - full) / (layers - full))
    return counts_of([*[1.0] * full, *[rest] * (layers - full)], tokens)


def uniform(share: float, layers: int, tokens: int) -> list[int]:
    """Return one count for all layers but the first, of the same mean share."""
    return step(share, layers, tokens, 1)


def linear(share: float, layers: int, tokens: int) -> list[int]:
    """Return counts that fall in a straight line to a floor of 0, of the same mean share."""
    from scipy.optimize import brentq

    at = np.arange(layers)

    def rates(slope: float) -> np.ndarray:
        return np.clip(1 - slope * at, 0, 1)

    if share >= 1:
        return [tokens] * layers
    _affords(share, layers, 1)
    low, high = 0.0, float(layers)
    slope = brentq(lambda s: rates(s).mean() - max(share, 1 / layers + 1e-9), low, high, xtol=1e-12)
    return counts_of(rates(float(slope)), tokens)


def kendall(rankings: np.ndarray) -> np.ndarray:
    """Return Kendall's tau between layers' scores (L, N), as (L, L) fp64."""
    from scipy.stats import kendalltau

    layers = len(rankings)
    found = np.eye(layers)
    for i in range(layers):
        for j in range(i):
            found[i, j] = found[j, i] = kendalltau(rankings[i], rankings[j]).statistic
    return found


def shared_top(rankings: np.ndarray, count: int = 4) -> np.ndarray:
    """Return the share of each layer's `count` best tokens that another layer has among its own, (L, L)."""
    top = [set(np.argsort(-row, kind="stable")[:count].tolist()) for row in rankings]
    return np.array([[len(a & b) / count for b in top] for a in top])


@dataclass(frozen=True)
class Guess:
    """One evaluation of a Bayesian search: steepness, floor, metric, and whether it was drawn at random."""

    steepness: float
    floor: float
    metric: float
    random: bool


def bayesian(
    metric: Callable[[float, float], float], most_floor: float, *, first: int = 5, guided: int = 20, seed: int = 0
) -> tuple[Guess, list[Guess]]:
    """Return (best, all) evaluations of `metric(steepness, floor)`: random ones, then where improvement is expected most.

    A Gaussian process (Matern 5/2) over (log10 steepness, floor) and expected improvement, from the package `bayes_opt`.

    Args:
        most_floor: upper end of the floor; steepness runs from 0.1 to 30.
    """
    from bayes_opt import BayesianOptimization
    from bayes_opt.acquisition import ExpectedImprovement

    bounds = {"log_steepness": (-1.0, 1.5), "floor": (0.0, max(most_floor, 1e-6))}
    search = BayesianOptimization(
        f=None,
        pbounds=bounds,
        acquisition_function=ExpectedImprovement(xi=0.0),
        random_state=seed,
        verbose=0,
        allow_duplicate_points=True,
    )
    rng, tried = np.random.default_rng(seed), []
    for turn in range(first + guided):
        random = turn < first
        drawn = {n: rng.uniform(*b) for n, b in bounds.items()} if random else search.suggest()
        point = {n: float(v) for n, v in drawn.items()}
        value = metric(10 ** point["log_steepness"], point["floor"])
        search.register(params=point, target=value)
        tried.append(Guess(10 ** point["log_steepness"], point["floor"], value, random))
    return max(tried, key=lambda g: g.metric), tried

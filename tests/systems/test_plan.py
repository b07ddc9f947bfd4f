"""The tree a machine's profile asks for: brute force, bounds, and a profile taken while something else runs."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.systems.speculation import plan

ACCEPTANCE = st.lists(st.floats(0, 0.25), min_size=4, max_size=4).map(tuple)
STEPS = st.lists(st.floats(0, 30), min_size=len(plan.ROWS), max_size=len(plan.ROWS))


def test_a_flat_machine_with_a_free_perfect_draft_takes_the_deepest_chain() -> None:
    profile = plan.Profile(plan.ROWS, (20.0,) * len(plan.ROWS), 0.0, (1.0, 0.0, 0.0, 0.0))
    best = plan.best_plan(profile)
    assert (best.depth, best.width) == (max(plan.DEPTHS), 1)
    assert best.speedup == pytest.approx(max(plan.DEPTHS) + 1)


def test_a_draft_as_slow_as_its_target_asks_for_the_smallest_tree() -> None:
    rows = tuple(20.0 * n for n in plan.ROWS)
    best = plan.best_plan(plan.Profile(plan.ROWS, rows, 20.0, (0.5, 0.1, 0.0, 0.0)))
    assert (best.depth, best.width) == (1, 1)
    assert best.speedup == pytest.approx(1.5 * 20 / (20 + 40))


@settings(max_examples=60, deadline=None)
@given(ACCEPTANCE, STEPS, st.floats(0, 40))
def test_no_tree_beats_the_planned_one_and_none_promises_more_than_its_depth(acceptance, steps, draft_ms) -> None:
    profile = plan.Profile(plan.ROWS, tuple(20 + np.cumsum(steps)), draft_ms, acceptance)
    best = plan.best_plan(profile)
    assert best.speedup <= best.depth + 1 + 1e-9
    for depth in plan.DEPTHS:
        for width in plan.WIDTHS:
            if 1 + depth * width <= max(plan.ROWS):
                cost = depth * draft_ms + profile.target(1 + depth * width)
                tokens = sum(min(sum(acceptance[:width]), 1.0) ** level for level in range(depth + 1))
                assert tokens * profile.target(1) / cost <= best.speedup + 1e-9


class Stalling:
    """A session of 1 ms and 0.2 ms a row that another program holds up in two calls of three."""

    def __init__(self) -> None:
        self.calls = 0

    def forward(self, token_ids, parents) -> None:
        self.calls += 1
        time.sleep(1e-3 + 2e-4 * len(token_ids) + (0.05 if self.calls % 3 else 0))

    def keep(self, rows) -> None:
        """Nothing to drop."""


def test_a_profile_taken_on_a_busy_machine_is_of_the_machine_not_of_the_other_program() -> None:
    found = plan.latency(Stalling(), turns=3)  # type: ignore[arg-type]
    assert found == sorted(found)
    assert max(found) < 50  # each count of rows is left alone in one of its three turns

"""Bits to rounds: the bounds on hundreds of random joint laws, where they are tight, where the naive one fails; exploration."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import workbench as wb
from workbench.errors import InputError
from workbench.models import TableDLM
from workbench.models.masked import ExactCanvas
from workbench.models.table_dlm import random_chain
from workbench.record import Record
from workbench.systems.diffusion import bounds, exploration, laws, problems
from workbench.systems.diffusion.bits_to_rounds import LIVE, BitsToRounds
from workbench.systems.diffusion.decode import EXPLORE, FALLBACK, Decoded, Information, Plain, decode, information
from workbench.systems.diffusion.explore import Explorer
from workbench.systems.diffusion.rules import Rule


def written(
    model: TableDLM, factor: float, temperature: float, seed: int, samples: int = 1, **more: Any
) -> tuple[Decoded, Information]:
    """Return what the factor rule writes on a table, and the information it reveals."""
    canvas = ExactCanvas(model, model.length, samples)
    start = np.full((samples, model.length), model.mask_id)
    kind = Explorer if more else Plain
    out = decode(canvas, start, kind(canvas, Rule("factor", factor=factor), np.random.default_rng(seed), temperature, **more))
    return out, information(canvas, out)


# ---- the theorem -----------------------------------------------------------------------------------------------------


def test_four_hundred_random_laws_never_violate_the_corrected_bound_and_some_violate_the_naive_one() -> None:
    rng, naive, rounds = np.random.default_rng(0), 0, 0
    for draw in range(400):
        n, vocab, factor = int(rng.integers(2, 7)), int(rng.integers(2, 4)), float(rng.uniform(0.2, 1.0))
        model = random_chain(n, vocab, float(rng.choice([1.0, 3.0])), 1000 + draw)
        out, told = written(model, factor, 0.0, draw)
        trusting = (out.kind >= 0) & (out.kind != FALLBACK)
        k = out.committed
        assert (told.joint[trusting] <= bounds.joint_budget(k, factor)[trusting] + 1e-9).all()
        assert (told.marginal[trusting] <= bounds.marginal_budget(k, factor)[trusting] + 1e-9).all()
        assert (out.rounds >= exploration.corrected_bound(out, told, n, factor) - 1e-9).all()
        naive += int((out.rounds < bounds.naive(told.total, told.marginal.sum(0), n, factor) - 1e-9).sum())
        rounds += int(trusting.sum())
    assert rounds > 100
    assert naive > 0  # so the fallbacks are really counted


def test_budgets_are_those_of_the_derivation() -> None:
    np.testing.assert_allclose([bounds.joint_budget(32, f) for f in (0.5, 0.9, 1.0)], [0.66, 2.06, 3.50], atol=5e-3)
    for f in (0.1, 0.5, 1.0):
        k = np.arange(1, 200)
        assert (np.diff(bounds.joint_budget(k, f)) >= 0).all()
        assert (bounds.marginal_budget(k, f) <= k * f / (k + 1 - f) + 1e-12).all()
        assert (bounds.marginal_budget(k, f) <= f + 1e-12).all()
    assert bounds.joint_budget(5, 1.4) == np.inf
    assert bounds.threshold_joint_budget(20, 0.9) == np.inf
    np.testing.assert_allclose(bounds.threshold_joint_budget(5, 0.9), -np.log(0.5))


@pytest.mark.parametrize(("k", "f"), [(1, 0.5), (2, 0.8), (4, 1.0)])
def test_the_joint_budget_is_tight_for_disjoint_errors(k: int, f: float) -> None:
    """k tokens, each wrong with probability f / (k + 1), never two at once: the joint information is the whole budget."""
    error = f / (k + 1)
    joint = np.zeros((2,) * k)
    joint[(0,) * k] = 1 - k * error
    for i in range(k):
        joint[tuple(int(i == j) for j in range(k))] = error
    out, told = written(TableDLM(joint), f, 0.0, 0)
    if out.tokens[0].any():  # equals are told apart by lot; take the text of the derivation
        pytest.fail("the likeliest tokens are all 0")
    assert out.rounds[0] == 1
    np.testing.assert_allclose(told.joint[0, 0], bounds.joint_budget(k, f), atol=1e-12)


def test_joint_information_adds_up_whatever_the_order() -> None:
    model = random_chain(6, 3, 1.5, 3)
    canvas, start = ExactCanvas(model, 6, 40), np.full((40, 6), model.mask_id)
    for name in ("random", "left-to-right", "factor", "margin"):
        out = decode(canvas, start, Plain(canvas, Rule(name, k=2), np.random.default_rng(0), 1.0))
        told = information(canvas, out)
        np.testing.assert_allclose(told.joint.sum(0), -model.log_evidence(out.tokens), atol=1e-10)
        np.testing.assert_allclose(told.per_token.sum(1), told.total, atol=1e-10)


def test_epsilon_is_minus_total_correlation_under_the_law_and_a_divergence_under_the_sampler() -> None:
    model = random_chain(4, 3, 1.5, 5)
    schedule = [[0, 2], [1, 3]]
    first = {tuple(r[[0, 2]]) for r in model.rows}
    states = np.full((1, 4), model.mask_id)
    marginal = np.exp(model.log_laws(states))[0]
    law, sampled = 0.0, 0.0
    for a, b in first:
        state = states.copy()
        state[0, [0, 2]] = a, b
        joint = float(np.exp(model.log_evidence(state))[0])
        alone = float(marginal[0, a] * marginal[2, b])
        epsilon = -np.log(joint) + np.log(alone)
        law += joint * epsilon
        sampled += alone * epsilon
    correlation = laws.step_losses(model.subset_entropies(), schedule)[0]
    np.testing.assert_allclose(law, -correlation, atol=1e-10)
    assert sampled > 0
    divergence = sum(
        marginal[0, a] * marginal[2, b] * (np.log(marginal[0, a] * marginal[2, b]) - np.log(_pair(model, a, b))) for a, b in first
    )
    np.testing.assert_allclose(sampled, divergence, atol=1e-10)


def _pair(model: TableDLM, a: int, b: int) -> float:
    return float(model.probs[(model.rows[:, 0] == a) & (model.rows[:, 2] == b)].sum())


def test_a_tiny_factor_decides_one_by_one_and_certainty_decides_all() -> None:
    out, _ = written(random_chain(6, 3, 1.0, 0), 1e-6, 0.0, 0)
    assert out.rounds[0] == 6
    joint = np.zeros((3,) * 5)
    joint[0, 1, 2, 1, 0] = 1.0
    out, told = written(TableDLM(joint), 1e-6, 0.0, 0)
    assert out.rounds[0] == 1
    assert told.total[0] == 0.0


# ---- exploration -----------------------------------------------------------------------------------------------------


def test_one_candidate_and_no_window_is_the_baseline_token_for_token() -> None:
    problem = problems.make("tiny-mdm", "sentences", 3, 100, 0)
    runs = []
    for kind, more in ((Plain, {}), (Explorer, {"candidates": 1})):
        stepper = kind(problem.canvas, Rule("factor"), np.random.default_rng(0), 0.0, 8, 0, **more)
        runs.append(decode(problem.canvas, problem.start, stepper))
    for name in ("tokens", "commit_round", "rounds", "kind", "sequences"):
        np.testing.assert_array_equal(getattr(runs[0], name), getattr(runs[1], name))


def test_exploring_only_decides_likeliest_tokens_never_twice_and_saves_rounds() -> None:
    problem = problems.make("tiny-mdm", "sentences", 3, 40, 0)
    rounds = {}
    for k in (1, 4):
        stepper = Explorer(problem.canvas, Rule("factor"), np.random.default_rng(0), 0.0, 8, 1, candidates=k)
        out = decode(problem.canvas, problem.start, stepper)
        rounds[k] = out.rounds.mean()
        assert (out.committed.sum(0) == problem.hidden).all()
        assert (out.committed[out.kind >= 0] >= 1).all()
    assert (out.kind == EXPLORE).any()
    assert rounds[4] < 0.8 * rounds[1]
    assert (out.sequences[out.kind >= 0] <= 4).all()
    for sample, place in zip(*np.nonzero(out.explored), strict=True):
        state = out.states(int(out.commit_round[sample, place]))[[sample]]
        law = problem.canvas.forward(state, np.array([sample]))[0, place]
        assert law.argmax() == out.tokens[sample, place]


def test_decisions_of_one_forward_are_those_of_single_forwards() -> None:
    problem = problems.make("tiny-mdm", "sentences", 2, 1, 0)
    rng = np.random.default_rng(0)
    states = np.where(rng.random((6, problem.canvas.length)) < 0.5, problem.canvas.mask_id, problem.start[0])
    states[:, 3] = 40 + np.arange(6)
    rows = np.zeros(6, np.int64)
    together = problem.canvas.forward(states, rows)
    alone = np.concatenate([problem.canvas.forward(states[[i]], rows[:1]) for i in range(6)])
    finite = np.isfinite(together)
    np.testing.assert_array_equal(finite, np.isfinite(alone))
    np.testing.assert_allclose(together[finite], alone[finite], atol=1e-4)


def test_exploration_without_anything_uncertain_changes_nothing() -> None:
    joint = np.zeros((3,) * 4)
    joint[0, 1, 2, 1] = 1.0
    for k in (1, 2, 8):
        out, _ = written(TableDLM(joint), 1.0, 0.0, 0, candidates=k)
        assert out.rounds[0] == 1
        assert out.tokens[0].tolist() == [0, 1, 2, 1]


def test_more_candidates_save_rounds_on_exact_laws() -> None:
    rounds = {k: np.mean([written(random_chain(7, 3, 1.0, s), 0.9, 0.0, 0, candidates=k)[0].rounds[0] for s in range(40)]) for k in (1, 2, 4)}  # fmt: skip
    assert rounds[2] < 0.85 * rounds[1]
    assert rounds[4] <= rounds[2] + 0.2


# ---- the system ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def record() -> Record:
    return wb.run("bits_to_rounds", model="joint-soft", factor=0.9, num_samples=60, seed=1)


def test_a_run_writes_samples_rounds_and_an_exact_ledger(record: Record) -> None:
    assert record["samples"]["token_id"].shape == (60, 7)
    assert record.group_attrs("rounds")["exact"]
    joint = record.column("rounds", "information_joint")
    tokens = record.column("unmasking", "token_id")
    from workbench.models import load

    np.testing.assert_allclose(joint.sum(), -load("joint-soft").model.log_evidence(tokens[None])[0], atol=1e-9)
    assert set(BitsToRounds.shows) <= set(record.views())


def test_trained_models_flag_their_information_as_an_estimate() -> None:
    found = wb.run("bits_to_rounds", items=2, num_samples=8, study=False)
    assert not found.group_attrs("rounds")["exact"]
    assert found.meter("information")["provenance"] == "estimated"


def test_every_live_knob_changes_a_group(record: Record) -> None:
    system = BitsToRounds(**{n: v for n, v in record.knobs.items() if n in BitsToRounds.knob_names()})
    for name in LIVE:
        before = getattr(system, name)
        other = {"window": 3, "trigger": 4, "candidates": 2, "block_length": 3}.get(name, 0.55)
        system.set(**{name: other})
        changed = system.rederive(record)
        groups = [g for g in changed.groups for v in changed.variables(g) if not _same(record.column(g, v), changed.column(g, v))]
        assert groups, name
        system.set(**{name: before})
    back = system.rederive(changed)
    np.testing.assert_array_equal(back.column("meters", "value"), record.column("meters", "value"))


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and bool(np.all((one == other) | ((one != one) & (other != other))))


def test_a_factor_above_one_leaves_the_theorem_and_says_so(record: Record) -> None:
    system = BitsToRounds(model="joint-soft", factor=1.5, num_samples=60, seed=1)
    moved = system.rederive(record)
    assert "the theorem says nothing" in moved.text("bits_rounds")
    names = [t["name"] for t in moved.figure("bits_rounds").to_plotly_json()["data"]]
    assert any("no theorem" in n for n in names)


def test_real_text_is_decoded_exactly_at_length() -> None:
    found = wb.run("bits_to_rounds", model="plays-chain", length=48, num_samples=2, study=False)
    assert found.group_attrs("rounds")["exact"]
    assert len(found.column("unmasking", "token_id")) == 48


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"candidates": 0}, "1 to 16"), ({"trigger": 9}, "1 to 4"), ({"window": -1}, "0 to 8"), ({"explore_weight": 3}, "0 to 2"),
        ({"rule": "static", "compat": True}, "factor"), ({"model": "plays-chain", "text": "a"}, "two characters"), ({"length": 1}, "2 to 1024"),
    ],
)  # fmt: skip
def test_bad_input_is_a_sentence(knobs: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        wb.run("bits_to_rounds", num_samples=2, study=False, **knobs)

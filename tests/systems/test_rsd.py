"""Recursive speculative decoding against exact enumeration, closed forms and its own baselines. Small tables; exact laws."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import workbench as wb
from workbench.errors import InputError, KindError
from workbench.models.session import TableSession
from workbench.systems.speculation import draft as drafting
from workbench.systems.speculation import verify
from workbench.systems.speculation.tree import TokenTree, processed_law, speculate
from workbench.tape import NullTape, Tape

THREE = (np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5]))
FOUR = (np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.4, 0.3, 0.2, 0.1]))


class Scripted:
    """Stands in for the walk's generator: plays given uniforms, so every branch of a rule can be forced."""

    def __init__(self, uniforms: list[float]) -> None:
        self.uniforms = list(uniforms)

    def random(self) -> float:
        return self.uniforms.pop(0) if self.uniforms else 0.5


def one_level_tree(tokens: tuple[int, ...], q: np.ndarray) -> TokenTree:
    """Return a root with these children, in this trial order (a repeated token is a repeated trial)."""
    tree, seen = TokenTree([0]), {}
    for token in tokens:
        if token in seen:
            tree.trials[0].append(seen[token])
        else:
            seen[token] = tree.add(0, token, float(np.log(q[token])), 0.0)
    tree.draft_probs[0] = q
    return tree


def draw_orders(q: np.ndarray, count: int, replace: bool) -> list[tuple[tuple[int, ...], float]]:
    """Return every sequence of `count` siblings with its probability."""
    orders = []
    for order in itertools.product(range(len(q)), repeat=count):
        left, weight = q.astype(float).copy(), 1.0
        for token in order:
            weight *= left[token] / left.sum() if left.sum() > 0 else 0.0
            if not replace:
                left[token] = 0
        if weight > 0:
            orders.append((order, weight))
    return orders


def exact_law(rule, p: np.ndarray, q: np.ndarray, count: int, replace: bool) -> tuple[np.ndarray, np.ndarray]:
    """Enumerate draw orders and accept patterns; return the output law and the acceptance probability of each trial."""
    law, accepted = np.zeros(len(p)), np.zeros(count)
    for order, order_weight in draw_orders(q, count, replace):
        alive = order_weight
        for trial, token in enumerate(order):
            # Force rejections before this trial and look at the ratio the rule computes for it.
            tree = one_level_tree(order, q)
            walk = rule(tree, lambda node: p if node == 0 else np.eye(len(p))[0], Scripted([1 - 1e-16] * trial + [0.0, 0.5, 0.5]))
            ratio = min(1.0, walk.tried[tree.trials[0][trial]][1])
            law[token] += alive * ratio
            accepted[trial] += alive * ratio
            alive *= 1 - ratio
            if alive <= 0:
                break
        if alive > 1e-15:
            tree = one_level_tree(order, q)
            walk = rule(tree, lambda node: p, Scripted([1 - 1e-16] * count + [0.5]))
            assert walk.final_probs is not None
            law += alive * walk.final_probs
    return law, accepted


@pytest.mark.parametrize(
    ("pair", "replace", "golden"),
    [
        (THREE, False, [0.70, 0.12, 0.18]),
        (THREE, True, [0.70, 0.06, 0.048]),
        (FOUR, False, [0.6, 0.164286, 0.076012, 0.159702]),
        (FOUR, True, [0.6, 0.12, 0.048, 0.0232]),
    ],
)
def test_golden_acceptance_by_enumeration(pair, replace, golden) -> None:
    p, q = pair
    rule = verify.rejection_with_replacement if replace else verify.recursive_rejection
    for count in range(1, len(golden) + 1):
        law, accepted = exact_law(rule, p, q, count, replace)
        np.testing.assert_allclose(law, p, atol=1e-12)
        np.testing.assert_allclose(accepted, golden[:count], atol=1e-6)


laws = st.integers(2, 4).flatmap(
    lambda n: st.tuples(*[st.lists(st.floats(0.01, 1), min_size=n, max_size=n).map(lambda v: np.array(v) / sum(v))] * 2)
)


@settings(max_examples=25, deadline=None)
@given(laws, st.integers(1, 3))
def test_output_law_is_the_targets_and_without_replacement_accepts_more(pair, count) -> None:
    p, q = pair
    count = min(count, len(p))
    law, without = exact_law(verify.recursive_rejection, p, q, count, replace=False)
    np.testing.assert_allclose(law, p, atol=1e-9)
    law, replaced = exact_law(verify.rejection_with_replacement, p, q, count, replace=True)
    np.testing.assert_allclose(law, p, atol=1e-9)
    assert without.sum() >= replaced.sum() - 1e-12
    bound = np.minimum(p, 1 - (1 - q) ** count).sum()
    assert replaced.sum() <= bound + 1e-12


@settings(max_examples=20, deadline=None)
@given(laws)
def test_all_siblings_drawn_means_certain_acceptance(pair) -> None:
    p, q = pair
    _, accepted = exact_law(verify.recursive_rejection, p, q, len(p), replace=False)
    np.testing.assert_allclose(accepted.sum(), 1.0, atol=1e-9)
    _, replaced = exact_law(verify.rejection_with_replacement, p, q, len(p), replace=True)
    if np.abs(p - q).sum() > 1e-3:
        assert replaced.sum() < 1


def test_broken_rules_are_seen_on_four_tokens_and_one_of_them_hides_on_three() -> None:
    for count, distance in ((2, 0.0434), (3, 0.0779)):
        law, _ = exact_law(verify.unrenormalised, *FOUR, count, replace=False)
        np.testing.assert_allclose(np.abs(law - FOUR[0]).sum() / 2, distance, atol=5e-5)
    law, _ = exact_law(verify.unrenormalised, *THREE, 2, replace=False)
    np.testing.assert_allclose(law, THREE[0], atol=1e-12)  # a test on three tokens would pass the bug
    p, q = FOUR
    best = tuple(np.argsort(-q)[:2])
    law = sum(w * verify_law for w, verify_law in _law_of_order(best, p, q))
    np.testing.assert_allclose(np.abs(law - p).sum() / 2, 0.5, atol=0.01)


def _law_of_order(order, p, q):
    """Output law when the children are fixed to `order` but verified as if drawn."""
    alive = 1.0
    for trial, token in enumerate(order):
        tree = one_level_tree(order, q)
        walk = verify.recursive_rejection(tree, lambda node: p, Scripted([1 - 1e-16] * trial + [0.0, 0.5]))
        ratio = min(1.0, walk.tried[tree.trials[0][trial]][1])
        yield alive * ratio, np.eye(len(p))[token]
        alive *= 1 - ratio
    walk = verify.recursive_rejection(one_level_tree(order, q), lambda node: p, Scripted([1 - 1e-16] * len(order) + [0.5]))
    yield alive, walk.final_probs


def tables(seed: int = 7, size: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(size), size), rng.dirichlet(np.ones(size), size)


def pair_statistic(count: int, method: str, break_it: str = "none", **knobs) -> tuple[float, float]:
    """Return (chi-square, total variation) of the first two tokens of `count` samples against the exact law."""
    p, q = tables()
    record = wb.run(
        "rsd", target=wb.models.TableLM(p), draft=wb.models.TableLM(q), prompt=[0], max_new_tokens=2, temperature=1.0,
        method=method, break_it=break_it, num_samples=count, seed=11, progress=False, **knobs,
    )  # fmt: skip
    samples = record["samples"]["token_id"].values
    exact = (p[0][:, None] * p).ravel()
    counts = np.bincount(samples[:, 0] * 4 + samples[:, 1], minlength=16)
    chi = float(((counts - count * exact) ** 2 / (count * exact)).sum())
    variation = float(np.abs(counts / count - exact).sum() / 2)
    np.testing.assert_allclose(record.meter("total_variation_to_target")["value"], variation, atol=1e-12)
    return chi, variation


@pytest.mark.parametrize(
    ("method", "knobs"),
    [
        ("rsd-s", {"depth": 2, "width": 3}),
        ("rsd-c", {"depth": 2, "width": [2, 2]}),
        ("with-replacement", {"depth": 2, "width": 2}),
        ("chain", {"depth": 2}),
        ("top-k", {"depth": 2, "width": 2}),
    ],
)
def test_sequence_law_by_chi_square(method, knobs) -> None:
    chi, _ = pair_statistic(3000, method, **knobs)
    assert chi < 37.7  # 15 degrees of freedom, p > .001


@pytest.mark.long
@pytest.mark.parametrize(("method", "knobs"), [("rsd-s", {"depth": 2, "width": 3}), ("rsd-c", {"depth": 2, "width": [2, 2]})])
def test_sequence_law_forty_thousand_steps(method, knobs) -> None:
    chi, _ = pair_statistic(40_000, method, **knobs)
    assert chi < 37.7


def test_the_same_check_goes_red_for_sorted_siblings() -> None:
    chi, variation = pair_statistic(1500, "rsd-s", "sorted-siblings", depth=2, width=3)
    assert chi > 37.7
    assert variation > 0.1


def test_stochastic_beam_draws_sequences_without_replacement() -> None:
    """Frequencies of ordered pairs of sequences against q(a) q(b) / (1 - q(a)); V = 3, depth 2, W = 2."""
    _, q = tables(3, 3)
    sequences = [(a, b) for a in range(3) for b in range(3)]
    weight = np.array([q[0, a] * q[a, b] for a, b in sequences])
    expected = np.array([[w * v / (1 - w) if i != j else 0 for j, v in enumerate(weight)] for i, w in enumerate(weight)])
    np.testing.assert_allclose(expected.sum(), 1.0)
    rng, count = np.random.default_rng(5), 6000
    drawer, law, seen = drafting.Drawer(rng, 1.0), processed_law(1.0, 1.0), np.zeros((9, 9))
    build = drafting.stochastic_beam(2, 2, drawer)
    from workbench.systems.speculation.tree import DraftView

    for _ in range(count):
        tree = TokenTree([0])
        build(tree, DraftView(TableSession(q), law, [0], NullTape()))
        leaves = sorted((i for i in range(len(tree)) if tree.depths[i] == 2), key=lambda i: -tree.perturbed[i])
        first, second = (sequences.index((tree.tokens[tree.parents[i]], tree.tokens[i])) for i in leaves)
        seen[first, second] += 1
    mask = expected * count >= 5
    chi = (((seen - count * expected) ** 2)[mask] / (count * expected)[mask]).sum()
    assert chi < mask.sum() + 4 * np.sqrt(2 * mask.sum())


def test_chain_reproduces_speculative_sampling_bit_for_bit() -> None:
    """A tree of branching 1 against an independent chain sampler that shares every uniform and every Gumbel."""
    p, q = tables(9, 5)
    for seed in range(40):
        drawer = drafting.Drawer(np.random.default_rng(seed), 1.0)
        build = drafting.constant_branching([1, 1, 1], drawer)
        law = processed_law(1.0, 1.0)
        step = speculate(
            TableSession(p), TableSession(q), [2], build, verify.recursive_rejection, (law, law), np.random.default_rng(100 + seed),
            NullTape(),
        )  # fmt: skip
        gumbels, uniforms = np.random.default_rng(seed), np.random.default_rng(100 + seed)
        drafted, last = [], 2
        for _ in range(3):
            last = int(np.argmax(np.log(q[last]) + gumbels.gumbel(size=(1, 5))[0]))
            drafted.append(last)
        emitted, last = [], 2
        for token in drafted:
            if uniforms.random() >= p[last, token] / q[last, token]:
                rest = np.maximum(p[last] - q[last], 0)
                emitted.append(verify.draw(rest / rest.sum(), uniforms.random()))
                break
            emitted.append(token)
            last = token
        else:
            emitted.append(verify.draw(p[last], uniforms.random()))
        assert step.emitted == emitted


def test_equal_laws_accept_everything() -> None:
    p, _ = tables()
    record = run_table(p, p, method="rsd-s", depth=3, width=2, max_new_tokens=24)
    emitted = record["steps"]["emitted"].values
    np.testing.assert_array_equal(emitted[:-1], 4)
    np.testing.assert_allclose(record.meter("acceptance_rate")["value"], 1.0)


def run_table(p: np.ndarray, q: np.ndarray, **knobs):
    defaults = {"prompt": [0], "temperature": 1.0, "max_new_tokens": 16, "seed": 3, "progress": False}
    return wb.run("rsd", target=wb.models.TableLM(p), draft=wb.models.TableLM(q), **(defaults | knobs))


@pytest.mark.parametrize("method", ["rsd-s", "rsd-c", "with-replacement", "chain", "top-k"])
def test_temperature_zero_is_greedy_decoding(method) -> None:
    rng = np.random.default_rng(1)
    p, q = rng.dirichlet(np.full(40, 0.3), 40), rng.dirichlet(np.full(40, 0.3), 40)
    knobs = {} if method == "chain" else {"width": 3}
    record = run_table(p, q, method=method, temperature=0.0, max_new_tokens=200, depth=3, **knobs)
    tokens, last = [], 0
    for _ in range(200):
        last = int(p[last].argmax())
        tokens.append(last)
    text = record["text"]
    np.testing.assert_array_equal(text["token_id"].values[text["generated"].values], tokens)
    assert record.meter("identical_to_greedy")["value"] == 1


def test_recorder_does_not_change_the_tokens() -> None:
    from workbench.systems.speculation.rsd import RSD

    p, q = tables(2, 6)
    knobs = {"prompt": [1], "max_new_tokens": 60, "depth": 3, "width": 3, "temperature": 0.9, "seed": 5}
    outputs = []
    for tape in (Tape(), NullTape()):
        system = RSD(target=wb.models.TableLM(p), draft=wb.models.TableLM(q), **knobs)
        system.prepare()
        outputs.append(system.decode(tape, system.method).tokens)
    assert outputs[0] == outputs[1]
    again = run_table(p, q, **knobs)
    text = again["text"]
    assert list(text["token_id"].values[text["generated"].values]) == outputs[0]


def test_alignment_one_accepts_everything_and_raises_acceptance_on_the_way() -> None:
    p, q = tables(4, 6)
    rates = [
        run_table(p, q, method="rsd-c", depth=2, width=2, max_new_tokens=400, draft_alignment=a).meter("acceptance_rate")["value"]
        for a in (0.0, 0.5, 1.0)
    ]
    assert rates[0] < rates[1] < rates[2]
    np.testing.assert_allclose(rates[2], 1.0)


def test_trimmed_replay_is_exact_until_the_first_flip() -> None:
    p, q = tables(8, 8)
    record = run_table(p, q, method="rsd-s", depth=4, width=4, max_new_tokens=80)
    from workbench.systems.speculation.analysis import trim

    same = trim(record, 8, 8)
    assert same.first_flip == -1
    assert same.kept.all()
    np.testing.assert_array_equal(same.replayed, record["steps"]["emitted"].values)
    smaller = trim(record, 2, 1)
    assert smaller.first_flip >= 0
    tried_outside = record["tree"]["visited"].values & ~smaller.kept
    assert smaller.first_flip == record["tree"]["step"].values[tried_outside].min()
    before = np.arange(len(smaller.replayed)) < smaller.first_flip
    np.testing.assert_array_equal(smaller.replayed[before], record["steps"]["emitted"].values[before])
    assert smaller.replayed.max() <= 3
    # A beam of 2 inside a beam of 4 is the beam of 2: the same seed and draws keep the same nodes at the first step.
    assert set(np.flatnonzero(trim(record, 4, 2).kept)) <= set(np.flatnonzero(same.kept))


@pytest.mark.parametrize(
    ("knobs", "error", "message"),
    [
        ({"prompt": []}, InputError, "at least one id"),
        ({"prompt": [9]}, InputError, "from 0 to 3"),
        ({"prompt": "text"}, KindError, "list of token ids"),
        ({"temperature": 0.0, "top_p": 0.5}, InputError, "top_p"),
        ({"depth": 99}, InputError, "from 1 to 8"),
        ({"method": "rsd-c", "depth": 4, "width": 8}, InputError, "at most 64 nodes"),
        ({"method": "rsd-s", "width": [2, 2]}, InputError, "rsd-c"),
        ({"method": "nope"}, InputError, "rsd-s"),
        ({"draft": "int8"}, InputError, "TableLM"),
        ({"temperature": 1e-5}, InputError, "at least 0.01"),
        ({"temperature": True}, InputError, "from 0.0 to 2.0"),
        ({"method": "rsd-c", "width": [2, 2], "depth": 3}, InputError, "one for each level"),
        ({"method": "chain", "width": [2, 2]}, InputError, "rsd-c"),
        ({"method": "rsd-s", "depth": 3, "width": 8, "break_it": "top-k-as-sampled"}, InputError, "584 nodes"),
        ({"method": "with-replacement", "break_it": "sorted-siblings"}, InputError, "Break one of"),
        ({"method": "autoregressive", "break_it": "unrenormalised-draft"}, InputError, "Break one of"),
    ],
)
def test_bad_input_says_what_and_what_to_do(knobs, error, message) -> None:
    p, q = tables()
    arguments = {"target": wb.models.TableLM(p), "draft": wb.models.TableLM(q), "prompt": [0], "temperature": 1.0}
    with pytest.raises(error, match=message):
        wb.run("rsd", **(arguments | {"max_new_tokens": 4, "progress": False} | knobs))


def test_a_vocabulary_of_one_token_is_no_accident() -> None:
    for temperature in (0.0, 1.0):
        record = run_table(np.eye(1), np.eye(1), temperature=temperature, max_new_tokens=3, depth=2, width=1)
        np.testing.assert_array_equal(record["text"]["token_id"].values, 0)


def test_tables_are_told_apart_and_derived_arrays_say_so() -> None:
    p, q = tables()
    one, other = run_table(p, q), run_table(q, q)
    assert one.knobs["target"] != other.knobs["target"]
    assert one["tree"]["kept"].attrs["provenance"] == "derived"


def test_draft_of_another_vocabulary_is_refused() -> None:
    with pytest.raises(InputError, match="vocabulary of 4"):
        run_table(tables()[0], tables(1, 5)[1])


@settings(max_examples=15, deadline=None)
@given(
    method=st.sampled_from(["rsd-s", "rsd-c", "with-replacement", "chain", "top-k", "autoregressive"]),
    depth=st.integers(1, 4),
    width=st.integers(1, 3),
    temperature=st.sampled_from([0.0, 0.3, 1.0, 1.7]),
    seed=st.integers(0, 1000),
    length=st.integers(1, 9),
)
def test_any_setting_leaves_a_valid_record(method, depth, width, temperature, seed, length) -> None:
    p, q = tables(seed, 4)
    record = run_table(
        p, q, method=method, depth=depth, width=width, temperature=temperature, seed=seed, max_new_tokens=length, budget=256
    )
    record.validate()
    steps, tree = record["steps"], record["tree"]
    assert int(steps["emitted"].sum()) == length
    assert (steps["accepted"].values <= steps["drafted"].values).all()
    assert (steps["emitted"].values <= steps["accepted"].values + 1).all()
    assert (tree["parent"].values < tree["node"].values).all()
    assert not (tree["accepted"].values & ~tree["visited"].values).any()


def test_a_study_compares_honest_methods_and_leaves_the_knobs_alone() -> None:
    p, q = tables()
    record = run_table(p, q, method="rsd-s", depth=2, width=3, break_it="sorted-siblings", study=True)
    assert set(record["curve/length"]["curve"].values) == {"chain", "with-replacement", "rsd-c", "rsd-s"}
    assert record.knobs["break_it"] == "sorted-siblings"
    assert record.knobs["method"] == "rsd-s"

"""Prompt lookup against its own definition, and drafts in a row against plain decoding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.models.lookup import FirstMatch, LookupSession, Pending, continuation
from workbench.models.session import HFSession, TableSession, chain_parents
from workbench.systems.speculation.draft import Drawer, constant_branching
from workbench.systems.speculation.tree import prefill, processed_law, speculate
from workbench.systems.speculation.verify import recursive_rejection
from workbench.tape import NullTape

from .conftest import make_llama


def obvious(tokens: list[int], shortest: int, longest: int) -> int:
    for size in range(min(longest, len(tokens) - 1), shortest - 1, -1):
        for start in range(len(tokens) - size - 1, -1, -1):
            if tokens[start : start + size] == tokens[-size:]:
                return tokens[start + size]
    return -1


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 4), st.integers(0, 4))
def test_continuation_is_the_obvious_search(tokens, shortest, more):
    assert continuation(tokens, shortest, shortest + more) == obvious(tokens, shortest, shortest + more)


def test_session_proposes_what_followed_before():
    session = LookupSession(10, [5, 6, 7, 8, 5, 6])
    laws = session.forward([6], [-1])
    assert laws.shape == (1, 10)
    assert laws.argmax() == 7
    assert np.isneginf(np.delete(laws[0], 7)).all()
    np.testing.assert_array_equal(session.forward([7, 9], [0, 0]).argmax(1)[:1], [8])
    assert np.isneginf(session.forward([3], [2])).all()  # no match, no law
    session.keep([0, 1])
    assert session.length == 7
    session.rewind(5)
    assert session.length == 5


def test_last_only_gives_one_row():
    session = LookupSession(10, [1])
    assert session.forward([1, 2, 1, 2], chain_parents(4), last_only=True).shape == (1, 10)


def test_pending_rows_of_a_path():
    pending = Pending()
    pending.append([4, 5, 6], [-1, 0, 0])
    pending.append([7], [2])
    assert pending.rows_of([4, 6, 7, 9]) == [0, 2, 3]
    assert pending.rows_of([8]) == []


def greedy(target, ids, count):
    session, out = target(), list(ids)
    prefill(session, None, out)
    while len(out) < len(ids) + count:
        out.append(int(session.forward([out[-1]], [-1]).argmax()))
        session.keep([0])
    return out


def decode(target, draft, ids, count, branching):
    session, out, rng = target(), list(ids), np.random.default_rng(0)
    prefill(session, draft, out)
    build = constant_branching(branching, Drawer(rng, 0.0))
    laws, steps = (processed_law(0.0, 1.0), processed_law(1.0, 1.0)), 0
    while len(out) < len(ids) + count:
        out += speculate(session, draft, out, build, recursive_rejection, laws, rng, NullTape()).emitted
        steps += 1
    return out[: len(ids) + count], steps


@pytest.mark.filterwarnings("ignore:invalid value encountered in subtract:RuntimeWarning")
@pytest.mark.parametrize("shortest", [2, 3, 10])
@pytest.mark.parametrize("branching", [[1, 1, 1], [2, 2], [3, 1, 1]])
def test_first_match_keeps_both_drafts_in_step_with_the_target(llama, shortest, branching):
    """Greedy text is the target's own, with lookup, with another model, and with a perfect draft behind the lookup."""
    ids = [7, 8, 9, 10, 7, 8, 9, 10, 7, 8]
    target = lambda: HFSession(llama)  # noqa: E731
    plain = greedy(target, ids, 30)
    for behind in (llama, make_llama(seed=1)):
        draft = FirstMatch(LookupSession(300, ids), HFSession(behind), shortest)
        text, steps = decode(target, draft, ids, 30, branching)
        assert text == plain
        assert draft.length >= len(ids) + 30 - 12  # the model behind the lookup does not read the text again and again
        if behind is llama and shortest == 10:
            assert steps <= 30 // (len(branching) + 1) + 3  # the draft is the target: nearly every draft is accepted


@pytest.mark.filterwarnings("ignore:invalid value encountered in subtract:RuntimeWarning")
def test_lookup_alone_is_lossless_and_saves_steps_in_a_loop():
    table = np.roll(np.eye(6), 1, axis=1)  # 0 1 2 3 4 5 0 1 ...
    text, steps = decode(lambda: TableSession(table), LookupSession(6, [0]), [0], 40, [1, 1, 1])
    assert text == [i % 6 for i in range(41)]
    assert steps < 20


def test_the_other_draft_is_not_asked_where_lookup_matches(llama):
    class Counted(HFSession):
        calls = 0

        def forward(self, *args):
            Counted.calls += 1
            return super().forward(*args)

    ids = [1, 2, 3, 4] * 4
    session = FirstMatch(LookupSession(300, ids), Counted(llama), shortest=3)
    assert session.forward(ids, chain_parents(16), last_only=True).argmax() == 1
    assert session.forward([1], [15]).argmax() == 2
    assert Counted.calls == 0
    got = session.forward([77], [16])[0]  # no match here: the other draft reads all it has missed
    assert Counted.calls == 1
    plain = HFSession(llama).forward([*ids, 1, 77], chain_parents(18), True)[0]
    np.testing.assert_allclose(got, plain, atol=1e-4)


def test_lookup_sees_the_text_once_when_the_other_draft_is_behind(llama):
    """The target has three tokens more than the other draft; the catch-up rows bring them, and they count once."""
    target, other = HFSession(llama), HFSession(llama)
    session = FirstMatch(LookupSession(300, [1]), other, shortest=2)
    target.forward([1, 2, 9], chain_parents(3))
    session.commit([0, 1, 2], [1, 2, 9], target)
    assert session.length == 0
    law = session.forward([1, 2, 9, 1], chain_parents(4), last_only=True)
    assert np.isfinite(law).all()  # "9 1" has not occurred: the other draft speaks
    assert np.isneginf(session.forward([2], [3])).sum() == 299  # "1 2" has: 9 follows
    session.commit([3, 4], [1, 2], target)
    assert session.length == 4
    assert session.forward([2, 9], chain_parents(2), last_only=True).argmax() == 1


def test_keep_commits_the_path(llama):
    session = FirstMatch(LookupSession(300, [1]), HFSession(llama))
    session.forward([1, 2, 3], chain_parents(3))
    session.keep([0, 1])
    assert session.length == 2
    session.rewind(1)
    assert session.length == 1

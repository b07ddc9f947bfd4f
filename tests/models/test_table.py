"""A table is a set of laws or it is refused, and the refusal names the row."""

from __future__ import annotations

import numpy as np
import pytest

from workbench.errors import InputError, KindError
from workbench.models import TableLM, load


def test_law_is_the_row_of_the_last_token():
    table = TableLM([[0.25, 0.75], [1.0, 0.0]])
    np.testing.assert_array_equal(table.law(0), [0.25, 0.75])
    assert table.vocab_size == 2


@pytest.mark.parametrize(
    ("probs", "said"),
    [
        ([[0.5, 0.5], [0.9, 0.2]], "row 1"),
        ([[0.5, 0.5], [0.5, 0.5 + 2e-6]], "row 1"),
        ([[np.nan, 1.0], [0.5, 0.5]], "finite"),
        ([[np.inf, 1.0], [0.5, 0.5]], "row 0"),
        ([[0.5, 0.5], [1.5, -0.5]], "at least 0"),
        ([[0.5, 0.5]], r"\(V, V\)"),
        ([], r"\(V, V\)"),
        ([0.5, 0.5], r"\(V, V\)"),
    ],
)
def test_what_is_no_law_is_refused(probs, said):
    with pytest.raises(InputError, match=said):
        TableLM(probs)


@pytest.mark.parametrize("probs", ["a text", None, [[0.5], [0.5, 0.5]], object()])
def test_what_is_no_table_is_refused(probs):
    with pytest.raises((KindError, InputError)):
        TableLM(probs)


def test_a_table_is_private_and_read_only():
    mine = np.full((3, 3), 1 / 3)
    table = TableLM(mine)
    mine[0] = [1, 0, 0]
    np.testing.assert_allclose(table.law(0), 1 / 3)
    with pytest.raises(ValueError, match="read-only"):
        table.probs[0, 0] = 1
    np.testing.assert_array_equal(table.probs.sum(1), 1)


def test_loading_a_table_wraps_it_once():
    table = TableLM(np.eye(4))
    loaded = load(table)
    assert loaded is load(table) is load(loaded)
    assert (loaded.is_table, loaded.vocab_size, loaded.eos_ids) == (True, 4, frozenset())
    assert loaded.pieces([0, 3]) == ["0", "3"]
    assert loaded.encode([1, 2]) == [1, 2]
    with pytest.raises(InputError, match="0 to 3"):
        loaded.encode([4])

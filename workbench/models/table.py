"""Language models that are a table: small enough that every output's probability can be enumerated."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from workbench.errors import InputError, KindError, expected

#: How far a row's sum may be from one.
SUM_TOLERANCE = 1e-6


class TableLM:
    """A model whose next-token law depends on the last token alone: row `x` of `probs` is the law after token `x`.

    Args:
        probs: (V, V), finite, >= 0, rows summing to 1 within 1e-6 (they are then normalised exactly).
    Raises:
        InputError: the table is no set of laws; the message names the first bad row.

    Example:
        >>> TableLM([[0.5, 0.5], [0.9, 0.1]]).law(1)
        array([0.9, 0.1])
    """

    def __init__(self, probs: Any) -> None:
        self.probs = checked_laws(probs)
        self.probs.flags.writeable = False  # shared by every run, changed by none

    @property
    def vocab_size(self) -> int:
        """Tokens 0 to vocab_size - 1."""
        return len(self.probs)

    @property
    def name(self) -> str:
        """A name that tells tables apart in a record: size and a digest of the laws."""
        return f"TableLM(V={self.vocab_size}, {hashlib.sha256(self.probs.tobytes()).hexdigest()[:8]})"

    def law(self, last_token: int) -> np.ndarray:
        """Return the next-token law (V,) after `last_token`."""
        return self.probs[last_token]

    def __repr__(self) -> str:
        return f"TableLM({self.vocab_size} tokens)"


def checked_laws(probs: Any) -> np.ndarray:
    """Return a private float64 copy of a table of laws, its rows normalised."""
    try:
        values = probs.detach().cpu().numpy() if hasattr(probs, "detach") else probs  # a torch tensor
        table = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise KindError(expected("TableLM", "a square array of numbers", type(probs).__name__)) from error
    if table.ndim != 2 or table.shape[0] != table.shape[1] or not table.size:
        raise InputError(expected("TableLM", "probs of shape (V, V)", table.shape, "", "Row x is the law after token x"))
    for wanted, good in (
        ("finite probabilities", np.isfinite(table).all(1)),
        ("probabilities of at least 0", (table >= 0).all(1)),
        ("probabilities that sum to 1", np.abs(table.sum(1) - 1) <= SUM_TOLERANCE),
    ):
        bad = np.flatnonzero(~good)
        if bad.size:
            row = int(bad[0])
            shown = np.array2string(table[row], threshold=8, precision=6)
            raise InputError(expected("TableLM", wanted, f"{shown}, sum {table[row].sum():.6g}", f"row {row}", "Mend that row"))
    return table / table.sum(1, keepdims=True)


#: Tables that a knob can name, so that a page can show an exact law: name -> seed of its Dirichlet(1) rows.
NAMED_TABLES = {"table-target": 11, "table-draft": 12}
NAMED_TABLE_SIZE = 4


def named_table(name: str) -> TableLM:
    """Return a table of `NAMED_TABLES`: 4 tokens (three would hide some wrong verifiers), rows drawn once from Dirichlet(1)."""
    rng = np.random.default_rng(NAMED_TABLES[name])
    return TableLM(rng.dirichlet(np.ones(NAMED_TABLE_SIZE), NAMED_TABLE_SIZE))

"""Ideal masked-diffusion models: a joint law whose every conditional is exact, so that what a decoder loses can be enumerated.

A masked-diffusion model says, of every hidden position, how likely each token is given the visible ones. Where the joint law
is known these conditionals are sums over it, and the only error left is the decoder's own: deciding several tokens at once.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from workbench.errors import InputError, KindError, expected

SUM_TOLERANCE = 1e-6
#: Most sequences of positive probability that are enumerated.
MOST_ROWS = 131_072
_CHUNK = 4_000_000  # numbers in one block of states x sequences


class TableDLM:
    """The ideal masked-diffusion model of an enumerated joint law over n tokens of a vocabulary of V.

    Args:
        joint: n axes of length V (`[V] * n`): the probability of every sequence; finite, >= 0, sum 1 within 1e-6 (then normalised).
    Raises:
        KindError: not an array of numbers. InputError: axes of different lengths, no law, or too many sequences (says how many).

    Example:
        >>> model = TableDLM([[0.5, 0.0], [0.0, 0.5]])          # two bits that are always equal
        >>> np.exp(model.log_laws(np.array([[1, model.mask_id]])))[0, 1]
        array([0., 1.])
    """

    def __init__(self, joint: Any) -> None:
        table = _checked(joint)
        rows = np.argwhere(table > 0)
        if len(rows) > MOST_ROWS:
            raise InputError(_too_many(len(rows)))
        self._set(rows, table[table > 0], table.shape[0])

    @classmethod
    def of_rows(cls, rows: np.ndarray, probs: np.ndarray | None = None, vocab_size: int | None = None) -> TableDLM:
        """Return the model of sequences (M, n), all different, with these probabilities (equal ones if None).

        Raises:
            InputError: no sequences, too many, or probabilities that are no law.
        """
        rows = np.asarray(rows, np.int64)
        if rows.ndim != 2 or not rows.size:
            raise InputError(expected("rows", "sequences of shape (M, n)", rows.shape))
        if len(rows) > MOST_ROWS:
            raise InputError(_too_many(len(rows)))
        size = int(rows.max()) + 1 if vocab_size is None else vocab_size
        weights = np.full(len(rows), 1 / len(rows)) if probs is None else _law(np.asarray(probs, float), "probs")
        model = cls.__new__(cls)
        model._set(rows, weights, size)
        return model

    def _set(self, rows: np.ndarray, probs: np.ndarray, vocab_size: int) -> None:
        self.rows, self.probs, self.vocab_size = rows, probs / probs.sum(), vocab_size
        self.length = rows.shape[1]
        self._used = np.unique(rows)  # a row of one-hot columns for the tokens that occur
        place = np.searchsorted(self._used, rows)
        hot = np.zeros((len(rows), self.length, len(self._used)))
        np.put_along_axis(hot, place[:, :, None], 1.0, axis=2)
        self._hot = hot.reshape(len(rows), -1)
        for array in (self.rows, self.probs, self._hot):
            array.flags.writeable = False  # shared by every run, changed by none

    @property
    def mask_id(self) -> int:
        """The id of the mask: one past the vocabulary."""
        return self.vocab_size

    @property
    def name(self) -> str:
        """A name that tells tables apart in a record: sizes and a digest of the law."""
        digest = hashlib.sha256(self.rows.tobytes() + self.probs.tobytes()).hexdigest()[:8]
        return f"TableDLM(V={self.vocab_size}, n={self.length}, {digest})"

    def log_laws(self, x: np.ndarray) -> np.ndarray:
        """Return the log-law of every position given the visible ones, (B, n, V) float64; visible positions keep their token.

        Args:
            x: (B, n) ids, `mask_id` where hidden. A state that the law cannot reach gives a uniform law: an ideal model has
                nothing to say there, and a decoder that came there has already failed.
        """
        states, inverse = np.unique(x, axis=0, return_inverse=True)
        out = np.full((len(states), self.length, self.vocab_size), -np.inf)
        for part in self._parts(len(states)):
            weights = self._weights(states[part])  # (b, M)
            total = weights.sum(1)
            sums = (weights @ self._hot).reshape(-1, self.length, len(self._used))
            with np.errstate(divide="ignore", invalid="ignore"):
                out[part][:, :, self._used] = np.log(sums / total[:, None, None])
            out[part][total <= 0] = -np.log(self.vocab_size)
        visible = states != self.mask_id
        where = np.nonzero(visible)
        out[where] = -np.inf
        out[(*where, states[where])] = 0.0
        return out[inverse.reshape(-1)]

    def log_evidence(self, x: np.ndarray) -> np.ndarray:
        """Return the log-probability (B,) of the visible tokens of states (B, n); -inf where they cannot occur together."""
        states, inverse = np.unique(x, axis=0, return_inverse=True)
        found = np.concatenate([self._weights(states[part]).sum(1) for part in self._parts(len(states))])
        with np.errstate(divide="ignore"):
            return np.log(np.minimum(found, 1.0))[inverse.reshape(-1)]

    def _parts(self, count: int) -> list[slice]:
        step = max(1, _CHUNK // len(self.rows))
        return [slice(i, i + step) for i in range(0, count, step)]

    def _weights(self, states: np.ndarray) -> np.ndarray:
        """Return (b, M): the probability of each sequence that agrees with a state's visible tokens, else 0."""
        visible = states != self.mask_id
        place = np.searchsorted(self._used, np.where(visible, states, self._used[0]))
        place = np.minimum(place, len(self._used) - 1)
        known = self._used[place] == states
        seen = np.zeros((*states.shape, len(self._used)))
        np.put_along_axis(seen, place[:, :, None], (visible & known)[:, :, None].astype(float), axis=2)
        agree = seen.reshape(len(states), -1) @ self._hot.T
        return np.where(agree > visible.sum(1)[:, None] - 0.5, self.probs, 0.0)

    def subset_entropies(self) -> np.ndarray:
        """Return the entropy, nats, of every subset of positions: (2^n,), bit i of the index stands for position i.

        Every total correlation follows from these numbers. n up to 12.
        """
        if self.length > 12:
            raise InputError(expected("subset entropies", "at most 12 positions", self.length))
        place = np.searchsorted(self._used, self.rows)
        base = len(self._used)
        out = np.zeros(2**self.length)
        for subset in range(1, 2**self.length):
            code = np.zeros(len(self.rows), np.int64)
            for i in range(self.length):
                if subset >> i & 1:
                    code = code * base + place[:, i]
            _, group = np.unique(code, return_inverse=True)
            mass = np.bincount(group, weights=self.probs)
            out[subset] = -(mass * np.log(mass)).sum()
        return out

    def __repr__(self) -> str:
        return f"TableDLM({self.length} positions, {self.vocab_size} tokens, {len(self.rows)} sequences)"


def _too_many(count: int) -> str:
    return expected("TableDLM", f"at most {MOST_ROWS:,} sequences of positive probability", f"{count:,}", then="Take fewer positions or tokens")  # fmt: skip


def _checked(joint: Any) -> np.ndarray:
    """Return a private float64 copy of a joint law."""
    try:
        values = joint.detach().cpu().numpy() if hasattr(joint, "detach") else joint
        table = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise KindError(expected("TableDLM", "an array of numbers with n axes of length V", type(joint).__name__)) from error
    if table.ndim == 0 or not table.size or len(set(table.shape)) != 1:
        wanted = "a joint law with n axes of the same length V"
        raise InputError(expected("TableDLM", wanted, f"shape {table.shape}", then="Give probabilities of shape [V] * n"))
    return _law(table, "TableDLM")


def _law(table: np.ndarray, what: str) -> np.ndarray:
    if not np.isfinite(table).all() or (table < 0).any():
        raise InputError(expected(what, "finite probabilities of at least 0", "others", then="Mend the law"))
    if abs(table.sum() - 1) > SUM_TOLERANCE:
        raise InputError(expected(what, "probabilities that sum to 1", f"sum {table.sum():.6g}", then="Divide by the sum"))
    return table / table.sum()


#: Joint laws that a knob can name: name -> (positions, tokens, spread of the chain's log-potentials, seed).
NAMED_JOINTS = {"joint-soft": (7, 3, 1.0, 3), "joint-sharp": (7, 3, 3.0, 5)}


def named_joint(name: str) -> TableDLM:
    """Return a table of `NAMED_JOINTS`: a chain whose neighbours have Gaussian log-potentials, enumerated."""
    return random_chain(*NAMED_JOINTS[name])


def random_chain(length: int, vocab: int, spread: float, seed: int) -> TableDLM:
    """Return the joint law exp(sum of pairwise potentials of neighbours + of single tokens), potentials ~ N(0, spread^2)."""
    rng = np.random.default_rng(seed)
    single, pair = rng.normal(0, spread, (length, vocab)), rng.normal(0, spread, (length - 1, vocab, vocab))
    axes = np.indices((vocab,) * length).reshape(length, -1)
    score = sum(single[i][axes[i]] for i in range(length)) + sum(pair[i][axes[i], axes[i + 1]] for i in range(length - 1))
    probs = np.exp(score - score.max())
    return TableDLM((probs / probs.sum()).reshape((vocab,) * length))

"""An exact masked-diffusion model of real text: a second-order chain of characters fitted on the plays.

Whatever is hidden, forward-backward gives every position's law given all that is visible, exactly and for any length. So the
ideal case, elsewhere a table of a few tokens, here has the statistics of language.
"""

from __future__ import annotations

import functools

import numpy as np

from workbench import data
from workbench.errors import InputError, expected

ALPHABET = tuple("\n abcdefghijklmnopqrstuvwxyz'-,.;:!?")
_CHUNK = 12_000_000  # numbers in the messages of one batch
SMOOTHING = 0.02  # added to each count of a character after two others


class ChainDLM:
    """A law over texts of any length where each token depends on the two before it.

    Args:
        initial: (V, V), law of the first two tokens. transition: (V, V, V), law of a token after two others. pieces: V texts.
        left: ids of two tokens before the first position, or None to start from `initial`.
    """

    def __init__(self, initial: np.ndarray, transition: np.ndarray, pieces: tuple[str, ...], name: str, left: tuple[int, int] | None = None) -> None:  # fmt: skip
        self.initial, self.transition, self.pieces, self.name, self.left = initial, transition, pieces, name, left
        self._next = np.ascontiguousarray(transition.transpose(1, 0, 2))  # (b, a, c)
        self._back = np.ascontiguousarray(transition.transpose(1, 2, 0))  # (b, c, a)

    @property
    def vocab_size(self) -> int:
        """Characters of the alphabet."""
        return len(self.pieces)

    @property
    def mask_id(self) -> int:
        """The id of the mask: one past the vocabulary."""
        return self.vocab_size

    def after(self, left: tuple[int, int]) -> ChainDLM:
        """Return the law of what follows two given tokens."""
        return ChainDLM(self.initial, self.transition, self.pieces, self.name, left)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text in lower case; characters outside the alphabet become blanks.

        Raises:
            InputError: the text is empty.
        """
        if not text:
            raise InputError(expected("text", "at least one character", "an empty one"))
        return [ALPHABET.index(c) if c in ALPHABET else 1 for c in text.lower()]

    def log_laws(self, x: np.ndarray) -> np.ndarray:
        """Return the log-law of every position given the visible ones: (B, n, V) float64, visible positions keep their token.

        Args:
            x: (B, n) ids with n of at least 2, `mask_id` where hidden.
        """
        batch, length = x.shape
        most = max(1, _CHUNK // (length * self.vocab_size**2))
        if batch > most:  # the messages of a state take length x V x V numbers
            return np.concatenate([self.log_laws(x[i : i + most]) for i in range(0, batch, most)])
        forward, backward, _ = self._sweep(x)
        laws = np.empty((batch, length, self.vocab_size))
        for i in range(1, length):
            both = forward[i] * backward[i]  # (b: previous two's second, B, c) pairs ending at i
            laws[:, i] = both.sum(0)
            if i == 1:
                laws[:, 0] = both.sum(2).T
        with np.errstate(divide="ignore"):
            return np.log(laws / laws.sum(2, keepdims=True))

    def log_evidence(self, x: np.ndarray) -> np.ndarray:
        """Return the log-probability (B,) of the visible tokens of states (B, n)."""
        most = max(1, _CHUNK // (x.shape[1] * self.vocab_size**2))
        return np.concatenate([self._sweep(x[i : i + most], backward=False)[2] for i in range(0, len(x), most)])

    def _sweep(self, x: np.ndarray, backward: bool = True) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
        """Return forward and backward messages over pairs (previous token, B, token), each of sum one, and the log-evidence."""
        batch, length = x.shape
        if length < 2:
            raise InputError(expected("length", "at least 2 tokens for a second-order chain", length))
        seen = [self._seen(x[:, i]) for i in range(length)]
        message = (self._start() * 1.0)[:, None, :] * seen[0].T[:, :, None] * seen[1][None]
        total = np.zeros(batch)
        forward = [message, self._scaled(message, total)]
        for i in range(2, length):
            message = np.matmul(forward[i - 1].transpose(2, 1, 0), self._next) * seen[i][None]  # (b, B, a) @ (b, a, c)
            forward.append(self._scaled(message, total))
        if not backward:
            return forward, [], total
        unused = np.zeros(batch)
        behind = [np.ones((self.vocab_size, batch, self.vocab_size))]
        for i in range(length - 1, 1, -1):
            # beta_{i-1}(a, b) = sum_c T[a, b, c] seen_i(c) beta_i(b, c)
            message = np.matmul(behind[-1] * seen[i][None], self._back).transpose(2, 1, 0)
            behind.append(self._scaled(message, unused))
        return forward, [behind[-1], *reversed(behind)], total

    def _start(self) -> np.ndarray:
        """Return the law of the first two tokens, (V, V)."""
        if self.left is None:
            return self.initial
        first = self.transition[self.left[0], self.left[1]]
        return first[:, None] * self.transition[self.left[1]]

    def _seen(self, column: np.ndarray) -> np.ndarray:
        """Return (B, V): one where the token is allowed."""
        allowed = np.ones((len(column), self.vocab_size))
        fixed = np.flatnonzero(column != self.mask_id)
        allowed[fixed] = 0.0
        allowed[fixed, column[fixed]] = 1.0
        return allowed

    @staticmethod
    def _scaled(message: np.ndarray, total: np.ndarray) -> np.ndarray:
        mass = message.sum(axis=(0, 2))
        with np.errstate(divide="ignore"):
            total += np.log(mass)
        return message / np.where(mass > 0, mass, 1.0)[None, :, None]

    def __repr__(self) -> str:
        return f"ChainDLM({self.name}, {self.vocab_size} tokens)"


@functools.cache
def plays_chain() -> ChainDLM:
    """Return the chain of the plays: counts of every three characters in a row, held-out plays left out, lightly smoothed."""
    text = "\n\n".join(body for title, body in data.plays().items() if not data.held_out(title)).lower()
    code = np.full(128, 1, np.int64)
    for i, character in enumerate(ALPHABET):
        code[ord(character)] = i
    raw = np.frombuffer(text.encode("ascii", errors="replace"), np.uint8)
    ids, size = code[np.minimum(raw, 127)], len(ALPHABET)
    ids = ids[np.r_[True, ~((ids[1:] == 1) & (ids[:-1] == 1))]]  # one blank where the original had several
    triples = np.bincount((ids[:-2] * size + ids[1:-1]) * size + ids[2:], minlength=size**3).reshape(size, size, size)
    counts = triples + SMOOTHING * triples.sum((0, 1)) / triples.sum() * size + 1e-3
    pairs = counts.sum(2)
    return ChainDLM(pairs / pairs.sum(), counts / counts.sum(2, keepdims=True), ALPHABET, "plays-chain")

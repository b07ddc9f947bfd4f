"""Prompt lookup: the draft that is free. What followed the last few tokens the last time they occurred is drafted again.

Saxena, "Prompt Lookup Decoding" (2023). It pays where a text repeats itself: code, quotations, lists, loops.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from workbench.models.session import Session


def continuation(tokens: Sequence[int], shortest: int, longest: int) -> int:
    """Return the token that followed the latest earlier occurrence of the longest repeated ending, or -1.

    Args:
        tokens: the text so far.
        shortest, longest: lengths of the ending to look for, in tokens; the longest one that occurs earlier is taken.

    Example:
        >>> continuation([5, 6, 7, 8, 5, 6], 2, 3)
        7
    """
    text = np.asarray(tokens, dtype=np.int64)
    size, found = len(text), -1
    alive = np.arange(size - 1)  # positions whose token, and the ones before it, equal the ending's
    for matched in range(min(longest, size - 1)):
        alive = alive[alive >= matched]
        alive = alive[text[alive - matched] == text[size - 1 - matched]]
        if not alive.size:
            break
        if matched + 1 >= shortest:
            found = int(text[alive[-1] + 1])
    return found


class Pending:
    """Pending rows of a session as texts: row i's text is the committed one and the path to row i."""

    def __init__(self) -> None:
        self.paths: list[list[int]] = []

    def append(self, token_ids: Any, parents: Any) -> list[list[int]]:
        """Return the paths of the new rows, each from the committed prefix to the row itself."""
        first = len(self.paths)
        for token, parent in zip(token_ids, parents):
            self.paths.append([*(self.paths[int(parent)] if parent >= 0 else []), int(token)])
        return self.paths[first:]

    def rows_of(self, tokens: Sequence[int]) -> list[int]:
        """Return the rows along the longest beginning of `tokens` that is pending."""
        index = {tuple(path): row for row, path in reversed(list(enumerate(self.paths)))}
        rows: list[int] = []
        for end in range(1, len(tokens) + 1):
            row = index.get(tuple(int(t) for t in tokens[:end]))
            if row is None:
                break
            rows.append(row)
        return rows


class LookupSession:
    """Draft session of prompt lookup: all mass on the token that followed before, and no law at all without a match.

    Args:
        vocab_size: the target's.
        prompt: token ids of the whole prompt; its last token is the first to be read.
        shortest, longest: length of the repeated ending, in tokens.
    """

    context = 1 << 30

    def __init__(self, vocab_size: int, prompt: Sequence[int], shortest: int = 2, longest: int = 12) -> None:
        self.vocab_size, self.shortest, self.longest = vocab_size, shortest, longest
        self._committed = [int(t) for t in prompt[:-1]]
        self._pending = Pending()

    @property
    def length(self) -> int:
        return len(self._committed)

    def forward(self, token_ids: Any, parents: Any, last_only: bool = False) -> np.ndarray:
        """Return log-laws (N, V): 0 at the token that is proposed, -inf elsewhere; all -inf without a match."""
        paths = self._pending.append(token_ids, parents)
        wanted = paths[-1:] if last_only else paths
        return self.laws([[*self._committed, *path] for path in wanted])

    def laws(self, texts: Sequence[Sequence[int]]) -> np.ndarray:
        """Return the log-law after each of these texts, (N, V) float32."""
        out = np.full((len(texts), self.vocab_size), -np.inf, np.float32)
        for row, text in enumerate(texts):
            token = continuation(text, self.shortest, self.longest)
            if token >= 0:
                out[row, token] = 0
        return out

    def keep(self, rows: Sequence[int]) -> None:
        """Commit the tokens of these pending rows."""
        if len(rows):
            self._committed += self._pending.paths[rows[-1]]
        self._pending = Pending()

    def rewind(self, length: int) -> None:
        del self._committed[length:]
        self._pending = Pending()


class FirstMatch:
    """Draft session that asks prompt lookup first and another draft where nothing matches.

    The other draft reads a row only when a law of its own is needed: a level on which every node has a match is free.

    Args:
        lookup: says how long a match must be at the most.
        other: the draft behind it, on the same target.
        shortest: repeated tokens that make a match good enough to be preferred to the other draft's law.
    """

    def __init__(self, lookup: LookupSession, other: Session, shortest: int = 10) -> None:
        self.other, self.vocab_size, self.context = other, other.vocab_size, other.context
        self.lookup = LookupSession(lookup.vocab_size, [], shortest, max(shortest, lookup.longest))
        self._committed: list[int] = []  # all the target has; the other draft may be behind by a token
        self._pending = Pending()
        self._unread: list[tuple[int, int]] = []  # (token, parent) of rows the other draft has not been given

    @property
    def length(self) -> int:
        return self.other.length

    def forward(self, token_ids: Any, parents: Any, last_only: bool = False) -> np.ndarray:
        """Return log-laws or logits (N, V), row by row from whoever drafts that row."""
        paths = self._pending.append(token_ids, parents)
        self._unread += [(int(t), int(p)) for t, p in zip(token_ids, parents)]
        prefix = self._committed[: self.length]
        wanted = paths[-1:] if last_only else paths
        laws = self.lookup.laws([[*prefix, *path] for path in wanted])
        missing = np.flatnonzero(np.isneginf(laws.max(-1)))
        if missing.size:
            tokens, origin = zip(*self._unread)
            self._unread = []
            laws[missing] = self.other.forward(tokens, origin, last_only)[-len(wanted) :][missing]
        return laws

    def commit(self, rows: Sequence[int], token_ids: Sequence[int], target: Session) -> None:
        """Take over what the target is about to keep: tokens for the lookup, rows or hidden states for the other draft."""
        accepted = [int(t) for t in token_ids]
        behind = self._committed[self.length :]  # read by the target before, still to be read by the other draft
        give = getattr(self.other, "commit", None)
        if give is not None:
            give(rows, accepted, target)
        elif self._pending.paths:
            read = len(self._pending.paths) - len(self._unread)
            self.other.keep([r for r in self._pending.rows_of([*behind, *accepted]) if r < read])
        self._committed += accepted
        self._pending, self._unread = Pending(), []

    def keep(self, rows: Sequence[int]) -> None:
        """Commit these pending rows; the other draft keeps those of them it has read."""
        start, read = self.length, len(self._pending.paths) - len(self._unread)
        if len(rows):
            self._committed[start:] = self._pending.paths[rows[-1]]
        self.other.keep([r for r in rows if r < read])
        self._pending, self._unread = Pending(), []

    def rewind(self, length: int) -> None:
        del self._committed[length:]
        self.other.rewind(length)
        self._pending, self._unread = Pending(), []

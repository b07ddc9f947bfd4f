"""The only instrument inside an algorithm: what happened (`write`), how far we are (`step`), how long it took (`timed`).

A `Tape` collects; a `NullTape` has the same calls and collects nothing, so the cost of recording is measurable. Neither
touches the algorithm's random numbers: with or without a recorder a run writes the same tokens.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from workbench.errors import Cancelled


@dataclass(frozen=True)
class Progress:
    """Where a run stands. `text` is what has been produced so far, for a reader who watches."""

    done: int
    total: int
    text: str = ""
    phase: str = ""


def synchronize() -> None:
    """Wait for the GPU, if this process uses one: a timing without it measures the launch."""
    import sys

    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


class NullTape:
    """A tape that records nothing. `step` still reports progress and answers a cancel."""

    recording = False

    def __init__(
        self,
        on_step: Callable[[Progress, NullTape], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> None:
        self.on_step = on_step
        self.cancel = cancel or threading.Event()

    def write(self, group: str, **columns: Any) -> None:
        """Append rows to a group (here: do nothing)."""

    def step(self, done: int, total: int, text: str = "", phase: str = "") -> None:
        """Report progress, and raise `Cancelled` if the owner asked to stop.

        Args:
            done, total: work units finished and planned (any unit, the same in both).
            text: what stands on the page so far.
            phase: one word for what is going on ("baseline", "decoding").
        """
        if self.cancel.is_set():
            raise Cancelled(f"Cancelled after {done} of {total}. Start the run again to get a record.")
        if self.on_step is not None:
            self.on_step(Progress(done, total, text, phase), self)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Time the body under `name`, device-synchronised (here: only run it)."""
        yield

    def lap(self) -> dict[str, float]:
        """Return and clear the milliseconds by name since the last lap (here: none)."""
        return {}


class Tape(NullTape):
    """A tape that records columns by group, and time by name."""

    recording = True

    def __init__(
        self,
        on_step: Callable[[Progress, NullTape], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> None:
        super().__init__(on_step, cancel)
        self.attrs: dict[str, dict[str, Any]] = {}
        self._rows: dict[str, list[dict[str, Any]]] = {}
        self._lap: dict[str, float] = {}

    def write(self, group: str, **columns: Any) -> None:
        """Append rows to a group.

        Args:
            group: path of the group ("tree", "curve/latency").
            columns: scalars or 1-D arrays; scalars are repeated to the longest array's length (1 if all are scalars).
        """
        self._rows.setdefault(group, []).append(columns)

    def write_first(self, group: str, **columns: Any) -> None:
        """Put rows before everything the group holds (a prompt before the text it led to)."""
        self._rows.setdefault(group, []).insert(0, columns)

    def describe(self, group: str, **attrs: Any) -> None:
        """Set attributes of a group (labels of a curve's axes, say)."""
        self.attrs.setdefault(group, {}).update(attrs)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Time the body under `name` with the device synchronised before and after."""
        synchronize()
        start = time.perf_counter()
        try:
            yield
        finally:
            synchronize()
            self._lap[name] = self._lap.get(name, 0.0) + (time.perf_counter() - start) * 1e3

    def lap(self) -> dict[str, float]:
        """Return milliseconds by name since the last lap, and start a new lap."""
        lap, self._lap = self._lap, {}
        return lap

    def columns(self) -> dict[str, dict[str, np.ndarray]]:
        """Return what has been written so far as `{group: {column: 1-D array}}`; safe to call while the run goes on."""
        # A group is there a moment before its first rows are: a reader between the two passes it over.
        return {group: _stack(copy) for group, rows in list(self._rows.items()) if (copy := list(rows))}


def _stack(rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Concatenate chunks column by column, repeating scalars within a chunk."""
    lengths = [max([1, *(len(v) for v in r.values() if np.ndim(v))]) if _has_rows(r) else 0 for r in rows]
    names = dict.fromkeys(name for r in rows for name in r)
    return {name: np.concatenate([_column(r[name], n) for r, n in zip(rows, lengths) if name in r]) for name in names}


def _has_rows(row: dict[str, Any]) -> bool:
    return not any(np.ndim(v) and len(v) == 0 for v in row.values())


def _column(value: Any, length: int) -> np.ndarray:
    array = np.asarray(value)
    return array if array.ndim else np.full(length, value if not isinstance(value, str) else array)

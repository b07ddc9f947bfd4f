"""Choose between all threads and one, call by call: on a busy machine a step of many small parallel parts stalls.

A decoder step meets its worker threads hundreds of times. When another program holds a core, each meeting waits for the
scheduler, and a step of 20 ms can take 500 ms; on one thread it takes 40 ms whatever the other core does. Results do not
depend on the choice: every output row is summed in the same order by one thread or many.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numba

#: A call on all threads that took this many times the best such call is taken as a sign of a busy machine.
SLOW = 1.6
#: Calls on one thread before all threads are tried again; doubled after each disappointment, up to the last.
FIRST_TRIAL, LAST_TRIAL = 8, 256


@dataclass
class _Work:
    """What is known of one kind of call (a model's step at one count of rows), in seconds."""

    best_all: float = float("inf")
    single: float = float("inf")
    calls: int = 0
    alone: int = 0  # calls left on one thread
    patience: int = FIRST_TRIAL


@dataclass
class Pace:
    """Thread choice for repeated calls; one for a process, safe to use from several threads."""

    works: dict[tuple[str, int], _Work] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def call(self, name: str, rows: int) -> Iterator[None]:
        """Run the body on as many threads as pays now, and learn from how long it takes."""
        everything = numba.get_num_threads()
        if everything == 1:
            yield
            return
        with self.lock:
            work = self.works.setdefault((name, rows), _Work())
            alone = work.alone > 0
        numba.set_num_threads(1 if alone else everything)
        start = time.perf_counter()
        try:
            yield
        finally:
            numba.set_num_threads(everything)
            with self.lock:
                self._learn(work, time.perf_counter() - start, alone)

    @staticmethod
    def _learn(work: _Work, seconds: float, alone: bool) -> None:
        work.calls += 1
        if work.calls == 1:  # the first call may have compiled
            return
        if alone:
            work.single = min(work.single, seconds) if work.single < float("inf") else seconds
            work.alone -= 1
            return
        work.best_all = min(work.best_all, seconds)
        limit = min(work.single, SLOW * work.best_all)
        if seconds <= limit:
            work.patience = FIRST_TRIAL
        elif work.single == float("inf"):
            work.alone = 1  # find out what one thread takes
        else:
            work.alone = work.patience
            work.patience = min(2 * work.patience, LAST_TRIAL)

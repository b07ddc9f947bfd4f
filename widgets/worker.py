"""Runs of live pages: one queue for the process, one run at a time, cancel that answers within a step.

A page submits a `Job` and hears of every change through its own callback; it never holds another page's job, so no visitor
sees another's run. Two runs at once on one machine would make both timings false: the rest wait, and see their place.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from workbench.errors import Cancelled, WorkbenchError
from workbench.system import System

log = logging.getLogger("workbench.page")


@dataclass(eq=False)
class Job:
    """One run. `state` is waiting, running, done, cancelled or failed; `place` counts the runs before it while it waits."""

    work: Callable[[Job], Any]
    on_change: Callable[[Job], None]
    cancelled: threading.Event = field(default_factory=threading.Event)
    state: str = "waiting"
    place: int = 0
    result: Any = None
    error: Exception | None = None


class RunQueue:
    """A bounded queue of runs with a fixed number of workers.

    Args:
        running: how many runs may go at once.
        waiting: how many may wait; one more is refused with a sentence.
    """

    def __init__(self, running: int = 1, waiting: int = 8) -> None:
        self.running, self.waiting = running, waiting
        self._queue: deque[Job] = deque()
        self._lock = threading.Condition()
        self._workers = 0
        self._busy = 0

    def submit(self, work: Callable[[Job], Any], on_change: Callable[[Job], None]) -> Job:
        """Queue `work(job)` and return its job; `on_change(job)` is called from the worker's thread at every change.

        Raises:
            WorkbenchError: too many runs wait already.
        """
        job = Job(work, on_change)
        with self._lock:
            if len(self._queue) >= self.waiting:
                raise WorkbenchError(f"The machine is busy: {len(self._queue)} runs wait already. Try again in a minute.")
            self._queue.append(job)
            if self._workers < self.running:
                self._workers += 1
                threading.Thread(target=self._serve, name="workbench-run", daemon=True).start()
            job.place = self._busy + len(self._queue) - 1
            self._lock.notify()
        _tell(job)
        return job

    def cancel(self, job: Job) -> None:
        """Take a waiting job out, or ask a running one to stop at its next step."""
        with self._lock:
            job.cancelled.set()
            waiting = job in self._queue
            if waiting:
                self._queue.remove(job)
                job.state = "cancelled"
        if waiting:
            _tell(job)
            self._tell_places()

    def _serve(self) -> None:
        while True:
            with self._lock:
                while not self._queue:
                    self._lock.wait()
                job = self._queue.popleft()
                self._busy += 1
                job.state, job.place = "running", 0
            _tell(job)
            self._tell_places()
            self._do(job)
            with self._lock:
                self._busy -= 1
            _tell(job)
            job.result = None  # the page has it; the queue must not keep a visitor's record alive

    @staticmethod
    def _do(job: Job) -> None:
        try:
            job.result = job.work(job)
            job.state = "done"
        except Cancelled:
            job.state = "cancelled"
        except Exception as error:  # whatever goes wrong in a run must reach its page, not end the worker
            job.error, job.state = error, "failed"

    def _tell_places(self) -> None:
        with self._lock:
            moved = []
            for index, job in enumerate(self._queue):
                place = self._busy + index
                if place != job.place:
                    job.place = place
                    moved.append(job)
        for job in moved:
            _tell(job)


def _tell(job: Job) -> None:
    """Tell a job's page of a change; a page that is gone, or cannot draw it, must not end the worker."""
    try:
        job.on_change(job)
    except Exception:
        log.exception("a page could not be told of its run")


QUEUE = RunQueue()
_warm: dict[type[System], Future[None]] = {}
_warm_lock = threading.Lock()


def warm(system: System) -> Future[None] | None:
    """Start the system's own `warm()` (models, compiled kernels) once a process, in the background; None if it has none."""
    prepare = getattr(system, "warm", None)
    if prepare is None:
        return None
    with _warm_lock:
        if type(system) not in _warm:
            future: Future[None] = Future()
            _warm[type(system)] = future
            threading.Thread(target=_warm_up, args=(prepare, future), name="workbench-warm", daemon=True).start()
        return _warm[type(system)]


def _warm_up(prepare: Callable[[], Any], future: Future[None]) -> None:
    try:
        prepare()
        future.set_result(None)
    except Exception as error:  # a page says so; the first run will say why
        log.warning("warm-up failed: %s", error)
        future.set_exception(error)


def settled(future: Future[None] | None, job: Job) -> None:
    """Wait for a warm-up to end, well or badly, so that a run does not load the same model beside it."""
    if future is None:
        return
    done = threading.Event()
    future.add_done_callback(lambda _: done.set())
    while not done.wait(0.05):
        if job.cancelled.is_set():
            raise Cancelled("Cancelled while the model was loading. Start the run again to get a record.")


def sentence(error: Exception) -> str:
    """Return what a page says of an error: its own sentence if it is one of ours, else a plain one (the log has the rest)."""
    if isinstance(error, WorkbenchError):
        return str(error)
    log.error("a run failed inside", exc_info=error)
    return "Something went wrong inside; the log has the details."

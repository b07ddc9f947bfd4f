"""Runs of live pages: one queue for the process, one run at a time, fair turns, cancel that answers within a step.

A page submits a `Job` and hears of every change through its own callback; it never holds another page's job, so no visitor
sees another's run. Two runs at once on one machine would make both timings false: the rest wait, and see their place.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from workbench.errors import Cancelled, WorkbenchError
from workbench.system import System

log = logging.getLogger("workbench.page")
LEAVING = 10.0  # seconds that a server which ends waits for a model that loads, and for a run to come to its next step
MEMORY = 1000  # turns after which a page that has nothing waiting is forgotten


@dataclass(frozen=True)
class Owner:
    """Who asks for a run: a page, the network address of its visitor ("" where there is no server), and the page's system."""

    page: str = ""
    address: str = ""
    system: str = ""


@dataclass(eq=False)
class Job:
    """One run. `state` is waiting, running, done, cancelled or failed; `place` counts the runs before it while it waits."""

    work: Callable[[Job], Any]
    on_change: Callable[[Job], None]
    owner: Owner = field(default_factory=Owner)
    cancelled: threading.Event = field(default_factory=threading.Event)
    state: str = "waiting"
    place: int = 0
    result: Any = None
    error: Exception | None = None
    late: bool = False  # stopped because its time was up
    queued: float = field(default_factory=time.monotonic)
    began: float = 0.0
    ended: float = 0.0


class RunQueue:
    """A bounded queue of runs with a fixed number of workers, fair between pages.

    The next run is that of the page that was served longest ago, so that one that asks for ten runs waits behind all that ask
    for one. Every attribute may be set while the queue works.

    Args:
        running: how many runs may go at once.
        waiting: how many may wait; one more is refused with a sentence.
        each: how many of one page may wait or run; None for no limit of its own.
        address: how many of one network address; None for no limit of its own.
        seconds: how long one run may take; None for no limit.
    """

    def __init__(
        self,
        running: int = 1,
        waiting: int = 8,
        *,
        each: int | None = None,
        address: int | None = None,
        seconds: float | None = None,
    ) -> None:
        self.running, self.waiting, self.each, self.address, self.seconds = running, waiting, each, address, seconds
        self.ended: list[Callable[[Job], None]] = []  # told of every run that is over (counters, logs)
        self._queue: list[Job] = []
        self._busy: list[Job] = []
        self._served: dict[Owner, int] = {}  # owner -> number of the turn that was theirs last
        self._turn = 0
        self._closed = ""
        self._lock = threading.Condition()
        self._workers = 0

    def submit(self, work: Callable[[Job], Any], on_change: Callable[[Job], None], owner: Owner = Owner()) -> Job:
        """Queue `work(job)` and return its job; `on_change(job)` is called from the worker's thread at every change.

        Raises:
            WorkbenchError: too many runs wait already, this page or its visitor's address has too many, or the server is stopping.
        """
        job = Job(work, on_change, owner)
        with self._lock:
            self._refuse(owner)
            self._queue.append(job)
            if self._workers < self.running:
                self._workers += 1
                threading.Thread(target=self._serve, name="workbench-run", daemon=True).start()
            job.place = len(self._busy) + self._order().index(job)
            self._lock.notify()
        _tell(job)
        self._tell_places()
        return job

    def _refuse(self, owner: Owner) -> None:
        if self._closed:
            raise WorkbenchError(self._closed)
        if len(self._queue) >= self.waiting:
            raise WorkbenchError(f"The machine is busy: {len(self._queue)} runs wait already. Try again in a minute.")
        owners = [job.owner for job in [*self._queue, *self._busy]]
        mine, near = owners.count(owner), sum(o.address == owner.address for o in owners)
        if self.each is not None and mine >= self.each:
            raise WorkbenchError(f"You have {mine} runs waiting or running, the most for one page. Cancel one, or wait for it.")
        if self.address is not None and owner.address and near >= self.address:
            raise WorkbenchError(f"{near} runs from your network wait or go on, the most for one address. Try again in a minute.")

    def cancel(self, job: Job) -> None:
        """Take a waiting job out, or ask a running one to stop at its next step."""
        with self._lock:
            job.cancelled.set()
            waiting = job in self._queue
            if waiting:
                self._queue.remove(job)
                job.state = "cancelled"
        if waiting:
            self._over(job)
            _tell(job)
            self._tell_places()

    @property
    def depth(self) -> tuple[int, int]:
        """How many runs go on, and how many wait."""
        with self._lock:
            return len(self._busy), len(self._queue)

    def close(self, sentence: str) -> None:
        """Take no more runs: `sentence` is what a visitor reads. Those that wait are cancelled, those that run go on."""
        with self._lock:
            self._closed = sentence
            waiting = list(self._queue)
        for job in waiting:
            self.cancel(job)

    def finish(self, seconds: float) -> bool:
        """Wait for the runs that go on, at most so long, then ask them to stop; return whether all ended by themselves."""
        until = time.monotonic() + seconds
        with self._lock:
            while self._busy and time.monotonic() < until:
                self._lock.wait(min(0.2, max(0.0, until - time.monotonic())))
            left = list(self._busy)
        for job in left:
            job.cancelled.set()
        return not left

    def _order(self) -> list[Job]:
        """Return the waiting jobs in the order in which they will run."""
        served, turn, left, order = dict(self._served), self._turn, list(self._queue), []
        while left:
            job = min(left, key=lambda j: served.get(j.owner, 0))  # the first of equals: who asked first
            left.remove(job)
            turn += 1
            served[job.owner] = turn
            order.append(job)
        return order

    def _serve(self) -> None:
        while True:
            with self._lock:
                while not self._queue:
                    self._lock.wait()
                job = self._order()[0]
                self._queue.remove(job)
                self._busy.append(job)
                self._turn += 1
                waiting = {j.owner for j in self._queue}
                self._served = {o: t for o, t in self._served.items() if o in waiting or t > self._turn - MEMORY} | {
                    job.owner: self._turn
                }
                job.state, job.place, job.began = "running", 0, time.monotonic()
            _tell(job)
            self._tell_places()
            self._do(job)
            with self._lock:
                self._busy.remove(job)
                self._lock.notify_all()
            self._over(job)
            _tell(job)
            self._tell_places()
            job.result = None  # the page has it; the queue must not keep a visitor's record alive

    def _do(self, job: Job) -> None:
        watch = threading.Timer(self.seconds, _too_late, [job]) if self.seconds is not None else None
        if watch is not None:
            watch.daemon = True
            watch.start()
        try:
            job.result = job.work(job)
            job.state = "done"
        except Cancelled:
            job.state = "cancelled"
            if job.late:
                job.error, job.state = WorkbenchError(f"The run took longer than {self.seconds:g} s, the most on a shared page. Ask for less, or run it in a notebook."), "failed"  # fmt: skip
        except Exception as error:  # whatever goes wrong in a run must reach its page, not end the worker
            job.error, job.state = error, "failed"
        finally:
            if watch is not None:
                watch.cancel()

    def _over(self, job: Job) -> None:
        job.ended = time.monotonic()
        for told in self.ended:
            try:
                told(job)
            except Exception:
                log.exception("a run could not be counted")

    def _tell_places(self) -> None:
        with self._lock:
            moved = []
            for index, job in enumerate(self._order()):
                place = len(self._busy) + index
                if place != job.place:
                    job.place = place
                    moved.append(job)
        for job in moved:
            _tell(job)


def _too_late(job: Job) -> None:
    job.late = True
    job.cancelled.set()


def _tell(job: Job) -> None:
    """Tell a job's page of a change; a page that is gone, or cannot draw it, must not end the worker."""
    try:
        job.on_change(job)
    except Exception:
        log.exception("a page could not be told of its run")


QUEUE = RunQueue()
_warm: dict[type[System], Future[None]] = {}
_warming: list[threading.Thread] = []
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
            thread = threading.Thread(target=_warm_up, args=(prepare, future), name="workbench-warm", daemon=True)
            thread.start()
            _warming.append(thread)
        return _warm[type(system)]


def _warm_up(prepare: Callable[[], Any], future: Future[None]) -> None:
    try:
        prepare()
        future.set_result(None)
    except Exception as error:  # a page says so; the first run will say why
        log.warning("warm-up failed: %s", error)
        future.set_exception(error)


def leave(seconds: float = LEAVING) -> None:
    """Ask what runs to stop and wait, at most so long, until nothing computes: a process that ends under a thread of torch's aborts."""
    QUEUE.finish(0.0)
    QUEUE.finish(seconds)
    for thread in _warming:  # not their futures: what a warm-up leaves behind is freed after it has answered
        thread.join(seconds)


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

"""The part of a live page that runs its system: queue, progress, partial pictures, history. It knows no paper either."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from widgets import worker
from workbench.errors import WorkbenchError
from workbench.record import Record
from workbench.system import System
from workbench.tape import NullTape, Progress, Tape

if TYPE_CHECKING:
    from widgets.parts import Header
    from widgets.stage import Stage

MAX_HISTORY = 24  # runs a page keeps for the speed-quality plane
MAX_HISTORY_BYTES = 48 << 20  # memory that they may take together: fifty visitors must fit into one machine
PARTIAL_EVERY_S = 0.2
PARTIAL_SHARE = 0.1  # drawing partial pictures may take this share of a run's time


@dataclass(frozen=True)
class Run:
    """A finished run of this page: its number, its record, and the knob values that made it."""

    number: int
    record: Record
    knobs: dict[str, Any]


class Running:
    """What a page does from the moment a run is asked for until its record is on show. Mixed into `Bench`."""

    system: System
    record: Record | None
    history: list[Run]
    header: Header
    stage: Stage
    _job: worker.Job | None
    _warming: Future[None] | None
    _ran_with: dict[str, Any]
    _number: int
    _say: Callable[..., None]
    _show: Callable[..., None]
    _options: Callable[[], dict[str, Any]]
    _on_page: Callable[[Callable[[], None]], None]
    _grow: Callable[[str], None]
    _rederive: Callable[[], None]
    _refresh_controls: Callable[[], None]
    _bring: Callable[..., None]
    _public: bool
    _visitor: str
    _address: str
    _id: str

    @property
    def _owner(self) -> worker.Owner:
        """Whose turns this page's runs take in the queue: the page's own. What a browser says of itself counts for nothing."""
        return worker.Owner(self._id, self._address, self.system.key)

    def _needs_run(self) -> bool:
        now = self.system.values()
        return any(now[n] != self._ran_with.get(n, now[n]) for n, info in self.system.knobs().items() if not info.live)

    def _estimated(self) -> bool:
        """Return whether a number on show is a replay's estimate."""
        if self.record is None or "meters" not in self.record:
            return False
        return bool((self.record.column("meters", "provenance") == "estimated").any())

    def _start(self) -> None:
        """Queue a run with the present knobs; a run of this page that is under way is cancelled first."""
        self.cancel()
        knobs = {name: getattr(self.system, name) for name in self.system.knob_names()}
        self._ran_with = self.system.values()
        if self.header.tone == "error":
            self._say("")
        self.stage.dim(True)
        make = type(self.system)
        self._job = worker.QUEUE.submit(lambda job: self._work(job, make(**knobs)), self._changed(knobs), self._owner)

    def cancel(self) -> None:
        """Ask this page's run to stop at its next step, or take it out of the queue."""
        if self._job is not None and self._job.state in {"waiting", "running"}:
            worker.QUEUE.cancel(self._job)

    def _prepared(self, job: worker.Job, system: System) -> None:
        """Wait for the models that a run needs."""
        if self._warming is None:
            self._warming = worker.warm(system)
        worker.settled(self._warming, job)

    def _work(self, job: worker.Job, system: System) -> Record:
        self._prepared(job, system)
        return system.record(Tape(on_step=_Watch(self, job, system), cancel=job.cancelled))

    def _changed(self, knobs: dict[str, Any]) -> Callable[[worker.Job], None]:
        def changed(job: worker.Job) -> None:
            state, place, result = job.state, job.place, job.result
            self._on_page(lambda: self._follow(job, state, place, result, knobs))

        return changed

    def _follow(self, job: worker.Job, state: str, place: int, result: Record | None, knobs: dict[str, Any]) -> None:
        """Show where this page's run stands. Runs in the page's session."""
        if job is not self._job or (state == "waiting" and job.state != state):
            return  # a newer run has taken its place, or the word that it waits came late
        if state == "waiting":
            self.header.param.update(state="waiting", detail=f"{place} before you" if place else "starting")
        elif state == "running":
            self.header.param.update(state="running", detail="", progress=-1.0)
        elif state == "done" and result is not None:
            self._finished(result, knobs)
        else:
            self._stopped(state, job.error)

    def _remember(self, record: Record, knobs: dict[str, Any]) -> int:
        """Put a finished run into the page's history and return its number."""
        number = 1 + max([0, *(run.number for run in self.history)])
        self.history = _recent([*self.history, Run(number, record, knobs)])
        return number

    def _finished(self, record: Record, knobs: dict[str, Any]) -> None:
        self._number = self._remember(record, knobs)
        self.stage.mark_live(set(self.system.derive(record)))
        self._show(record, "measured")
        if any(self.system.values()[n] != v for n, v in self._ran_with.items() if self.system.knobs()[n].live):
            self._rederive()  # a live knob moved while the run went on

    def _stopped(self, state: str, error: Exception | None) -> None:
        self.stage.dim(False)
        self._grow("")
        if self.record is not None:
            self.stage.show(self.record, self._options())  # partial pictures go
        detail = "the last whole run is on show" if self.record is not None else "press Run to start again"
        self.header.param.update(state="cancelled" if state == "cancelled" else "failed", detail=detail, progress=-1.0)
        if error is not None:
            self._say(worker.sentence(error), "error")

    def _partial(self, job: worker.Job, progress: Progress, drawn: Record | None) -> None:
        """Show a run's progress and, now and then, what it has recorded so far. Runs in the page's session."""
        if job is not self._job or job.state != "running":
            return
        share = progress.done / progress.total if progress.total else -1.0
        percent = f"{share:.0%}" if share >= 0 else f"{progress.done}"
        self.header.param.update(state="running", detail=f"{progress.phase} {percent}".strip(), progress=min(share, 1.0))
        self._grow(progress.text)
        if drawn is not None:
            slot = self.stage.slots["hero"]
            last = max(0, _last_step(drawn, slot.view.steps if slot.view else ""))
            if slot.view is not None and slot.view.draws(drawn):
                slot.draw(drawn, self._options() | {"step": last})
                slot.picture.dimmed = False


class _Watch:
    """What a run tells its page at every step, thinned so that watching costs at most a tenth of the run's time."""

    def __init__(self, bench: Running, job: worker.Job, system: System) -> None:
        self.bench, self.job, self.system = bench, job, system
        self.next = 0.0

    def __call__(self, progress: Progress, tape: NullTape) -> None:
        now = time.perf_counter()
        if now < self.next:
            return
        drawn = self._record(tape)
        self.bench._on_page(lambda: self.bench._partial(self.job, progress, drawn))
        cost = time.perf_counter() - now
        self.next = now + max(PARTIAL_EVERY_S, cost / PARTIAL_SHARE)

    def _record(self, tape: NullTape) -> Record | None:
        """Return what has been recorded so far, derived groups included where they can be derived already."""
        try:
            columns = tape.columns() if isinstance(tape, Tape) else {}
            if not columns:
                return None
            record = Record.from_columns(columns, self.system._attrs({}), getattr(tape, "attrs", {}))
        except (WorkbenchError, ValueError):
            return None  # a group may be half-written between two steps; the next one is whole
        try:
            return self.system.rederive(record)
        except Exception:
            return record  # `derive` may need what only a finished run has


def _recent(history: list[Run]) -> list[Run]:
    """Return the newest runs that the page may keep; the last one always."""
    kept: list[Run] = []
    room = MAX_HISTORY_BYTES
    for run in history[: -MAX_HISTORY - 1 : -1]:
        room -= sum(run.record[group].nbytes for group in run.record.groups)
        if kept and room < 0:
            break
        kept.append(run)
    return kept[::-1]


def _last_step(record: Record, group: str) -> int:
    if not group or group not in record:
        return 0
    steps = record[group]["step"].values
    return int(steps.max()) if len(steps) else 0

"""The part of a live page that sweeps one knob and draws what it trades while the settings arrive. It knows no paper.

A live knob needs no run: its values are replayed on the record on show. Any other knob needs a run for each value; each is a
run of its own in the process-wide queue, so that a long sweep takes turns with other visitors and each run keeps its limits.
The runs join the page's history, and so the speed-quality plane.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from widgets import controls, worker
from widgets.running import Running
from widgets.stage import Slot
from workbench import sweeping, views
from workbench.errors import InputError, WorkbenchError
from workbench.record import Record
from workbench.system import System
from workbench.tape import NullTape, Progress, Tape

VIEW = "knob_curve"


@dataclass
class Sweep:
    """One knob, its values, and what each left so far (None = still to come)."""

    knob: str
    values: list[Any]
    shared: dict[str, Any]
    outcomes: list[Record | str | None] = field(default_factory=list)
    numbers: dict[int, int] = field(default_factory=dict)  # setting -> number of its run in the page's history
    selected: int | None = None
    live: bool = False

    @property
    def done(self) -> int:
        return sum(outcome is not None for outcome in self.outcomes)

    def record(self, system: type[System]) -> Record | None:
        """Return the sweep as a record, with what has arrived; None before the first run has."""
        if not any(isinstance(outcome, Record) for outcome in self.outcomes):
            return None
        settings = [{self.knob: value} for value in self.values]
        return sweeping.gather(system, settings, self.shared, self.outcomes, "the page")


class Sweeping(Running):
    """What a page does when a reader sweeps a knob. Mixed into `Bench`."""

    sweep_slot: Slot
    theme: Any
    _sweep: Sweep | None

    def _on_sweep(self, message: dict[str, Any]) -> None:
        """Start a sweep of a knob over the values that the reader wrote beside it."""
        name = str(message.get("knob"))
        values = controls.read_values(self.system, name, message.get("values"), public=self._public)
        self.cancel()
        shared = {n: getattr(self.system, n) for n in self.system.knob_names() if n != name}
        live = self.system.knobs()[name].live
        self._sweep = Sweep(name, values, shared, [None] * len(values), live=live)
        if self.header.tone == "error":
            self._say("")
        if live:
            self._replay(self._sweep)
        else:
            self._next_setting(self._sweep)
        self._draw_sweep()

    def _replay(self, sweep: Sweep) -> None:
        """Replay every value of a live knob on the record on show."""
        if self.record is None:
            raise InputError(f"{sweep.knob}: a live knob is replayed on a run, and nothing has run yet. Press Run first.")
        for i, value in enumerate(sweep.values):
            try:
                sweep.outcomes[i] = type(self.system)(**sweep.shared, **{sweep.knob: value}).rederive(self.record)
            except WorkbenchError as error:
                sweep.outcomes[i] = str(error)

    def _next_setting(self, sweep: Sweep) -> None:
        """Queue the run of the next value; after the last, say so."""
        index = next((i for i, outcome in enumerate(sweep.outcomes) if outcome is None), None)
        if index is None:
            self._swept(sweep)
            return
        knobs = sweep.shared | {sweep.knob: sweep.values[index]}
        make = type(self.system)

        def work(job: worker.Job) -> Record:
            system = make(**knobs)
            self._prepared(job, system)
            return system.record(Tape(on_step=_Steps(self, sweep, job), cancel=job.cancelled))

        def changed(job: worker.Job) -> None:
            state, place, result = job.state, job.place, job.result
            self._on_page(lambda: self._follow_sweep(sweep, index, job, state, place, result))

        self._job = worker.QUEUE.submit(work, changed, self._owner)

    def _follow_sweep(self, sweep: Sweep, index: int, job: worker.Job, state: str, place: int, result: Record | None) -> None:
        """Show where a sweep stands. Runs in the page's session."""
        if job is not self._job or sweep is not self._sweep or (state == "waiting" and job.state != state):
            return
        where = f"sweep of {sweep.knob}: {sweep.done} of {len(sweep.values)} done"
        if state == "waiting":
            self.header.param.update(state="waiting", detail=f"{where}, {place} before you" if place else where)
        elif state == "running":
            self.header.param.update(state="running", detail=where, progress=sweep.done / len(sweep.values))
        elif state == "cancelled":
            self._swept(sweep)
        else:
            self._arrived(
                sweep, index, result if state == "done" else worker.sentence(job.error or WorkbenchError("The run failed."))
            )
            try:
                self._next_setting(sweep)
            except WorkbenchError as error:  # the queue is full: what is there stays
                self._say(str(error), "error")
                self._swept(sweep)

    def _arrived(self, sweep: Sweep, index: int, outcome: Record | str | None) -> None:
        sweep.outcomes[index] = outcome
        if isinstance(outcome, Record):
            sweep.numbers[index] = self._remember(outcome, sweep.shared | {sweep.knob: sweep.values[index]})
            self.stage.option_changed("others", self._options())
        self._draw_sweep()

    def _swept(self, sweep: Sweep) -> None:
        """Say that a sweep is over, wholly or not."""
        whole = sweep.done == len(sweep.values)
        state = ("measured" if self.record is not None and self.history else "recorded") if whole else "cancelled"
        detail = f"sweep of {sweep.knob}: {sweep.done} of {len(sweep.values)} settings"
        self.header.param.update(state=state, detail=detail, progress=-1.0)

    def _step_of(self, sweep: Sweep, job: worker.Job, share: float) -> None:
        if job is self._job and sweep is self._sweep and job.state == "running":
            whole = (sweep.done + share) / len(sweep.values)
            detail = f"sweep of {sweep.knob}: setting {sweep.done + 1} of {len(sweep.values)}"
            self.header.param.update(state="running", detail=detail, progress=whole)

    def _close_sweep(self) -> None:
        """Take the curve off the page; a sweep that goes on ends."""
        if self._job is not None and self._sweep is not None and self.header.detail.startswith("sweep of"):
            self.cancel()
        self._sweep = None
        self._draw_sweep()

    # ---- the picture -------------------------------------------------------------------------------------------------

    def _draw_sweep(self) -> None:
        """Draw the curve with what has arrived; the picture is there from the first run on."""
        sweep, slot = self._sweep, self.sweep_slot
        if sweep is None:
            slot.picture.visible = False
            return
        slot.view = views.get(VIEW)
        slot.picture.visible = True
        record = sweep.record(type(self.system))
        if record is not None:
            slot.draw(record, {"theme": self.theme, "selected": sweep.selected})
        else:
            failed = next((o for o in sweep.outcomes if isinstance(o, str)), "")
            slot.picture.param.update(title=slot.view.question, figure="", caption="", empty=failed or "The first setting runs.")
        label = self.system.knobs()[sweep.knob].label
        slot.picture.title = f"What does “{label}” trade?"

    def _on_sweep_click(self, setting: int) -> None:
        """Bring a setting on show: its own run, or the live knob's value."""
        sweep = self._sweep
        if sweep is None or not 0 <= setting < len(sweep.values) or not isinstance(sweep.outcomes[setting], Record):
            return
        sweep.selected = setting
        if sweep.live:
            self.system.set(**{sweep.knob: sweep.values[setting]})
            self._refresh_controls()
            self._rederive()
        else:
            self._bring(
                sweep.outcomes[setting], sweep.shared | {sweep.knob: sweep.values[setting]}, sweep.numbers.get(setting, 0)
            )
        self._draw_sweep()


class _Steps:
    """What a run of a sweep tells its page: its progress, five times a second at most."""

    def __init__(self, page: Sweeping, sweep: Sweep, job: worker.Job) -> None:
        self.page, self.sweep, self.job, self.next = page, sweep, job, 0.0

    def __call__(self, progress: Progress, tape: NullTape) -> None:
        now = time.perf_counter()
        if now >= self.next:
            self.next = now + 0.2
            share = progress.done / progress.total if progress.total else 0.0
            self.page._on_page(lambda: self.page._step_of(self.sweep, self.job, share))

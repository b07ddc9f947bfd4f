"""Where the settings of a sweep run: dask's threads in this process, processes on this machine, or a running cluster.

All three run the same function on the same knobs and hand every finished setting to the same callback, so that a record
does not depend on where it was made. In threads one run goes at a time unless you ask for more: two runs that share the
cores measure each other's speed. In processes each run has one numeric thread of its own.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import re
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor
from functools import partial
from typing import Any

from workbench import system as systems
from workbench import threads
from workbench.errors import Cancelled, InputError, StorageError, WorkbenchError, expected
from workbench.sweep_journal import Journal, Outcome
from workbench.tape import NullTape, Progress, Tape

Finished = Callable[[int, Outcome], None]
_CONNECT_SECONDS = 10
_LOOK_SECONDS = 0.02  # between two looks at a cluster's futures: their state is known here, a look costs nothing
_ASK_SECONDS = 0.5  # between two questions of a worker whether the sweep still wants its run
_PARTS = 100  # a setting's own progress in hundredths
THREADS, PROCESSES = "threads", "processes"


def run_setting(system: type[systems.System], knobs: Mapping[str, Any], tape: Tape | None = None) -> Outcome:
    """Return the record of one setting, or the sentence of what went wrong (a cancel goes on to the caller)."""
    try:
        return system(**knobs).record(tape)
    except Cancelled:
        raise
    except Exception as error:  # hours of other settings must not be lost to one
        said = str(error) if isinstance(error, WorkbenchError) else f"{type(error).__name__}: {error}"
        return f"{_UNLUCKY} ({said.rstrip('.')}). Run the sweep again to fill it in." if _of_the_machine(error) else said


def _of_the_machine(error: Exception) -> bool:
    """Return whether an error says nothing of the setting: memory or a disk that was full, a file that could not be read."""
    short = isinstance(error, RuntimeError) and re.search(r"allocate memory|out of memory", str(error), re.IGNORECASE)
    return isinstance(error, (MemoryError, OSError, StorageError)) or bool(short)


def run_all(
    system: type[systems.System],
    knobs: Mapping[int, Mapping[str, Any]],
    client: Any,
    workers: int | None,
    tape: NullTape,
    finished: Finished,
    journal: Journal,
) -> str:
    """Run every setting, call `finished(index, outcome)` in this thread as each ends, and return where they ran.

    Args:
        knobs: all knob values of a setting, by its index.
        client: None or "threads", "processes", a dask client, or the address of a scheduler.
        workers: runs at once, for threads (1 by default) and processes (one for each processor by default).
        tape: hears of the progress; its cancel ends the sweep.
        journal: workers that reach its folder write there themselves, so that what they finished outlives them.
    Raises:
        InputError: the client is none of these, or `workers` is not a whole number from 1.
        Cancelled: the tape's owner asked to stop.
    """
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
        raise InputError(expected("workers", "a whole number from 1", repr(workers)))
    if client in (None, THREADS):
        _in_threads(system, knobs, workers or 1, tape, finished)
        return f"{workers or 1} of dask's threads"
    if workers is not None and client != PROCESSES:
        then = "Start more workers on the cluster instead"
        raise InputError(expected("workers", "none beside a cluster, which has its own", workers, then=then))
    with _connected(client, min(workers or threads.available(), max(1, len(knobs)))) as (cluster, where):
        _on_cluster(system, knobs, cluster, tape, finished, journal)
    return where


# ---- threads of this process -----------------------------------------------------------------------------------------


class _Share:
    """The progress of all settings as one number, told to the sweep's tape from whatever thread makes a step."""

    def __init__(self, tape: NullTape, total: int) -> None:
        self.tape, self.total, self.parts = tape, total, dict[int, float]()

    def step(self, index: int, share: float, text: str = "") -> None:
        self.parts[index] = share
        done = int(sum(list(self.parts.values())) * _PARTS)
        whole = sum(s >= 1 for s in list(self.parts.values()))
        self.tape.step(done, self.total * _PARTS, text, f"setting {min(whole + 1, self.total)} of {self.total}")

    def watch(self, index: int) -> Callable[[Progress, NullTape], None]:
        return lambda p, _: self.step(index, 0.99 * p.done / max(1, p.total), p.text)


def _in_threads(
    system: type[systems.System], knobs: Mapping[int, Mapping[str, Any]], workers: int, tape: NullTape, finished: Finished
) -> None:
    from dask.callbacks import Callback
    from dask.threaded import get

    share = _Share(tape, len(knobs))
    # dask takes independent tasks by the text of their key, from the end; a reader who watches wants the first setting first.
    keys = {f"{10**9 - 1 - i:09d}": i for i in knobs}
    graph = {k: (partial(run_setting, system, knobs[i], Tape(share.watch(i), tape.cancel)),) for k, i in keys.items()}

    def ended(key: str, outcome: Outcome, *_: Any) -> None:
        finished(keys[key], outcome)
        share.step(keys[key], 1.0)

    with ThreadPoolExecutor(workers, thread_name_prefix="workbench-sweep") as pool, Callback(posttask=ended):
        try:
            get(graph, list(graph), pool=pool)
        except BaseException:
            tape.cancel.set()  # the other threads stop at their next step
            raise


# ---- processes and clusters ------------------------------------------------------------------------------------------


def _on_cluster(
    system: type[systems.System],
    knobs: Mapping[int, Mapping[str, Any]],
    cluster: Any,
    tape: NullTape,
    finished: Finished,
    journal: Journal,
) -> None:
    import cloudpickle
    from distributed import Event

    stop, folder = f"workbench-sweep-{uuid.uuid4().hex}", str(journal.folder.resolve()) if journal.folder else None
    name, heavy = _importable(system), _shared_objects(knobs)
    # A task, not scattered data: if every worker that holds it dies, the scheduler makes it again. As bytes of our own: an
    # object that cannot be unpacked on a worker is then an error of that task and not of the worker's whole connection.
    held = cluster.submit(cloudpickle.loads, cloudpickle.dumps(heavy), pure=False) if heavy else {}

    def submit(i: int) -> Any:
        light = {k: v for k, v in knobs[i].items() if k not in heavy}
        return cluster.submit(_run_there, name, light, held, stop, folder, pure=False)

    open_ = {submit(i): i for i in knobs}
    suspects, tried = deque[int](), set[int]()
    try:
        while open_ or suspects:
            if not open_:  # a dying worker takes with it whoever stands in its queue: suspects are tried once more, one by one
                last = suspects.popleft()
                open_ = {submit(last): last}
            time.sleep(_LOOK_SECONDS)
            for future in [f for f in open_ if f.done()]:
                i, outcome = open_.pop(future), _outcome(future)
                if outcome == _DIED and i not in tried:
                    suspects.append(i)
                    tried.add(i)
                else:
                    finished(i, outcome)
                future.release()  # at once: a result that stays on a worker would be lost, and made again, with it
            left = len(open_) + len(suspects)
            tape.step(len(knobs) - left, len(knobs), phase=f"{left} settings to go")
    except BaseException:
        with contextlib.suppress(Exception):  # a cluster that is gone cannot be told
            Event(stop, client=cluster).set()
        raise
    finally:
        cluster.cancel(list(open_))


def _shared_objects(knobs: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the knobs that hold the same object (a loaded model, say) in every setting: each worker gets them once."""
    every = list(knobs.values())
    plain = (str, bool, int, float, list, tuple, type(None))
    first = every[0]
    return {k: v for k, v in first.items() if not isinstance(v, plain) and all(each.get(k) is v for each in every)}


def _importable(system: type[systems.System]) -> str:
    """Return "module:class"; a class that another process cannot import is an error."""
    if system.__module__ == "__main__" or "<locals>" in system.__qualname__:
        wanted, then = "a system that other processes can import", "Move the class into a module, or sweep it in threads"
        raise InputError(expected("system", wanted, f"{system.__module__}.{system.__qualname__}", then=then))
    return f"{system.__module__}:{system.__qualname__}"


def _run_there(name: str, knobs: dict[str, Any], held: dict[str, Any], stop: str, folder: str | None) -> Outcome:
    """Run one setting on a worker; its steps ask now and then whether the sweep was cancelled.

    Where the worker reaches the journal, a setting that another worker finished before it died is read, not run again.
    """
    module, _, qualname = name.partition(":")
    system = getattr(importlib.import_module(module), qualname)
    whole = knobs | held
    journal = Journal(folder if folder is not None and os.path.isdir(folder) else None, system)
    outcome = journal.found(whole)
    if outcome is None:
        outcome = run_setting(system, whole, Tape(cancel=_Asked(stop)))  # type: ignore[arg-type]
        if not lost(outcome):
            journal.keep(whole, outcome)
    return outcome


class _Asked:
    """What a tape takes for its cancel event: the sweep's own event, asked for at most twice a second."""

    def __init__(self, name: str) -> None:
        self.name, self.next = name, time.monotonic() + _ASK_SECONDS
        self.event: Any = None

    def is_set(self) -> bool:
        if time.monotonic() < self.next:
            return False
        from distributed import Event

        self.event = self.event or Event(self.name)
        self.next = time.monotonic() + _ASK_SECONDS
        return bool(self.event.is_set())


_UNLUCKY = "The machine failed this setting"
_DIED = "Every worker that took this setting died (out of memory, say). Give it fewer tokens or more memory."


def _outcome(future: Any) -> Outcome:
    try:
        return future.result()
    except CancelledError:
        return "The cluster lost this setting: its scheduler stopped or restarted. Run the sweep again to fill it in."
    except Exception as error:
        if type(error).__name__ == "KilledWorker":
            return _DIED
        return f"{type(error).__name__}: {error}"


def lost(outcome: Outcome) -> bool:
    """Return whether a setting failed because of the machines, not because of itself: the next call tries it again."""
    return isinstance(outcome, str) and outcome.startswith(("The cluster lost", "Every worker that took", _UNLUCKY))


@contextlib.contextmanager
def _connected(client: Any, workers: int) -> Iterator[tuple[Any, str]]:
    """Give a dask client and the words for where it runs; what was started here ends here."""
    if hasattr(client, "submit"):
        yield client, "a dask cluster"
        return
    from distributed import Client, LocalCluster

    if client == PROCESSES:
        local = LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0", silence_logs=logging.ERROR
        )
        with local, Client(local) as cluster:
            yield cluster, f"{workers} processes of this machine"
        return
    try:
        cluster = Client(client, timeout=_CONNECT_SECONDS)
    except (OSError, ValueError, TypeError) as error:
        wanted, then = (
            "'threads', 'processes', a dask client or the address of a running scheduler",
            "Start one with `dask scheduler`",
        )
        raise InputError(expected("client", wanted, repr(client), then=then)) from error
    with cluster:
        yield cluster, "a dask cluster"

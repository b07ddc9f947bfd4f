"""Run a system for every knob setting and keep the runs as one record.

The settings run in threads of this process, in processes of this machine or on a running dask cluster (`sweep_pool`); the
order of the results is the order of the settings, whoever ran them. A setting that fails does not end the sweep: its error
is kept in `settings.error`. With a journal (`sweep_journal`) every finished setting is on disk at once, and the same call
after a kill runs only what is missing. What the record holds: `meters` with a leading dimension `setting` (the union of the
runs' meters, NaN where a run lacks one), `settings` with one variable for each knob, and each run's own groups under
`runs/<i>/`.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench import schema, sweep_pool
from workbench import system as systems
from workbench.errors import WorkbenchError
from workbench.record import Record
from workbench.record_groups import build_tree, dataset
from workbench.sweep_journal import Journal, Outcome
from workbench.tape import NullTape

if TYPE_CHECKING:
    import xarray as xr

log = logging.getLogger("workbench")
Arrived = Callable[[int, Outcome], None]


def run_sweep(
    system: str | type[systems.System],
    settings: Sequence[Mapping[str, Any]],
    shared_knobs: Mapping[str, Any],
    *,
    client: Any = None,
    workers: int | None = None,
    journal: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
    tape: NullTape | None = None,
    arrived: Arrived | None = None,
) -> Record:
    """Return one record of a run for each setting.

    Args:
        system: key of the system, or its class.
        settings: knob values of each run.
        shared_knobs: knob values of all runs; a setting's own value wins.
        client, workers: where the settings run, see `sweep_pool.run_all`.
        journal: folder that keeps every finished setting, so that the same call goes on after a kill.
        progress: draw a progress bar; by default only where somebody can see it.
        tape: hears of the progress instead of a bar, and can cancel.
        arrived: called with (index, record or sentence) as each setting ends, in whatever order they end.
    Raises:
        UnknownNameError, InputError: a setting is not valid; said before any work is done.
        Cancelled: the sweep was interrupted; nothing half-written is returned, the journal keeps what was finished.
        StorageError: the journal cannot be written.
        WorkbenchError: every setting failed.
    """
    from workbench.progress import watched

    cls = systems.get(system) if isinstance(system, str) else system
    knobs = [{**shared_knobs, **setting} for setting in settings]
    values = [_checked(cls, i, each) for i, each in enumerate(knobs)]
    if journal is None and client not in (None, sweep_pool.THREADS):
        # Workers of this machine can die; what they finished must outlive them even where nobody asked for a journal.
        with tempfile.TemporaryDirectory(prefix="workbench-sweep-") as folder:
            return run_sweep(
                cls, settings, shared_knobs, client=client, workers=workers, journal=folder, progress=progress, tape=tape, arrived=arrived
            )  # fmt: skip
    book = Journal(journal, cls)
    outcomes = {i: found for i, each in enumerate(knobs) if (found := book.found(each)) is not None}
    if outcomes:
        log.warning("sweep of %s: %d of %d settings were done already", cls.key, len(outcomes), len(knobs))
    for i, outcome in outcomes.items():
        _tell(arrived, i, outcome)

    def finished(index: int, outcome: Outcome) -> None:
        outcomes[index] = outcome
        if not sweep_pool.lost(outcome):
            book.keep(knobs[index], outcome)
        _tell(arrived, index, outcome)

    todo = {i: each for i, each in enumerate(knobs) if i not in outcomes}
    where = "read from the journal"
    if todo:
        with nullcontext(tape) if tape is not None else watched(f"sweep of {cls.key}", progress) as own:
            where = sweep_pool.run_all(cls, todo, client, workers, own, finished, book)
    return _collect(cls(**shared_knobs), settings, values, [outcomes[i] for i in range(len(knobs))], where)


def gather(
    system: type[systems.System],
    settings: Sequence[Mapping[str, Any]],
    shared_knobs: Mapping[str, Any],
    outcomes: Sequence[Outcome | None],
    where: str,
) -> Record:
    """Return what has arrived of a sweep as a record; a setting that is still to come (None) says so in `settings.error`.

    Raises:
        WorkbenchError: no setting has left a run yet.
    """
    values = [_checked(system, i, {**shared_knobs, **setting}) for i, setting in enumerate(settings)]
    whole = [schema.PENDING if outcome is None else outcome for outcome in outcomes]
    return _collect(system(**shared_knobs), settings, values, whole, where)


def _tell(arrived: Arrived | None, index: int, outcome: Outcome) -> None:
    if arrived is not None:
        arrived(index, outcome)


def _checked(cls: type[systems.System], index: int, knobs: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return cls(**knobs).values()
    except WorkbenchError as error:
        raise type(error)(f"Setting {index}: {error}") from None


def _collect(
    shared: systems.System,
    settings: Sequence[Mapping[str, Any]],
    values: Sequence[Mapping[str, Any]],
    outcomes: Sequence[Outcome],
    where: str,
) -> Record:
    import xarray as xr

    runs = {i: outcome for i, outcome in enumerate(outcomes) if isinstance(outcome, Record)}
    errors = [outcome if isinstance(outcome, str) else "" for outcome in outcomes]
    if not runs:
        raise WorkbenchError(f"Every setting failed; the first: {errors[0]}")
    varied = list(dict.fromkeys(name for setting in settings for name in setting))
    columns = {name: _knob_column([v[name] for v in values]) for name in shared.knob_names()}
    columns["error"] = np.array(errors, dtype=object)
    parts: dict[str, xr.Dataset] = {
        "/": xr.Dataset(attrs=_attrs(shared, list(runs.values())) | {"ran_on": where}),
        "meters": dataset("meters", _meters(outcomes)),
        "settings": dataset("settings", columns, {"varied": json.dumps(varied)}),
    }
    for i, run in runs.items():
        parts[f"runs/{i}"] = xr.Dataset(attrs=run.attrs)
        parts |= {f"runs/{i}/{group}": run[group] for group in run.groups}
    return Record(build_tree(parts)).validate()


def _attrs(shared: systems.System, runs: Sequence[Record]) -> dict[str, Any]:
    """Return the record's attributes: where it ran is what the first run says, kernels are those of all runs."""
    kernels: dict[str, Any] = {}
    for run in runs:
        kernels |= json.loads(run.attrs["kernels"])
    own = {
        "knobs": json.dumps(shared.values(), ensure_ascii=False),
        "seed": int(shared.seed),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "kernels": json.dumps(kernels, ensure_ascii=False),
    }
    return runs[0].attrs | own


def _knob_column(values: Sequence[Any]) -> np.ndarray:
    """Return one knob's values as an array: numbers, truth values or texts as they are, anything mixed as JSON texts."""
    kinds = {type(v) for v in values}
    if kinds == {bool} or kinds == {str}:
        return np.array(values, dtype=bool if kinds == {bool} else object)
    if kinds <= {int, float}:
        return np.array(values)
    return np.array([json.dumps(v, ensure_ascii=False) for v in values], dtype=object)


#: What stands where a run lacks a meter that another run has.
_MISSING = {"float64": np.nan, "int64": 0, "str": ""}
_FIXED = ("meter", "unit", "kind", "better")  # of a meter, whatever the setting


def _meters(outcomes: Sequence[Outcome]) -> dict[str, np.ndarray]:
    """Return the union of the runs' meters: `(meter,)` for what a meter is, `(setting, meter)` for what it read."""
    rows = [_rows(outcome) if isinstance(outcome, Record) else {} for outcome in outcomes]
    first: dict[Any, dict[str, Any]] = {}
    for each in rows:
        for key, row in each.items():
            first.setdefault(key, row)
    columns: dict[str, np.ndarray] = {}
    for variable in schema.GROUPS["meters"].variables:
        if not any(variable.name in row for row in first.values()):
            continue
        dtype = object if variable.dtype == "str" else variable.dtype
        blank = {key: _blank(variable, row) for key, row in first.items()}
        if variable.name in _FIXED:
            columns[variable.name] = np.array([row[variable.name] for row in first.values()], dtype=object)
            continue
        cells = [[each.get(key, {}).get(variable.name, blank[key]) for key in first] for each in rows]
        columns[variable.name] = np.array(cells, dtype=dtype)
    columns["meter"] = _names(list(first.values()))
    return columns


def _rows(run: Record) -> dict[tuple[str, str], dict[str, Any]]:
    names = [str(m) for m in run["meters"]["meter"].values] if "meters" in run else []
    rows = [run.meter(name) for name in names]
    return {(row["meter"], row["unit"]): row for row in rows}


def _blank(variable: schema.Variable, row: Mapping[str, Any]) -> Any:
    return row["provenance"] if variable.name == "provenance" else _MISSING[variable.dtype]


def _names(rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Return the meters' names; two that share a name but not a unit are told apart by it."""
    names = [row["meter"] for row in rows]
    return np.array([n if names.count(n) == 1 else f"{n} ({row['unit']})" for n, row in zip(names, rows)], dtype=object)

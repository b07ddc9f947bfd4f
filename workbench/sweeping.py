"""Run a system for every knob setting and keep the runs as one record.

Here the settings run one after the other; with a dask client (or a scheduler's address) each is one task. The order of the
results is the order of the settings, whoever ran them. A setting that fails does not end the sweep: its error is kept in
`settings.error`. What the record holds: `meters` with a leading dimension `setting` (the union of the runs' meters, NaN where
a run lacks one), `settings` with one variable for each knob, and each run's own groups under `runs/<i>/`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench import schema
from workbench import system as systems
from workbench.errors import Cancelled, InputError, WorkbenchError, expected
from workbench.record import Record, build_tree, dataset
from workbench.tape import NullTape, Progress, Tape

if TYPE_CHECKING:
    import xarray as xr

Outcome = Record | str  #: what a setting left: its record, or the sentence of its error
_CONNECT_SECONDS = 10


def run_sweep(
    name: str,
    settings: Sequence[Mapping[str, Any]],
    shared_knobs: Mapping[str, Any],
    *,
    client: Any = None,
    progress: bool | None = None,
) -> Record:
    """Return one record of a run for each setting.

    Args:
        name: key of the system.
        settings: knob values of each run.
        shared_knobs: knob values of all runs; a setting's own value wins.
        client: a dask client, or the address of a scheduler; None runs here.
        progress: draw a progress bar; by default only where somebody can see it.
    Raises:
        UnknownNameError, InputError: a setting is not valid; said before any work is done.
        Cancelled: the sweep was interrupted; nothing half-written is returned.
        WorkbenchError: every setting failed.
    """
    from workbench.progress import watched

    cls = systems.get(name)
    knobs = [{**shared_knobs, **setting} for setting in settings]
    values = [_checked(cls, i, each) for i, each in enumerate(knobs)]
    with watched(f"sweep of {name}", progress) as tape:
        outcomes = _run_here(name, knobs, tape) if client is None else _run_on_dask(name, knobs, client, tape)
    return _collect(cls(**shared_knobs), settings, values, outcomes)


def _checked(cls: type[systems.System], index: int, knobs: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return cls(**knobs).values()
    except WorkbenchError as error:
        raise type(error)(f"Setting {index}: {error}") from None


def _run_here(name: str, knobs: Sequence[Mapping[str, Any]], tape: NullTape) -> list[Outcome]:
    def watch(index: int) -> Callable[[Progress, NullTape], None]:
        return lambda p, _: tape.step(
            index * p.total + p.done, len(knobs) * p.total, p.text, f"setting {index + 1} of {len(knobs)}"
        )

    return [run_setting(name, each, Tape(watch(i), tape.cancel)) for i, each in enumerate(knobs)]


def run_setting(name: str, knobs: Mapping[str, Any], tape: Tape | None = None) -> Outcome:
    """Return the record of one setting, or the sentence of what went wrong (a cancel goes on to the caller)."""
    try:
        return systems.get(name)(**knobs).record(tape)
    except Cancelled:
        raise
    except WorkbenchError as error:
        return str(error)
    except Exception as error:  # hours of other settings must not be lost to one
        return f"{type(error).__name__}: {error}"


def _run_on_dask(name: str, knobs: Sequence[Mapping[str, Any]], client: Any, tape: NullTape) -> list[Outcome]:
    from distributed import as_completed

    with _connected(client) as cluster:
        futures = [cluster.submit(run_setting, name, each, pure=False) for each in knobs]
        try:
            for done, _ in enumerate(as_completed(futures), start=1):
                tape.step(done, len(futures), phase="settings")
            return [_outcome(future) for future in futures]
        finally:
            cluster.cancel(futures)  # frees the results; stops what has not started when the sweep is interrupted


def _outcome(future: Any) -> Outcome:
    error = future.exception()  # a worker that died, say
    return future.result() if error is None else f"{type(error).__name__}: {error}"


@contextlib.contextmanager
def _connected(client: Any) -> Iterator[Any]:
    if hasattr(client, "submit"):
        yield client
        return
    from distributed import Client

    try:
        cluster = Client(client, timeout=_CONNECT_SECONDS)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            expected(
                "client",
                "a dask client or the address of a running scheduler",
                repr(client),
                then="Start one with `dask scheduler`",
            )
        ) from error
    with cluster:
        yield cluster


def _collect(
    shared: systems.System,
    settings: Sequence[Mapping[str, Any]],
    values: Sequence[Mapping[str, Any]],
    outcomes: Sequence[Outcome],
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
        "/": xr.Dataset(attrs=_attrs(shared, list(runs.values()))),
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

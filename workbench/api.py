"""The calls a reader makes: `catalog run open load compare sweep`. Each is a few lines over the five nouns."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from workbench import system as systems
from workbench.cards import Catalog
from workbench.errors import InputError, KindError, expected
from workbench.record import Record
from workbench.tape import NullTape, Tape

if TYPE_CHECKING:
    from widgets.bench import Bench
    from widgets.notebook import Twin
    from workbench.comparison import Comparison


def catalog(search: str = "", *, family: str = "", group: str = "", in_class: bool = False) -> Catalog:
    """Return every system that is installed, broken plug-ins with their reason: cards in a notebook, dicts in `.rows`.

    Args:
        search: words that must all occur in a card. family, group: exact names. in_class: only what runs in a class.
    """
    return Catalog(search, family=family, group=group, in_class=in_class)


def run(name: str, /, *, tape: NullTape | None = None, progress: bool | None = None, **knobs: Any) -> Record:
    """Run a system without a page and return its record.

    Args:
        name: key of the system ("rsd").
        tape: your own tape; by default one with a progress bar on a terminal or in a notebook.
        progress: draw a progress bar; by default only where somebody can see it.
        knobs: values of its knobs, `seed` among them. No value is clamped: out of range is an error.
    Raises:
        UnknownNameError, InputError, ModelError: bad input, before any work is done.
        Cancelled: the run was interrupted (Ctrl-C); nothing half-written is returned.
    Example:
        >>> import workbench as wb
        >>> record = wb.run("rsd", target=wb.models.TableLM([[.5, .5], [.9, .1]]), prompt=[0], max_new_tokens=4)
        >>> record.groups
    """
    system = systems.get(name)(**knobs)
    if tape is not None:
        if not isinstance(tape, Tape):
            raise InputError(expected("tape", "a recording Tape", type(tape).__name__, "argument tape"))
        return system.record(tape)
    from workbench.progress import watched

    with watched(name, progress) as own:
        return system.record(own)


def open(name: str, /, *, host: str = "auto", **knobs: Any) -> Bench | Twin:
    """Return the page of a system in the form that this place can show, and say which one was chosen.

    Args:
        name: key of the system.
        host: "auto", or one of "jupyter" (the live page, displays itself), "vscode" and "colab" (a twin of ipywidgets with the
            same knobs), "terminal" (the live page with `.show()`), "server" (the live page, `.servable()` under `panel serve`).
        knobs: values to start from; a value out of range is an error.
    """
    from workbench import hosts

    system, place = systems.get(name)(**knobs), hosts.get(host)
    if place.says:
        print(place.says.format(key=name), file=sys.stderr if place.name == "terminal" else sys.stdout)
    if not place.live:
        from widgets.notebook import Twin

        return Twin(system, ran=not knobs)
    from widgets.bench import Bench

    if hosts.detect() == place.name == "jupyter":
        hosts.load_plotly()  # then the pictures outlive the kernel too
    return Bench(system)


def load(path: str | os.PathLike[str]) -> Record:
    """Return the record in a file that `record.save(path)` wrote. Nothing in the file is executed."""
    return Record.load(path)


def compare(*records: Record) -> Comparison:
    """Return records side by side: the knobs that differ, the meters with their changes, the views they share."""
    from workbench.comparison import Comparison

    return Comparison(records)


def sweep(
    name: str,
    grid: Mapping[str, Iterable[Any]] | Iterable[Mapping[str, Any]],
    client: Any = None,
    *,
    workers: int | None = None,
    journal: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
    **knobs: Any,
) -> Record:
    """Run a system for every setting and return one record with a `setting` dimension.

    Args:
        name: key of the system.
        grid: `{knob: values}` for the full product, or a list of knob settings.
        client: None or "threads" runs in this process, "processes" in workers on this machine (a script then needs its
            `if __name__ == "__main__":`), a dask client or the address of a scheduler on that cluster.
        workers: runs at once. Threads: 1 by default, because runs that share the cores measure each other's speed.
            Processes: one for each processor by default, each run with one numeric thread.
        journal: a folder that keeps every finished setting; the same call after a kill runs only what is missing.
        progress: draw a progress bar; by default only where somebody can see it.
        knobs: values shared by every setting; the seed is one of them, so a result does not depend on who ran it.
    Raises:
        UnknownNameError, InputError: a setting is not valid; said before any work is done.
        Cancelled: interrupted (Ctrl-C); the journal keeps what was finished.
        WorkbenchError: every setting failed. One that fails beside others is a sentence in `record["settings"]["error"]`.
    Example:
        >>> record = wb.sweep("rsd", {"depth": [1, 2, 3]}, target="table-target", draft="table-draft", prompt=[0])
        >>> record.figure("speed_quality"); record.figure("token_tree", setting=2); record.at(2)
    """
    from workbench.sweeping import run_sweep  # a module named `sweep` would take the name of the function

    settings = settings_of(grid)
    return run_sweep(name, settings, knobs, client=client, workers=workers, journal=journal, progress=progress)


def settings_of(grid: Mapping[str, Iterable[Any]] | Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the list of knob settings that a grid (a mapping of values, or already a list) stands for."""
    if isinstance(grid, Mapping):
        bad = next((k for k, v in grid.items() if isinstance(v, (str, bytes)) or not isinstance(v, Iterable)), None)
        if bad is not None:
            raise KindError(expected(f"grid[{bad!r}]", "a list of values", repr(grid[bad])))
        values = [list(v) for v in grid.values()]
        settings = [dict(zip(grid, combination)) for combination in itertools.product(*values)]
    else:
        listed: list[Any] = list(grid) if isinstance(grid, Iterable) and not isinstance(grid, str) else [None]
        if not all(isinstance(s, Mapping) for s in listed):
            raise KindError(expected("grid", "a mapping of knobs to lists of values, or a list of settings", repr(grid)[:60]))
        settings = [dict(s) for s in listed]
    if not settings or not all(settings):
        raise InputError(expected("grid", "at least one knob with at least one value", repr(grid)))
    return settings


__all__ = ["Catalog", "catalog", "compare", "load", "open", "run", "settings_of", "sweep"]

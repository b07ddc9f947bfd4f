"""The command line: `workbench list | run | serve | lab | models | sweep | export | doctor`.

Exit codes: 0 done, 1 the run failed, 2 bad usage, 130 cancelled. An error is one sentence on stderr; `--debug` adds the
traceback. What a program may want to read (JSON, tables) goes to stdout, progress and remarks to stderr. A knob of a system
is an option of `run` and `sweep` (`--max-new-tokens 64`), read by the same `KnobInfo.parse` that reads links.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.exceptions import TyperException

from workbench import terminal
from workbench.errors import Cancelled, InputError, KindError, StorageError, UnknownNameError, WorkbenchError, expected, unknown

if TYPE_CHECKING:
    from rich.table import Table

    from workbench.record import Record
    from workbench.system import System

DONE, FAILED, USAGE, CANCELLED = 0, 1, 2, 130
_KNOBS = {"allow_extra_args": True, "ignore_unknown_options": True}
_log = logging.getLogger("workbench")

app = typer.Typer(
    name="workbench",
    help="Understand efficient machine learning by running it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

Name = Annotated[str, typer.Argument(help="Key of a system, as `workbench list` prints it.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with 0 (done), 1 (failed), 2 (bad usage) or 130 (cancelled)."""
    sys.exit(call(sys.argv[1:] if arguments is None else arguments))


def call(arguments: list[str]) -> int:
    """Return the exit code of a command line; what went wrong is one sentence on stderr."""
    debug = "--debug" in arguments
    logging.basicConfig(level=logging.INFO if debug else logging.WARNING, stream=sys.stderr, force=True)
    try:
        code = app([a for a in arguments if a != "--debug"], prog_name="workbench", standalone_mode=False)
        return int(code or DONE)
    except TyperException as error:
        return _fail(error, USAGE, debug)
    except (Cancelled, KeyboardInterrupt, typer.Abort) as error:
        return _fail(str(error) or "Cancelled.", CANCELLED, debug)
    except (InputError, KindError, UnknownNameError) as error:
        return _fail(error, USAGE, debug)
    except WorkbenchError as error:
        return _fail(error, FAILED, debug)
    except Exception as error:  # a bug of ours or of a plug-in: still one sentence
        hint = "" if debug else " Run it again with --debug for the traceback."
        return _fail(f"Unexpected {type(error).__name__}: {error}.{hint}", FAILED, debug)


def _fail(error: object, code: int, debug: bool) -> int:
    if debug:
        _log.exception("workbench failed")
    text = error.format_message() if isinstance(error, TyperException) else str(error)
    if text:  # `workbench` alone prints its help, and that is all
        print(" ".join(text.split()), file=sys.stderr)
    return code


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Print the traceback of an error too (anywhere on the line).")] = False,
) -> None:
    """Understand efficient machine learning by running it."""


@app.command("list")
def list_systems(
    search: Annotated[str, typer.Option(help="Words that must occur in the card.")] = "",
    family: Annotated[str, typer.Option(help="Only this family.")] = "",
    group: Annotated[str, typer.Option(help="Only systems whose views draw this group.")] = "",
    in_class: Annotated[bool, typer.Option("--in-class", help="Only what runs within 20 s and 2 GB.")] = False,
    as_json: Json = False,
) -> None:
    """List every system with what it needs, broken plug-ins with their reason."""
    from workbench.api import catalog

    rows = catalog(search, family=family, group=group, in_class=in_class).rows
    if as_json:
        _print_json([{k: _finite(v) for k, v in row.items()} for row in rows])
        return
    columns = ("name", "year", "title", "family", "needs", "status")
    shown = terminal.table(*columns)
    for row in rows:
        shown.add_row(*(str(row[c]) for c in columns))
    terminal.console().print(shown)


@app.command(context_settings=_KNOBS, add_help_option=False)
def run(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Key of a system, as `workbench list` prints it.")] = "",
    out: Annotated[Path | None, typer.Option(help="Save the record to this file.")] = None,
    as_json: Json = False,
    help_: Annotated[bool, typer.Option("--help", help="Show this, and the knobs of NAME.")] = False,
) -> None:
    """Run a system: `workbench run NAME --KNOB VALUE ... [--out FILE] [--json]`."""
    from workbench import system as systems

    if help_ or not name:
        print(context.get_help())
        if name:
            terminal.console().print(_knob_table(systems.get(name)))
        if not help_:
            raise InputError(expected("NAME", "the key of a system", "nothing", then="List them with `workbench list`"))
        return
    from workbench import api

    knobs = parse_knobs(systems.get(name), context.args)
    _check_folder(out)
    with _stdout_to_stderr():
        record = api.run(name, **knobs)
    if out is not None:
        _said_saved(record.save(out))
    if as_json:
        _print_json(summary(record))
    else:
        terminal.console().print(_meter_table(record))


@app.command()
def serve(
    names: Annotated[list[str] | None, typer.Argument(help="Systems to serve; all of them by default.")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on (0 = any free one).")] = 5006,
    address: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    show: Annotated[bool | None, typer.Option("--show/--no-show", help="Open a browser; by default on a terminal.")] = None,
    public: Annotated[
        bool, typer.Option("--public", help="For visitors: bounded work, fair turns, JSON log, metrics behind a token.")
    ] = False,
    allow_origin: Annotated[
        list[str] | None, typer.Option(help="HOST[:PORT] that visitors type; may be given several times.")
    ] = None,
    num_procs: Annotated[int, typer.Option(min=1, max=64, help="Processes that share the port, each with its own models.")] = 1,
    max_waiting: Annotated[int, typer.Option(min=1, help="Public: runs that may wait.")] = 40,
    max_each: Annotated[int, typer.Option(min=1, help="Public: runs of one page that may wait or go on.")] = 2,
    max_address: Annotated[int, typer.Option(min=1, help="Public: runs of one network address that may.")] = 30,
    max_seconds: Annotated[float, typer.Option(min=1, help="Public: seconds of one run.")] = 120.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Public: most that a knob counted in tokens takes.")] = 256,
    max_pages: Annotated[int, typer.Option(min=1, help="Public: pages open at once.")] = 300,
) -> None:
    """Serve the live pages: the gallery at `/`, each system at its own path (`/rsd`), kept runs at `/compare`.

    `/health` answers machines, `/metrics` shows requests, queue, memory and latencies. SIGTERM or Ctrl-C lets the run that goes
    on end first.
    """
    from workbench import system as systems

    for name in names or ():
        systems.get(name)
    from widgets.operations import Limits
    from widgets.serve import serve as serve_pages

    limits = Limits(
        waiting=max_waiting, each=max_each, address=max_address, seconds=max_seconds, tokens=max_tokens, sessions=max_pages
    )
    opens = sys.stdout.isatty() and not public if show is None else show
    try:
        serve_pages(
            list(names or ()), port=port, address=address, show=opens, public=public, limits=limits,
            allow_origins=allow_origin or (), num_procs=num_procs,
        )  # fmt: skip
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageError(f"The page cannot listen on {address}:{port}: {reason}. Choose another port with --port.") from error


@app.command(context_settings=_KNOBS)
def lab(context: typer.Context) -> None:
    """Open JupyterLab on the notebooks; further options are JupyterLab's own."""
    folder = Path(__file__).resolve().parent.parent / "notebooks"
    start = [str(folder / "00_start_here.ipynb")] if folder.is_dir() else []
    # Jupyter refuses to start as root, which is what most containers run as; it still listens on this machine only.
    root = ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    os.execv(sys.executable, [sys.executable, "-m", "jupyter", "lab", *start, *root, *context.args])


@app.command("models")
def models_command(
    action: Annotated[str, typer.Argument(help="`pull` fetches a model; nothing lists what is here.")] = "",
    name: Annotated[str, typer.Argument(help="Name of the model to fetch.")] = "smollm2-135m",
) -> None:
    """List the models found here, or fetch one: `workbench models [pull NAME]`."""
    from workbench import models

    if action == "pull":
        with _stdout_to_stderr():
            models.pull(name)
    elif action:
        raise unknown("models", action, ["pull"], "`workbench models` alone lists what is here")
    else:
        from workbench.doctor import model_table

        terminal.console().print(model_table())


@app.command(context_settings=_KNOBS)
def sweep(
    context: typer.Context,
    name: Name,
    grid: Annotated[list[str], typer.Option(help="KNOB=a,b,c; give it once for each knob of the grid.")],
    out: Annotated[Path, typer.Option(help="Save the record to this file.")],
    scheduler: Annotated[
        str | None, typer.Option(help="`threads` (default), `processes`, or the address of a dask scheduler.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Runs at once, for threads and processes.")] = None,
) -> None:
    """Run every setting of a grid and save one record: `workbench sweep NAME --grid KNOB=a,b,c ... --out FILE`.

    Finished settings wait in FILE.parts until the whole is saved: after a kill the same line runs only what is missing.
    """
    from workbench import api
    from workbench import system as systems
    from workbench.sweep_journal import Journal
    from workbench.sweep_pool import lost

    cls = systems.get(name)
    values = parse_grid(cls, grid)
    shared = parse_knobs(cls, context.args)
    _check_folder(out)
    journal = out.with_name(f"{out.name}.parts")
    with _stdout_to_stderr():
        record = api.sweep(name, values, client=scheduler, workers=workers, journal=journal, **shared)
    _said_saved(record.save(out))
    errors = [str(e) for e in record["settings"]["error"].values if e]
    unlucky = sum(map(lost, errors))
    if unlucky:  # the finished ones wait for the next call, which runs these again
        then = f"Run the same line again: it goes on from {str(journal)!r}"
        raise WorkbenchError(f"{unlucky} of {record['settings'].sizes['setting']} settings were lost to the machine. {then}.")
    Journal(journal, cls).forget()
    if errors:
        raise WorkbenchError(f"{len(errors)} of {record['settings'].sizes['setting']} settings failed; the first: {errors[0]}")


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="A saved record, or a folder of them.")],
    html: Annotated[Path | None, typer.Option(help="Page (of a folder: site) to write; by default beside it.")] = None,
) -> None:
    """Write a record as one page, or a folder of records as a static site; both work offline.

    `workbench export FILE [--html PAGE]` · `workbench export FOLDER [--html SITE]`: an index with a card for each run.
    """
    from workbench.api import load

    if file.is_dir():
        from workbench.site import write_site

        site = write_site(file, html or file / "site")
        for name, reason in site.left_out.items():
            print(f"Left out {name}: {reason}", file=sys.stderr)
        _said_saved(site.index)
        return
    page = html or file.with_name(f"{file.name.removesuffix('.zip').removesuffix('.zarr')}.html")
    _check_folder(page)
    _said_saved(load(file).html(page))


@app.command()
def doctor() -> None:
    """Show versions, device, thread pools, models, kernel backends and the browser, with advice."""
    from workbench.doctor import show

    show()


def parse_knobs(cls: type[System], arguments: list[str]) -> dict[str, Any]:
    """Return the knob values that `--KNOB VALUE` or `--KNOB=VALUE` arguments stand for.

    Raises:
        UnknownNameError: naming the nearest knob.
        InputError: a value is missing, or is not what the knob takes.
    """
    knobs: dict[str, Any] = {}
    words = iter(arguments)
    for word in words:
        if not word.startswith("--"):
            raise InputError(expected("command line", "--KNOB VALUE", repr(word), then="Quote a value that has spaces"))
        option, equals, value = word[2:].partition("=")
        text = value if equals else next(words, None)
        if text is None:
            raise InputError(expected(f"--{option}", "a value after it", "the end of the line"))
        knob = _knob(cls, option)
        knobs[knob] = cls.knobs()[knob].parse(text)
    return knobs


def parse_grid(cls: type[System], grid: list[str]) -> dict[str, list[Any]]:
    """Return `{knob: values}` of `KNOB=a,b,c` texts; commas inside brackets belong to a value (`width=[2,2],3`)."""
    values: dict[str, list[Any]] = {}
    for text in grid:
        option, equals, listing = text.partition("=")
        if not equals or not listing:
            raise InputError(expected("--grid", "KNOB=a,b,c", repr(text)))
        knob = _knob(cls, option)
        if knob in values:
            raise InputError(expected("--grid", f"{knob} once, with all its values", "it twice", then=f"Write {knob}=a,b,c"))
        values[knob] = [cls.knobs()[knob].parse(v) for v in re.split(r",(?![^\[]*\])", listing)]
    return values


def _knob(cls: type[System], option: str) -> str:
    name = option.replace("-", "_")
    if name not in cls.knob_names():
        raise unknown(f"knob of {cls.key}", option, cls.knob_names(), f"List them with `workbench run {cls.key} --help`")
    return name


def summary(record: Record) -> dict[str, Any]:
    """Return attrs (JSON texts decoded) and meters by name, ready for JSON: NaN becomes None."""
    attrs = {k: _decoded(v) for k, v in record.attrs.items()}
    names = [str(m) for m in record["meters"]["meter"].values]
    return {"attrs": attrs, "meters": {m: {k: _finite(v) for k, v in record.meter(m).items()} for m in names}}


def _decoded(value: Any) -> Any:
    if not isinstance(value, str) or value[:1] not in "{[":
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False, default=str))


def _check_folder(path: Path | None) -> None:
    """Say before a run, not after it, that its record cannot be saved."""
    if path is not None and not path.absolute().parent.is_dir():
        raise StorageError(f"The folder of {str(path)!r} does not exist. Make it, or choose another.")


def _said_saved(path: Path) -> None:
    print(f"Saved {path}", file=sys.stderr)


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Keep stdout for the result: what a run or a library prints meanwhile goes to stderr."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def _meter_table(record: Record) -> Table:
    shown = terminal.table("meter", "value", "unit", "baseline", "provenance")
    for row in summary(record)["meters"].values():
        baseline = "" if row["baseline"] is None else f"{row['baseline']:.4g} {row['baseline_name']}"
        value = "unknown" if row["value"] is None else f"{row['value']:.4g}"
        shown.add_row(row["meter"], value, row["unit"], baseline, row["provenance"])
    return shown


def _knob_table(cls: type[System]) -> Table:
    shown = terminal.table("knob", "default", "takes", "meaning")
    for name, info in cls.knobs().items():
        takes = "|".join(map(str, info.choices)) if info.choices else ""
        if info.bounds:
            takes = f"{info.bounds[0]}..{info.bounds[1]} {info.unit}".strip()
        shown.add_row(f"--{name.replace('_', '-')}", "auto" if info.default is None else str(info.default), takes, info.doc)
    return shown

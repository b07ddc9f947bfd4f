"""A tape that shows how far a run is: a bar on a terminal or in a notebook, nothing where nobody looks."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from workbench.errors import Cancelled
from workbench.tape import NullTape, Progress, Tape


def somebody_watches() -> bool:
    """Return whether a bar would be seen: standard error is a terminal, or this is a notebook."""
    ipython = sys.modules.get("IPython")
    return sys.stderr.isatty() or (ipython is not None and ipython.get_ipython() is not None)


@contextmanager
def watched(label: str, progress: bool | None = None) -> Iterator[Tape]:
    """Give a tape that draws its progress; Ctrl-C inside ends the run as `Cancelled` and leaves nothing behind.

    Args:
        label: what runs, before the bar.
        progress: draw a bar; None = only where somebody can see it.
    """
    try:
        if progress if progress is not None else somebody_watches():
            yield from _with_bar(label)
        else:
            yield Tape()
    except KeyboardInterrupt:
        raise Cancelled(f"{label} was interrupted. Nothing was kept; start it again to get a record.") from None


def _with_bar(label: str) -> Iterator[Tape]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None)

        def show(progress: Progress, tape: NullTape) -> None:
            bar.update(task, description=f"{label} {progress.phase}", completed=progress.done, total=progress.total)

        yield Tape(on_step=show)

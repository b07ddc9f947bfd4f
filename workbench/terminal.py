"""Plain tables on standard output, the same for every command."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_PIPED_WIDTH = 160  # columns where standard output is a file or a pipe and has no width of its own


def console() -> Console:
    """Return the console of standard output; [brackets] in a value are text, not markup."""
    from rich.console import Console

    return Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else _PIPED_WIDTH)


def table(*columns: str) -> Table:
    """Return an empty table without lines; without columns, one of two that has no head."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False, show_header=bool(columns))
    for column in columns or ("", ""):
        made.add_column(column, overflow="fold")
    return made

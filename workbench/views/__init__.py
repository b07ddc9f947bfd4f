"""Pictures of groups. A view names the groups it draws; any record that has them can be drawn.

A view is a pure function from a record to a plotly figure, with a text twin that says the same in words. It never runs a
model and never imports Panel. To add one: a file in this package with a `VIEW = View(...)`, listed in `_FILES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from workbench.errors import RecordError, expected, unknown

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from workbench.record import Record

#: Modules of this package that hold one `VIEW` each, in the order they are offered.
_FILES = (
    "token_tree",
    "rejection_ladder",
    "text_strip",
    "step_timeline",
    "acceptance_by_rank",
    "length_and_budget",
    "lossless_monitor",
    "latency_profile",
    "speed_quality",
)


@dataclass(frozen=True)
class View:
    """A picture of some groups.

    Attributes:
        name: the name in `record.figure(name)`.
        groups: groups the record must have ("tree", "curve/latency").
        question: the reader's question the picture answers; its title.
        reading: how to read it: what each mark and colour means.
        draw: `(record, *, theme="light", **options) -> plotly Figure`.
        say: `(record, **options) -> str`, the text twin.
        caption: `(record, **options) -> str`, one sentence of what to see now.
        steps: group whose `step` column a scrubber moves through, or "".
    """

    name: str
    groups: tuple[str, ...]
    question: str
    reading: str
    draw: Callable[..., go.Figure]
    say: Callable[..., str]
    caption: Callable[..., str]
    steps: str = ""

    def figure(self, record: Record, **options: Any) -> go.Figure:
        """Return the picture; an error names the group that the record lacks."""
        self.require(record)
        return self.draw(record, **options)

    def text(self, record: Record, **options: Any) -> str:
        """Return the same in words or a small table."""
        self.require(record)
        return self.say(record, **options)

    def require(self, record: Record) -> None:
        """Raise `RecordError` if the record lacks a group this view draws."""
        missing = [g for g in self.groups if g not in record]
        if missing:
            raise RecordError(
                expected(f"view {self.name!r}", f"a record with the group {missing[0]!r}", ", ".join(record.groups) or "none")
            )

    def draws(self, record: Record) -> bool:
        """Return whether the record has every group this view needs."""
        return all(g in record for g in self.groups)


@cache
def registry() -> dict[str, View]:
    """Return every view by name, in the order they are offered."""
    views = [import_module(f"{__name__}.{name}").VIEW for name in _FILES]
    return {view.name: view for view in views}


def get(name: str) -> View:
    """Return a view by name; an unknown name is an error that names the nearest."""
    if name not in registry():
        raise unknown("view", name, registry())
    return registry()[name]


def for_record(record: Record) -> list[View]:
    """Return the views that can draw a record."""
    return [view for view in registry().values() if view.draws(record)]

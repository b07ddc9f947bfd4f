"""What is on show: the views of one record, each in its picture, redrawn only when its groups changed."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from plotly.io.json import to_json_plotly

from widgets.parts import Picture
from workbench import views
from workbench.errors import WorkbenchError
from workbench.record import Record
from workbench.views import View

#: Shown under the hero and beside it, in every record that can draw them; without a text the plane stands under the hero.
STRIP, PLANE = "text_strip", "speed_quality"
FEW = 1000  # numbers of an array that are compared before all are
PAIR = 2  # further views on show at once; the rest wait behind tabs


def changed_groups(old: Record | None, new: Record) -> set[str]:
    """Return the groups of `new` whose arrays differ from those of `old`.

    A live knob keeps the recorded arrays, so that most comparisons end at "the very same array".
    """
    return {g for g in new.groups if old is None or not _same(_arrays(old, g), _arrays(new, g))}


def _arrays(record: Record, group: str) -> dict[str, np.ndarray]:
    return {name: record.column(group, name) for name in record.variables(group)}


def _same(old: dict[str, np.ndarray], new: dict[str, np.ndarray]) -> bool:
    return old.keys() == new.keys() and all(old[n] is a or _equal(old[n], a) for n, a in new.items())


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    nan = one.dtype.kind == "f"
    if one.size > FEW:  # most arrays that differ do so in many places, and a volume takes milliseconds to compare whole
        every = -(-one.size // FEW)
        if not np.array_equal(one.ravel()[::every], other.ravel()[::every], equal_nan=nan):
            return False
    return bool(np.array_equal(one, other, equal_nan=nan))


def options_of(view: View, available: dict[str, Any]) -> dict[str, Any]:
    """Return those options that the view takes."""
    return {k: v for k, v in available.items() if k in view.options()}


def packed(figure: Any) -> Any:
    """Return a figure whose maps (arrays of two dims) are typed bytes, as plotly.js reads them: less to send, and no digits to read."""
    if isinstance(figure, dict):
        return {k: packed(v) for k, v in figure.items()}
    if isinstance(figure, list):
        return [packed(v) for v in figure] if figure and isinstance(figure[0], dict) else figure
    if not isinstance(figure, np.ndarray) or figure.ndim != 2 or figure.dtype.kind not in "fiu":
        return figure
    kind = "f4" if figure.dtype.kind == "f" else "u2" if figure.min(initial=0) >= 0 and figure.max(initial=0) < 1 << 16 else "i4"
    return {
        "dtype": kind,
        "bdata": base64.b64encode(figure.astype(kind).tobytes()).decode("ascii"),
        "shape": ", ".join(map(str, figure.shape)),
    }


class Slot:
    """One picture on the page and the view it shows."""

    def __init__(self, picture: Picture) -> None:
        self.picture = picture
        self.view: View | None = None
        self.stale = True
        self.on = True  # somebody can see it
        self.led: Record | None = None  # what it shows already of a record that is still being made

    def draw(self, record: Record, options: dict[str, Any]) -> None:
        """Draw the view for a record, or say why it cannot be drawn."""
        view, self.stale, self.picture.stale, self.led = self.view, False, False, None
        if view is None:
            return
        try:
            chosen = options_of(view, options)
            fields = {"figure": to_json_plotly(packed(view.spec(record, title=False, **chosen))), "empty": ""}
            fields |= {"caption": view.describe(record, **chosen)}
            fields |= {"twin": view.text(record, **chosen) if self.picture.wants_words else ""}
        except WorkbenchError as error:
            fields = {"figure": "", "caption": "", "twin": "", "empty": str(error)}
        news = int(fields["figure"] != self.picture.figure)  # the same figure is neither sent nor drawn again
        self.picture.param.update(title=view.question, reading=view.reading, drawing=self.picture.drawing + news, **fields)

    def shows_already(self, record: Record) -> bool:
        """Return whether it was drawn from a part of this record: all that it had to draw from stands there, too."""
        if self.led is None or self.view is None:
            return False
        had = {g: _arrays(self.led, g) for g in _touched(self.view) if g in self.led}
        return all(
            g in record and _same(was, {n: a for n, a in _arrays(record, g).items() if n in was}) for g, was in had.items()
        )


class Stage:
    """The hero, the text strip, the speed-quality plane and at most two further views of one record."""

    def __init__(self, shows: Iterable[str], make: Callable[[str], Picture]) -> None:
        self.shows = [name for name in shows if name not in {STRIP, PLANE}]
        self.slots = {name: Slot(make(name)) for name in ("hero", "strip", "plane", "left", "right")}
        self.record: Record | None = None
        self.pair = 0
        self._place()

    @property
    def further(self) -> list[str]:
        """Names of the views after the hero that the present record can draw, in pairs behind tabs."""
        names = self.shows[1:]
        return [n for n in names if self.record is None or views.get(n).draws(self.record)]

    @property
    def tabs(self) -> list[str]:
        """The questions of each pair of further views."""
        names = self.further
        return [" · ".join(views.get(n).question for n in names[i : i + PAIR]) for i in range(0, len(names), PAIR)]

    def show_pair(self, index: int) -> None:
        """Bring another pair of further views on show."""
        self.pair = max(0, min(index, len(self.tabs) - 1))
        self._place()

    def _place(self) -> None:
        pair = self.further[self.pair * PAIR : self.pair * PAIR + PAIR]
        told = self.record is None or (STRIP in views.registry() and views.get(STRIP).draws(self.record))
        wanted = {"hero": self.shows[0] if self.shows else "", "strip": STRIP if told else PLANE, "plane": PLANE if told else ""}
        wanted |= dict(zip(("left", "right"), [*pair, "", ""]))
        for place, name in wanted.items():
            slot = self.slots[place]
            view = views.registry().get(name)
            slot.on = view is not None and (self.record is None or view.draws(self.record) or place == "hero")
            slot.stale |= slot.view is not view
            slot.view = view
            slot.picture.visible = slot.on and (place == "hero" or self.record is not None)

    def steps(self) -> int:
        """Return how many steps the scrubber moves through: those of the first view on show that has any."""
        for slot in self.slots.values():
            if slot.on and slot.view is not None and slot.view.steps and self.record is not None:
                group = slot.view.steps
                if group in self.record:
                    return int(np.max(self.record[group]["step"].values, initial=-1)) + 1
        return 0

    def show(self, record: Record, options: dict[str, Any], *, only: set[str] | None = None, hero_first: bool = False) -> None:
        """Draw a record. `only` limits it to views that draw one of these groups; `hero_first` leaves the others stale."""
        if only is None or self.record is None or set(record.groups) != set(self.record.groups):
            self.record = record
            self._place()
        self.record = record
        for slot in self.slots.values():
            if slot.view is None or not slot.on:
                continue
            if slot.shows_already(record):
                slot.led = None
                continue
            if only is None or slot.stale or only & _touched(slot.view):
                if hero_first and slot is not self.slots["hero"]:
                    slot.stale = slot.picture.stale = True
                else:
                    slot.draw(record, options)
            else:
                slot.picture.stale = False

    def lead(self, record: Record, options: dict[str, Any]) -> None:
        """Draw the hero from the part of a record that is there first; what else the live knobs change is marked as on its way."""
        hero = self.slots["hero"]
        hero.draw(record, options)
        hero.led = record
        for slot in self.slots.values():
            if slot is not hero and slot.on:
                slot.picture.stale = slot.picture.stale or slot.picture.reacts

    def option_changed(self, name: str, options: dict[str, Any]) -> None:
        """Redraw the views that take the option (`step`, `selected`, `theme`)."""
        for slot in self.slots.values():
            if self.record is not None and slot.on and slot.view is not None and name in options_of(slot.view, options):
                slot.draw(self.record, options)

    def lasting(self) -> bool:
        """Return whether what the reader selected belongs to the whole run, not to a step."""
        return any(slot.on and slot.view is not None and slot.view.lasting for slot in self.slots.values())

    def any_stale(self) -> bool:
        """Return whether a picture on show waits to be drawn."""
        return any(slot.on and slot.stale for slot in self.slots.values())

    def draw_stale(self, options: dict[str, Any]) -> None:
        """Draw what came on show since the last drawing."""
        for slot in self.slots.values():
            if self.record is not None and slot.on and slot.stale:
                slot.draw(self.record, options)

    def dim(self, on: bool) -> None:
        """Dim every picture while a run that will replace it goes on."""
        for slot in self.slots.values():
            slot.picture.dimmed = on

    def mark_live(self, groups: set[str]) -> None:
        """Remember which pictures the live knobs change, so that holding one shows it."""
        for slot in self.slots.values():
            slot.picture.reacts = slot.view is not None and bool(groups & _touched(slot.view))


def _touched(view: View) -> set[str]:
    return {*view.groups, view.steps} - {""}

"""What one knob trades: speed above, quality below, over the values that a sweep gave it. It grows as settings arrive."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from workbench import theme as house
from workbench.errors import unknown
from workbench.schema import PENDING
from workbench.views import View
from workbench.views.common import Spec, error_bars, note, plural, revision, table, texts
from workbench.views.speed_quality import Plane, Point

if TYPE_CHECKING:
    from workbench.record import Record

GROUP = "settings"
#: Above this ratio of largest to smallest value, with every value above zero, the axis is logarithmic.
LOG_RATIO = 50.0


class Trade:
    """The settings of a sweep in the order of one knob's values."""

    def __init__(self, record: Record, knob: str | None, speed: str | None = None, quality: str | None = None) -> None:
        varied = json.loads(record.group_attrs(GROUP).get("varied", "[]"))
        known = [n for n in record.variables(GROUP) if n != "error"]
        self.knob = knob or next(iter([*varied, *known]))
        if self.knob not in known:
            raise unknown("knob of the sweep", self.knob, known)
        column = record.column(GROUP, self.knob)
        self.numeric = column.dtype.kind in "iuf"
        self.names = [house.number(float(v)) if column.dtype.kind == "f" else str(v) for v in column]
        places = dict.fromkeys(self.names)
        self.ticks = list(places)
        self.x = [float(v) for v in column] if self.numeric else [float(self.ticks.index(n)) for n in self.names]
        self.errors = (
            [str(e) for e in record.column(GROUP, "error")] if "error" in record.variables(GROUP) else [""] * len(self.x)
        )
        self.others = [n for n in varied if n != self.knob]
        self.plane = Plane(record, (), speed or _moved(record, "speed"), quality or _moved(record, "quality"))
        points = [p for p in self.plane.points if p.kind != "baseline"]
        self.points = {max(p.index, 0): p for p in points if np.isfinite(p.speed) or np.isfinite(p.quality)}

    @property
    def log(self) -> bool:
        """Whether the values span so much that only a logarithmic axis tells them apart."""
        return self.numeric and min(self.x) > 0 and max(self.x) / min(self.x) > LOG_RATIO

    @property
    def waiting(self) -> list[int]:
        return [i for i, e in enumerate(self.errors) if e == PENDING]

    @property
    def failed(self) -> list[int]:
        return [i for i, e in enumerate(self.errors) if e and e != PENDING]

    def order(self) -> list[int]:
        """Return the settings that have arrived, by the knob's value."""
        return sorted(self.points, key=lambda i: (self.x[i], i))

    def range(self) -> list[float]:
        """Return the axis' range: that of all values, so that nothing jumps while settings arrive."""
        x = np.log10(self.x) if self.log else np.array(self.x)
        room = 0.06 * (x.max() - x.min()) or 0.5
        return [float(x.min() - room), float(x.max() + room)]


def _moved(record: Record, kind: str) -> str | None:
    """Return the first meter of a kind that the knob moves; None where it moves none, or there is one run only."""
    values = record.column("meters", "value")
    if values.ndim == 1:
        return None
    names, kinds = texts(record, "meters", "meter"), texts(record, "meters", "kind")
    spread = [v[np.isfinite(v)] for v in values.T]
    moved = [n for n, k, v in zip(names, kinds, spread) if k == kind and len(v) > 1 and np.ptp(v) > 1e-9 * np.abs(v).max()]
    default = Plane(record, (), None, None)
    first = default.speed if kind == "speed" else default.quality
    return None if first in moved or not moved else str(moved[0])


def draw(
    record: Record,
    *,
    knob: str | None = None,
    speed: str | None = None,
    quality: str | None = None,
    selected: int | None = None,
    theme: str = "light",
    title: str = "",
) -> Spec:
    """Return speed and quality over a knob's values.

    Args:
        knob: the knob on the axis; by default the first that the sweep varied.
        speed, quality: names of the meters to show; by default the first of each kind that the knob moves.
        selected: a setting to ring.
    """
    d, trade = house.design(theme), Trade(record, knob, speed, quality)
    data = [*_half(trade, d, "speed", "", selected), *_half(trade, d, "quality", "2", selected)]
    data += [t for t in (_marks(trade, d, trade.failed, "failed"), _marks(trade, d, trade.waiting, "waiting")) if t]
    plane = trade.plane
    axis: Spec = {
        "type": "log" if trade.log else "linear",
        "range": trade.range(),
        "anchor": "y2",
        "title": {"text": trade.knob.replace("_", " ")},
    }
    if not trade.numeric or len(trade.ticks) <= 8:
        axis |= {"tickvals": sorted(set(trade.x)) if trade.numeric else list(range(len(trade.ticks))),
                 "ticktext": _numbers(trade) if trade.numeric else [house.label(t, 22) for t in trade.ticks]}  # fmt: skip
    above = plane.speed.replace("_", " ") + (", as a multiple of plain" if plane.relative else "")
    below = f"{plane.quality.replace('_', ' ')}, {house.escape(plane.unit)} ({'lower' if plane.falling else 'higher'} is better)"
    layout = {
        "height": 380,
        "xaxis": axis,
        "yaxis": {"domain": [0.56, 1.0], "anchor": "x", "nticks": 5, "ticksuffix": "x" if plane.relative else "", "range": _span(trade, "speed")},
        "yaxis2": {"domain": [0.0, 0.4], "anchor": "x", "nticks": 5, "range": _span(trade, "quality")},
        "annotations": [note(f"<b>{above}</b>", theme, x=0, y=1.0, anchor="left"), note(f"<b>{below}</b>", theme, x=0, y=0.475, anchor="left")],
        "shapes": _plain(trade, d),
        "margin": {"t": 64 if title else 34},
    }  # fmt: skip
    return house.picture(data, layout, theme=theme, title=title, revision=revision(record, f"knob_curve {trade.knob}"))


def _numbers(trade: Trade) -> list[str]:
    return [house.number(v) if v % 1 else str(int(v)) for v in sorted(set(trade.x))]


def _half(trade: Trade, d: house.Design, what: str, axis: str, selected: int | None) -> list[Spec]:
    """Return one panel: a line through what has arrived, and a dot for each setting (open where it was only estimated)."""
    order = [i for i in trade.order() if np.isfinite(getattr(trade.points[i], what))]
    points = [trade.points[i] for i in order]
    ink, sure = d.line("accepted" if what == "speed" else "target"), [p.provenance in {"measured", "derived"} for p in points]
    marker = {
        "size": [15 if i == selected else 10 for i in order],
        "symbol": ["circle" if s else "circle-open" for s in sure],
        "color": ink,
        "line": {"color": [d.line("selected") if i == selected else ink for i in order], "width": [4 if i == selected else 1.5 for i in order]},
    }  # fmt: skip
    trace: Spec = {
        "type": "scatter", "x": [trade.x[i] for i in order], "y": [getattr(p, what) for p in points], "yaxis": f"y{axis}", "name": what,
        "mode": "markers" if trade.others or not trade.numeric else "lines+markers", "line": {"color": ink, "width": 2, "dash": "solid" if all(sure) else "dot"}, "marker": marker, "cliponaxis": False,
        "customdata": order, "hoverinfo": "text", "hovertext": [_hover(trade, i) for i in order],
    }  # fmt: skip
    if what == "quality":
        value, low, high = (np.array([getattr(p, n) for p in points], float) for n in ("quality", "low", "high"))
        trace["error_y"] = error_bars(value, low, high, ink)
    return [trace]


def _hover(trade: Trade, index: int) -> str:
    p = trade.points[index]
    rest = [house.escape(p.label)] if trade.others else []
    lines = [f"{trade.knob} {house.escape(trade.names[index])}", *rest, f"speed {_speed(trade, p)} ({p.provenance})", f"{trade.plane.quality} {house.number(p.quality)}"]  # fmt: skip
    return "<br>".join(lines)


def _speed(trade: Trade, p: Point) -> str:
    return house.number(p.speed) + ("x" if trade.plane.relative else "")


def _marks(trade: Trade, d: house.Design, settings: list[int], what: str) -> Spec | None:
    """Return a mark on the lower axis for each setting that has no figure: a cross if it failed, a ring if it is to come."""
    if not settings:
        return None
    low = _span(trade, "quality")[0]
    failed = what == "failed"
    return {
        "type": "scatter", "mode": "markers", "name": what, "yaxis": "y2", "x": [trade.x[i] for i in settings], "y": [low] * len(settings),
        "cliponaxis": False, "hoverinfo": "text", "hovertext": [house.escape(trade.errors[i][:200]) for i in settings],
        "marker": {"symbol": "x" if failed else "circle-open", "size": 9, "color": d.line("rejected" if failed else "context"), "line": {"width": 1}},
    }  # fmt: skip


def _span(trade: Trade, what: str) -> list[float]:
    """Return a panel's range: what has arrived, the baseline included, with room; turned round where lower is better."""
    points = [*trade.points.values(), *(p for p in trade.plane.points if p.kind == "baseline")]
    fields = ("speed",) if what == "speed" else ("quality", "low", "high")
    known = [v for p in points for v in (getattr(p, f) for f in fields) if np.isfinite(v)]
    low, high = min(known, default=0.0), max(known, default=1.0)
    room = 0.18 * (high - low) or abs(high) * 0.2 or 1.0
    span = [low - room, high + room]
    return span[::-1] if what == "quality" and trade.plane.falling else span


def _plain(trade: Trade, d: house.Design) -> list[Spec]:
    """Return the lines of the baseline, one in each panel."""
    line = {
        "type": "line",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "layer": "below",
        "line": {"color": d.line("target"), "width": 1, "dash": "dot"},
    }
    base = next((p for p in trade.plane.points if p.kind == "baseline"), None)
    if base is None:
        return []
    heights = [("y", base.speed), ("y2", base.quality)]
    return [line | {"yref": ref, "y0": v, "y1": v} for ref, v in heights if np.isfinite(v)]


def caption(
    record: Record, *, knob: str | None = None, speed: str | None = None, quality: str | None = None, selected: int | None = None
) -> str:
    """Return what the knob does to speed and quality between its ends, and what is missing."""
    trade = Trade(record, knob, speed, quality)
    order, what = trade.order(), trade.plane.quality.replace("_", " ")
    name = trade.knob.replace("_", " ")
    missing = [f"{plural(len(n), 'setting')} {w}" for n, w in ((trade.waiting, "to come"), (trade.failed, "failed")) if n]
    rest = f" ({', '.join(missing)})" if missing else ""
    if not order:
        return f"No value of {name} has finished yet{rest}."
    ends = [order[0], order[-1]]
    said = [f"{trade.names[i]}: {_speed(trade, trade.points[i])}, {what} {house.number(trade.points[i].quality)}" for i in ends]
    if ends[0] == ends[1]:
        return f"At {name} {said[0]}{rest}."
    fastest = max(order, key=lambda i: np.nan_to_num(trade.points[i].speed, nan=-np.inf))
    return f"{name.capitalize()} from {said[0]} to {said[1]}; fastest at {trade.names[fastest]}{rest}."


def say(
    record: Record, *, knob: str | None = None, speed: str | None = None, quality: str | None = None, selected: int | None = None
) -> str:
    """Return the sentence and a row for each setting."""
    trade = Trade(record, knob, speed, quality)
    rows = []
    for i in sorted(range(len(trade.x)), key=lambda i: (trade.x[i], i)):
        p = trade.points.get(i)
        cells = [_speed(trade, p), house.number(p.quality), p.provenance] if p else ["–", "–", trade.errors[i]]
        rows.append([trade.names[i], *([p.label if p else ""] if trade.others else []), *cells])
    head = [trade.knob, *(["setting"] if trade.others else []), "speed", trade.plane.quality.replace("_", " "), "from"]
    return caption(record, knob=knob, speed=speed, quality=quality) + "\n\n" + table(head, rows)


VIEW = View(
    name="knob_curve",
    groups=(GROUP, "meters"),
    question="What does this knob trade?",
    reading=(
        "Above, speed; below, quality, over the values of one knob. Each dot is a run, open where its numbers are estimated by a "
        "replay; the dotted blue lines are the baseline measured in the same runs. A cross on the lower axis is a setting that failed, "
        "a grey ring one that is still to come. A click on a dot brings that run on show."
    ),
    draw=draw,
    say=say,
    caption=caption,
)

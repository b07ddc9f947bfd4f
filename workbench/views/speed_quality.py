"""What does the speed cost? Every run so far on one plane of speed and quality."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench import theme as house
from workbench.errors import unknown
from workbench.views import View
from workbench.views.common import Spec, error_bars, note, plural, revision, table, texts

if TYPE_CHECKING:
    from workbench.record import Record

GROUP = "meters"


@dataclass
class Point:
    """One run (or a baseline) on the plane. Speed is a multiple of plain decoding where a baseline was measured."""

    label: str
    speed: float
    quality: float
    low: float = float("nan")
    high: float = float("nan")
    kind: str = "other"  # "this", "baseline", "other"
    provenance: str = "measured"
    index: int = -1  # in `others`


class Plane:
    """Points of the meters that are shown, and which of them no other point beats in both."""

    def __init__(
        self,
        record: Record,
        others: Sequence[tuple[str, Record]],
        speed: str | None,
        quality: str | None,
        label: str = "this run",
    ) -> None:
        self.speed = _pick(record, "speed", speed)
        self.quality = _pick(record, "quality", quality)
        self.relative = float(self._value(record, self.speed, "baseline") or 0) > 0
        self.baseline_name = str(self._value(record, self.speed, "baseline_name") or "plain decoding")
        #: What the quality is compared with; "" where that is the speed's baseline, too.
        self.other_baseline = str(self._value(record, self.quality, "baseline_name") or "").split(",")[0]
        if self.other_baseline == self.baseline_name.split(",")[0]:
            self.other_baseline = ""
        self.versus = "plain" if "plain" in self.baseline_name else self.baseline_name
        self.falling = self._value(record, self.quality, "better") == "lower"
        self.unit = str(self._value(record, self.quality, "unit"))
        shown = [self.quality] if self.relative else [self.speed, self.quality]  # a ratio has no unit
        self._units = {m: str(self._value(record, m, "unit")) for m in shown}
        self.points = [self._baseline(record)] if self.relative else []
        if is_sweep(record):
            points = [self._point(record, label, "other", i, i) for i, label in enumerate(setting_labels(record))]
        else:
            points = [self._point(r, label, "other", i) for i, (label, r) in enumerate(others)]
            points.append(self._point(record, label, "this", -1))
        self.points += [p for p in points if p is not None]
        #: Runs whose meters are others, or in other units: they have no place on these axes.
        self.left_out = sum(p is None for p in points)

    def _value(self, record: Record, meter: str, column: str, setting: int = 0) -> Any:
        """Return one cell of the meters (of one setting in a sweep), or None where there is none."""
        rows = np.flatnonzero(texts(record, GROUP, "meter") == meter)
        if not len(rows) or column not in record.variables(GROUP):
            return None
        values = record.column(GROUP, column)
        return (values[setting] if values.ndim == 2 else values)[rows[0]]

    @property
    def both_baselines(self) -> str:
        """Name of the baseline's point, short: that of the speed, and that of the quality where it is another one."""
        return " \u00b7 ".join(filter(None, [self.baseline_name.split(",")[0], self.other_baseline]))

    def _baseline(self, record: Record) -> Point:
        return Point(self.both_baselines, 1.0, float(self._value(record, self.quality, "baseline")), kind="baseline")

    def _point(self, record: Record, label: str, kind: str, index: int, setting: int = 0) -> Point | None:
        """Return a run as a point; None for a run of another system, which has other meters or measures in other units."""
        speed, quality = (self._value(record, m, "value", setting) for m in (self.speed, self.quality))
        if speed is None or quality is None:
            return None
        if any(str(self._value(record, m, "unit", setting)) != unit for m, unit in self._units.items()):
            return None  # numbers of another unit do not belong on these axes
        base = float(self._value(record, self.speed, "baseline", setting))
        value = float(speed) / base if self.relative and base > 0 else float(speed) if not self.relative else 1.0
        provenance = str(self._value(record, self.speed, "provenance", setting))
        bounds = [self._value(record, self.quality, name, setting) for name in ("low", "high")]
        low, high = (float("nan") if b is None else float(b) for b in bounds)
        return Point(label, value, float(quality), low, high, kind=kind, provenance=provenance, index=index)

    def front(self) -> list[Point]:
        """Return the points that no other point beats in both, from slow to fast."""
        sign = -1.0 if self.falling else 1.0
        known = [p for p in self.points if np.isfinite(p.speed) and np.isfinite(p.quality)]
        best = [p for p in known if not any(_beats(q, p, sign) for q in known)]
        return sorted(best, key=lambda p: (p.speed, -sign * p.quality))


def is_sweep(record: Record) -> bool:
    """Return whether the meters have a row for each setting of a sweep."""
    return record.column(GROUP, "value").ndim == 2


def setting_labels(record: Record) -> list[str]:
    """Return a short name of each setting: the knobs that the sweep varied."""
    count = len(record.column(GROUP, "value"))
    if "settings" not in record:
        return [f"setting {i}" for i in range(count)]
    varied = json.loads(record.group_attrs("settings").get("varied", "[]"))
    columns = {k: record.column("settings", k) for k in varied}
    return [", ".join(f"{k} {v[i]}" for k, v in columns.items()) or f"setting {i}" for i in range(count)]


def _beats(one: Point, other: Point, sign: float) -> bool:
    gains = (one.speed - other.speed, sign * (one.quality - other.quality))
    return min(gains) >= 0 and max(gains) > 0


def _pick(record: Record, kind: str, name: str | None) -> str:
    """Return the meter to show: by name, or the first of its kind with a baseline, or the first of its kind."""
    names, kinds = texts(record, GROUP, "meter"), texts(record, GROUP, "kind")
    mine = list(names[kinds == kind])
    if name is not None:
        if name not in mine:
            raise unknown(f"{kind} meter", name, mine)
        return name
    baseline = dict(zip(names, np.atleast_2d(record.column(GROUP, "baseline"))[0]))
    return next((n for n in mine if np.isfinite(baseline[n])), mine[0] if mine else "")


def draw(
    record: Record,
    *,
    others: Sequence[tuple[str, Record]] = (),
    speed: str | None = None,
    quality: str | None = None,
    label: str = "this run",
    theme: str = "light",
    title: str = "",
) -> Spec:
    """Return the plane.

    Args:
        others: (label, record) of the runs so far; a click's customdata is the index into it.
        speed, quality: names of the meters to show (by default the first of each kind that has a baseline).
        label: what the ringed run is called.
    """
    d, plane = house.design(theme), Plane(record, others, speed, quality, label)
    data = [_front(plane, d), *(_trace(plane, kind, d) for kind in ("other", "baseline", "this"))]
    x, y = (
        _range([p.speed for p in plane.points] + [1.0] * plane.relative, 0.25),
        _range([v for p in plane.points for v in (p.quality, p.low, p.high)], 0.3),
    )
    upright = _axis_name(plane, wide=bool(title))
    broken = "<br>" if len(plane.versus) > 14 else " "  # beside the hero the plane is narrow: a long name takes a second line
    along = f"speed, as a multiple of{broken}{house.escape(plane.versus)}" if plane.relative else plane.speed.replace("_", " ")
    layout = {
        "xaxis": {"range": x, "title": {"text": along}, "ticksuffix": "x" if plane.relative else ""},
        "yaxis": {"range": y[::-1] if plane.falling else y, "nticks": 6},
        "annotations": [note("<br>".join(upright), theme, x=0, y=1, anchor="left")],
        "margin": {"t": 64 if title else 18 + 16 * len(upright)},
        "shapes": _plain_lines(plane, d), "meta": {"least": 240},
    }  # fmt: skip
    return house.picture(data, layout, theme=theme, title=title, revision=revision(record, "speed_quality"))


def _axis_name(plane: Plane, wide: bool) -> list[str]:
    """Return the lines that name the upright axis: beside the hero the plane holds some 34 letters in a row."""
    what, direction = plane.quality.replace("_", " "), "lower is better" if plane.falling else "higher is better"
    words = f"{what}, {plane.unit} ({direction})"
    lines = [words] if wide else textwrap.wrap(words, 34, break_long_words=False, break_on_hyphens=False)
    first = house.escape(lines[0]).replace(house.escape(what), f"<b>{house.escape(what)}</b>", 1)
    return [first, *map(house.escape, lines[1:])]


def _range(values: list[float], pad: float) -> list[float]:
    known = [v for v in values if np.isfinite(v)]
    low, high = min(known, default=0.0), max(known, default=1.0)
    room = (high - low) * pad or abs(high) * 0.2 or 1.0
    return [low - room, high + room]


def _plain_lines(plane: Plane, d: house.Design) -> list[Spec]:
    """Return the lines of the baseline: right of one is faster, above the other is better."""
    lines = [p for p in plane.points if p.kind == "baseline"]
    style = {"type": "line", "layer": "below", "line": {"color": d.line("target"), "width": 1, "dash": "dot"}}
    shapes = [style | {"xref": "x", "yref": "paper", "x0": p.speed, "x1": p.speed, "y0": 0, "y1": 1} for p in lines]
    known = [p for p in lines if np.isfinite(p.quality)]
    return shapes + [style | {"xref": "paper", "yref": "y", "x0": 0, "x1": 1, "y0": p.quality, "y1": p.quality} for p in known]


def _front(plane: Plane, d: house.Design) -> Spec:
    points = plane.front()
    return {
        "type": "scatter", "mode": "lines", "name": "Pareto front", "x": [p.speed for p in points], "y": [p.quality for p in points],
        "line": {"color": d.line("accepted"), "width": 2, "shape": "vh"}, "hoverinfo": "skip",
    }  # fmt: skip


def _trace(plane: Plane, kind: str, d: house.Design) -> Spec:
    points = [p for p in plane.points if p.kind == kind]
    marker = {
        "this": {"symbol": "circle", "size": 16, "color": d.fill("accepted"), "line": {"color": d.line("selected"), "width": 4}},
        "baseline": {"symbol": "square", "size": 13, "color": d.fill("target"), "line": {"color": d.line("target"), "width": 1}},
        "other": {"symbol": "circle", "size": 11, "color": d.fill("context", 0.6), "line": {"color": d.muted, "width": 1}},
    }[kind]
    names = {"this": "<b>{0}</b>", "baseline": "{0}", "other": "{0}"}
    middle = np.mean(_range([p.speed for p in plane.points] + [1.0] * plane.relative, 0.25))
    side = "right" if points and points[0].speed < middle else "left"  # towards the middle, so that no label covers the axis
    bounded = (
        kind == "this" and bool(points) and all(map(math.isfinite, (points[0].low, points[0].high)))
    )  # the bounds run through what stands above
    return {
        "type": "scatter", "mode": "markers+text", "name": {"this": "this run", "baseline": "baseline", "other": "earlier runs"}[kind],
        "x": [p.speed for p in points], "y": [p.quality if np.isfinite(p.quality) else None for p in points], "marker": marker, "cliponaxis": False, "error_y": _spread(points, kind, d),
        "text": [names[kind].format(house.escape(p.label, quote=False)) for p in points],
        "textposition": {"this": f"top {side}" if bounded else "top center", "baseline": f"bottom {side}", "other": "middle right"}[kind],
        "textfont": {"size": 13 if kind == "this" else 12, "color": d.text if kind != "other" else d.muted},
        "customdata": [p.index for p in points],
        "hovertext": [f"{house.escape(p.label)}<br>speed {_speed(plane, p)} ({p.provenance})<br>{plane.quality} {house.number(p.quality)}" for p in points],
        "hoverinfo": "text",
    }  # fmt: skip


def _spread(points: list[Point], kind: str, d: house.Design) -> Spec:
    """Return the bounds of the quality where they were measured."""
    quality, low, high = (np.array([getattr(p, n) for p in points], float) for n in ("quality", "low", "high"))
    return error_bars(quality, low, high, d.line("accepted") if kind == "this" else d.muted)


def _speed(plane: Plane, p: Point) -> str:
    return house.number(p.speed) + ("x" if plane.relative else "")


def caption(
    record: Record, *, others: Sequence[tuple[str, Record]] = (), speed: str | None = None, quality: str | None = None
) -> str:
    """Return what this run gains and what it costs, in one sentence."""
    plane = Plane(record, others, speed, quality)
    mine = next((p for p in plane.points if p.kind == "this"), None)
    if is_sweep(record):
        best = ", ".join(f"{p.label} ({_speed(plane, p)})" for p in plane.front())
        runs = sum(p.kind == "other" for p in plane.points)
        return f"{plural(runs, 'setting')}; no other beats these in both speed and {plane.quality.replace('_', ' ')}: {best}."
    if mine is None:
        return "This run has no speed and quality to show."
    base = next((p for p in plane.points if p.kind == "baseline"), None)
    what = plane.quality.replace("_", " ")
    words = (
        f"This run is {_speed(plane, mine)} the speed of {plane.baseline_name}"
        if base
        else f"This run's speed is {_speed(plane, mine)}"
    )
    words += f"; {what} {house.number(mine.quality)}"
    if base is not None and np.isfinite(base.quality):
        words += f" against {house.number(base.quality)}" + f" ({plane.other_baseline})" * bool(plane.other_baseline)
    front = plane.front()
    if len(plane.points) > 2:
        words += "; no other run beats it in both" if mine in front else "; another run beats it in both"
    if plane.left_out:
        words += f". {plural(plane.left_out, 'run')} without these two numbers {'is' if plane.left_out == 1 else 'are'} not drawn"
    return words + "."


def say(
    record: Record, *, others: Sequence[tuple[str, Record]] = (), speed: str | None = None, quality: str | None = None
) -> str:
    """Return the sentence and every point as a table."""
    plane = Plane(record, others, speed, quality)
    front = plane.front()
    rows = [
        [p.label, _speed(plane, p), house.number(p.quality), "yes" if p in front else "no", p.provenance] for p in plane.points
    ]
    head = ["run", "speed", plane.quality.replace("_", " "), "on the front", "provenance"]
    return caption(record, others=others, speed=speed, quality=quality) + "\n\n" + table(head, rows)


VIEW = View(
    name="speed_quality",
    groups=(GROUP,),
    question="What does the speed cost in quality?",
    reading=(
        "Each point is a run: right is faster than the baseline, up is better. The blue square is the baseline (mostly plain decoding), measured in the "
        "same run. The green line joins the runs that no other beats in both; the ringed point is this run."
    ),
    draw=draw,
    say=say,
    caption=caption,
)

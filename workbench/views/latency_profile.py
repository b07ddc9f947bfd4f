"""What does one more row cost? The target's time by the rows it verifies in one call."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench import theme as house
from workbench.views import View
from workbench.views.common import Curves, Spec, error_bars, has, plural, revision, table

if TYPE_CHECKING:
    from workbench.record import Record

GROUP = "curve/latency"
#: The knee is the largest measured row count whose time stays within this factor of one row.
NEARLY_FREE = 1.6


class Profile:
    """The measured curve, the others, the knee, and the rows that this run's calls had."""

    def __init__(self, record: Record) -> None:
        self.curves = Curves(record, GROUP)
        self.name = self.curves.find("measured") or (self.curves.names or [""])[0]
        x, y, low, high = self.curves[self.name]
        order = np.argsort(x)
        self.x, self.y, self.low, self.high = x[order], y[order], low[order], high[order]
        cheap = self.x[self.y <= NEARLY_FREE * self.y[0]] if len(self.y) else self.x
        self.knee = float(cheap.max()) if len(cheap) < len(self.x) else None  # None: no knee in the measured range
        rows = record.column("steps", "rows") if has(record, "steps", "rows") else np.array([], int)
        self.rows = int(np.median(rows)) if len(rows) else 0

    def cost(self, rows: float) -> float:
        """Return the measured time of `rows` rows as a multiple of one row, interpolated between measurements."""
        return float(np.interp(rows, self.x, self.y) / self.y[0])


def draw(record: Record, *, theme: str = "light", title: str = "") -> Spec:
    """Return milliseconds by rows, measured beside the memory-bound ideal, with the knee and this run's tree marked."""
    d, p = house.design(theme), Profile(record)
    others = [_other(p, n, i, d) for i, n in enumerate(n for n in p.curves.names if n != p.name)]
    top = float(np.nanmax([*p.curves.y, *p.high[np.isfinite(p.high)]], initial=1.0)) * 1.1
    last = float(p.curves.x.max(initial=1))
    measured = {
        "type": "scatter", "mode": "lines+markers", "name": p.name, "x": p.x.tolist(), "y": p.y.round(2).tolist(),
        "line": {"color": d.line("target"), "width": 2.5}, "marker": {"size": 9, "color": d.fill("target"), "line": {"color": d.line("target"), "width": 1}},
        "error_y": error_bars(p.y, p.low, p.high, d.line("target")), "cliponaxis": False,
        "hovertemplate": "%{x} rows: %{y:.1f} ms<extra></extra>",
    }  # fmt: skip
    layout = {
        "showlegend": True,
        "xaxis": {"range": [0, last * 1.05], "title": {"text": p.curves.label("x")}, "tickvals": np.unique(p.x).tolist()},
        "yaxis": {"range": [0, top], "title": {"text": "milliseconds"}},
        "shapes": _marks(p, d)[0],
        "annotations": _marks(p, d)[1],
    }
    return house.picture([*others, measured], layout, theme=theme, title=title, revision=revision(record, "latency_profile"))


def _other(p: Profile, name: str, index: int, d: house.Design) -> Spec:
    x, y, _, _ = p.curves[name]
    order = np.argsort(x)
    dash = ("dash", "dot", "dashdot")[index % 3] if house.is_estimate(name) else "solid"
    return {
        "type": "scatter", "mode": "lines", "name": name, "x": x[order].tolist(), "y": y[order].round(3).tolist(),
        "line": {"color": d.muted, "width": 2, "dash": dash}, "hovertemplate": f"{house.escape(name)}: %{{y:.1f}} ms<extra></extra>",
    }  # fmt: skip


def _marks(p: Profile, d: house.Design) -> tuple[list[Spec], list[Spec]]:
    """Return shapes and notes for the knee and for the tree of this run."""
    marks = [(p.knee, "chosen", f"knee: {plural(int(p.knee), 'row')}" if p.knee else "", 1.0, "dash")] if p.knee else []
    if p.rows:
        marks.append((float(p.rows), "selected", f"this run: {p.rows} rows, {p.cost(p.rows):.1f}x one row", 0.12, "solid"))
    shapes, notes = [], []
    middle = float(p.x.max(initial=1)) / 2
    for x, meaning, words, height, dash in marks:
        left = x > middle
        shapes.append({"type": "line", "xref": "x", "yref": "paper", "x0": x, "x1": x, "y0": 0, "y1": 1, "layer": "below",
                       "line": {"color": d.line(meaning), "width": 2, "dash": dash}})  # fmt: skip
        notes.append({"text": words, "x": x, "y": height, "xref": "x", "yref": "paper", "xanchor": "right" if left else "left", "yanchor": "top",
                      "xshift": -5 if left else 5, "showarrow": False, "font": {"size": 13, "color": d.ink(meaning)}})  # fmt: skip
    return shapes, notes


def caption(record: Record) -> str:
    """Return what verifying costs, in one sentence."""
    p = Profile(record)
    if not len(p.y):
        return "Nothing was measured."
    last = p.x[-1]
    count = f"Up to {p.knee:.0f}" if p.knee else f"All {last:.0f}"
    free = f"{count} rows cost at most {NEARLY_FREE:g}x one row"
    if p.knee == 1:
        free = f"Every further row costs more than {NEARLY_FREE:g}x one row"
    mine = (
        f"; this run's tree of {p.rows} rows costs {p.cost(p.rows):.1f}x"
        if p.rows
        else f"; {last:.0f} rows cost {p.cost(last):.1f}x"
    )
    return f"{free} ({p.y[0]:.0f} ms){mine}."


def say(record: Record) -> str:
    """Return the sentence and the curve as a table."""
    p = Profile(record)
    others = [n for n in p.curves.names if n != p.name]
    rows = [
        [f"{x:.0f}", f"{y:.1f}", f"{y / p.y[0]:.2f}x", *(f"{dict(zip(*p.curves[n][:2])).get(x, np.nan):.1f}" for n in others)]
        for x, y in zip(p.x, p.y)
    ]
    return caption(record) + "\n\n" + table(["rows", "ms", "to one row", *others], rows)


VIEW = View(
    name="latency_profile",
    groups=(GROUP,),
    question="What does one more row in the target's call cost?",
    reading=(
        "The blue line is measured on this machine. The dashed line is the ideal: reading the weights is all that costs, so rows are "
        "free. The knee is the largest count within 1.6x of one row; a tree beyond it pays for its width."
    ),
    draw=draw,
    say=say,
    caption=caption,
)

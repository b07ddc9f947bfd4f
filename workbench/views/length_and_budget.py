"""Do trees pay at equal cost? Tokens per target call at fixed depth, and at a fixed number of verified nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench import theme as house
from workbench.views import View
from workbench.views.common import Curves, Spec, error_bars, note, revision, table

if TYPE_CHECKING:
    from workbench.record import Record

LENGTH, BUDGET = "curve/length", "curve/budget"
#: method -> (meaning, symbol, dash): the recursive methods in green, what they are compared with in blue and grey.
STYLES = {
    "rsd-s": ("accepted", "circle", "solid"),
    "rsd-c": ("accepted", "square-open", "dash"),
    "with-replacement": ("chosen", "diamond-open", "dash"),
    "chain": ("context", "x-thin-open", "dot"),
    "top-k": ("proposed", "triangle-up-open", "dashdot"),
    "autoregressive": ("target", "line-ew-open", "solid"),
}
_SPARE = [("selected", "star-open", "dash"), ("rejected", "hexagon-open", "dot"), ("proposed", "cross-open", "solid")]


def draw(record: Record, *, theme: str = "light", title: str = "") -> Spec:
    """Return both comparisons on one vertical scale, one line a method."""
    panels = [Curves(record, LENGTH), Curves(record, BUDGET)]
    names = list(dict.fromkeys(n for c in panels for n in c.names))
    data = [_line(c, n, i, names, theme) for i, c in enumerate(panels) for n in names if n in c.names]
    top = max(float(np.nanmax(c.y, initial=1.0)) for c in panels) * 1.08
    baseline = {
        "type": "line",
        "yref": "y",
        "y0": 1,
        "y1": 1,
        "x0": 0,
        "x1": 1,
        "line": {"color": house.design(theme).line("target"), "width": 1.5},
    }
    heads = ("at equal depth", "at equal number of nodes")
    layout = {
        "showlegend": True,
        "yaxis": {"range": [0.85, top], "title": {"text": "tokens per target call"}},
        "xaxis": _axis(panels[0], 0.0, 0.47),
        "xaxis2": _axis(panels[1], 0.53, 1.0) | {"anchor": "y2"},
        "yaxis2": {"range": [0.85, top], "matches": "y", "showticklabels": False, "anchor": "x2"},
        "shapes": [baseline | {"xref": "x domain"}, baseline | {"xref": "x2 domain", "yref": "y2"}],
        "annotations": [note(f"<b>{h}</b>", theme, x=x, y=0.995, anchor="left", size=13) for h, x in zip(heads, (0.015, 0.545))],
    }  # fmt: skip
    return house.picture(data, layout, theme=theme, title=title, revision=revision(record, "length_and_budget"))


def _axis(curves: Curves, left: float, right: float) -> Spec:
    top = float(curves.x.max(initial=1))
    return {
        "domain": [left, right],
        "range": [0 if top > 8 else 0.7, top * 1.04 + 0.2],
        "title": {"text": curves.label("x")},
        "nticks": 7,
    }


def style(name: str, names: list[str]) -> tuple[str, str, str]:
    """Return (meaning, symbol, dash) of a method; methods that are not known get one by their order."""
    return STYLES.get(name) or _SPARE[[n for n in names if n not in STYLES].index(name) % len(_SPARE)]


def _line(curves: Curves, name: str, panel: int, names: list[str], theme: str) -> Spec:
    x, y, low, high = (v[np.argsort(curves[name][0], kind="stable")] for v in curves[name])
    meaning, symbol, dash = style(name, names)
    colour = house.design(theme).line(meaning)
    return {
        "type": "scatter", "mode": "lines+markers", "name": name, "legendgroup": name, "showlegend": panel == 0,
        "x": x.tolist(), "y": y.round(4).tolist(), "xaxis": "x" if panel == 0 else "x2", "yaxis": "y" if panel == 0 else "y2",
        "line": {"color": colour, "width": 3 if meaning == "accepted" else 2, "dash": dash},
        "marker": {"symbol": symbol, "size": 10, "color": colour, "line": {"width": 2, "color": colour}},
        "error_y": error_bars(y, low, high, colour),
        "hovertemplate": f"{house.escape(name)}<br>{house.escape(curves.label('x'))}: %{{x:.0f}}<br>%{{y:.2f}} tokens per call<extra></extra>",
    }  # fmt: skip


def _best(curves: Curves, low: float, high: float) -> tuple[str, float]:
    """Return the methods with the most tokens per call among points with low <= x <= high (ties named together), and how many."""
    fits = [(float(y), n) for n in curves.names for x, y in zip(*curves[n][:2]) if low <= x <= high]
    most = max((y for y, _ in fits), default=float("nan"))
    *first, last = dict.fromkeys(n for y, n in fits if y >= most - 1e-9) or ["none"]
    return f"{', '.join(first)} and {last}" if first else last, most


def caption(record: Record) -> str:
    """Return who wins at equal depth and at equal cost, in one sentence."""
    length, budget = Curves(record, LENGTH), Curves(record, BUDGET)
    if not length.names or not budget.names:
        return "No method was measured."
    depth = float(length.x.max())
    common = min(float(budget[n][0].max()) for n in budget.names)  # a budget that every method reaches
    deep, cheap = _best(length, depth, depth), _best(budget, 0, common)
    verb = "write" if " and " in deep[0] else "writes"
    return f"At depth {depth:.0f}, {deep[0]} {verb} most: {deep[1]:.2f} tokens per call; with at most {common:.0f} nodes it is {cheap[0]} with {cheap[1]:.2f}."


def say(record: Record) -> str:
    """Return the sentence and both curves as a table."""
    rows = [
        [name, f"{x:.0f}" if g == LENGTH else "", f"{x:.0f}" if g == BUDGET else "", f"{y:.2f}"]
        for g in (LENGTH, BUDGET)
        for c in [Curves(record, g)]
        for name in c.names
        for x, y in zip(*c[name][:2])
    ]
    return caption(record) + "\n\n" + table(["method", "depth", "nodes", "tokens per call"], rows)


VIEW = View(
    name="length_and_budget",
    groups=(LENGTH, BUDGET),
    question="Do trees still win when everyone verifies as many nodes?",
    reading=(
        "Left: every method drafts to the same depth; trees look better because they verify more. Right: the same runs by the number "
        "of nodes the target verifies, which is what a call costs. Both panels share the scale; the blue line at 1 is plain decoding."
    ),
    draw=draw,
    say=say,
    caption=caption,
    wide=True,
)

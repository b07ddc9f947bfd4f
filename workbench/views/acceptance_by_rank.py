"""How often does the second or third sibling save a step? Acceptance by the order in which siblings are tried."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench import theme as house
from workbench.views import View
from workbench.views.common import Curves, Spec, error_bars, revision, table

if TYPE_CHECKING:
    from workbench.record import Record

GROUP = "curve/acceptance"
_ORDER = ("accepted", "proposed", "target", "chosen")
_SYMBOLS = ("circle", "diamond", "square", "triangle-up")


def draw(record: Record, *, theme: str = "light", title: str = "") -> Spec:
    """Return the share of tried siblings that were accepted, by rank, one curve a way of drawing them."""
    d, curves = house.design(theme), Curves(record, GROUP)
    count = len(curves.names)
    data = [_curve(curves, i, name, (i - (count - 1) / 2) * 0.08, d) for i, name in enumerate(curves.names)]
    ranks = np.unique(curves.x).tolist()
    layout = {
        "showlegend": True,
        "legend": {"traceorder": "normal"},
        "xaxis": {"range": [min(ranks, default=0) - 0.4, max(ranks, default=1) + 0.6], "tickvals": ranks, "showgrid": False,
                  "ticktext": [_ordinal(int(r) + 1) for r in ranks], "title": {"text": "sibling, in the order they are tried"}},
        "yaxis": {"range": [0, 1.12], "tickformat": ".0%", "title": {"text": curves.label("y")}},
    }  # fmt: skip
    return house.picture(data, layout, theme=theme, title=title, revision=revision(record, "acceptance_by_rank"))


def _ordinal(n: int) -> str:
    return f"{n}{'th' if 10 <= n % 100 <= 20 else {1: 'st', 2: 'nd', 3: 'rd'}.get(n % 10, 'th')}"


def _curve(curves: Curves, index: int, name: str, shift: float, d: house.Design) -> Spec:
    x, y, low, high = curves[name]
    estimated = house.is_estimate(name)
    colour = d.line(_ORDER[index % len(_ORDER)])
    return {
        "type": "scatter", "mode": "lines+markers+text", "name": name, "x": (x + shift).round(3).tolist(), "y": y.round(4).tolist(),
        "error_y": error_bars(y, low, high, colour),
        "line": {"color": colour, "width": 2, "dash": "dot" if estimated else "solid"},
        "marker": {"symbol": _SYMBOLS[index % 4] + ("-open" if estimated else ""), "size": 11, "color": colour, "line": {"width": 2, "color": colour}},
        "text": [f"{v:.0%}" for v in y], "textposition": "top right" if not estimated else "bottom right", "cliponaxis": False,
        "textfont": {"size": 12, "color": d.text if not estimated else d.muted},
        "customdata": np.stack([x + 1, np.nan_to_num(low), np.nan_to_num(high)], 1).tolist(),
        "hovertemplate": f"{house.escape(name)}<br>sibling %{{customdata[0]:.0f}}: %{{y:.1%}}"
        + ("" if np.isnan(low).all() else " (95 %: %{customdata[1]:.1%} to %{customdata[2]:.1%})") + "<extra></extra>",
    }  # fmt: skip


def caption(record: Record) -> str:
    """Return what later siblings add, in one sentence."""
    curves = Curves(record, GROUP)
    if not curves.names:
        return "No sibling was tried."
    x, y, _, _ = curves[curves.names[0]]
    order = np.argsort(x)
    parts = [f"{y[i]:.0%} of the {_ordinal(int(x[i]) + 1)}" for i in order]
    listing = parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
    words = f"Of the siblings that were tried, {listing} were accepted"
    other = next((n for n in curves.names[1:] if house.is_estimate(n)), None)
    if other is None or len(order) < 2:
        return words + "."
    second = dict(zip(curves[other][0].tolist(), curves[other][1].tolist())).get(float(x[order[1]]), float("nan"))
    return f"{words}; drawn with replacement, the 2nd would be accepted {second:.0%} of the time (estimated)."


def say(record: Record) -> str:
    """Return the sentence and the shares as a table."""
    curves = Curves(record, GROUP)
    rows = [
        [name, str(int(x) + 1), f"{y:.3f}", house.number(low), house.number(high)]
        for name in curves.names
        for x, y, low, high in zip(*curves[name])
    ]
    return caption(record) + "\n\n" + table(["curve", "sibling", "accepted", "low", "high"], rows)


VIEW = View(
    name="acceptance_by_rank",
    groups=(GROUP,),
    question="What do the second and third sibling add?",
    reading=(
        "Each point is the share of siblings accepted among those tried at that rank; a sibling is tried only after the ones before "
        "it were rejected. Bars are 95 % Wilson intervals. Open marks on a dotted line are estimated from the recorded laws, not run."
    ),
    draw=draw,
    say=say,
    caption=caption,
)

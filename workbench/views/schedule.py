"""How many tokens does each layer keep? The staircase of this run beside other shapes of the same budget."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench import theme as house
from workbench.views import View
from workbench.views.common import Curves, Spec, revision, table

if TYPE_CHECKING:
    from workbench.record import Record

GROUP = "curve/schedule"
_DASH = ("dash", "dot", "dashdot", "longdash")


def draw(record: Record, *, theme: str = "light", title: str = "") -> Spec:
    """Return bars of this run and steps of the others."""
    d, curves = house.design(theme), Curves(record, GROUP)
    x, y, _, _ = curves["this run"]
    data: list[Spec] = [
        {
            "type": "bar", "x": x.tolist(), "y": y.round(2).tolist(), "name": "this run", "marker": house.solid(theme, "accepted"),
            "text": [f"{v:.0f}" for v in y], "textposition": "outside", "cliponaxis": False,
            "hovertemplate": "layer %{x}: %{y:.1f} tokens<extra></extra>",
        }
    ]  # fmt: skip
    for i, name in enumerate(n for n in curves.names if n != "this run"):
        x, y, _, _ = curves[name]
        data.append({
            "type": "scatter", "mode": "lines", "x": x.tolist(), "y": y.round(2).tolist(), "name": name, "line": {"shape": "hvh", "color": d.line("context"),
            "dash": _DASH[i % 4], "width": 1.6}, "hovertemplate": f"{house.escape(name)}, layer %{{x}}: %{{y:.0f}}<extra></extra>",
        })  # fmt: skip
    layout = {
        "showlegend": True, "bargap": 0.25,
        "xaxis": {"title": {"text": curves.label("x")}, "range": [0.4, len(x) + 0.6], "dtick": 1 if len(x) <= 12 else 4, "showgrid": False},
        "yaxis": {"title": {"text": curves.label("y")}, "range": [0, 1.12 * float(curves.y.max())]},
    }  # fmt: skip
    return house.picture(data, layout, theme=theme, title=title, revision=revision(record, "schedule"))


def caption(record: Record) -> str:
    """Return where most tokens leave."""
    _, y, _, _ = Curves(record, GROUP)["this run"]
    if np.ptp(y) == 0:
        return f"Every layer keeps all {y[0]:.0f} tokens."
    drop = int(np.argmin(np.diff(y)))
    text = f"Most tokens leave behind layer {drop + 1}: {y[drop]:.0f} become {y[drop + 1]:.0f}; the last layer sees {y[-1]:.0f} of {y[0]:.0f}."
    attrs = record.group_attrs(GROUP)
    if attrs.get("floor_now", 0.0) < attrs.get("floor", 0.0) - 1e-9:
        text += f" This budget cannot pay the floor of the run, {attrs['floor']:.0%}; it stands at {attrs['floor_now']:.0%} until you let go."
    return text


def say(record: Record) -> str:
    """Return the sentence and all counts."""
    curves = Curves(record, GROUP)
    layers = curves["this run"][0]
    rows = [[f"{layer:.0f}", *(f"{curves[n][1][i]:.0f}" for n in curves.names)] for i, layer in enumerate(layers)]
    return caption(record) + "\n\n" + table(["layer", *curves.names], rows)


VIEW = View(
    name="schedule",
    groups=(GROUP,),
    question="How many tokens does each layer keep?",
    reading="Bars: this run, first layer on the left. Lines: other shapes with the same mean share (FastV's is left out where its two full layers are more than that).",
    draw=draw,
    say=say,
    caption=caption,
)

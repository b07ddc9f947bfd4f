"""When is exploring free? The time of a round with K states over that of one: measured here, predicted elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench import theme as house
from workbench.views import View
from workbench.views.common import Curves, Spec, error_bars, revision, table

if TYPE_CHECKING:
    from workbench.record import Record

MEASURED, PREDICTED = "curve/knee", "curve/roofline"


def draw(record: Record, *, theme: str = "light", title: str = "") -> Spec:
    """Return the measured curve with its spread, the predicted ones see-through and dashed, and the present K."""
    d, real, roof = house.design(theme), Curves(record, MEASURED), Curves(record, PREDICTED)
    data: list[Spec] = []
    for name in real.names:
        x, y, low, high = real[name]
        data.append({
            "type": "scatter", "mode": "lines+markers", "name": name, "x": x.tolist(), "y": np.round(y, 4).tolist(), "line": {"color": d.line("accepted"), "width": 2.2}, "marker": {"size": 8, "color": d.line("accepted")},
            "error_y": error_bars(y, low, high, d.line("accepted")), "hovertemplate": "%{x} states: %{y:.2f} times one<extra>measured</extra>",
        })  # fmt: skip
    predicted = [n for n in roof.names if n != "K"]
    for name, (dash, meaning) in zip(predicted, (("dot", "target"), ("dash", "chosen")), strict=False):
        x, y, _, _ = roof[name]
        data.append({
            "type": "scatter", "mode": "lines", "name": name, "x": x.tolist(), "y": np.round(y, 4).tolist(), "line": {"color": d.line(meaning), "width": 2, "dash": dash}, "opacity": 0.7,
            "hovertemplate": f"{house.escape(name)}<br>%{{x}} states: %{{y:.2f}} times one<extra></extra>",
        })  # fmt: skip
    top = max(float(np.nanmax(real.y)), *(float(roof[n][1].max()) for n in predicted), 2.0)
    k = float(roof["K"][0][0]) if "K" in roof.names else 1.0
    shapes = [
        {
            "type": "line",
            "xref": "paper",
            "x0": 0,
            "x1": 1,
            "y0": 1,
            "y1": 1,
            "line": {"color": d.muted, "width": 1, "dash": "dash"},
        },
        {
            "type": "line",
            "x0": k,
            "x1": k,
            "yref": "paper",
            "y0": 0,
            "y1": 1,
            "line": {"color": d.line("selected"), "width": 1.5},
        },
    ]
    layout = {
        "height": 400, "showlegend": True, "shapes": shapes,
        "xaxis": {"range": [0.5, float(real.x.max(initial=2)) + 0.5], "title": {"text": real.label("x")}},
        "yaxis": {"range": [0, top * 1.08], "title": {"text": real.label("y")}},
        "annotations": [{"text": "free", "x": 1, "xref": "paper", "xanchor": "right", "y": 1, "yanchor": "top", "showarrow": False, "font": {"size": 12, "color": d.muted}}],
    }  # fmt: skip
    return house.picture(data, layout, theme=theme, title=title, revision=revision(record, "cost_knee"))


def caption(record: Record) -> str:
    """Return what the present K costs here, and up to which K it would be free on the chosen machine."""
    real, roof = Curves(record, MEASURED), Curves(record, PREDICTED)
    k = float(roof["K"][0][0]) if "K" in roof.names else 1.0
    x, y, _, _ = real[real.names[0]]
    text = f"Here a round with {k:.0f} states takes {np.interp(k, x, y):.2f} times as long as one with a single state"
    settings, names = record.column(PREDICTED, "setting"), record.column(PREDICTED, "curve").astype(str)
    for name in (n for n in roof.names if n != "K"):
        free = float(settings[names == name][0])
        text += f"; {name.replace('predicted, ', 'predicted for ')}: free up to {max(1.0, free):.0f}"
    return text + "."


def say(record: Record) -> str:
    """Return the sentence and the curves."""
    real, roof = Curves(record, MEASURED), Curves(record, PREDICTED)
    rows = []
    for name in real.names:
        rows += [[name, f"{x:.0f}", f"{y:.2f}", f"{a:.2f} to {b:.2f}"] for x, y, a, b in zip(*real[name], strict=True)]
    for name in (n for n in roof.names if n != "K"):
        x, y, _, _ = roof[name]
        rows += [
            [name, f"{a:.0f}", f"{b:.2f}", ""] for a, b in zip(x[:: max(1, len(x) // 5)], y[:: max(1, len(x) // 5)], strict=True)
        ]
    return caption(record) + "\n\n" + table(["", "states K", "times one", "10 to 90 %"], rows)


VIEW = View(
    name="cost_knee",
    groups=(MEASURED, PREDICTED),
    question="When is exploring free?",
    reading=(
        "How long a round takes with K states, over a round with one. Green: measured on this machine with this small model, bars from the 10th to the 90th "
        "percentile. Dashed and dotted: predicted for an 8 B model on the chosen machine, where a round is bound by reading the weights until the knee. "
        "A decoder that caches all but a window of tokens has its knee much further to the right. The vertical line is K."
    ),
    draw=draw,
    say=say,
    caption=caption,
)

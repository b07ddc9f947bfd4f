"""What did the search try? Every candidate it measured, passed or not; or where in its plane it looked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench import theme as house
from workbench.views import View
from workbench.views.common import Curves, Spec, plural, revision, table

if TYPE_CHECKING:
    from workbench.record import Record

GROUP = "curve/search"


def draw(record: Record, *, theme: str = "light", title: str = "") -> Spec:
    """Return the candidates of a search layer by layer, or the points of a search over two numbers coloured by what they gave."""
    d, curves = house.design(theme), Curves(record, GROUP)
    data: list[Spec] = []
    if "passes" in curves.names or "loses too much" in curves.names:
        for name, meaning, symbol in (("passes", "accepted", "circle"), ("loses too much", "rejected", "x")):
            if name in curves.names:
                x, y, _, _ = curves[name]
                data.append({
                    "type": "scatter", "mode": "markers", "name": name, "x": x.tolist(), "y": y.tolist(),
                    "marker": {"symbol": symbol, "size": 10, "color": d.line(meaning)}, "hovertemplate": f"layer %{{x}}, %{{y}} tokens: {name}<extra></extra>",
                })  # fmt: skip
        axes: Spec = {
            "xaxis": {"range": [float(curves.x.min()) - 0.6, float(curves.x.max()) + 0.6], "dtick": 1},
            "yaxis": {"rangemode": "tozero"},
        }
    else:
        values = curves.low
        for name, symbol in (("at random", "circle-open"), ("guided", "circle")):
            if name in curves.names:
                x, y, value, _ = curves[name]
                data.append({
                    "type": "scatter", "mode": "markers", "name": name, "x": x.tolist(), "y": y.tolist(), "customdata": value.round(2).tolist(),
                    "marker": {"symbol": symbol, "size": 11, "line": {"width": 2}, "color": value.tolist(), "coloraxis": "coloraxis"},
                    "hovertemplate": "a = %{x:.2f}, floor %{y:.2f}: %{customdata:.2f} points<extra></extra>",
                })  # fmt: skip
        axes = {
            "xaxis": {"type": "log", "range": [-1.1, 1.6]}, "yaxis": {"range": [-0.03, float(curves.y.max()) * 1.1 + 0.03]},
            "coloraxis": {"colorscale": "Cividis", "cmin": float(values.min()), "cmax": float(values.max()), "colorbar": {"title": {"text": "points"}, "thickness": 12, "len": 0.8}},
        }  # fmt: skip
    for axis in ("x", "y"):
        axes[f"{axis}axis"]["title"] = {"text": curves.label(axis)}
    return house.picture(data, axes | {"showlegend": True}, theme=theme, title=title, revision=revision(record, "search_trace"))


def caption(record: Record) -> str:
    """Return how many evaluations it took, and what came out."""
    curves = Curves(record, GROUP)
    count = plural(int(curves.attrs["evaluations"]), "evaluation")
    if "best" in curves.attrs:
        row = int(np.nanargmax(curves.low))
        return f"{count}: best at steepness {curves.x[row]:.2f} and floor {curves.y[row]:.2f}, {curves.attrs['best']:.1f} points."
    cost = ""
    if "seconds" in curves.attrs:
        ran, plain = int(curves.attrs["layer_passes"]), int(curves.attrs["layer_passes_plain"])
        cost = f" They took {curves.attrs['seconds']:.1f} s: {ran} passes through a layer, {plain} without keeping the layers already settled."
    return f"{count}: a count passes if the metric stays above {curves.attrs['wanted']:.1f} points.{cost}"


def say(record: Record) -> str:
    """Return the sentence and every evaluation."""
    curves = Curves(record, GROUP)
    rows = [
        [name, f"{x:g}", f"{y:.3g}", f"{v:.2f}" if v == v else ""]
        for name in curves.names
        for x, y, v, _ in zip(*curves[name], strict=True)
    ]
    return caption(record) + "\n\n" + table(["", curves.label("x"), curves.label("y"), "points"], rows)


VIEW = View(
    name="search_trace",
    groups=(GROUP,),
    question="What did the search try?",
    reading=(
        "Layer by layer: each mark is a count that was measured; green circles lose no more than the tolerance, crosses lose more. "
        "For a sigmoid: each mark is a steepness and a floor at the same budget, brighter is better; open ones were drawn at random."
    ),
    draw=draw,
    say=say,
    caption=caption,
)

"""How few tokens hold the attention? Cumulative mass, heaviest token first, one curve a layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from plotly.colors import sample_colorscale

from workbench import theme as house
from workbench.views import View
from workbench.views.common import Curves, Spec, note, revision, table

if TYPE_CHECKING:
    from workbench.record import Record

GROUP = "curve/sorted_mass"


def draw(record: Record, *, theme: str = "light", title: str = "") -> Spec:
    """Return the curves, the line of tau, and each layer's crossing."""
    d, curves, tau = house.design(theme), Curves(record, GROUP), _tau(record)
    count = len(curves.names)
    shades = sample_colorscale(
        "Cividis", np.linspace(0.05, 0.8, max(count, 2)) if theme == "light" else np.linspace(0.3, 1, max(count, 2))
    )
    data: list[Spec] = []
    for i, name in enumerate(curves.names):
        x, y, _, _ = curves[name]
        data.append({
            "type": "scatter", "mode": "lines", "x": x.round(4).tolist(), "y": y.round(4).tolist(), "name": name,
            "line": {"color": shades[i], "width": 1.2}, "hovertemplate": f"{name}: %{{x:.0%}} of the tokens hold %{{y:.1%}}<extra></extra>",
        })  # fmt: skip
    needed = _needed(curves, tau).tolist()
    data.append({
        "type": "scatter", "mode": "markers", "x": [round(v, 4) for v in needed], "y": [tau] * count, "name": "needed",
        "marker": {"color": d.fill("accepted"), "size": 8, "line": {"color": d.line("accepted"), "width": 1}},
        "customdata": list(range(count)), "hovertemplate": "layer %{customdata} needs %{x:.1%} of the tokens<extra></extra>",
    })  # fmt: skip
    layout = {
        "xaxis": {"range": [0, 1], "tickformat": ".0%", "title": {"text": curves.label("x")}},
        "yaxis": {"range": [0, 1.04], "tickformat": ".0%", "title": {"text": curves.label("y")}},
        "shapes": [
            {"type": "line", "x0": 0, "x1": 1, "y0": tau, "y1": tau, "line": {"color": d.text, "width": 1.5, "dash": "dash"}}
        ],
        "annotations": [note(f"tau = {tau:g}", theme, x=0.99, y=max(0.03, tau - 0.05), anchor="right")],
    }
    return house.picture(data, layout, theme=theme, title=title, revision=revision(record, "mass_curves"))


def _needed(curves: Curves, tau: float) -> np.ndarray:
    """Return the share of the tokens at which every curve reaches tau."""
    return np.array([np.interp(tau, curves[name][1], curves[name][0]) for name in curves.names])


def _tau(record: Record) -> float:
    return float(record.group_attrs("attention").get("tau", 1.0))


def caption(record: Record) -> str:
    """Return the extremes of what is needed at tau."""
    curves, tau = Curves(record, GROUP), _tau(record)
    needed = _needed(curves, tau)
    few, many = int(needed.argmin()), int(needed.argmax())
    return f"To hold {tau:.1%} of its attention {curves.names[few]} needs {needed[few]:.0%} of the tokens, {curves.names[many]} {needed[many]:.0%}."


def say(record: Record) -> str:
    """Return the sentence and what each layer needs for half, nine tenths and tau."""
    curves, tau = Curves(record, GROUP), _tau(record)
    rows = [[n, *(f"{np.interp(t, curves[n][1], curves[n][0]):.1%}" for t in (0.5, 0.9, tau))] for n in curves.names]
    return caption(record) + "\n\n" + table(["layer", "for 50 %", "for 90 %", f"for tau = {tau:g}"], rows)


VIEW = View(
    name="mass_curves",
    groups=(GROUP, "attention"),
    question="How few tokens hold the attention?",
    reading=(
        "One curve a layer, early layers dark: take the tokens from the heaviest on and add up the attention that the probes give "
        "them. The dashed line is tau; a layer keeps as many tokens as its curve needs to reach it. A jump at the left edge is the "
        "first token."
    ),
    draw=draw,
    say=say,
    caption=caption,
)

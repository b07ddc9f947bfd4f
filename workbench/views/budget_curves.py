"""What does each way of choosing cost in right answers? Accuracy over the share of tokens kept, all methods on one exam."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench import theme as house
from workbench.views import View
from workbench.views.common import Curves, Spec, error_bars, note, revision, table

if TYPE_CHECKING:
    from workbench.record import Record

GROUP = "curve/accuracy"
#: name -> (meaning of its colour, marker, dash); others are grey, in the order of these marks.
_STYLE = {
    "trained thresholds (ATP)": ("accepted", "diamond", "solid"),
    "P-Sigmoid, fitted at each budget": ("accepted", "circle-open", "dash"),
    "G-Search, by allowed loss": ("accepted", "square-open", "dot"),
    "ZipVL's rule, layer by layer": ("proposed", "square", "dot"),
    "what the answer needs (ceiling)": ("chosen", "star", "dash"),
    "chance": ("rejected", "x", "dot"),
    "same share in every layer": ("target", "circle", "solid"),
}
_OTHERS = (("triangle-up", "dash"), ("triangle-down", "dashdot"), ("pentagon", "longdash"), ("hexagon", "dot"), ("cross", "dash"))


def draw(record: Record, *, theme: str = "light", title: str = "") -> Spec:
    """Return one line a method, this run ringed, and the level of all tokens."""
    d, curves = house.design(theme), Curves(record, GROUP)
    data: list[Spec] = []
    others = iter(_OTHERS * 4)
    for name in (n for n in curves.names if n not in {"this run", "all picture tokens"}):
        x, y, low, high = curves[name]
        order = np.argsort(x)
        if name in _STYLE:
            meaning, marker, dash = _STYLE[name]
        else:
            meaning, (marker, dash) = "context", next(others)
        colour = d.line(meaning)
        data.append({
            "type": "scatter", "mode": "lines+markers", "name": name, "x": x[order].round(4).tolist(), "y": y[order].round(4).tolist(),
            "line": {"color": colour, "width": 1.6, "dash": dash}, "marker": {"symbol": marker, "size": 7, "color": colour},
            "error_y": error_bars(y[order], low[order], high[order], colour) | {"width": 0, "thickness": 0.8},
            "hovertemplate": f"{house.escape(name)}<br>%{{x:.1%}} kept, %{{y:.1%}} right<extra></extra>",
        })  # fmt: skip
    shapes = []
    if "all picture tokens" in curves.names:
        level = float(curves["all picture tokens"][1][0])
        shapes.append(
            {
                "type": "line",
                "xref": "paper",
                "x0": 0,
                "x1": 1,
                "y0": level,
                "y1": level,
                "line": {"color": d.text, "width": 1, "dash": "dash"},
            }
        )
    if "this run" in curves.names:
        x, y, low, high = curves["this run"]
        data.append({
            "type": "scatter", "mode": "markers", "name": "this run", "x": x.tolist(), "y": y.tolist(), "error_y": error_bars(y, low, high, d.line("selected")),
            "marker": {"size": 13, "color": d.fill("selected"), "line": {"color": d.text, "width": 2}},
            "hovertemplate": "this run<br>%{x:.1%} kept, %{y:.1%} right<extra></extra>",
        })  # fmt: skip
    lowest = min((float(np.nanmin(np.fmin(t["y"], 1))) for t in data), default=0.0)
    layout = {
        "height": 430, "showlegend": True, "legend": {"orientation": "v", "x": 1.02, "y": 1, "yanchor": "top"}, "shapes": shapes,
        "xaxis": {"range": [0, 1.02], "tickformat": ".0%", "title": {"text": curves.label("x")}},
        "yaxis": {"range": [max(0.0, lowest - 0.06), 1.01], "tickformat": ".0%", "title": {"text": curves.label("y")}},
        "annotations": [note("dashed line: all tokens", theme, x=0.99, y=0.09)] if shapes else [],
    }  # fmt: skip
    return house.picture(data, layout, theme=theme, title=title, revision=revision(record, "budget_curves"))


def _with_no_more(curves: Curves, name: str, share: float) -> tuple[float, float]:
    """Return (right answers, share) of a method that keeps no more than a share: between its points, or its last point below."""
    x, y, _, _ = curves[name]
    order = np.argsort(x)
    if share < x.min() - 0.02:
        return float("nan"), share
    at = min(share, float(x.max()))
    return float(np.interp(at, x[order], y[order])), at


def caption(record: Record) -> str:
    """Return how this run stands against all tokens, and against the best other method that keeps no more."""
    curves = Curves(record, GROUP)
    mine, full = (curves[n] for n in ("this run", "all picture tokens"))
    share, right = float(mine[0][0]), float(mine[1][0])
    text = f"With {share:.0%} of the picture tokens {right:.1%} of the answers are right, with all of them {full[1][0]:.1%}."
    own = {"this run", "all picture tokens", "these thresholds, moved together"}
    if "these thresholds, moved together" in curves.names:  # the run is one of the trained thresholds
        own.add("trained thresholds (ATP)")
    rivals = {n: _with_no_more(curves, n, share) for n in curves.names if n not in own and "ceiling" not in n}
    rivals = {n: v for n, v in rivals.items() if np.isfinite(v[0])}
    if rivals:
        best = max(rivals, key=lambda n: rivals[n][0])
        text += f" Of the other methods that keep no more, “{best}” is best: {rivals[best][0]:.1%} with {rivals[best][1]:.0%}."
    return text


def say(record: Record) -> str:
    """Return the sentence and every measured point."""
    curves = Curves(record, GROUP)
    rows = [
        [name, f"{x:.3f}", f"{y:.1%}", f"{low:.1%} to {high:.1%}" if low == low else ""]
        for name in curves.names
        for x, y, low, high in zip(*curves[name], strict=True)
    ]
    return caption(record) + "\n\n" + table(["method", "share kept", "right", "95 % interval"], rows)


VIEW = View(
    name="budget_curves",
    groups=(GROUP,),
    question="What do fewer tokens cost in right answers?",
    reading=(
        "Each line is a way of choosing tokens, measured on the same questions, which no search or training has seen: to the left fewer "
        "tokens, up more right answers; thin bars are 95 % intervals. The ring is this run. The ceiling keeps the patches that hold the "
        "answer, which no method can know; chance shows what the picture's other tokens give away. “Nothing after layer l” takes the whole "
        "picture away at one depth: where it costs nothing, a layer had already read it, and no method proves anything there."
    ),
    draw=draw,
    say=say,
    caption=caption,
    wide=True,
)

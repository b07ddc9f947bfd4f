"""What predicts the expert? The share of its entropy that token id, neighbour, position and kind of text explain, by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench import theme as house
from workbench.views import View
from workbench.views.common import Curves, Spec, error_bars, note, revision, table

if TYPE_CHECKING:
    from workbench.record import Record

GROUP = "curve/information"
_STYLE = {
    "token id": ("target", "circle"),
    "the id before": ("proposed", "square"),
    "position": ("chosen", "diamond"),
    "kind of text": ("accepted", "triangle-up"),
    "the id before, the id given": ("proposed", "square-dot"),
    "kind of text, the id given": ("accepted", "triangle-up-dot"),
}
GIVEN = ", the id given"


def draw(record: Record, *, theme: str = "light", title: str = "") -> Spec:
    """Return one row of points a value, with intervals, and what chance alone gives."""
    d, curves, data = house.design(theme), Curves(record, GROUP), []
    names = [n for n in curves.names if not n.endswith(", chance")]
    layers = np.unique(curves.x)
    for i, name in enumerate(names):
        meaning, marker = _STYLE.get(name, ("context", "cross"))
        x, y, low, high = curves[name]
        shift = (i - (len(names) - 1) / 2) * 0.12
        at = np.searchsorted(layers, x) + shift
        colour = d.line(meaning)
        data.append({
            "type": "scatter", "mode": "markers", "name": name, "x": at.round(3).tolist(), "y": y.round(4).tolist(), "marker": {"symbol": marker, "size": 10, "color": colour},
            "error_y": error_bars(y, low, high, colour), "hovertemplate": f"{name}: %{{y:.1%}}<extra></extra>",
        })  # fmt: skip
        null = f"{name}, chance"
        if null in curves.names:
            data.append({
                "type": "scatter", "mode": "markers", "name": null, "showlegend": False, "x": at.round(3).tolist(), "y": curves[null][1].round(4).tolist(),
                "marker": {"symbol": f"{marker}-open", "size": 8, "color": d.muted}, "hovertemplate": f"{null}: %{{y:.2%}}<extra></extra>",
            })  # fmt: skip
    layout = {
        "height": 340, "showlegend": True, "yaxis": {"range": [-0.05, 1.02], "tickformat": ".0%", "title": {"text": "share of the expert's entropy explained"}},
        "xaxis": {"tickvals": list(range(len(layers))), "ticktext": [f"layer {int(v)}" for v in layers], "range": [-0.6, len(layers) - 0.4], "showgrid": False},
        "annotations": [note("open grey marks: what chance alone would explain, taken off", theme, x=1, y=0.98)],
    }  # fmt: skip
    return house.picture(data, layout, theme=theme, title=title, revision=revision(record, "information"))


def caption(record: Record) -> str:
    """Return the best predictor and the others, mean over layers."""
    curves = Curves(record, GROUP)
    every = {n: float(curves[n][1].mean()) for n in curves.names if not n.endswith(", chance")}
    added, mean = ({n: v for n, v in every.items() if n.endswith(GIVEN) == g} for g in (True, False))
    best = max(mean, key=lambda n: mean[n])
    rest = ", ".join(f"{n} {v:.0%}" for n, v in mean.items() if n != best)
    said = f"The {best.removeprefix('the ')} explains {mean[best]:.0%} of what decides the first expert; {rest} (mean over layers, each by itself)."
    more = ", ".join(f"{n.removesuffix(GIVEN)} {v:.0%}" for n, v in added.items())
    return said + (
        f" Context can have at most the {1 - mean['token id']:.0%} that the id leaves open; beyond the id, {more}."
        if more
        else ""
    )


def say(record: Record) -> str:
    """Return the sentence and every estimate with its interval and chance level."""
    curves, rows = Curves(record, GROUP), []
    for name in (n for n in curves.names if not n.endswith(", chance")):
        null = curves[f"{name}, chance"][1] if f"{name}, chance" in curves.names else np.full(len(curves[name][1]), np.nan)
        rows += [
            [name, f"{int(x)}", f"{y:.1%}", f"{low:.1%} to {high:.1%}" if low == low else "", f"{c:.2%}" if c == c else ""]
            for x, y, low, high, c in zip(*curves[name], null)
        ]
    return caption(record) + "\n\n" + table(["value", "layer", "explained", "95 % interval", "chance, taken off"], rows)


VIEW = View(
    name="information",
    groups=(GROUP,),
    question="What predicts the expert?",
    reading=(
        "Mutual information between a value and the first expert, as a share of the expert's entropy: 100 % means the value decides, 0 % that it says nothing. Adjusted for chance: what shuffled "
        'values would explain (open grey marks; more, the rarer the values are) is taken off. Bars are 95 % intervals from leaving out tenths of the texts. "The id given": what the value adds to the '
        "token id, judged where the same pair comes again. A router without noise is decided by id and context together, so what the id leaves open is context's."
    ),
    draw=draw,
    say=say,
    caption=caption,
)

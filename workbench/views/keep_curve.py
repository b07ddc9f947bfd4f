"""How many neurons does an expert need? Perplexity by the share that is kept, chosen by activation or at random."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench import theme as house
from workbench.views import View
from workbench.views.common import Curves, Spec, error_bars, note, revision, table

if TYPE_CHECKING:
    from workbench.record import Record

GROUP = "curve/keep"
_STYLE = (("accepted", "diamond", "solid"), ("context", "cross", "dot"), ("proposed", "square", "dash"))


def draw(record: Record, *, theme: str = "light", title: str = "") -> Spec:
    """Return one line a way of choosing neurons, and the level of the dense model."""
    d, curves = house.design(theme), Curves(record, GROUP)
    data: list[Spec] = []
    for name, (meaning, marker, dash) in zip(curves.names, _STYLE):
        x, y, low, high = (v[np.argsort(curves[name][0])] for v in curves[name])
        data.append({
            "type": "scatter", "mode": "lines+markers", "name": name, "x": x.tolist(), "y": y.round(3).tolist(), "line": {"color": d.line(meaning), "width": 2, "dash": dash},
            "marker": {"symbol": marker, "size": 8, "color": d.line(meaning)}, "error_y": error_bars(y, low, high, d.line(meaning)) | {"width": 0},
            "hovertemplate": f"{house.escape(name)}<br>%{{x:.1%}} kept: perplexity %{{y:.3g}}<extra></extra>",
        })  # fmt: skip
    attrs = record.group_attrs(GROUP)
    dense, keep = float(attrs["dense"]), float(attrs["keep"])
    shapes = [
        {
            "type": "line",
            "xref": "paper",
            "x0": 0,
            "x1": 1,
            "y0": dense,
            "y1": dense,
            "line": {"color": d.line("target"), "width": 1.5, "dash": "dash"},
        },
        {
            "type": "line",
            "x0": keep,
            "x1": keep,
            "yref": "paper",
            "y0": 0,
            "y1": 1,
            "line": {"color": d.line("selected"), "width": 1.5, "dash": "dot"},
        },
    ]
    layout = {
        "height": 400, "showlegend": True, "shapes": shapes, "xaxis": {"range": [0.2, 1.02], "tickformat": ".0%", "title": {"text": curves.label("x")}},
        "yaxis": {"type": "log", "title": {"text": curves.label("y")}, "nticks": 7},
        "annotations": [note("dashed: dense · dotted: this run", theme, x=0.99, y=0.98)],
    }  # fmt: skip
    return house.picture(data, layout, theme=theme, title=title, revision=revision(record, "keep_curve"))


def caption(record: Record) -> str:
    """Return what half of the neurons give, chosen and at random."""
    curves, attrs = Curves(record, GROUP), record.group_attrs(GROUP)
    own, random = curves[curves.names[0]], curves[curves.names[1]]
    at = int(np.abs(own[0] - 0.5).argmin())
    other = float(random[1][np.abs(random[0] - own[0][at]).argmin()])
    dense = float(attrs["dense"])
    return (
        f"With {own[0][at]:.0%} of the neurons, chosen by activation, perplexity is {house.number(float(own[1][at]))}, {house.number(float(own[1][at]) / dense)} times the dense model's {house.number(dense)}; "
        f"as many at random give {house.number(other)}."
    )


def say(record: Record) -> str:
    """Return the sentence and every point."""
    curves = Curves(record, GROUP)
    rows = [
        [name, f"{x:.1%}", house.number(y)] for name in curves.names for x, y, _, _ in sorted(zip(*curves[name], strict=True))
    ]
    return caption(record) + "\n\n" + table(["neurons", "kept", "perplexity"], rows)


VIEW = View(
    name="keep_curve",
    groups=(GROUP,),
    question="How many neurons does an expert need?",
    reading=(
        "To the right more neurons are kept in every feed-forward layer, up is worse (logarithmic). Green: those that the text's kind excites most; grey: as many at random; the dashed line is the dense model, the dotted one "
        "the share of this run. One held-out text of each kind, true runs without any training after the cut: where green leaves the dashed line, the paper's training would have to begin."
    ),
    draw=draw,
    say=say,
    caption=caption,
)

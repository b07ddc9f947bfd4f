"""Where in the text are choices dropped? The dropped share by position, for kinds of text the model learnt and others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench import theme as house
from workbench.views import View
from workbench.views.common import Curves, Spec, note, revision, table
from workbench.views.routing_grid import words

if TYPE_CHECKING:
    from workbench.record import Record

GROUP = "curve/drops"
_STYLE = (("target", "circle", "solid"), ("chosen", "diamond", "dash"), ("context", "square", "dot"))


def lines(curves: Curves, theme: str) -> list[Spec]:
    """Return each curve with its interval as a band."""
    d, data = house.design(theme), []
    for name, (meaning, marker, dash) in zip(curves.names, _STYLE):
        x, y, low, high = curves[name]
        if np.isfinite(low).any():
            data.append({
                "type": "scatter", "mode": "lines", "x": [*x.tolist(), *x[::-1].tolist()], "y": [*high.round(4).tolist(), *low[::-1].round(4).tolist()], "fill": "toself",
                "fillcolor": d.fill(meaning, 0.18), "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False, "name": f"{name}, 95 %",
            })  # fmt: skip
        data.append({
            "type": "scatter", "mode": "lines+markers", "name": name, "x": x.tolist(), "y": y.round(4).tolist(), "line": {"color": d.line(meaning), "width": 2, "dash": dash},
            "marker": {"symbol": marker, "size": 6, "color": d.line(meaning)}, "hovertemplate": f"token %{{x:.0f}}: %{{y:.3g}}<extra>{house.escape(name)}</extra>",
        })  # fmt: skip
    return data


def draw(record: Record, *, theme: str = "light", title: str = "") -> Spec:
    """Return the curves on a scale that holds still while a limit is moved."""
    curves = Curves(record, GROUP)
    top = next(t for t in (0.25, 0.5, 1.0) if np.nanmax(curves.y) <= t)
    attrs = record.group_attrs("routing")
    setting = f"factor {attrs['capacity_factor']:g}, {attrs['order']} order" if "capacity_factor" in attrs else ""
    layout = {
        "height": 340, "showlegend": True, "xaxis": {"title": {"text": curves.label("x")}}, "yaxis": {"range": [0, top], "tickformat": ".0%", "title": {"text": curves.label("y")}},
        "annotations": [note(setting, theme, x=0.01, y=0.98, anchor="left")] if setting else [],
    }  # fmt: skip
    return house.picture(lines(curves, theme), layout, theme=theme, title=title, revision=revision(record, "drop_curve"))


def _ends(curves: Curves, name: str) -> tuple[float, float]:
    y = curves[name][1]
    quarter = max(1, len(y) // 4)
    return float(np.nanmean(y[:quarter])), float(np.nanmean(y[-quarter:]))


def caption(record: Record) -> str:
    """Return the dropped share at the beginning and at the end of the texts."""
    curves = Curves(record, GROUP)
    if not np.nanmax(curves.y):
        return "Nothing is dropped: every expert has a slot for every token that asks."
    parts = [
        f"{name}: {words(_ends(curves, name)[0])} in the first quarter of a text, {words(_ends(curves, name)[1])} in the last"
        for name in curves.names
    ]
    return "; ".join(parts)[:1].upper() + "; ".join(parts)[1:] + "."


def say(record: Record) -> str:
    """Return the sentence and the curves."""
    curves = Curves(record, GROUP)
    rows = [
        [name, f"{x:.0f}", f"{y:.1%}", f"{low:.1%} to {high:.1%}" if low == low else ""]
        for name in curves.names
        for x, y, low, high in zip(*curves[name])
    ]
    return caption(record) + "\n\n" + table(["text", "token", "dropped", "95 % interval"], rows)


VIEW = View(
    name="drop_curve",
    groups=(GROUP, "routing"),
    question="Where in the text are choices dropped?",
    reading=(
        "Left to right the position in a text, up the share of its choices that found their expert full, over all layers; bands are 95 % intervals over texts. In token order the first tokens always find a "
        "slot and the last pay; a random order is flat; by weight, the unsure tokens pay instead of the late ones. Blue: kinds of text that the model was trained on; "
        "orange, dashed: kinds it never saw."
    ),
    draw=draw,
    say=say,
    caption=caption,
)

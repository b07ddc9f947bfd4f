"""Could one choice serve all layers? How often a layer's own best expert is the one that was chosen beforehand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench import theme as house
from workbench.views import View
from workbench.views.common import Curves, Spec, revision, table
from workbench.views.routing_grid import words

if TYPE_CHECKING:
    from workbench.record import Record

GROUP = "curve/layer_choice"
_STYLE = (("accepted", "solid"), ("target", "dash"), ("context", "dot"))


def draw(record: Record, *, theme: str = "light", title: str = "") -> Spec:
    """Return the agreement by layer with its interval, and what the layer before and the commonest expert would give."""
    d, curves = house.design(theme), Curves(record, GROUP)
    data: list[Spec] = []
    for name, (meaning, dash) in zip(curves.names, _STYLE):
        x, y, low, high = curves[name]
        if np.isfinite(low).any():
            data.append({
                "type": "scatter", "mode": "lines", "x": [*x.tolist(), *x[::-1].tolist()], "y": [*high.round(4).tolist(), *low[::-1].round(4).tolist()], "fill": "toself",
                "fillcolor": d.fill(meaning, 0.18), "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False, "name": f"{name}, 95 %",
            })  # fmt: skip
        data.append({
            "type": "scatter", "mode": "lines", "name": name, "x": x.tolist(), "y": y.round(4).tolist(), "line": {"color": d.line(meaning), "width": 2, "dash": dash},
            "hovertemplate": f"layer %{{x:.0f}}: %{{y:.0%}}<extra>{house.escape(name)}</extra>",
        })  # fmt: skip
    layout = {
        "height": 400, "showlegend": True, "xaxis": {"title": {"text": curves.label("x")}},
        "yaxis": {"range": [0, 1.02], "tickformat": ".0%", "title": {"text": "tokens whose best expert in the layer it is"}},
    }  # fmt: skip
    return house.picture(data, layout, theme=theme, title=title, revision=revision(record, "layer_choice"))


def caption(record: Record) -> str:
    """Return the mean agreement, the layer where it is least, and what the layer before would tell."""
    curves = Curves(record, GROUP)
    mine, before, common = (curves[n] for n in curves.names)
    low = int(mine[1].argmin())
    told = f"; the layer before agrees for {words(float(before[1].mean()))}" if len(before[1]) else ""
    return (
        f"{curves.names[0][0].upper()}{curves.names[0][1:]} is the layer's own best expert for {words(float(mine[1].mean()))} of the tokens, least in layer {int(mine[0][low])} ({words(float(mine[1][low]))}){told}. "
        f"Always naming the commonest would be right for {words(float(common[1].mean()))}."
    )


def say(record: Record) -> str:
    """Return the sentence and the shares of every layer."""
    curves = Curves(record, GROUP)
    layers = curves[curves.names[0]][0]
    rows = [
        [f"{at:.0f}", *(f"{curves[n][1][curves[n][0] == at][0]:.0%}" if (curves[n][0] == at).any() else "" for n in curves.names)]
        for at in layers
    ]
    return caption(record) + "\n\n" + table(["layer", *curves.names], rows)


VIEW = View(
    name="layer_choice",
    groups=(GROUP,),
    question="Could one choice serve all layers?",
    reading=(
        "For every token and layer the best expert is the one that holds most of the token's own most excited neurons there. Green: how often that is what a router chose beforehand, one choice for all layers, with a 95 % interval "
        "over texts; blue: how often it is the best expert of the layer before; dotted: of the commonest expert, always. A green line far above the dotted one means that routers in every layer would largely repeat what the ids already told."
    ),
    draw=draw,
    say=say,
    caption=caption,
)

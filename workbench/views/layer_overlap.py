"""How much do the layers' routers repeat each other? What the first expert in one layer tells of that in any other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench import theme as house
from workbench.views import View
from workbench.views import routing_grid as grid
from workbench.views.attention_grid import colours
from workbench.views.common import Spec, revision, table
from workbench.views.routing_grid import words

if TYPE_CHECKING:
    from workbench.record import Record


def _told(record: Record) -> tuple[np.ndarray, list[str]]:
    """Return the matrix and the layers' names."""
    told = record.column("layer_overlap", "told")
    return told, [grid.named(record, i).removeprefix("layer ") for i in range(len(told))]


def draw(record: Record, *, theme: str = "light", title: str = "") -> Spec:
    """Return one cell a pair of layers with experts."""
    told, names = _told(record)
    few = len(told) <= 12
    data = [{
        "type": "heatmap", "z": told.round(3).tolist(), "x": names, "y": names, "zmin": 0, "zmax": 1, **colours(theme), "name": "share", "xgap": 1, "ygap": 1,
        "hovertemplate": "layer %{y} tells %{z:.0%} of layer %{x}<extra></extra>", **({"texttemplate": "%{z:.0%}"} if few else {}),
        "colorbar": {"title": {"text": "share"}, "tickformat": ".0%", "thickness": 12, "len": 0.8, "nticks": 4},
    }]  # fmt: skip
    layout = {
        "height": 400, "xaxis": {"type": "category", "title": {"text": "first expert in layer"}, "showgrid": False},
        "yaxis": {"type": "category", "title": {"text": "told by that in layer"}, "autorange": "reversed", "showgrid": False},
    }  # fmt: skip
    return house.picture(data, layout, theme=theme, title=title, revision=revision(record, "layer_overlap"))


def caption(record: Record) -> str:
    """Return the mean over neighbours, over all other pairs, and the pair that tells most."""
    told, names = _told(record)
    apart = np.abs(np.subtract.outer(np.arange(len(told)), np.arange(len(told))))
    text = f"A layer's first expert tells {words(float(told[apart == 1].mean()))} of its neighbour's choice"
    if (apart > 1).any():
        text += f", {words(float(told[apart > 1].mean()))} of one further away (means)"
    a, b = np.unravel_index(np.where(apart > 0, told, -1).argmax(), told.shape)
    return f"{text}; most, {words(float(told[a, b]))}, layer {names[a]} of layer {names[b]}."


def say(record: Record) -> str:
    """Return the sentence and the matrix."""
    told, names = _told(record)
    return caption(record) + "\n\n" + table(["told by", *names], [[n, *(f"{v:.0%}" for v in row)] for n, row in zip(names, told)])


VIEW = View(
    name="layer_overlap",
    groups=("layer_overlap", "moe_layers"),
    question="How much do the layers' routers repeat each other?",
    reading=(
        "Mutual information between the first experts that a token has in two layers, as a share of the entropy in the column's layer, less what chance gives (Miller and Madow). A dark cell: the column's choice is as "
        "good as made once the row's is known. Dark everywhere: one router could serve all layers, which Read-ME builds on; light: each layer decides anew."
    ),
    draw=draw,
    say=say,
    caption=caption,
)

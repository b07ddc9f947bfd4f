"""How evenly are the experts loaded? Every expert of every layer; or, with one chosen, where its tokens go in the other layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from workbench import theme as house
from workbench.views import View
from workbench.views import routing_grid as grid
from workbench.views.attention_grid import colours
from workbench.views.common import Spec, revision, table
from workbench.views.routing_grid import words

if TYPE_CHECKING:
    from workbench.record import Record


def draw(record: Record, *, selected: Any = None, theme: str = "light", title: str = "") -> Spec:
    """Return the share of the choices by layer and expert, and by layer the load of the busiest and the share dropped.

    Args:
        selected: `row * E + expert`: the shares are then those of this expert's tokens alone.
    """
    d, share = house.design(theme), _shares(record, selected)
    layers, size = share.shape
    rows = list(range(layers))
    names = [grid.named(record, i) for i in rows]
    few = layers <= 8 and size <= 16
    data = [
        {
            "type": "heatmap", "z": np.round(share, 4).tolist(), "x": list(range(size)), "y": rows, "zmin": 0, "zmax": float(np.ceil(share.max() * 20) / 20), **colours(theme),
            "name": "share of choices", "customdata": np.arange(layers * size).reshape(layers, size).tolist(), "hovertemplate": "%{y}, expert %{x}: %{z:.1%}<extra></extra>",
            "showscale": False, **({"texttemplate": "%{z:.0%}"} if few else {}), "xgap": 1, "ygap": 1,
        },
        {
            "type": "bar", "orientation": "h", "y": rows, "x": record.column("moe_layers", "imbalance").round(3).tolist(), "xaxis": "x2", "name": "busiest over mean",
            "marker": house.solid(theme, "target"), "hovertemplate": "%{y}: busiest takes %{x:.2f} times the mean<extra></extra>",
        },
        {
            "type": "bar", "orientation": "h", "y": rows, "x": record.column("moe_layers", "dropped").round(4).tolist(), "xaxis": "x3", "name": "dropped",
            "marker": house.solid(theme, "rejected"), "hovertemplate": "%{y}: %{x:.1%} of the choices dropped<extra></extra>",
        },
    ]  # fmt: skip
    chosen = grid.chosen_expert(record, selected)
    frame = [] if chosen is None else [{
        "type": "rect", "x0": chosen[1] - 0.5, "x1": chosen[1] + 0.5, "y0": chosen[0] - 0.5, "y1": chosen[0] + 0.5, "line": {"color": d.line("selected"), "width": 3},
    }]  # fmt: skip
    imbalance = record.column("moe_layers", "imbalance")
    layout = {
        "height": int(np.clip(46 * layers + 130, 240, 560)), "shapes": frame, "bargap": 0.35,
        "xaxis": {"domain": [0, 0.56], "title": {"text": "expert"}, "showgrid": False, "dtick": 1 if size <= 16 else 8},
        "xaxis2": {"domain": [0.62, 0.78], "title": {"text": "busiest over mean"}, "range": [0, max(2.0, float(np.ceil(imbalance.max())))], "nticks": 4},
        "xaxis3": {"domain": [0.87, 1], "title": {"text": "dropped"}, "range": [0, 1], "tickformat": ".0%", "nticks": 3},
        "yaxis": {"range": [-0.5, layers - 0.5], "showgrid": False, **({"tickvals": rows, "ticktext": names} if layers <= 16 else {"title": {"text": "layer with experts"}})},
    }  # fmt: skip
    return house.picture(data, layout, theme=theme, title=title, revision=revision(record, "expert_load"))


def _shares(record: Record, selected: Any) -> np.ndarray:
    """Return (L, E): share of the choices, of all tokens or of those that the chosen expert takes."""
    chosen = grid.chosen_expert(record, selected)
    if chosen is None:
        load = record.column("routing", "load").astype(float)
        return load / load.sum(1, keepdims=True)
    expert, size = record.column("routing", "expert"), grid.experts(record)
    mine = grid.held(record, selected, 0, expert.shape[1])
    table = np.stack([np.bincount(e[mine].ravel(), minlength=size) for e in expert]).astype(float)
    return table / np.maximum(1, table.sum(1, keepdims=True))


def caption(record: Record, *, selected: Any = None) -> str:
    """Return the least even layer, or where the chosen expert's tokens gather in other layers."""
    chosen, share = grid.chosen_expert(record, selected), _shares(record, selected)
    imbalance = record.column("moe_layers", "imbalance")
    if chosen is None:
        at = int(imbalance.argmax())
        return (
            f"In {grid.named(record, at)} the busiest expert ({int(share[at].argmax())}) takes {imbalance[at]:.2f} times the mean load; "
            f"{words(float(record.column('moe_layers', 'dropped').mean()))} of all choices are dropped. Click an expert to follow its tokens."
        )
    others = [i for i in range(len(share)) if i != chosen[0]]
    text = f"Of the tokens that expert {chosen[1]} of {grid.named(record, chosen[0])} takes"
    if not others:
        return f"{text}, {words(float(share[chosen[0], chosen[1]]))} of the choices are its own."
    best = max(others, key=lambda i: share[i].max())
    return f"{text}, {words(float(share[best].max()))} of the choices in {grid.named(record, best)} fall on expert {int(share[best].argmax())} (even: {words(1 / share.shape[1])})."


def say(record: Record, *, selected: Any = None) -> str:
    """Return the sentence and each layer's shares."""
    share = _shares(record, selected)
    rows = []
    for i, row in enumerate(share):
        order = np.argsort(-row)[:4]
        best = ", ".join(f"{j}: {row[j]:.1%}" for j in order)
        rows.append(
            [
                grid.named(record, i),
                best,
                f"{record.column('moe_layers', 'imbalance')[i]:.2f}",
                f"{record.column('moe_layers', 'dropped')[i]:.1%}",
            ]
        )
    return (
        caption(record, selected=selected)
        + "\n\n"
        + table(["layer", "most choices go to experts", "busiest over mean", "dropped"], rows)
    )


VIEW = View(
    name="expert_load",
    groups=("routing", "moe_layers"),
    question="How evenly are the experts loaded?",
    reading=(
        "Each row is a layer with experts, the lowest first; a cell is the share of the choices that fall on an expert. The blue bars say how many times the mean load the busiest expert "
        "takes (1 = even), the red ones which share of the choices finds no slot. With an expert chosen (framed), the cells are where its tokens go in every layer."
    ),
    draw=draw,
    say=say,
    caption=caption,
    lasting=True,
)

"""Does one layer's expert tell the next one's? How first choices follow each other from layer to layer."""

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


def _pair(record: Record, step: int) -> int:
    return min(grid.layer_of(record, step), record.column("transition", "share").shape[0] - 1)


def draw(record: Record, *, step: int = 0, theme: str = "light", title: str = "") -> Spec:
    """Return the law of the next layer's first expert given this layer's.

    Args:
        step: row of `routing`; the last layer shows how it follows from the one before.
    """
    pair = _pair(record, step)
    share = record.column("transition", "share")[pair]
    size, few = len(share), len(share) <= 16
    z = [[None if v != v else round(float(v), 3) for v in row] for row in share]
    data = [{
        "type": "heatmap", "z": z, "x": list(range(size)), "y": list(range(size)), "zmin": 0, "zmax": round(max(0.3, float(np.nanmax(record.column("transition", "share")))), 2), **colours(theme),
        "name": "share", "hovertemplate": "from expert %{y} to expert %{x}: %{z:.0%}<extra></extra>", "xgap": 1, "ygap": 1, **({"texttemplate": "%{z:.0%}"} if few else {}),
        "colorbar": {"title": {"text": "share"}, "tickformat": ".0%", "thickness": 12, "len": 0.8, "nticks": 4},
    }]  # fmt: skip
    layout = {
        "height": 400, "xaxis": {"title": {"text": f"first expert in {grid.named(record, pair + 1)}"}, "showgrid": False, "dtick": 1 if few else 8},
        "yaxis": {"title": {"text": f"first expert in {grid.named(record, pair)}"}, "range": [size - 0.5, -0.5], "showgrid": False, "dtick": 1 if few else 8},
    }  # fmt: skip
    return house.picture(data, layout, theme=theme, title=title, revision=revision(record, "expert_transitions"))


def _told(record: Record, pair: int) -> tuple[float, float]:
    """Return (share of the next choice's entropy that this one explains, how often the likeliest next expert is right)."""
    expert = record.column("routing", "expert")[pair : pair + 2, :, 0].astype(np.int64)
    size = grid.experts(record)
    joint = np.bincount(expert[0] * size + expert[1], minlength=size * size).reshape(size, size) / expert.shape[1]
    rows, columns = joint.sum(1), joint.sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        mutual = np.nansum(np.where(joint > 0, joint * np.log(joint / (rows[:, None] * columns)), 0))
        own = -np.nansum(np.where(columns > 0, columns * np.log(columns), 0))
    return float(mutual / own) if own else 0.0, float(joint.max(1).sum())


def caption(record: Record, *, step: int = 0) -> str:
    """Return how much the next layer's expert is told by this one's."""
    pair = _pair(record, step)
    explained, right = _told(record, pair)
    verdict = (
        "so a router for each layer says much that the first did not"
        if explained < 0.5
        else "so the layers' routers largely repeat each other"
    )
    return (
        f"The expert in {grid.named(record, pair)} explains {words(explained)} of the choice in {grid.named(record, pair + 1)}, and the likeliest next expert is right for {words(right)} of the "
        f"tokens: {verdict}."
    )


def say(record: Record, *, step: int = 0) -> str:
    """Return the sentence and each expert's likeliest next one."""
    share = record.column("transition", "share")[_pair(record, step)]
    rows = [[str(i), str(int(np.nanargmax(r))), f"{np.nanmax(r):.0%}"] for i, r in enumerate(share) if np.isfinite(r).any()]
    return caption(record, step=step) + "\n\n" + table(["expert", "likeliest next", "share"], rows)


VIEW = View(
    name="expert_transitions",
    groups=("transition", "routing", "moe_layers"),
    question="Does one layer's expert tell the next one's?",
    reading=(
        "A row is an expert of one layer with experts, a column an expert of the next; the cell is the share of the row's tokens that go there next. One dark cell a row: the next choice is as good as "
        "made, and a router for each layer is redundant (the observation that Read-ME starts from). Even rows: each layer decides anew."
    ),
    draw=draw,
    say=say,
    caption=caption,
    steps="moe_layers",
)

"""Where does each head look? Every head of every layer as a small map."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from workbench import theme as house
from workbench.views import View
from workbench.views.attention_grid import chosen_head, colours, edges
from workbench.views.common import Spec, revision, table

if TYPE_CHECKING:
    from workbench.record import Record

TILE, LEAST = 14, 3  # bins a side of a small map, at most and at least
CELLS = 160_000  # of all maps together: with more heads each is coarser, and the message stays under a megabyte


def draw(record: Record, *, selected: Any = None, theme: str = "light", title: str = "") -> Spec:
    """Return small maps, layers upwards and heads to the right.

    Args:
        selected: the ringed head, `layer * heads + head`.
    """
    d, mass = house.design(theme), record.column("attention", "mass")
    layers, heads = mass.shape[:2]
    small = _coarser(mass, max(LEAST, min(TILE, int((CELLS / (layers * heads)) ** 0.5) - 2)))
    size = small.shape[-1]
    pitch = size + 1
    canvas = np.full((layers * pitch, heads * pitch), np.nan)
    for layer in range(layers):
        for head in range(heads):
            tile = np.where(np.tri(size, dtype=bool), np.sqrt(small[layer, head]) * 100, np.nan)
            canvas[layer * pitch : layer * pitch + size, head * pitch : head * pitch + size] = tile[::-1]
    z = [[None if v != v else int(v) for v in row] for row in canvas.round().tolist()]
    middle = (size - 1) / 2
    grid = [(layer, head) for layer in range(layers) for head in range(heads)]
    sink = record.column("attention", "sink_share") if "sink_share" in record.variables("attention") else mass[..., 0].mean(-1)
    data = [
        {"type": "heatmap", "z": z, "zmin": 0, "zmax": 100, **colours(theme), "showscale": False, "hoverinfo": "skip", "name": "mass"},
        {
            "type": "scatter", "mode": "markers", "name": "heads", "x": [h * pitch + middle for _, h in grid], "y": [la * pitch + middle for la, _ in grid],
            "customdata": [la * heads + h for la, h in grid], "hoverinfo": "text",
            "hovertext": [f"layer {la}, head {h}<br>{sink[la, h]:.0%} of its attention is on the first token" for la, h in grid],
            "marker": {"symbol": "square", "size": 15, "opacity": 0},
        },
    ]  # fmt: skip
    if selected is not None:
        la, h = chosen_head(record, selected)
        data.append(_ring(la * pitch + middle, h * pitch + middle, d))
    layout = {
        "height": max(320, 15 * layers + 80),
        "xaxis": {"title": {"text": "head"}, "tickvals": [h * pitch + middle for h in range(heads)], "ticktext": [str(h) for h in range(heads)],
                  "showgrid": False, "ticks": "", "range": [-1, heads * pitch]},
        "yaxis": {"title": {"text": "layer"}, "tickvals": [la * pitch + middle for la in range(0, layers, 5)],
                  "ticktext": [str(la) for la in range(0, layers, 5)], "showgrid": False, "ticks": "",
                  "range": [-1, layers * pitch]},
    }  # fmt: skip
    return house.picture(data, layout, theme=theme, title=title, revision=revision(record, "attention_overview"))


def _ring(y: float, x: float, d: house.Design) -> Spec:
    return {
        "type": "scatter", "mode": "markers", "x": [x], "y": [y], "hoverinfo": "skip", "name": "selected",
        "marker": {"symbol": "square-open", "size": 22, "color": d.line("selected"), "line": {"width": 3, "color": d.line("selected")}},
    }  # fmt: skip


def _coarser(mass: np.ndarray, size: int) -> np.ndarray:
    """Return maps of at most `size` bins a side: keys summed, queries averaged."""
    size = min(size, mass.shape[-1])
    cuts = edges(mass.shape[-1], size)
    keys = np.add.reduceat(np.nan_to_num(mass), cuts[:-1], axis=-1)
    return np.add.reduceat(keys, cuts[:-1], axis=-2) / np.diff(cuts)[:, None]


def caption(record: Record) -> str:
    """Return how much of the attention is parked on the first token."""
    names = record.variables("attention")
    sink = (
        record.column("attention", "sink_share") if "sink_share" in names else record.column("attention", "mass")[..., 0].mean(-1)
    )
    parked = int((sink > 0.5).sum())
    return f"{sink.mean():.0%} of all attention goes to the first token; {parked} of {sink.size} heads put more than half of theirs there."


def say(record: Record) -> str:
    """Return the sentence and, by layer, the share on the first token and the share on the bin of the token itself."""
    mass = record.column("attention", "mass")
    near = np.diagonal(mass, axis1=2, axis2=3).mean(-1)
    rows = [[str(i), f"{mass[i, :, :, 0].mean():.0%}", f"{near[i].mean():.0%}"] for i in range(len(mass))]
    return caption(record) + "\n\n" + table(["layer", "on the first bin", "on the token's own bin"], rows)


VIEW = View(
    name="attention_overview",
    groups=("attention",),
    question="Where does each head look?",
    reading=(
        "A small map for each head: queries run down, keys to the right, and the corner above the diagonal is empty because no token "
        "sees a later one. Stronger colour: a larger share of the query's attention (square-root scale). A bright left edge is "
        "attention parked on the first token; a bright diagonal looks at its neighbours. Click a map to see it large."
    ),
    draw=draw,
    say=say,
    caption=caption,
)

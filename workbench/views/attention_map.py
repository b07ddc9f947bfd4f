"""One head's attention, pooled: which stretch of the text looks at which."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench import theme as house
from workbench.views import View
from workbench.views.attention_grid import chosen_head, colours, edges, span
from workbench.views.common import Spec, revision, table

if TYPE_CHECKING:
    from workbench.record import Record


def draw(record: Record, *, selected: Any = None, theme: str = "light", title: str = "") -> Spec:
    """Return a head's pooled map.

    Args:
        selected: the head, `layer * heads + head`; the middle layer's first by default.
    """
    layer, head = chosen_head(record, selected)
    mass = record.column("attention", "mass")[layer, head]
    size, length = len(mass), len(record.column("attention", "keep")[0])
    cuts = edges(length, size)
    names = [span(record, int(a), int(b)) for a, b in pairwise(cuts)]
    z = [[None if j > i else round(float(v), 4) for j, v in enumerate(row)] for i, row in enumerate(mass)]
    text = [[f"tokens {names[i]}<br>look at {names[j]}" if j <= i else "" for j in range(size)] for i in range(size)]
    data = [
        {
            "type": "heatmap", "z": z, "x": cuts[:-1].tolist(), "y": cuts[:-1].tolist(), "zmin": 0, "zmax": 1, **colours(theme), "name": "mass",
            "text": text, "hovertemplate": "%{text}<br>%{z:.1%} of their attention<extra></extra>",
            "colorbar": {"title": {"text": "share"}, "tickformat": ".0%", "thickness": 12, "len": 0.8},
        }
    ]  # fmt: skip
    low, high = -length / size / 2, length - length / size / 2
    looked_at = {"title": {"text": f"tokens looked at (bins of {length / size:.0f})"}, "showgrid": False, "constrain": "domain"}
    layout = {
        "xaxis": looked_at | {"range": [low, high]},
        "yaxis": {"title": {"text": "tokens that look"}, "range": [high, low], "showgrid": False},
    }
    return house.picture(data, layout, theme=theme, title=title, revision=revision(record, "attention_map"))


def caption(record: Record, *, selected: Any = None) -> str:
    """Return which head it is and what it does most."""
    layer, head = chosen_head(record, selected)
    mass = np.nan_to_num(record.column("attention", "mass")[layer, head])
    first, own = mass[:, 0].mean(), np.diagonal(mass).mean()
    return (
        f"Layer {layer}, head {head}: {first:.0%} of its attention is on the first bin, {own:.0%} on the bin of the token itself."
    )


def say(record: Record, *, selected: Any = None) -> str:
    """Return the sentence and, for every bin of queries, the bin it looks at most."""
    layer, head = chosen_head(record, selected)
    mass = record.column("attention", "mass")[layer, head]
    cuts = edges(len(record.column("attention", "keep")[0]), len(mass))
    rows = []
    for i, row in enumerate(np.nan_to_num(mass)):
        best = int(row.argmax())
        rows.append(
            [span(record, int(cuts[i]), int(cuts[i + 1])), span(record, int(cuts[best]), int(cuts[best + 1])), f"{row[best]:.0%}"]
        )
    return caption(record, selected=selected) + "\n\n" + table(["tokens", "look most at", "share"], rows)


VIEW = View(
    name="attention_map",
    groups=("attention",),
    question="What does this head look at?",
    reading=(
        "Queries run down, keys to the right, both in bins of the text; a cell is the mean share of its attention that a token of the "
        "row puts on the tokens of the column. Rows sum to 1. The empty half is the future. Point at a cell to read the text."
    ),
    draw=draw,
    say=say,
    caption=caption,
)

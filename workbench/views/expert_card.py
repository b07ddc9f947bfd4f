"""What does this expert take? The token ids that make up its first choices, and how much of each it gets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from workbench import theme as house
from workbench.views import View
from workbench.views import routing_grid as grid
from workbench.views.common import Spec, revision, table
from workbench.views.routing_grid import words

if TYPE_CHECKING:
    from workbench.record import Record

MOST = 10


def _top(record: Record, step: int, selected: Any) -> tuple[int, int, list[tuple[str, int, int]], int]:
    """Return (row of `routing`, expert, its commonest tokens as (piece, taken, occurrences), all it takes first)."""
    chosen = grid.chosen_expert(record, selected)
    layer = grid.layer_of(record, step) if chosen is None else chosen[0]
    first, ids = record.column("routing", "expert")[layer, :, 0], record.column("routing", "token_id")
    expert = int(np.bincount(first).argmax()) if chosen is None else chosen[1]
    values, where, times = np.unique(ids, return_index=True, return_counts=True)
    taken = np.bincount(np.searchsorted(values, ids[first == expert]), minlength=len(values))
    best = [int(i) for i in np.argsort(-taken, kind="stable")[:MOST] if taken[i]]
    return (
        layer,
        expert,
        [(grid.pieces(record, int(where[i]), int(where[i]) + 1)[0], int(taken[i]), int(times[i])) for i in best],
        int((first == expert).sum()),
    )


def draw(record: Record, *, step: int = 0, selected: Any = None, theme: str = "light", title: str = "") -> Spec:
    """Return two bars a token: its part of what the expert takes, and the part of its occurrences that the expert gets.

    Args:
        step: row of `routing`. selected: `row * E + expert`; None: the busiest expert of the layer on show.
    """
    d = house.design(theme)
    _, expert, rows, total = _top(record, step, selected)
    names = [house.escape(house.token(p, 12), quote=False) for p, _, _ in rows]
    at = list(range(len(rows)))
    data = [
        {
            "type": "bar", "orientation": "h", "y": at, "x": [round(t / max(1, total), 4) for _, t, _ in rows], "name": "part of what it takes",
            "marker": {"color": house.expert(expert, theme), "line": {"width": 0}}, "hovertemplate": "%{x:.1%} of its first choices<extra></extra>",
        },
        {
            "type": "bar", "orientation": "h", "y": at, "x": [round(t / n, 4) for _, t, n in rows], "xaxis": "x2", "name": "part of the token it gets",
            "marker": house.solid(theme, "context"), "hovertemplate": "gets %{x:.0%} of the token's occurrences<extra></extra>",
        },
    ]  # fmt: skip
    layout = {
        "height": 340, "bargap": 0.3,
        "xaxis": {"domain": [0, 0.52], "tickformat": ".0%", "title": {"text": f"of what expert {expert} takes"}, "rangemode": "tozero"},
        "xaxis2": {"domain": [0.58, 1], "tickformat": ".0%", "title": {"text": "of the token's occurrences"}, "range": [0, 1], "nticks": 4},
        "yaxis": {"range": [max(MOST, 1) - 0.5, -0.5], "tickvals": at, "ticktext": names, "tickfont": {"family": house.MONO, "size": 12}, "showgrid": False},
        "annotations": [] if rows else [{"text": "it takes no token first", "x": 0.5, "y": 0.5, "xref": "paper", "yref": "paper", "showarrow": False, "font": {"color": d.muted}}],
    }  # fmt: skip
    return house.picture(data, layout, theme=theme, title=title, revision=revision(record, "expert_card"))


def caption(record: Record, *, step: int = 0, selected: Any = None) -> str:
    """Return what the expert mostly takes."""
    layer, expert, rows, total = _top(record, step, selected)
    if not rows:
        return f"Expert {expert} of {grid.named(record, layer)} is no token's first choice."
    share = total / len(record.column("routing", "token_id"))
    held = sum(t for _, t, _ in rows) / total
    best = ", ".join(house.quoted(p) for p, _, _ in rows[:4])
    return f"Expert {expert} of {grid.named(record, layer)} is first for {words(share)} of the tokens; {len(rows)} ids are {words(held)} of them: {best}{' …' if len(rows) > 4 else ''}."


def say(record: Record, *, step: int = 0, selected: Any = None) -> str:
    """Return the sentence and the tokens."""
    _, _, rows, total = _top(record, step, selected)
    lines = [[house.token(p, 14), str(t), f"{t / max(1, total):.1%}", f"{t / n:.0%}"] for p, t, n in rows]
    return (
        caption(record, step=step, selected=selected)
        + "\n\n"
        + table(["token", "times", "of what it takes", "of the token"], lines)
    )


VIEW = View(
    name="expert_card",
    groups=("routing", "moe_layers"),
    question="What does this expert take?",
    reading=(
        "The ten commonest tokens whose first choice is the expert you clicked (else the busiest of the layer on show). Left: which part of all it takes first; right: which part of the token's "
        "occurrences comes to this expert. A full grey bar means that the token nearly always comes here."
    ),
    draw=draw,
    say=say,
    caption=caption,
    steps="moe_layers",
    lasting=True,
)

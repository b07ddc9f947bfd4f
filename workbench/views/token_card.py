"""Where does this token go in other places? The first experts of every occurrence of one token id."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from workbench import theme as house
from workbench.views import View
from workbench.views import routing_grid as grid
from workbench.views.common import Spec, error_bars, note, plural, revision, table
from workbench.views.routing_grid import words

if TYPE_CHECKING:
    from workbench.record import Record


def _same(record: Record, token: Any) -> tuple[int, np.ndarray]:
    """Return (token, all occurrences of its id); by default the commonest id."""
    ids, at = record.column("routing", "token_id"), grid.token_of(record, token)
    if at is None:
        values, times = np.unique(ids, return_counts=True)
        at = int(np.flatnonzero(ids == values[times.argmax()])[0])
    return at, np.flatnonzero(ids == ids[at])


def _share(record: Record, layer: int, rows: np.ndarray) -> np.ndarray:
    first = record.column("routing", "expert")[layer, :, 0][rows]
    return np.bincount(first, minlength=grid.experts(record)) / max(1, len(rows))


def draw(record: Record, *, step: int = 0, token: int | None = None, theme: str = "light", title: str = "") -> Spec:
    """Return the share of the id's occurrences by first expert, beside that of all tokens.

    Args:
        step: row of `routing`. token: index of a token; None: one of the commonest id.
    """
    d, layer = house.design(theme), grid.layer_of(record, step)
    at, rows = _same(record, token)
    share, everyone = _share(record, layer, rows), _share(record, layer, np.arange(len(record.column("routing", "token_id"))))
    spread = np.sqrt(share * (1 - share) / len(rows))
    size = grid.experts(record)
    here = int(record.column("routing", "expert")[layer, at, 0])
    colours = [house.expert(i, theme) for i in range(size)]
    data = [
        {
            "type": "bar", "x": list(range(size)), "y": share.round(4).tolist(), "name": "this token id", "marker": {"color": colours, "line": {
                "color": [d.line("selected") if i == here else c for i, c in enumerate(colours)], "width": [3 if i == here else 1 for i in range(size)]}},
            "error_y": error_bars(share, share - spread, share + spread, d.text) if len(rows) > 1 else {}, "hovertemplate": "expert %{x}: %{y:.0%} of its occurrences<extra></extra>",
        },
        {
            "type": "scatter", "mode": "markers", "x": list(range(size)), "y": everyone.round(4).tolist(), "name": "all tokens",
            "marker": {"symbol": "line-ew", "size": 16, "line": {"color": d.text, "width": 2}}, "hovertemplate": "expert %{x}: %{y:.0%} of all tokens<extra></extra>",
        },
    ]  # fmt: skip
    layout = {
        "height": 320, "bargap": 0.25, "xaxis": {"title": {"text": "first expert"}, "dtick": 1 if size <= 16 else 8, "showgrid": False},
        "yaxis": {"range": [0, 1.02], "tickformat": ".0%", "title": {"text": "share of its occurrences"}},
        "annotations": [note(f"{house.label(grid.pieces(record, at, at + 1)[0], 24)}, {plural(len(rows), 'occurrence')}; dash: all tokens", theme, x=1, y=0.99)],
    }  # fmt: skip
    return house.picture(data, layout, theme=theme, title=title, revision=revision(record, "token_card"))


def caption(record: Record, *, step: int = 0, token: int | None = None) -> str:
    """Return the id's favourite expert and how sure it is."""
    layer = grid.layer_of(record, step)
    at, rows = _same(record, token)
    share = _share(record, layer, rows)
    name = house.quoted(grid.pieces(record, at, at + 1)[0])
    if len(rows) == 1:
        return f"{name} occurs once: it goes to expert {int(share.argmax())} in {grid.named(record, layer)}."
    few = " Under 50 occurrences, so the shares are rough." if len(rows) < 50 else ""
    return f"{name} occurs {len(rows)} times; {words(float(share.max()))} of them go to expert {int(share.argmax())} in {grid.named(record, layer)}.{few}"


def say(record: Record, *, step: int = 0, token: int | None = None) -> str:
    """Return the sentence and the shares by expert."""
    layer = grid.layer_of(record, step)
    _, rows = _same(record, token)
    share, everyone = _share(record, layer, rows), _share(record, layer, np.arange(len(record.column("routing", "token_id"))))
    lines = [[str(i), f"{s:.1%}", f"{e:.1%}"] for i, (s, e) in enumerate(zip(share, everyone))]
    return caption(record, step=step, token=token) + "\n\n" + table(["expert", "this token", "all tokens"], lines)


VIEW = View(
    name="token_card",
    groups=("routing", "moe_layers"),
    question="Where does this token go in other places?",
    reading=(
        "All occurrences of the token you clicked in the text, wherever they stand: the share that goes first to each expert of the layer on show (colours as in the text); thin bars are one standard "
        "error, the dashes are the shares of all tokens, the pink outline is where the clicked occurrence goes. One high bar: the id decides. Many low ones: the context does."
    ),
    draw=draw,
    say=say,
    caption=caption,
    steps="moe_layers",
)

"""Which tokens go where? The text in the colours of its experts, the dropped ones struck out, one expert followed through all layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from workbench import theme as house
from workbench.views import View
from workbench.views import routing_grid as grid
from workbench.views.common import Spec, note, revision, table
from workbench.views.routing_grid import words
from workbench.views.token_strip import COLUMNS, LINE, _boxes, _lines

if TYPE_CHECKING:
    from workbench.record import Record

MOST = 300  # tokens on show around the chosen one


def draw(
    record: Record, *, step: int = 0, selected: Any = None, token: int | None = None, theme: str = "light", title: str = ""
) -> Spec:
    """Return the text around a token, each token on its first expert's colour.

    Args:
        step: row of `routing`. selected: `row * E + expert`: its tokens are ringed, the others fade.
        token: index of the token in the ring; its surroundings are shown. None: the beginning.
    """
    d, layer = house.design(theme), grid.layer_of(record, step)
    first, last = _stretch(record, token)
    shown = [house.token(p, 18) for p in grid.pieces(record, first, last)]
    left, line, size = _lines(shown)
    expert, dropped = (record.column("routing", n)[layer, first:last] for n in ("expert", "dropped"))
    mine = grid.held(record, selected, first, last)
    held = np.ones(last - first, bool) if mine is None else mine
    data: list[Spec] = []
    for i in np.unique(expert[:, 0]).tolist():
        for strong in (True, False):
            rows = np.flatnonzero((expert[:, 0] == i) & (held == strong))
            if len(rows):
                x, y = _boxes(left[rows], line[rows], size[rows], 0.06)
                data.append({
                    "type": "scatter", "mode": "lines", "x": x, "y": y, "fill": "toself", "fillcolor": house.expert(i, theme), "line": {"width": 0}, "hoverinfo": "skip",
                    "opacity": 0.5 if strong else 0.1, "name": f"expert {i}", "showlegend": strong and len(shown) > 0, "legendgroup": f"e{i}",
                })  # fmt: skip
    for rows, name, meaning, dash in (
        (np.flatnonzero(dropped.any(1)), "lost a choice", "rejected", "dot"),
        (np.flatnonzero(held) if mine is not None else np.zeros(0, int), "goes to the chosen expert", "selected", "solid"),
    ):
        if len(rows):
            x, y = _boxes(left[rows], line[rows], size[rows], 0.1)
            data.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "x": x,
                    "y": y,
                    "name": name,
                    "hoverinfo": "skip",
                    "line": {"color": d.line(meaning), "width": 1.8, "dash": dash},
                }
            )
    if token is not None:
        x, y = _boxes(left[[token - first]], line[[token - first]], size[[token - first]], -0.05)
        data.append({
            "type": "scatter", "mode": "lines", "x": x, "y": y, "name": "this token", "hoverinfo": "skip", "line": {"color": d.line("selected"), "width": 3}, "showlegend": False,
        })  # fmt: skip
    data.append({
        "type": "scatter", "mode": "text", "x": (left + size / 2).tolist(), "y": line.tolist(), "text": [house.escape(s, quote=False) for s in shown], "name": "tokens",
        "showlegend": False, "customdata": list(range(first, last)), "hoverinfo": "text", "textfont": {"family": house.MONO, "size": 12, "color": d.text},
        "hovertext": [_hover(record, layer, first + i, expert[i], dropped[i], p) for i, p in enumerate(shown)],
    })  # fmt: skip
    rows_ = int(line.max()) + 1
    where = f"tokens {first} to {last - 1} of {len(record.column('routing', 'token_id'))}"
    layout = {
        "height": min(rows_, 40) * LINE + 110, "showlegend": True, "margin": {"l": 8, "r": 8, "b": 24}, "hovermode": "closest",
        "xaxis": {"visible": False, "range": [-0.5, COLUMNS + 0.5], "fixedrange": True}, "yaxis": {"visible": False, "range": [rows_ - 0.4, -0.6], "fixedrange": True},
        "annotations": [note(where, theme, x=1, y=0)],
    }  # fmt: skip
    return house.picture(data, layout, theme=theme, title=title, revision=revision(record, "routed_text"))


def _stretch(record: Record, token: Any) -> tuple[int, int]:
    count = len(record.column("routing", "token_id"))
    at = grid.token_of(record, token)
    first = 0 if at is None else max(0, min(count - MOST, at - MOST // 2))
    return first, min(count, first + MOST)


def _hover(record: Record, layer: int, token: int, expert: np.ndarray, dropped: np.ndarray, piece: str) -> str:
    parts = [f"{'✕ ' if lost else ''}expert {e}" for e, lost in zip(expert.tolist(), dropped.tolist())]
    return f"token {token}: {house.escape(piece, quote=False)}<br>{', then '.join(parts)}"


def caption(record: Record, *, step: int = 0, selected: Any = None, token: int | None = None) -> str:
    """Return what the chosen expert takes, or where the clicked token goes in every layer."""
    layer, chosen = grid.layer_of(record, step), grid.chosen_expert(record, selected)
    at = grid.token_of(record, token)
    if at is not None:
        expert = record.column("routing", "expert")[:, at]
        path = "; ".join(f"{grid.named(record, i)}: " + " and ".join(map(str, e)) for i, e in enumerate(expert[:6].tolist()))
        return f"Token {at}, {house.quoted(grid.pieces(record, at, at + 1)[0])}, goes to experts {path}{' …' if len(expert) > 6 else ''}."
    if chosen is not None:
        mine = (record.column("routing", "expert")[chosen[0]] == chosen[1]).any(1)
        return f"Expert {chosen[1]} of {grid.named(record, chosen[0])} takes {words(float(mine.mean()))} of the tokens: the ringed ones."
    lost = record.column("routing", "dropped")[layer].any(1).mean()
    return f"Each token stands on the colour of its first expert in {grid.named(record, layer)}; {words(float(lost))} of all tokens lose a choice. Click a token for its card."


def say(record: Record, *, step: int = 0, selected: Any = None, token: int | None = None) -> str:
    """Return the sentence and the first tokens with their experts."""
    layer = grid.layer_of(record, step)
    first, last = _stretch(record, token)
    at = first if token is None else max(first, token - 10)
    last = min(last, at + 24)
    expert, dropped = (record.column("routing", n)[layer, at:last] for n in ("expert", "dropped"))
    rows = [
        [str(at + i), house.token(p, 14), " ".join(map(str, e)), "dropped" if lost.any() else ""]
        for i, (p, e, lost) in enumerate(zip(grid.pieces(record, at, last), expert.tolist(), dropped))
    ]
    return caption(record, step=step, selected=selected, token=token) + "\n\n" + table(["token", "", "experts", ""], rows)


VIEW = View(
    name="routed_text",
    groups=("routing", "moe_layers"),
    question="Which tokens go where?",
    reading=(
        "The text in reading order; the colour is the token's first expert in the layer on show, experts in a fixed order of colours that repeats past nine (the number is in the "
        "hover). A dotted red frame: at least one of its experts was full. Click an expert in another picture and its tokens are ringed here, the others fade; click a "
        "token here to see its card."
    ),
    draw=draw,
    say=say,
    caption=caption,
    steps="moe_layers",
    lasting=True,
)

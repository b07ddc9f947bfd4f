"""What does one head look at, from the whole text down to single tokens? Detail follows the zoom."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench import theme as house
from workbench.errors import InputError, expected
from workbench.views import View
from workbench.views.attention_grid import colours, edges, span
from workbench.views.common import Spec, revision, table

if TYPE_CHECKING:
    from workbench.record import Record

CELLS = 96  # most rows and columns of one picture: a part of as many tokens is exact
ASKED = 24  # most queries that stand for a bin: of 32,000 tokens a bin has 340, and all of them would take a quarter of a minute
NAMED = 40  # at most so many tokens are written beside the axes
Window = tuple[float, float, float, float]


def draw(record: Record, *, selected: Any = None, window: Window | None = None, theme: str = "light", title: str = "") -> Spec:
    """Return the head's probabilities in a part of the text.

    Args:
        selected: `layer * heads + head`; a head of another layer than the recorded one is an error.
        window: first and last key, first and last query, in tokens (any order); None: the whole text.
    """
    head = _head(record, selected)
    keys, queries = _part(record, window)
    mass, k_cuts, q_cuts = probabilities(record, head, keys, queries)
    exact = len(k_cuts) - 1 == keys[1] - keys[0] and len(q_cuts) - 1 == queries[1] - queries[0]
    centres = [(cuts[:-1] + cuts[1:] - 1) / 2 for cuts in (k_cuts, q_cuts)]
    z = [[None if v != v else round(v, 4) for v in row] for row in mass.tolist()]
    data = [
        {
            "type": "heatmap", "z": z, "x": centres[0].tolist(), "y": centres[1].tolist(), "zmin": 0, "zmax": 1 if not exact else max(0.2, float(np.nanmax(mass))),
            **colours(theme), "name": "mass", "hovertemplate": "token %{y} → token %{x}<br>%{z:.1%}<extra></extra>",
            "colorbar": {"title": {"text": "probability" if exact else "share"}, "tickformat": ".0%", "thickness": 12, "len": 0.8},
        }
    ]  # fmt: skip
    layout = {
        "meta": {"zoom": True}, "dragmode": "zoom", "height": 440,
        "xaxis": _axis(record, keys, "token looked at", exact), "yaxis": _axis(record, queries, "token that looks", exact) | {"range": [queries[1] - 0.5, queries[0] - 0.5]},
    }  # fmt: skip
    return house.picture(data, layout, theme=theme, title=title, revision=f"{revision(record, 'head_zoom')} {keys} {queries}")


def _head(record: Record, selected: Any) -> int:
    """Return the head to draw: the chosen one's number, in the layer that was kept."""
    heads = record.column("heads", "query").shape[0]
    if selected is None:
        return 0
    if not isinstance(selected, (int, np.integer)) or selected < 0:
        raise InputError(expected("selected", f"layer * {heads} + head", repr(selected)))
    return int(selected) % heads


def _part(record: Record, window: Window | None) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return [first, last) of keys and of queries, inside the text and not empty."""
    length = record.column("heads", "query").shape[1]
    if window is None:
        return (0, length), (0, length)
    parts = []
    for a, b in ((window[0], window[1]), (window[2], window[3])):
        low, high = sorted((a, b))
        first = int(np.clip(np.ceil(low - 0.25), 0, length - 1))
        parts.append((first, int(np.clip(np.floor(high + 0.25) + 1, first + 1, length))))
    return parts[0], parts[1]


def probabilities(
    record: Record, head: int, keys: tuple[int, int], queries: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (mass, key edges, query edges): what the queries of a bin put on the keys of a bin, mean over queries, summed over keys.

    A part of at most `CELLS` tokens a side is exact, token by token; what lies in the future is NaN. Of a bin of more than `ASKED`
    queries that many are asked, evenly spread.
    """
    query, key, log_sum = (record.column("heads", n) for n in ("query", "key", "log_sum"))
    attrs = record.group_attrs("heads")
    cap, reach = float(attrs.get("softcap", 0)), int(attrs.get("window", 0)) or query.shape[1]  # 0: none
    group = query.shape[0] // key.shape[0]
    k_cuts, q_cuts = (edges(b - a, min(CELLS, b - a)) + a for a, b in (keys, queries))
    mass = np.full((len(q_cuts) - 1, len(k_cuts) - 1), np.nan)
    own_keys = key[head // group, keys[0] : keys[1]]
    at = np.arange(keys[0], keys[1])
    for row, (a, b) in enumerate(itertools.pairwise(q_cuts)):
        asked = np.arange(a, b) if b - a <= ASKED else np.linspace(a, b - 1, ASKED).round().astype(int)
        scores = query[head, asked] @ own_keys.T
        scores = (cap * np.tanh(scores / cap) if cap else scores) - log_sum[head, asked, None]
        far = asked[:, None] - at[None]
        law = np.where((far >= 0) & (far < reach), np.exp(np.minimum(scores, 0.0)), 0.0)
        pooled = np.add.reduceat(law.mean(0), k_cuts[:-1] - keys[0])
        mass[row] = np.where(k_cuts[:-1] <= b - 1, pooled, np.nan)
    return mass, k_cuts, q_cuts


def _axis(record: Record, part: tuple[int, int], words: str, exact: bool) -> Spec:
    axis: Spec = {"title": {"text": words}, "showgrid": False, "range": [part[0] - 0.5, part[1] - 0.5]}
    if exact and part[1] - part[0] <= NAMED and "piece" in record.variables("attention"):
        pieces = record.column("attention", "piece")[part[0] : part[1]]
        axis |= {
            "tickvals": list(range(*part)),
            "ticktext": [house.escape(house.token(str(p), 10), quote=False) for p in pieces],
            "tickfont": {"family": house.MONO, "size": 10},
        }
    return axis


def caption(record: Record, *, selected: Any = None, window: Window | None = None) -> str:
    """Return which part is shown, how finely, and its strongest look."""
    head, layer = _head(record, selected), int(record.group_attrs("heads")["layer"])
    keys, queries = _part(record, window)
    mass, k_cuts, q_cuts = probabilities(record, head, keys, queries)
    finest = max(int(np.diff(k_cuts).max()), int(np.diff(q_cuts).max()))
    row, column = np.unravel_index(np.nanargmax(mass), mass.shape)
    some = f", each row seen by {ASKED} of its tokens" if int(np.diff(q_cuts).max()) > ASKED else ""
    what = "single tokens" if finest == 1 else f"bins of up to {finest} tokens{some}: drag a rectangle to look closer"
    q, k = (span(record, int(c[i]), int(c[i + 1]), 16) for c, i in ((q_cuts, row), (k_cuts, column)))
    heads = record.column("heads", "query").shape[0]
    other = (
        ""
        if selected is None or selected // heads == layer
        else f" (you chose layer {selected // heads}; kept for zooming is look_layer)"
    )
    return f"Layer {layer}, head {head}{other}, {what}. Strongest here: {q} → {k}, {mass[row, column]:.0%}."


def say(record: Record, *, selected: Any = None, window: Window | None = None) -> str:
    """Return the sentence and, for up to twelve rows, what they look at most."""
    head = _head(record, selected)
    keys, queries = _part(record, window)
    mass, k_cuts, q_cuts = probabilities(record, head, keys, queries)
    rows = []
    for i in np.unique(np.linspace(0, len(mass) - 1, 12).astype(int)):
        best = int(np.nanargmax(np.nan_to_num(mass[i], nan=-1.0)))
        rows.append(
            [
                span(record, int(q_cuts[i]), int(q_cuts[i + 1])),
                span(record, int(k_cuts[best]), int(k_cuts[best + 1])),
                f"{mass[i, best]:.1%}",
            ]
        )
    return caption(record, selected=selected, window=window) + "\n\n" + table(["who looks", "at", "share"], rows)


VIEW = View(
    name="head_zoom",
    groups=("heads", "attention"),
    question="What does this head look at, token by token?",
    reading=(
        "Rows look, columns are looked at; the upper right is the future, which nobody sees. Drag a rectangle to zoom: the detail is computed for "
        "the part on show, down to exact pairs of tokens; double click for the whole text. Only one layer's heads are kept for this."
    ),
    draw=draw,
    say=say,
    caption=caption,
)

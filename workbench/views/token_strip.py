"""Which tokens matter in this layer? The text coloured by score, the kept ones framed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from plotly.colors import sample_colorscale

from workbench import theme as house
from workbench.errors import InputError, expected
from workbench.views import View
from workbench.views.attention_grid import chosen_head
from workbench.views.common import Spec, note, plural, revision, table

if TYPE_CHECKING:
    from workbench.record import Record

MOST = 420  # tokens shown around the chosen one
COLUMNS, LINE = 64, 22
SHADES = 9


def draw(record: Record, *, token: int | None = None, selected: Any = None, theme: str = "light", title: str = "") -> Spec:
    """Return the text around a token in a grid of letters.

    Args:
        token: position of the token in the ring; its surroundings are shown. None: the end of the text.
        selected: `layer * heads + head`: the layer whose scores are shown.
    """
    d, layer = house.design(theme), chosen_head(record, selected)[0]
    score, keep = record.column("attention", "token_score")[layer], record.column("attention", "keep")[layer]
    first, last = _stretch(record, token)
    pieces = [str(p) for p in record.column("attention", "piece")[first:last]]
    shown = [house.token(p, 18) for p in pieces]
    left, line, size = _lines(shown)
    rank = np.argsort(np.argsort(score)) / max(1, len(score) - 1)
    level = np.minimum((rank[first:last] ** 3 * SHADES).astype(int), SHADES - 1)
    scale = sample_colorscale("Cividis", np.linspace(1, 0, SHADES) if theme == "light" else np.linspace(0, 1, SHADES))
    data: list[Spec] = []
    for shade in range(SHADES):
        rows = np.flatnonzero(level == shade)
        if len(rows):
            x, y = _boxes(left[rows], line[rows], size[rows], 0.06)
            data.append({
                "type": "scatter", "mode": "lines", "x": x, "y": y, "fill": "toself", "fillcolor": scale[shade], "line": {"width": 0}, "hoverinfo": "skip",
                "opacity": 0.75, "showlegend": False, "name": f"score, step {shade + 1} of {SHADES}",
            })  # fmt: skip
    for stays, name, meaning, dash in ((True, "kept", "accepted", "solid"), (False, "skipped", "rejected", "dot")):
        rows = np.flatnonzero(keep[first:last] == stays)
        if len(rows):
            x, y = _boxes(left[rows], line[rows], size[rows], 0.1)
            data.append({
                "type": "scatter", "mode": "lines", "x": x, "y": y, "name": name, "hoverinfo": "skip", "line": {"color": d.line(meaning), "width": 1.6, "dash": dash},
            })  # fmt: skip
    if token is not None:
        x, y = _boxes(left[[token - first]], line[[token - first]], size[[token - first]], -0.05)
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": x,
                "y": y,
                "name": "this token",
                "hoverinfo": "skip",
                "line": {"color": d.line("selected"), "width": 3},
            }
        )
    data.append({
        "type": "scatter", "mode": "text", "x": (left + size / 2).tolist(), "y": line.tolist(), "text": [house.escape(s, quote=False) for s in shown], "name": "tokens",
        "showlegend": False, "customdata": list(range(first, last)), "hoverinfo": "text",
        "textfont": {"family": house.MONO, "size": 12, "color": [_ink(scale[v]) for v in level]},
        "hovertext": [f"token {first + i}: {house.label(p, 40)}<br>score {score[first + i]:.2g}, {'kept' if keep[first + i] else 'skipped'}" for i, p in enumerate(pieces)],
    })  # fmt: skip
    lines = int(line.max()) + 1
    cut = f"tokens {first} to {last - 1} of {len(score)}" if last - first < len(score) else ""
    layout = {
        "height": lines * LINE + 80, "showlegend": True, "margin": {"l": 8, "r": 8, "b": 8}, "hovermode": "closest",
        "xaxis": {"visible": False, "range": [-0.5, COLUMNS + 0.5], "fixedrange": True}, "yaxis": {"visible": False, "range": [lines - 0.4, -0.6], "fixedrange": True},
        "annotations": [note(cut, theme, x=1, y=1)] if cut else [],
    }  # fmt: skip
    return house.picture(data, layout, theme=theme, title=title, revision=revision(record, "token_strip"))


def _stretch(record: Record, token: int | None) -> tuple[int, int]:
    length = record.column("attention", "keep").shape[1]
    if token is not None and not (isinstance(token, (int, np.integer)) and 0 <= token < length):
        raise InputError(expected("token", f"a position from 0 to {length - 1}", repr(token)))
    first = max(0, min(length - MOST, (length if token is None else token) - MOST // 2))
    return first, min(length, first + MOST)


def _lines(shown: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    sizes = np.array([house.width(s) + 1 for s in shown], float)
    left, line = np.zeros(len(sizes)), np.zeros(len(sizes))
    x = y = 0.0
    for i, size in enumerate(sizes):
        if x and x + size > COLUMNS:
            x, y = 0.0, y + 1
        left[i], line[i] = x, y
        x += size
    return left, line, sizes


def _boxes(left: np.ndarray, line: np.ndarray, size: np.ndarray, inset: float) -> tuple[list[float | None], list[float | None]]:
    """Return closed outlines with gaps between them."""
    a, b, c, e = left + inset, left + size - inset, line - 0.42 + inset, line + 0.42 - inset
    gap = np.full(len(left), np.nan)
    x, y = np.stack([a, b, b, a, a, gap], 1), np.stack([c, c, e, e, c, gap], 1)
    return [None if v != v else round(v, 2) for v in x.ravel().tolist()], [
        None if v != v else round(v, 2) for v in y.ravel().tolist()
    ]


def _ink(shade: str) -> str:
    """Return black or white, whichever stands out more from a colour "rgb(r, g, b)"."""
    r, g, b = (float(v) for v in shade[4:-1].split(","))
    hex_ = f"#{int(r):02x}{int(g):02x}{int(b):02x}"
    return max(("#000000", "#ffffff"), key=lambda ink: house.contrast(ink, hex_))


def caption(record: Record, *, token: int | None = None, selected: Any = None) -> str:
    """Return what the layer keeps, or how the token fares in all layers."""
    layer, keep = chosen_head(record, selected)[0], record.column("attention", "keep")
    _stretch(record, token)
    if token is None:
        return f"Layer {layer} keeps {keep[layer].mean():.0%} of the tokens. Click a token to see who looks at it."
    name = house.quoted(str(record.column("attention", "piece")[token]))
    return f"Token {token}, {name}: kept by {int(keep[:, token].sum())} of {plural(len(keep), 'layer')}."


def say(record: Record, *, token: int | None = None, selected: Any = None) -> str:
    """Return the sentence and the ten best tokens of the layer."""
    layer = chosen_head(record, selected)[0]
    score, keep = (record.column("attention", n)[layer] for n in ("token_score", "keep"))
    pieces = record.column("attention", "piece")
    best = np.argsort(-score, kind="stable")[:10]
    rows = [[str(i), house.token(str(pieces[i]), 18), f"{score[i]:.3g}", "kept" if keep[i] else "skipped"] for i in best]
    return caption(record, token=token, selected=selected) + "\n\n" + table(["token", "", "score", ""], rows)


VIEW = View(
    name="token_strip",
    groups=("attention",),
    question="Which tokens matter in this layer?",
    reading=(
        "The text in reading order, one box a token. The fill is the token's rank by score in the layer of the chosen head (darker in the light "
        "design: higher). A solid green frame: kept; a dotted red one: skipped by this layer. Click a token: the ring marks it, and the "
        "picture beside shows who looks at it."
    ),
    draw=draw,
    say=say,
    caption=caption,
)

"""Who looks at this token? All layers, and all places of the text behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench import theme as house
from workbench.errors import InputError, expected
from workbench.views import View
from workbench.views.attention_grid import colours, edges, span
from workbench.views.common import Spec, revision, table

if TYPE_CHECKING:
    from workbench.record import Record


def draw(record: Record, *, token: int | None = None, theme: str = "light", title: str = "") -> Spec:
    """Return the probability that each bin of queries puts on one token, layer by layer.

    Args:
        token: its position; None: the first token, on which models park attention.
    """
    d, at = house.design(theme), _token(record, token)
    shares, cuts = _shares(record, at)
    layers, bins = shares.shape
    z = [[None if cuts[j + 1] <= at else round(float(v), 4) for j, v in enumerate(row)] for row in shares]
    data = [
        {
            "type": "heatmap", "z": z, "x": ((cuts[:-1] + cuts[1:] - 1) / 2).tolist(), "y": list(range(layers)), "zmin": 0, "zmax": max(0.02, float(shares.max())),
            **colours(theme), "name": "readers", "customdata": [[span(record, int(cuts[j]), int(cuts[j + 1])) for j in range(bins)]] * layers,
            "hovertemplate": "layer %{y}, tokens %{customdata}<br>put %{z:.2%} on it<extra></extra>",
            "colorbar": {"title": {"text": "share"}, "tickformat": ".1%", "thickness": 12, "len": 0.8},
        },
    ]  # fmt: skip
    layout = {
        "height": max(300, 13 * layers + 90), "shapes": [{"type": "line", "x0": at, "x1": at, "y0": -0.5, "y1": layers - 0.5, "line": {"color": d.line("selected"), "width": 3}}],
        "xaxis": {"range": [-0.5, cuts[-1] - 0.5], "title": {"text": "position of the tokens that look"}, "showgrid": False},
        "yaxis": {"range": [-0.5, layers - 0.5], "title": {"text": "layer"}, "showgrid": False},
    }  # fmt: skip
    return house.picture(data, layout, theme=theme, title=title, revision=revision(record, "token_readers"))


def _token(record: Record, token: int | None) -> int:
    length = record.column("readers", "received").shape[2]
    if token is not None and not (isinstance(token, (int, np.integer)) and 0 <= token < length):
        raise InputError(expected("token", f"a position from 0 to {length - 1}", repr(token)))
    return int(token or 0)


def _shares(record: Record, token: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (probability (L, B), edges of the bins of queries (B + 1,))."""
    received = record.column("readers", "received")
    return (received[:, :, token].astype(np.float64) / 255) ** 2, edges(received.shape[2], received.shape[1])


def caption(record: Record, *, token: int | None = None) -> str:
    """Return the layer and place that look at the token most."""
    at = _token(record, token)
    shares, cuts = _shares(record, at)
    behind = cuts[1:] > at
    layer, place = np.unravel_index(np.where(behind[None], shares, -1).argmax(), shares.shape)
    name = house.quoted(str(record.column("attention", "piece")[at])) if "piece" in record.variables("attention") else ""
    return (
        f"Token {at}, {name}: layer {layer} looks at it most, from tokens {cuts[place]} to {cuts[place + 1] - 1} with {shares[layer, place]:.1%} of their "
        f"attention; the mean over all layers and later tokens is {shares[:, behind].mean():.2%}."
    )


def say(record: Record, *, token: int | None = None) -> str:
    """Return the sentence and a row a layer."""
    at = _token(record, token)
    shares, cuts = _shares(record, at)
    behind = cuts[1:] > at
    rows = []
    for i, row in enumerate(shares):
        best = int(np.where(behind, row, -1).argmax())
        rows.append([str(i), f"{row[behind].mean():.2%}", span(record, int(cuts[best]), int(cuts[best + 1])), f"{row[best]:.1%}"])
    return caption(record, token=token) + "\n\n" + table(["layer", "mean", "most from tokens", "share"], rows)


VIEW = View(
    name="token_readers",
    groups=("readers", "attention"),
    question="Who looks at this token?",
    reading=(
        "The line marks the token; click another in the text beside. Each row is a layer, to the right runs the text behind the token: how much of "
        "their attention the tokens there put on it, mean over heads. Empty: before the token, where nobody can see it. Values are stored in "
        "255 steps of their square root."
    ),
    draw=draw,
    say=say,
    caption=caption,
)

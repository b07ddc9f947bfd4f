"""Which expert takes which token? A map of experts over the text, from the whole corpus down to single tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from workbench import theme as house
from workbench.views import View
from workbench.views import routing_grid as grid
from workbench.views.attention_grid import colours
from workbench.views.common import Spec, revision, skyline, table
from workbench.views.routing_grid import Window, words

if TYPE_CHECKING:
    from workbench.record import Record


def draw(
    record: Record, *, step: int = 0, selected: Any = None, window: Window | None = None, theme: str = "light", title: str = ""
) -> Spec:
    """Return the choices of one layer over the text, and the share that was dropped under them.

    Args:
        step: row of `routing` (0 = first layer with experts).
        selected: `row * E + expert`: the expert that is framed in its layer; its tokens are marked in every layer.
        window: first and last token, and two ordinates that do not matter; None: the whole text.
    """
    d, layer, size = house.design(theme), grid.layer_of(record, step), grid.experts(record)
    first, last = grid.part(record, window)
    exact = last - first <= grid.EXACT
    held = grid.held(record, selected, first, last)
    data = (_exact if exact else _pooled)(record, layer, first, last, held, theme)
    lines, names = grid.kinds(record, first, last, theme)
    chosen = grid.chosen_expert(record, selected)
    if chosen is not None and chosen[0] == layer:
        lines.append({
            "type": "rect", "x0": first - 0.5, "x1": last - 0.5, "y0": chosen[1] - 0.5, "y1": chosen[1] + 0.5, "line": {"color": d.line("selected"), "width": 3},
        })  # fmt: skip
    layout = {
        "height": int(np.clip(46 * size + 190, 420, 720)), "meta": {"zoom": True}, "dragmode": "zoom", "shapes": lines, "annotations": names,
        "margin": {"t": 66 if title else 34},
        "xaxis": {"anchor": "y2", "range": [first - 0.5, last - 0.5], "showgrid": False, "title": {"text": "token, text after text"}} | (_words(record, first, last) if last - first <= 44 else {}),
        "yaxis": {"range": [size - 0.5, -0.5], "domain": [0.24, 1], "showgrid": False, "title": {"text": "expert"}, "fixedrange": True, "dtick": 1 if size <= 16 else 8},
        "yaxis2": {"range": [0, 1], "domain": [0, 0.18], "tickformat": ".0%", "nticks": 3, "title": {"text": "dropped"}, "fixedrange": True},
    }  # fmt: skip
    return house.picture(data, layout, theme=theme, title=title, revision=f"{revision(record, 'routing_map')} {first} {last}")


def _heat(record: Record, layer: int, z: np.ndarray, x: np.ndarray, top: float, theme: str, words_: str) -> Spec:
    size = z.shape[0]
    return {
        "type": "heatmap", "z": np.round(z, 3).tolist(), "x": x.tolist(), "y": list(range(size)), "zmin": 0, "zmax": top, **colours(theme), "name": words_,
        "customdata": np.repeat(layer * size + np.arange(size), len(x)).reshape(size, -1).tolist(),
        "hovertemplate": "token %{x}, expert %{y}: %{z:.0%}<extra></extra>",
        "colorbar": {"title": {"text": words_.split()[0], "font": {"size": 12}}, "tickformat": ".0%", "thickness": 12, "len": 0.76, "y": 0.62, "nticks": 4},
    }  # fmt: skip


def _pooled(record: Record, layer: int, first: int, last: int, held: np.ndarray | None, theme: str) -> list[Spec]:
    """Return the share of each bin's choices by expert, the dropped share of the bin, and that of tokens held by the chosen expert."""
    share, lost, cuts = grid.shares(record, layer, first, last)
    centre = (cuts[:-1] + cuts[1:] - 1) / 2
    top = max(0.1, float(np.quantile(share, 0.995)))
    data = [_heat(record, layer, share, centre, top, theme, "share of choices"), _lost(centre, lost, theme)]
    if held is not None:
        part = np.add.reduceat(held.astype(float), cuts[:-1] - first) / np.diff(cuts)
        data.append({
            "type": "scatter", "mode": "lines", "x": centre.tolist(), "y": np.round(part, 4).tolist(), "yaxis": "y2", "name": "tokens of the chosen expert",
            "line": {"color": house.design(theme).line("selected"), "width": 2, "shape": "hvh"}, "hovertemplate": "token %{x}: %{y:.0%} go to the chosen expert<extra></extra>",
        })  # fmt: skip
    return data


def _lost(x: np.ndarray, lost: np.ndarray, theme: str) -> Spec:
    return skyline(
        x, np.round(lost, 4), house.design(theme).fill("rejected"), yaxis="y2", name="share dropped",
        hovertemplate="token %{x}: %{y:.0%} of the choices dropped<extra></extra>",
    )  # fmt: skip


def _exact(record: Record, layer: int, first: int, last: int, held: np.ndarray | None, theme: str) -> list[Spec]:
    """Return the router's probabilities of single tokens, a dot on each choice, a cross on each that was dropped."""
    d, size = house.design(theme), grid.experts(record)
    expert, dropped, weight = (record.column("routing", n)[layer, first:last] for n in ("expert", "dropped", "weight"))
    source = ("candidate", "probability") if "candidate" in record.variables("routing") else ("expert", "weight")
    candidate, probability = (record.column("routing", n)[layer, first:last] for n in source)
    z = np.zeros((size, last - first))
    np.put_along_axis(z.T, candidate.astype(np.int64), probability.astype(float), 1)
    x = np.arange(first, last)
    data = [_heat(record, layer, z, x, 1.0, theme, "probability")]
    names = [house.label(p) for p in grid.pieces(record, first, last)]
    for hit, name, mark in (
        (~dropped, "taken", {"symbol": "circle", "color": d.fill("accepted"), "line": {"color": d.background, "width": 1}}),
        (dropped, "dropped", {"symbol": "x", "color": d.fill("rejected"), "line": {"color": d.background, "width": 1}}),
    ):
        at, choice = np.nonzero(hit)
        data.append({
            "type": "scatter", "mode": "markers", "name": name, "x": (at + first).tolist(), "y": expert[at, choice].tolist(),
            "marker": mark | {"size": np.where(choice == 0, 9, 6).tolist()}, "customdata": (layer * size + expert[at, choice].astype(int)).tolist(),
            "text": [f"{names[i]}: choice {c + 1}, weight {weight[i, c]:.2f}, {name}" for i, c in zip(at, choice)],
            "hovertemplate": "token %{x} %{text}<extra></extra>",
        })  # fmt: skip
    if held is not None:
        rows = np.flatnonzero(held)
        data.append({
            "type": "scatter", "mode": "markers", "name": "tokens of the chosen expert", "x": np.repeat(rows + first, expert.shape[1]).tolist(), "y": expert[rows].ravel().tolist(),
            "marker": {"symbol": "circle-open", "size": 15, "color": d.line("selected"), "line": {"width": 2}}, "hoverinfo": "skip",
        })  # fmt: skip
    return [*data, _lost(x, dropped.mean(1), theme)]


def _words(record: Record, first: int, last: int) -> Spec:
    shown = [house.escape(house.token(p, 9), quote=False) for p in grid.pieces(record, first, last)]
    return {
        "tickvals": list(range(first, last)),
        "ticktext": shown,
        "tickangle": -90,
        "tickfont": {"family": house.MONO, "size": 11},
    }


def caption(record: Record, *, step: int = 0, selected: Any = None, window: Window | None = None) -> str:
    """Return where the layer's tokens go and how many lose a choice."""
    layer = grid.layer_of(record, step)
    first, last = grid.part(record, window)
    share, _, _ = grid.shares(record, layer, first, last)
    mean, dropped = share.mean(1), record.column("routing", "dropped")[layer, first:last]
    busy = int(mean.argmax())
    stretch = "" if window is None else f" of tokens {first} to {last - 1}"
    text = (
        f"In {grid.named(record, layer)} expert {busy} takes most: {words(mean[busy])} of the choices{stretch} (even would be {words(1 / len(mean))}); "
        f"{words(float(dropped.mean()))} of the choices find no slot."
    )
    chosen = grid.chosen_expert(record, selected)
    mine = grid.held(record, selected, first, last)
    if chosen is not None and mine is not None:
        text += f" Pink: the tokens of expert {chosen[1]} of {grid.named(record, chosen[0])}, {words(float(mine.mean()))} of all"
        if chosen[0] != layer and mine.any():
            spread = np.bincount(record.column("routing", "expert")[layer, first:last][mine].ravel(), minlength=len(mean))
            text += f"; here most of their choices fall on expert {int(spread.argmax())}"
        return text + "."
    if chosen is None and window is None:
        text += " Drag over a stretch to see single tokens; click a row to follow its expert."
    return text


def say(record: Record, *, step: int = 0, selected: Any = None, window: Window | None = None) -> str:
    """Return the sentence and each expert's share of the choices, kept and dropped."""
    layer = grid.layer_of(record, step)
    first, last = grid.part(record, window)
    expert, dropped = (record.column("routing", n)[layer, first:last] for n in ("expert", "dropped"))
    rows = []
    for i in range(grid.experts(record)):
        own = expert == i
        rows.append([str(i), f"{own.mean():.1%}", f"{dropped[own].mean():.1%}" if own.any() else "–"])
    return (
        caption(record, step=step, selected=selected, window=window)
        + "\n\n"
        + table(["expert", "of the choices", "of them dropped"], rows)
    )


VIEW = View(
    name="routing_map",
    groups=("routing", "moe_layers"),
    question="Which expert takes which token?",
    reading=(
        "Each row is an expert of the layer on show (step through the layers below), left to right run the tokens, text after text. From afar the colour is the share "
        "of a stretch's choices; zoomed in to a hundred tokens it is the router's probability, a dot is a choice that was taken (the larger one is the first), a "
        "cross one that found its expert full. The red area below is the share of choices dropped. An expert you clicked is framed in pink in its layer; in every layer its tokens are ringed (from afar the pink line below is their share)."
    ),
    draw=draw,
    say=say,
    caption=caption,
    steps="moe_layers",
    lasting=True,
    wide=True,
)

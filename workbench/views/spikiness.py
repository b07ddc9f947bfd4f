"""What do experts specialise in? Their shares by kind of text, by position and by token id, on one scale."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench import theme as house
from workbench.views import View
from workbench.views import routing_grid as grid
from workbench.views.attention_grid import colours
from workbench.views.common import Spec, revision, table, texts

if TYPE_CHECKING:
    from workbench.record import Record

PANELS = (("domain", "by kind of text"), ("position", "by position"), ("token", "by token"))


def draw(record: Record, *, step: int = 0, theme: str = "light", title: str = "") -> Spec:
    """Return three maps of the share of first choices, rows summing to one.

    Args:
        step: row of `routing`.
    """
    d, layer, data = house.design(theme), grid.layer_of(record, step), []
    layout: Spec = {"height": 440, "annotations": [], "margin": {"t": 78 if title else 46}}
    top = max(float(record.column(f"grouping/{name}", "share").max()) for name, _ in PANELS)
    size = grid.experts(record)
    for i, (name, words) in enumerate(PANELS):
        share, names = record.column(f"grouping/{name}", "share")[layer], texts(record, f"grouping/{name}", "name")
        shown = [house.escape(house.token(n, 12) if name == "token" else n, quote=False) for n in names]
        axis, rows = ("" if i == 0 else str(i + 1)), list(range(len(names)))
        times = record.column(f"grouping/{name}", "occurrences").tolist()
        data.append({
            "type": "heatmap", "z": np.round(share, 3).tolist(), "x": list(range(size)), "y": rows, "xaxis": f"x{axis}", "yaxis": f"y{axis}", "zmin": 0, "zmax": round(top, 2),
            **colours(theme), "name": words, "showscale": i == 2, "customdata": [[f"{s}, {t} tokens"] * size for s, t in zip(shown, times)],
            "hovertemplate": "%{customdata}<br>expert %{x}: %{z:.0%}<extra></extra>", "ygap": 1,
            "colorbar": {"title": {"text": "share", "side": "top", "font": {"size": 12}}, "tickformat": ".0%", "thickness": 10, "nticks": 3, "tickfont": {"size": 11}},
        })  # fmt: skip
        left, right = ((0.0, 0.24), (0.41, 0.65), (0.76, 1.0))[i]
        layout[f"xaxis{axis}"] = {
            "domain": [left, right],
            "title": {"text": "expert"},
            "showgrid": False,
            "anchor": f"y{axis}",
            "dtick": 1 if size <= 8 else 4,
        }
        layout[f"yaxis{axis}"] = {
            "range": [len(names) - 0.5, -0.5], "tickvals": rows, "ticktext": shown, "showgrid": False, "anchor": f"x{axis}",
            "tickfont": {"family": house.MONO if name == "token" else house.SANS, "size": 11},
        }  # fmt: skip
        layout["annotations"].append({
            "text": f"{words}<br><b>{_word(_score(record, name, layer))}</b>", "x": (left + right) / 2, "xanchor": "center", "y": 1.01, "xref": "paper", "yref": "paper", "yanchor": "bottom", "showarrow": False,
            "font": {"size": 13, "color": d.text},
        })  # fmt: skip
    return house.picture(data, layout, theme=theme, title=title, revision=revision(record, "spikiness"))


def _score(record: Record, name: str, layer: int) -> float:
    """Return the mean specialisation 1 - H / ln E of the rows, weighted by their tokens."""
    share = record.column(f"grouping/{name}", "share")[layer].astype(float)
    weight = record.column(f"grouping/{name}", "occurrences").astype(float)
    own = -np.where(share > 0, share * np.log(np.where(share > 0, share, 1)), 0).sum(1)
    return float(np.average(1 - own / np.log(max(2, share.shape[1])), weights=weight)) if weight.sum() else 0.0


def _word(score: float) -> str:
    return "spiky" if score > 0.3 else "uneven" if score > 0.08 else "flat"


def caption(record: Record, *, step: int = 0) -> str:
    """Return which grouping concentrates on few experts."""
    layer = grid.layer_of(record, step)
    scores = {words: _score(record, name, layer) for name, words in PANELS}
    listed = ", ".join(f"{w} {s:.2f} ({_word(s)})" for w, s in scores.items())
    return f"How far a row is from even, 0 to 1, in {grid.named(record, layer)}: {listed}."


def say(record: Record, *, step: int = 0) -> str:
    """Return the sentence and each row's favourite expert."""
    layer, rows = grid.layer_of(record, step), []
    for name, words in PANELS:
        share = record.column(f"grouping/{name}", "share")[layer]
        rows += [
            [words, house.token(n, 14), str(int(s.argmax())), f"{s.max():.0%}"]
            for n, s in zip(texts(record, f"grouping/{name}", "name"), share)
        ]
    return caption(record, step=step) + "\n\n" + table(["", "", "expert most chosen", "share"], rows)


VIEW = View(
    name="spikiness",
    groups=("grouping/domain", "grouping/position", "grouping/token", "routing", "moe_layers"),
    question="What do the experts specialise in?",
    reading=(
        "Three ways to group the same tokens, one scale: rows are kinds of text, positions in the text, and the commonest tokens; a cell is the share of a row's first choices that an expert "
        "takes. An even row is one tone; a spike is a group that nearly always goes to the same expert. The words above call a panel flat below 0.08 and spiky above 0.3, "
        "where 0 is even and 1 is always the same expert."
    ),
    draw=draw,
    say=say,
    caption=caption,
    steps="moe_layers",
    wide=True,
)

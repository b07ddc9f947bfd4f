"""How many experts must fit? Hits by size of the cache, each policy beside the most that any cache could hit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench import theme as house
from workbench.views import View
from workbench.views.common import Curves, Spec, note, revision, table
from workbench.views.routing_grid import words

if TYPE_CHECKING:
    from workbench.record import Record

GROUP = "curve/hit_rate"
BOUND, EVEN, FREE = "the most any cache can hit", "even independent draws, LRU", "LRU, experts at hand first"
#: name -> (meaning, marker, dash); "" draws marks without a line.
_STYLE = {
    BOUND: ("chosen", "star", "dash"),
    "Belady, as far as the queue tells": ("accepted", "diamond", "solid"),
    "LRU": ("target", "circle", "solid"),
    FREE: ("target", "circle-open", "dash"),
    "LFU": ("proposed", "square", "dash"),
    "random": ("rejected", "x", "dot"),
    EVEN: ("context", "line-ew", "dot"),
    "Belady, reported": ("context", "diamond-open", ""),
    "LRU, reported": ("context", "circle-open", ""),
}


def _order(record: Record, curves: Curves) -> list[str]:
    """Return the names as the lines lie at the present size, the highest first; what is reported comes last."""
    size = _size(record, curves)
    names = [n for n in _STYLE if n in curves.names]
    return sorted(names, key=lambda n: ("reported" in n, -_at(curves, n, size) if size in curves[n][0] else 0.0))


def _size(record: Record, curves: Curves) -> int:
    return int(record.group_attrs(GROUP).get("cache_size", np.median(curves["LRU"][0])))


def draw(record: Record, *, theme: str = "light", title: str = "") -> Spec:
    """Return one line a policy over the size of the cache; the present size is a vertical line."""
    d, curves, data = house.design(theme), Curves(record, GROUP), []
    for name in _order(record, curves):
        meaning, marker, dash = _STYLE[name]
        x, y, _, _ = curves[name]
        said = f"{name}, unverified" if "reported" in name else name
        data.append({
            "type": "scatter", "mode": "lines+markers" if dash else "markers", "name": said, "x": x.tolist(), "y": y.round(4).tolist(),
            **({"line": {"color": d.line(meaning), "width": 2 if dash == "solid" else 1.5, "dash": dash}} if dash else {}),
            "marker": {"symbol": marker, "size": 9 if not dash else 7, "color": d.line(meaning), "line": {"color": d.line(meaning), "width": 1.5}},
            "hovertemplate": f"{house.escape(said)}<br>%{{x:.0f}} experts: %{{y:.1%}}<extra></extra>",
        })  # fmt: skip
    size = record.group_attrs(GROUP).get("cache_size")
    shapes = (
        []
        if size is None
        else [
            {
                "type": "line",
                "x0": int(size),
                "x1": int(size),
                "yref": "paper",
                "y0": 0,
                "y1": 1,
                "line": {"color": d.line("selected"), "width": 1.5, "dash": "dot"},
            }
        ]
    )
    most = int(max(curves.x))
    layout = {
        "height": 420, "showlegend": True, "shapes": shapes,
        "xaxis": {"range": [0.7, most + 0.3], "dtick": 1, "title": {"text": curves.label("x")}}, "yaxis": {"range": [0, 1.02], "tickformat": ".0%", "title": {"text": curves.label("y")}},
        "annotations": [] if size is None else [note(" on show", theme, x=(int(size) - 0.7) / (most - 0.4), y=0.05, anchor="left")],
    }  # fmt: skip
    return house.picture(data, layout, theme=theme, title=title, revision=revision(record, "hit_rates"))


def _at(curves: Curves, name: str, size: int) -> float:
    x, y, _, _ = curves[name]
    return float(y[x == size][0])


def caption(record: Record) -> str:
    """Return what each policy hits at the present size, and what the published figures are."""
    curves = Curves(record, GROUP)
    size = _size(record, curves)
    belady, lru, most = (_at(curves, n, size) for n in ("Belady, as far as the queue tells", "LRU", BOUND))
    text = f"With room for {size}, LRU finds {words(lru)} of the experts, Belady with the queue's knowledge {words(belady)}, and no cache could find more than {words(most)} in this order."
    if FREE in curves.names:
        text += (
            f" Using what is at hand first within a batch costs nothing and lets plain LRU find {words(_at(curves, FREE, size))}."
        )
    if "LRU, reported" in curves.names:
        text += " The paper's rows (open marks, reported, unverified) are those of even draws among six experts (LRU: k/6), not of text."
    return text


def say(record: Record) -> str:
    """Return the sentence and the hits of every policy by size."""
    curves = Curves(record, GROUP)
    sizes = sorted(set(curves.x.tolist()))
    rows = [
        [
            name + (", unverified" if "reported" in name else ""),
            *(f"{_at(curves, name, int(k)):.1%}" if k in curves[name][0] else "" for k in sizes),
        ]
        for name in _order(record, curves)
    ]
    return caption(record) + "\n\n" + table(["experts in the cache", *(f"{k:.0f}" for k in sizes)], rows)


VIEW = View(
    name="hit_rates",
    groups=(GROUP,),
    question="How many experts must fit, and who should leave?",
    reading=(
        "The very uses of experts that the batches on show make, served again from caches of every size. Green: Belady's rule, which evicts what the queued tokens need last and knows nothing of tokens that "
        "are not there yet; blue, light blue and red: rules that know no future; orange: the whole future known, which no server has. A batch needs each expert once, so nothing repeats within it, and LRU is at its worst; the dashed blue line is LRU that uses what is at hand first, which is allowed (a batch's experts come in any order) and free. The dotted grey line is what LRU hits on even independent draws: k/N. "
        "Open marks are the paper's figures, reported and unverified, of another model and another stream; they lie where even draws among six experts would put them."
    ),
    draw=draw,
    say=say,
    caption=caption,
)

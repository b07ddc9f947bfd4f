"""What did cutting the model cost? Perplexity by kind of text: the dense model, its experts, and what they are compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench import theme as house
from workbench.views import View
from workbench.views.attention_grid import colours
from workbench.views.common import Spec, columns, error_bars, revision, table, texts

if TYPE_CHECKING:
    from workbench.record import Record

ALL, DENSE, ONLY = "all kinds", "dense", "only "
#: reader -> (how a reader of the picture calls it, meaning, marker), in the order of the legend.
_STYLE = {
    "dense": ("dense model", "target", "circle"),
    "domain": ("its own kind's expert", "accepted", "diamond"),
    "learned": ("experts by the learned router", "accepted", "diamond-open"),
    "table": ("experts by a table of token ids", "proposed", "square"),
    "random": ("a random expert for each token", "rejected", "x"),
    "another kind's": ("another kind's expert", "rejected", "triangle-up"),
    "random neurons": ("random neurons", "context", "cross"),
}


def values(record: Record) -> tuple[list[str], list[str], dict[tuple[str, str], tuple[float, float, float]]]:
    """Return (kinds, readers, {(kind, reader): (perplexity, low, high)})."""
    kind, reader = texts(record, "perplexity", "kind"), texts(record, "perplexity", "reader")
    found = zip(*(c.tolist() for c in columns(record, "perplexity", "value", "low", "high")), strict=True)
    return list(dict.fromkeys(kind)), list(dict.fromkeys(reader)), dict(zip(zip(kind, reader), found))


def draw(record: Record, *, theme: str = "light", title: str = "") -> Spec:
    """Return one column of marks a kind; with a study also how each single expert reads each kind, against the dense model."""
    d, (kinds, readers, found) = house.design(theme), values(record)
    known = [r for r in _STYLE if r in readers]
    alone = [r for r in readers if r.startswith(ONLY)]
    data: list[Spec] = []
    for i, r in enumerate(known):
        name, meaning, marker = _STYLE[r]
        v, low, high = np.array([found[k, r] for k in kinds]).T
        x = np.arange(len(kinds)) + (i - (len(known) - 1) / 2) * 0.09
        data.append({
            "type": "scatter", "mode": "markers", "name": name, "x": x.round(3).tolist(), "y": v.round(3).tolist(), "error_y": error_bars(v, low, high, d.line(meaning)) | {"width": 0},
            "marker": {"symbol": marker, "size": 9, "color": d.line(meaning), "line": {"color": d.line(meaning), "width": 1.5}}, "customdata": kinds,
            "hovertemplate": f"%{{customdata}}, {house.escape(name)}: perplexity %{{y:.3g}}<extra></extra>",
        })  # fmt: skip
    layout: Spec = {
        "height": 430, "showlegend": True,
        "xaxis": {"domain": [0, 0.6 if alone else 1], "tickvals": list(range(len(kinds))), "ticktext": kinds, "range": [-0.6, len(kinds) - 0.4], "showgrid": False},
        "yaxis": {"type": "log", "title": {"text": "perplexity of held-out text"}, "nticks": 7},
    }  # fmt: skip
    if alone:
        rows = [k for k in kinds if k != ALL]
        z = np.array([[found[k, r][0] / found[k, DENSE][0] for r in alone] for k in rows])
        data.append({
            "type": "heatmap", "z": np.log2(z).round(3).tolist(), "x": list(range(len(alone))), "y": list(range(len(rows))), "xaxis": "x2", "yaxis": "y2", **colours(theme), "zmin": 0,
            "zmax": round(max(1.0, float(np.log2(z).max())), 2), "showscale": False, "name": "times the dense perplexity", "showlegend": False,
            "text": [[f"{v:.2g}" for v in row] for row in z], "texttemplate": "%{text}", "hovertemplate": "%{y}, expert of %{x}: %{text} times the dense perplexity<extra></extra>", "xgap": 1, "ygap": 1,
        })  # fmt: skip
        short = [r.removeprefix(ONLY) for r in alone]
        layout["xaxis2"] = {
            "domain": [0.74, 1],
            "anchor": "y2",
            "tickvals": list(range(len(short))),
            "ticktext": short,
            "tickangle": -40,
            "showgrid": False,
            "title": {"text": "one expert, times dense"},
        }
        layout["yaxis2"] = {
            "anchor": "x2",
            "tickvals": list(range(len(rows))),
            "ticktext": rows,
            "range": [len(rows) - 0.5, -0.5],
            "showgrid": False,
        }
    return house.picture(data, layout, theme=theme, title=title, revision=revision(record, "expert_perplexity"))


def caption(record: Record) -> str:
    """Return what the experts read beside the dense model, the wrong expert and random neurons."""
    _, readers, found = values(record)
    dense = found[ALL, DENSE][0]
    told = [(r, found[ALL, r][0]) for r in ("learned", "domain", "another kind's", "random neurons") if r in readers]
    parts = ", ".join(f"{_STYLE[r][0]} {house.number(v)} ({house.number(v / dense)} times)" for r, v in told)
    return f"Perplexity over all kinds: dense {house.number(dense)}; {parts}. Nothing was trained after the cut."


def say(record: Record) -> str:
    """Return the sentence and every perplexity with its interval."""
    kinds, readers, found = values(record)
    rows = []
    for r in readers:
        name = _STYLE[r][0] if r in _STYLE else f"{r} (for all tokens)"
        rows.append([name, *(house.number(found[k, r][0]) for k in kinds)])
    return caption(record) + "\n\n" + table(["reader", *kinds], rows)


VIEW = View(
    name="expert_perplexity",
    groups=("perplexity",),
    question="What did cutting the model into experts cost?",
    reading=(
        "Each column is a kind of held-out text, up is worse (logarithmic): blue the dense model, green experts that are meant for the text, by its true kind or by the trained router, red experts that are "
        "not, grey as many neurons at random; thin bars are 95 % intervals over texts. On the right, where it was studied, every kind (row) read with one expert alone (column), as a multiple of "
        "the dense perplexity: small on the diagonal means that experts differ. All are true runs; no weight was changed after the cut."
    ),
    draw=draw,
    say=say,
    caption=caption,
    wide=True,
)

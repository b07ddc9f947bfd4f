"""Which tokens does each layer keep? A map of layers and positions, with the kept share beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench import theme as house
from workbench.views import View
from workbench.views.attention_grid import COARSEST, span
from workbench.views.common import Curves, Spec, revision, table

if TYPE_CHECKING:
    from workbench.record import Record


def draw(record: Record, *, theme: str = "light", title: str = "") -> Spec:
    """Return the kept share of every bin of positions in every layer, and every layer's kept share."""
    d, keep = house.design(theme), record.column("attention", "keep")
    share, width = _even(keep, COARSEST)
    ratio = record.column("attention", "keep_ratio")
    layers = list(range(len(keep)))
    data = [
        {
            "type": "heatmap", "z": (share * 100).round().astype(int).tolist(), "zmin": 0, "zmax": 100, "x0": (width - 1) / 2, "dx": width, "y": layers,
            "colorscale": [[0, d.background], [1, d.fill("accepted")]], "showscale": False, "name": "kept",
            "hovertemplate": "layer %{y}, around token %{x:.0f}: %{z} % kept<extra></extra>",
        },
        {
            "type": "bar", "orientation": "h", "x": ratio.round(4).tolist(), "y": layers, "xaxis": "x2", "name": "kept share",
            "marker": house.solid(theme, "accepted"), "hovertemplate": "layer %{y}: %{x:.1%} kept<extra></extra>",
        },
    ]  # fmt: skip
    data += _without_first(record, d)
    layout = {
        "height": max(300, 14 * len(keep) + 90),
        "xaxis": {
            "domain": [0, 0.76],
            "title": {"text": "position in the text, token"},
            "showgrid": False,
            "range": [0, keep.shape[1]],
        },
        "xaxis2": {"domain": [0.8, 1], "range": [0, 1], "tickformat": ".0%", "nticks": 3, "title": {"text": "share kept"}},
        "yaxis": {"title": {"text": "layer"}, "showgrid": False},
        "bargap": 0.25,
    }
    return house.picture(data, layout, theme=theme, title=title, revision=revision(record, "kept_tokens"))


def _even(keep: np.ndarray, bins: int) -> tuple[np.ndarray, float]:
    """Return the kept share of at most `bins` bins and their width in tokens: all the same, so that plotly can draw cells as pixels."""
    count = min(bins, keep.shape[1])
    cuts = np.linspace(0, keep.shape[1], count + 1).round().astype(np.int64)
    return np.add.reduceat(keep.astype(np.float64), cuts[:-1], axis=1) / np.diff(cuts), keep.shape[1] / count


def _without_first(record: Record, d: house.Design) -> list[Spec]:
    """Return marks of the share that each layer would need if nobody looked at the first token."""
    if "curve/ratio" not in record:
        return []
    curves = Curves(record, "curve/ratio")
    name = curves.find("without the first token")
    if name is None:
        return []
    layer, share, _, _ = curves[name]
    return [
        {
            "type": "scatter", "mode": "markers", "x": share.round(4).tolist(), "y": layer.tolist(), "xaxis": "x2", "name": name,
            "marker": {"symbol": "line-ns", "size": 9, "line": {"color": d.text, "width": 2}},
            "hovertemplate": "layer %{y}: %{x:.1%} needed without the first token<extra></extra>",
        }
    ]  # fmt: skip


def caption(record: Record) -> str:
    """Return the spread of the kept share, what that saves, and whether it is an estimate, in a sentence or two."""
    ratio, attrs = record.column("attention", "keep_ratio").astype(float), record.group_attrs("attention")
    least, most = int(ratio.argmin()), int(ratio.argmax())
    spread = (
        f"Layer {least} keeps {ratio[least]:.0%} of the tokens, layer {most} {ratio[most]:.0%}; {ratio.mean():.0%} on average"
    )
    if ratio[least] == ratio[most]:
        spread = f"Every layer keeps {ratio.mean():.0%} of the tokens"
        if ratio.mean() == 1:
            return spread + ": the dense run."
    if attrs.get("skip") == "keys":
        text = f"{spread}; all tokens ask and only these answer, so attention takes {ratio.mean():.0%} of its multiplications."
    else:
        text = f"{spread}, so attention takes {np.mean(ratio**2):.0%} of its multiplications (by the mean share one would say {ratio.mean() ** 2:.0%})."
    if attrs.get("replayed"):
        text += " Estimated from the recorded run until you let go: behind the first layer a run with this tau would see other inputs."
    return text


def say(record: Record) -> str:
    """Return the sentence and a table: share kept by layer, and the longest stretch that is skipped."""
    keep = record.column("attention", "keep")
    rows = [[str(i), f"{k.mean():.1%}", span(record, *_longest_gap(k))] for i, k in enumerate(keep)]
    return caption(record) + "\n\n" + table(["layer", "kept", "longest stretch skipped (tokens)"], rows)


def _longest_gap(keep: np.ndarray) -> tuple[int, int]:
    """Return [first, last) of the longest run of skipped tokens; an empty one at 0 if every token is kept."""
    padded = np.r_[True, keep, True]
    starts, stops = np.flatnonzero(padded[:-1] & ~padded[1:]), np.flatnonzero(~padded[:-1] & padded[1:])
    if not len(starts):
        return 0, 0
    best = int((stops - starts).argmax())
    return int(starts[best]), int(stops[best])


VIEW = View(
    name="kept_tokens",
    groups=("attention",),
    question="Which tokens does each layer read?",
    reading=(
        "Each row is a layer, the lowest first; left to right runs the text. Green: kept; empty: skipped in that layer (it exists "
        "again in the next). Where the text is longer than the picture, a column is the share kept of several tokens. The bars are "
        "each layer's kept share; the tick is what it would need if the first token, on which models park attention, did not count."
    ),
    draw=draw,
    say=say,
    caption=caption,
    wide=True,
)

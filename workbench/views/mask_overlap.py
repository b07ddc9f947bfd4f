"""How different are the experts? Neurons that two of them share, beside what chance would share, over depth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench import theme as house
from workbench.views import View
from workbench.views.attention_grid import colours
from workbench.views.common import Spec, revision, table, texts
from workbench.views.routing_grid import words

if TYPE_CHECKING:
    from workbench.record import Record


def _parts(record: Record) -> tuple[list[str], np.ndarray, np.ndarray, float]:
    """Return (names, IoU (L, N, N), mean IoU of different experts by layer (L,), chance)."""
    shared = record.column("masks", "shared").astype(float)
    keep = float(record.column("masks", "kept").mean())
    apart = ~np.eye(shared.shape[1], dtype=bool)
    return [str(n) for n in texts(record, "masks", "name")], shared, shared[:, apart].mean(1), keep / (2 - keep)


def draw(record: Record, *, theme: str = "light", title: str = "") -> Spec:
    """Return the mean over layers of every pair's overlap, and by layer the mean pair, the permanent part, and chance."""
    d, (names, shared, pairs, chance) = house.design(theme), _parts(record)
    layers, at = list(range(len(shared))), list(range(len(names)))
    data: list[Spec] = [{
        "type": "heatmap", "z": shared.mean(0).round(3).tolist(), "x": at, "y": at, "zmin": 0, "zmax": 1, **colours(theme), "showscale": False, "texttemplate": "%{z:.0%}", "xgap": 1, "ygap": 1,
        "name": "neurons in common", "showlegend": False, "hovertemplate": "%{y} and %{x}: %{z:.0%} of their neurons in common<extra></extra>",
    }]  # fmt: skip
    lines = (
        ("two experts, mean", pairs, "accepted", "solid", "circle"),
        ("held by all experts", record.column("masks", "permanent").astype(float), "chosen", "dash", "diamond"),
        ("two by chance", np.full(len(layers), chance), "context", "dot", None),
    )
    for name, y, meaning, dash, symbol in lines:
        data.append({
            "type": "scatter", "mode": "lines+markers" if symbol else "lines", "x": layers, "y": y.round(4).tolist(), "xaxis": "x2", "yaxis": "y2", "name": name,
            "line": {"color": d.line(meaning), "width": 2, "dash": dash}, **({"marker": {"symbol": symbol, "size": 6}} if symbol else {}), "hovertemplate": f"layer %{{x}}, {name}: %{{y:.0%}}<extra></extra>",
        })  # fmt: skip
    layout = {
        "height": 400, "showlegend": True,
        "xaxis": {"domain": [0, 0.4], "tickvals": at, "ticktext": names, "tickangle": -40, "showgrid": False}, "yaxis": {"range": [len(names) - 0.5, -0.5], "tickvals": at, "ticktext": names, "showgrid": False},
        "xaxis2": {"domain": [0.52, 1], "anchor": "y2", "title": {"text": "layer"}}, "yaxis2": {"anchor": "x2", "range": [0, 1.02], "tickformat": ".0%", "title": {"text": "share of neurons"}},
    }  # fmt: skip
    return house.picture(data, layout, theme=theme, title=title, revision=revision(record, "mask_overlap"))


def caption(record: Record) -> str:
    """Return how much two experts share beside chance, where least, and the part that all hold."""
    _, _, pairs, chance = _parts(record)
    permanent = record.column("masks", "permanent")
    return (
        f"Two experts share {words(float(pairs.mean()))} of the neurons that either holds (chance: {words(chance)}), least in layer {int(pairs.argmin())} ({words(float(pairs.min()))}); "
        f"{words(float(permanent.mean()))} of all neurons belong to every expert and never move."
    )


def say(record: Record) -> str:
    """Return the sentence and the pairs, mean over layers."""
    names, shared, _, _ = _parts(record)
    rows = [[n, *(f"{v:.0%}" for v in row)] for n, row in zip(names, shared.mean(0))]
    return caption(record) + "\n\n" + table(["neurons in common", *names], rows)


VIEW = View(
    name="mask_overlap",
    groups=("masks",),
    question="How different are the experts?",
    reading=(
        "Left: for each two experts, the neurons that both hold over those that either holds, mean over layers; 100 % is the same expert twice. Right: the same by depth (green, mean of all pairs), what two random choices of "
        "that size would share (dotted), and the neurons that every expert holds, which stay in memory (orange). Near 100 % there is little to specialise in, and little to load; near the dotted line "
        "the kinds of text excite unrelated neurons."
    ),
    draw=draw,
    say=say,
    caption=caption,
    wide=True,
)

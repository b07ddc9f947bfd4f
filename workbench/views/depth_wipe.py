"""What did joining change? Matching alone left of a line, the joined depth right of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench import theme as house
from workbench.views import View
from workbench.views import map_panels as panels
from workbench.views.common import Spec, has, revision

if TYPE_CHECKING:
    from workbench.record import Record

BOX = (0.0, 1.0, 0.0, 0.92)


def draw(record: Record, *, selected: int | None = None, theme: str = "light", title: str = "") -> Spec:
    """Return one depth map, wiped at the chosen pixel's column.

    Args:
        selected: chosen pixel, row * width + column.
    """
    _, column = panels.pixel_of(record, selected)
    before, after = record.column("maps", "depth_multi"), record.column("maps", "depth_fused")
    low, high = panels.depth_range(record)
    mixed = np.where(np.arange(before.shape[1]) < column, before, after)
    d = house.design(theme)
    data = [panels.panel(mixed, 0, digits=2, unit="m", name="depth", coloraxis="coloraxis")]
    if has(record, "maps", "moving_true"):
        data += panels.outline(record.column("maps", "moving_true"), 0, theme)
    line = {
        "type": "line",
        "x0": column - 0.5,
        "x1": column - 0.5,
        "y0": -0.5,
        "y1": before.shape[0] - 0.5,
        "line": {"color": house.MEANINGS["selected"].colour, "width": 3},
    }
    share = column / before.shape[1]
    words = [
        ("◀ matching alone", max(share - 0.01, 0.24), "right", "target"),
        ("both, joined ▶", min(share + 0.01, 0.8), "left", "accepted"),
    ]
    notes = [
        {"text": t, "x": x, "y": 0.93, "xref": "paper", "yref": "paper", "xanchor": a, "yanchor": "bottom", "showarrow": False, "font": {"size": 13, "color": d.ink(m)}}
        for t, x, a, m in words
    ]  # fmt: skip
    layout = panels.axes(0, before.shape, BOX) | {
        "height": int(90 + 560 * before.shape[0] / before.shape[1]), "shapes": [line], "annotations": notes, "dragmode": False,
        "coloraxis": {"colorscale": panels.DEPTH, "cmin": low, "cmax": high, "colorbar": panels.scale_bar("depth, metres", len=0.92, y=0.46)},
    }  # fmt: skip
    return house.picture(data, layout, theme=theme, title=title, revision=revision(record, "depth_wipe"))


def changed(record: Record) -> tuple[float, float]:
    """Return (share of pixels that joining moved by more than a tenth, median change in metres among them)."""
    before, after = record.column("maps", "depth_multi"), record.column("maps", "depth_fused")
    known = np.isfinite(before) & np.isfinite(after)
    off = np.abs(after[known] - before[known])
    far = off > 0.1 * before[known]
    return (float(far.mean()), float(np.median(off[far])) if far.any() else 0.0) if known.any() else (0.0, 0.0)


def caption(record: Record, *, selected: int | None = None) -> str:
    """Return how much joining changed."""
    share, median = changed(record)
    _, column = panels.pixel_of(record, selected)
    if not share:
        return f"Joining changed no pixel by more than a tenth; the line stands at column {column}."
    return f"Joining moved {share:.0%} of the pixels by more than a tenth of their depth, half of those by more than {median:.1f} m; the line stands at column {column}."


def say(record: Record, *, selected: int | None = None) -> str:
    """Return the sentence."""
    return caption(record, selected=selected) + " Click a column to move the line."


VIEW = View(
    name="depth_wipe",
    groups=("maps",),
    question="What did joining change?",
    reading=(
        "One depth map in two states: left of the line the cheapest match, right of it the depth after both laws are joined, on the same scale. "
        "Click where the line should stand. The dashed border encloses what truly moves."
    ),
    draw=draw,
    say=say,
    caption=caption,
)

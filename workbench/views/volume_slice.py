"""What does the volume itself look like? One row of pixels over depth, and one depth over all pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench import theme as house
from workbench.views import View
from workbench.views import map_panels as panels
from workbench.views.common import Spec, has, revision, table

if TYPE_CHECKING:
    from workbench.record import Record

LINES = (
    ("depth_true", "true", "text", "solid"),
    ("depth_multi", "matching", "target", "dash"),
    ("depth_fused", "joined", "accepted", "solid"),
)
ROW_BOX, PLANE_BOX = (0.0, 1.0, 0.47, 0.94), (0.0, 1.0, 0.0, 0.37)


def _place(record: Record, selected: int | None) -> tuple[int, int, int, int, np.ndarray]:
    """Return (row, column, row of the volume, depth plane on show, depths)."""
    row, column = panels.pixel_of(record, selected)
    step = int(record.group_attrs("cost_volume").get("stride", 1))
    volume_row = min(row // step, record.column("cost_volume", "cost").shape[1] - 1)
    depths = record.column("cost_volume", "depth").astype(float)
    plane = panels.plane_of(record, selected)
    if plane is None:
        at = float(record.column("maps", "depth_multi")[row, column])
        plane = int(np.argmin(np.abs(depths - at))) if np.isfinite(at) else len(depths) // 2
    return row, column, volume_row, plane, depths


def draw(record: Record, *, selected: int | None = None, theme: str = "light", title: str = "") -> Spec:
    """Return the slice through the chosen pixel's row, and the plane at the chosen depth (by default what matching chose for it).

    Args:
        selected: chosen pixel, row * width + column, and the depth that was chosen with it (`map_panels.pixel_of`).
    """
    row, column, volume_row, plane, depths = _place(record, selected)
    cost = record.column("cost_volume", "cost")
    step = int(record.group_attrs("cost_volume").get("stride", 1))
    section, maps = cost[:, volume_row].astype(float), record.column("maps", "depth_multi").shape
    low = section.min(0)
    section = (section - low) / np.maximum(section.max(0) - low, 1e-9)
    x = np.arange(section.shape[1]) * step
    bar = panels.scale_bar("cost, scaled a pixel", len=0.48, y=0.72, nticks=3)
    data: list[Spec] = [{
        "type": "heatmap", "z": section.round(3).tolist(), "x": x.tolist(), "y": depths.round(4).tolist(), "colorscale": panels.COST, "zmin": 0, "zmax": 1, "colorbar": bar, "name": "cost",
        "meta": panels.clicks(maps[1], row, maps[0] * maps[1]),
        "hovertemplate": "column %{x}, %{y:.2f} m: %{z:.2f}<extra></extra>",
    }]  # fmt: skip
    for name, words, meaning, dash in LINES:
        if has(record, "maps", name):
            values = record.column("maps", name)[row].astype(float)
            colour = "#ffffff" if meaning == "text" else house.MEANINGS[meaning].colour
            y = [round(float(v), 3) if np.isfinite(v) else None for v in values]
            data.append({"type": "scatter", "mode": "lines", "name": words, "x": list(range(len(values))), "y": y, "line": {"color": colour, "width": 2, "dash": dash}, "hoverinfo": "skip"})  # fmt: skip
    slab, seen = cost[plane].astype(float), record.column("cost_volume", "valid")[plane]
    bar = panels.scale_bar("cost", len=0.4, y=0.18, nticks=3)
    data.append(panels.panel(np.where(seen, slab, np.nan), 1, digits=4, name="cost", colorscale=panels.COST, zmin=0, zmax=float(np.percentile(slab[seen], 98) if seen.any() else 1) + 1e-6, colorbar=bar))  # fmt: skip
    del data[-1]["meta"]  # its axes count points of the volume, not pixels
    data.append(panels.cross(row // step, column // step, 1, theme))
    span = [float(np.log10(depths[0])), float(np.log10(depths[-1]))]
    layout = panels.axes(1, slab.shape, PLANE_BOX) | {
        "height": 470, "dragmode": False,
        "xaxis": {"domain": [0, 1], "range": [-0.5, x[-1] + step - 0.5], "showgrid": False, "fixedrange": True, "title": {"text": ""}},
        "yaxis": {"domain": list(ROW_BOX[2:]), "type": "log", "range": span, "title": {"text": "depth, metres"}, "showgrid": False, "fixedrange": True, "tickvals": [t for t in (0.5, 1, 2, 3, 5, 10, 20, 40) if depths[0] <= t <= depths[-1]]},
        "shapes": [
            {"type": "line", "xref": "x", "yref": "y", "x0": -0.5, "x1": float(x[-1]), "y0": depths[plane], "y1": depths[plane], "line": {"color": house.MEANINGS["selected"].colour, "width": 1.5, "dash": "dot"}},
            {"type": "line", "xref": "x", "yref": "y", "x0": column, "x1": column, "y0": depths[0], "y1": depths[-1], "line": {"color": house.MEANINGS["selected"].colour, "width": 1.5, "dash": "dot"}},
        ],
        "annotations": [
            panels.heading(f"row {row}; white: true, dashed: matching, green: joined", ROW_BOX, theme),
            panels.heading(f"all pixels at {depths[plane]:.2f} m, {_why(record, selected, 'the ringed one')}", PLANE_BOX, theme),
        ],
    }  # fmt: skip
    return house.picture(data, layout, theme=theme, title=title, revision=revision(record, "volume_slice"))


def caption(record: Record, *, selected: int | None = None) -> str:
    """Return the size of the volume and what the slice shows."""
    row, column, _, plane, depths = _place(record, selected)
    count, height, width = record.column("cost_volume", "cost").shape
    step = int(record.group_attrs("cost_volume").get("stride", 1))
    kept = f", kept at every {step}th pixel" if step > 1 else ""
    valid = record.column("cost_volume", "valid").mean()
    return (
        f"{count} depths x {height} x {width} pixels{kept}; {valid:.0%} of the samples fall inside the other frame. "
        f"Row {row}, and the plane at {depths[plane]:.2f} m, {_why(record, selected, f'column {column}')}."
    )


def _why(record: Record, selected: int | None, pixel: str) -> str:
    """Return who chose the depth on show."""
    return f"chosen at {pixel}" if panels.plane_of(record, selected) is not None else f"what matching chose for {pixel}"


def say(record: Record, *, selected: int | None = None) -> str:
    """Return the sentence and, along the row, each opinion's depth."""
    row = _place(record, selected)[0]
    names = [(n, w) for n, w, *_ in LINES if has(record, "maps", n)]
    width = record.column("maps", "depth_multi").shape[1]
    rows = []
    for x in np.unique(np.linspace(0, width - 1, 11).astype(int)):
        values = [float(record.column("maps", n)[row, x]) for n, _ in names]
        rows.append([str(x), *(f"{v:.2f}" if v == v else "–" for v in values)])
    return caption(record, selected=selected) + "\n\n" + table(["column", *(f"{w}, m" for _, w in names)], rows)


VIEW = View(
    name="volume_slice",
    groups=("cost_volume", "maps"),
    question="What does the volume itself look like?",
    reading=(
        "Above, a vertical slice: columns of the chosen row to the right, depth upwards; dark is a cheap match, each column scaled to its own "
        "range. White: the truth; dashed blue: the cheapest; green: joined. Below, the slice across: the cost of all pixels at one depth; dark "
        "patches match there. Click a map to choose another row, or the upper slice to choose a column and the depth of the lower one."
    ),
    draw=draw,
    say=say,
    caption=caption,
)

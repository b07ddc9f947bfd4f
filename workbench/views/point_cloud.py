"""Does the scene stand up in space? The joined depth as points that turn with the mouse."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench import theme as house
from workbench.views import View
from workbench.views import map_panels as panels
from workbench.views.common import Spec, has, plural, revision

if TYPE_CHECKING:
    from workbench.record import Record

MOST = 2600  # points drawn: a browser without a graphics card still turns them


def points(record: Record, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return (points (n, 3) m in the camera: right, down, ahead; their pixels (n, 2) row, column) of a depth map, thinned."""
    depth = record.column("maps", name).astype(float)
    step = max(1, int(np.ceil(np.sqrt(depth.size / MOST))))
    y, x = np.mgrid[0 : depth.shape[0] : step, 0 : depth.shape[1] : step]
    z = depth[::step, ::step]
    _, far = panels.depth_range(record)
    keep = np.isfinite(z) & (z <= far)
    k = np.array(
        record.group_attrs("maps").get(
            "intrinsics", [depth.shape[1], 0, depth.shape[1] / 2, 0, depth.shape[1], depth.shape[0] / 2, 0, 0, 1]
        ),
        float,
    ).reshape(3, 3)
    rays = np.stack([x[keep], y[keep], np.ones(keep.sum())], 1) @ np.linalg.inv(k).T
    return rays * z[keep][:, None], np.stack([y[keep], x[keep]], 1)


def draw(record: Record, *, theme: str = "light", title: str = "") -> Spec:
    """Return the joined depth as points in their colours, and the ghosts that matching alone would place."""
    d = house.design(theme)
    cloud, pixel = points(record, "depth_fused")
    colour = _colours(record, pixel)
    right, down, ahead = cloud.T.round(3)
    data: list[Spec] = [{
        "type": "scatter3d", "mode": "markers", "name": "joined depth", "x": right.tolist(), "y": ahead.tolist(), "z": (-down).tolist(),
        "marker": {"size": 2.2, "color": colour}, "hovertemplate": "%{y:.2f} m ahead<extra></extra>",
    }]  # fmt: skip
    if has(record, "maps", "moving_true") and record.column("maps", "moving_true").any():
        ghost, at = points(record, "depth_multi")
        on = record.column("maps", "moving_true")[at[:, 0], at[:, 1]]
        right, down, ahead = ghost[on].T.round(3)
        marker = {"size": 2.5, "color": d.line("rejected"), "symbol": "cross", "opacity": 0.8}
        data.append({"type": "scatter3d", "mode": "markers", "name": "the moving thing by matching alone", "x": right.tolist(), "y": ahead.tolist(), "z": (-down).tolist(), "marker": marker, "hovertemplate": "ghost, %{y:.2f} m ahead<extra></extra>"})  # fmt: skip
    axis = {
        "backgroundcolor": d.background,
        "gridcolor": d.grid,
        "color": d.muted,
        "showspikes": False,
        "zeroline": False,
        "nticks": 5,
    }
    layout = {
        "height": 430, "showlegend": True, "legend": {"itemsizing": "constant", "font": {"size": 12, "color": d.text}},
        "scene": {
            "aspectmode": "data", "camera": {"eye": {"x": -0.45, "y": -1.75, "z": 0.7}, "center": {"x": 0.05, "y": 0.1, "z": -0.2}},
            "xaxis": axis | {"title": {"text": "right, m"}}, "yaxis": axis | {"title": {"text": "ahead, m"}}, "zaxis": axis | {"title": {"text": "up, m"}},
        },
    }  # fmt: skip
    return house.picture(data, layout, theme=theme, title=title, revision=revision(record, "point_cloud"))


def _colours(record: Record, pixel: np.ndarray) -> list[str]:
    """Return each point's colour in the picture; grey where the record holds none of that size."""
    pixels = record.column("image", "pixels") if "image" in record else np.zeros((0, 0, 3), np.uint8)
    if pixels.shape[:2] != record.column("maps", "depth_fused").shape:
        return ["#8a8f98"] * len(pixel)
    return [f"rgb({r},{g},{b})" for r, g, b in pixels[pixel[:, 0], pixel[:, 1]].tolist()]


def caption(record: Record) -> str:
    """Return how many points stand, and how far the ghosts lie behind the thing."""
    cloud, _ = points(record, "depth_fused")
    text = (
        f"{plural(len(cloud), 'point')} of the joined depth, {cloud[:, 2].min():.1f} to {cloud[:, 2].max():.1f} m ahead"
        if len(cloud)
        else "No point could be placed"
    )
    if not has(record, "maps", "moving_true") or not record.column("maps", "moving_true").any():
        return text + "."
    moving = record.column("maps", "moving_true")
    multi, fused = (np.nanmedian(record.column("maps", n)[moving]) for n in ("depth_multi", "depth_fused"))
    return f"{text}; the moving thing stands at {fused:.1f} m, matching alone would put it at {multi:.1f} m."


def say(record: Record) -> str:
    """Return the sentence."""
    return caption(record)


VIEW = View(
    name="point_cloud",
    groups=("maps",),
    question="Does the scene stand up in space?",
    reading=(
        "Each point is a pixel at its joined depth, in the colour of the picture: drag to turn, scroll to come nearer. Vermillion crosses show where matching "
        "alone would put the moving thing: its ghost. Points far beyond the scene are left out, and of large pictures only some are drawn."
    ),
    draw=draw,
    say=say,
    caption=caption,
)

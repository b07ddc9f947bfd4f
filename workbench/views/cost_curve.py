"""What does one pixel think? Its cost and its three laws over depth, and where the candidates lie in the other frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from workbench import theme as house
from workbench.views import View
from workbench.views import map_panels as panels
from workbench.views.common import Spec, has, revision, table

if TYPE_CHECKING:
    from workbench.record import Record

MARKS = (("depth_true", "true", "solid", "text"), ("depth_multi", "matching", "dash", "target"), ("depth_single", "one frame", "dot", "muted"), ("depth_fused", "joined", "dashdot", "accepted"))  # fmt: skip


class Curve:
    """A pixel's curves: `depth` (D,), `cost` scaled to [0, 1], `matching`, `single`, `fused` (D,), and where it looked (D, 2)."""

    def __init__(self, record: Record, selected: int | None) -> None:
        attrs = record.group_attrs("cost_volume")
        self.row, self.column = panels.pixel_of(record, selected)
        step = int(attrs.get("stride", 1))
        self.at = min(self.row // step, record.column("cost_volume", "cost").shape[1] - 1), self.column // step
        y, x = self.at
        cost = record.column("cost_volume", "cost")[:, y, x].astype(float)
        known = has(record, "cost_volume", "depth")
        self.depth = record.column("cost_volume", "depth").astype(float) if known else np.arange(len(cost), dtype=float) + 1
        self.raw, self.cost = cost, _scaled(cost)
        self.valid = record.column("cost_volume", "valid")[:, y, x]
        self.matching = _scaled(record.column("cost_volume", "probability")[:, y, x].astype(float))
        fused = (
            record.column("cost_volume", "fused")[:, y, x].astype(float) if has(record, "cost_volume", "fused") else np.zeros(1)
        )
        self.joined = bool(fused.any())
        self.fused = fused if self.joined else self.matching
        self.single = self._bell(record)
        self.places = _places(attrs, (self.column, self.row), self.depth)

    def _bell(self, record: Record) -> np.ndarray:
        """Return the Gaussian around the single-frame depth, scaled to [0, 1]; zeros where there is none."""
        if not (has(record, "maps", "sigma") and has(record, "maps", "depth_single")):
            return np.zeros(len(self.depth))
        center, sigma = (float(record.column("maps", n)[self.row, self.column]) for n in ("depth_single", "sigma"))
        return _scaled(np.exp(-((self.depth - center) ** 2) / (2 * sigma**2)))


def _scaled(values: np.ndarray) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    return (values - low) / (high - low) if high > low else np.zeros(len(values))


def _places(attrs: dict[str, Any], pixel: tuple[int, int], depths: np.ndarray) -> np.ndarray:
    """Return the candidates' places in the other frame, (D, 2) px; NaN where the record holds no cameras."""
    if "intrinsics" not in attrs:
        return np.full((len(depths), 2), np.nan)
    k, rotation = (np.array(attrs[n], float).reshape(3, 3) for n in ("intrinsics", "rotation"))
    ray = rotation @ np.linalg.inv(k) @ [*pixel, 1.0]
    seen = (np.outer(depths, ray) + np.array(attrs["translation"], float)) @ k.T
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(seen[:, 2:] > 1e-6, seen[:, :2] / seen[:, 2:], np.nan)


def draw(record: Record, *, selected: int | None = None, theme: str = "light", title: str = "") -> Spec:
    """Return the curves, over the two frames with the pixel and its candidates where the record holds them.

    Args:
        selected: chosen pixel, row * width + column.
    """
    d, curve = house.design(theme), Curve(record, selected)
    frames = "image" in record and "image/source" in record
    top = 0.56 if frames else 0.93
    x = curve.depth.round(4).tolist()
    lines = (
        ("cost, scaled", curve.cost, d.muted, "dot"), ("by matching", curve.matching, d.line("target"), "solid"),
        ("by one frame", curve.single, d.line("chosen"), "dash"), ("joined" if curve.joined else "joined: matching stands", curve.fused, d.line("accepted"), "solid"),
    )  # fmt: skip
    data: list[Spec] = [
        {"type": "scatter", "mode": "lines", "name": name, "x": x, "y": np.round(y, 4).tolist(), "line": {"color": colour, "dash": dash, "width": 3 if "joined" in name else 2},
         "hovertemplate": f"{name}: %{{y:.2f}} at %{{x:.2f}} m<extra></extra>"}
        for name, y, colour, dash in lines
    ]  # fmt: skip
    shapes, notes = _depth_lines(record, curve, d)
    layout: Spec = {
        "height": 470 if frames else 320, "showlegend": True, "shapes": shapes, "annotations": notes, "images": [],
        "legend": {"y": -0.2, "yanchor": "top", "font": {"size": 12}}, "margin": {"b": 66},
        "xaxis": {"type": "log", "range": [float(np.log10(curve.depth[0])), float(np.log10(curve.depth[-1]))], "title": {"text": "candidate depth, metres"}, "tickvals": _ticks(curve.depth)},
        "yaxis": {"range": [-0.03, 1.05], "domain": [0, top - 0.1 if frames else 0.9], "title": {"text": "each scaled to 0..1"}, "nticks": 4},
    }  # fmt: skip
    if frames:
        _add_frames(record, curve, data, layout, theme)
    spec = house.picture(data, layout, theme=theme, title=title, revision=revision(record, "cost_curve"))
    spec["layout"]["margin"]["t"] = 44 if title else 12
    return spec


def _ticks(depths: np.ndarray) -> list[float]:
    return [t for t in (0.1, 0.2, 0.5, 1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 40, 60, 100) if depths[0] <= t <= depths[-1]]


def _depth_lines(record: Record, curve: Curve, d: house.Design) -> tuple[list[Spec], list[Spec]]:
    """Return a vertical line at each opinion's depth, and its name on top."""
    shapes, notes = [], []
    for level, (name, words, dash, meaning) in enumerate(MARKS):
        if not has(record, "maps", name):
            continue
        at = float(record.column("maps", name)[curve.row, curve.column])
        if not np.isfinite(at) or at <= 0:
            continue
        colour = {"text": d.text, "muted": d.line("chosen")}.get(meaning) or d.line(meaning)
        shapes.append(
            {
                "type": "line",
                "xref": "x",
                "yref": "y",
                "x0": at,
                "x1": at,
                "y0": 0,
                "y1": 1,
                "line": {"color": colour, "dash": dash, "width": 1.6},
            }
        )
        notes.append({"text": f"{words} {at:.3g} m", "x": float(np.log10(at)), "y": 1.0 - 0.11 * level, "xref": "x", "yref": "y", "xanchor": "left", "yanchor": "top", "xshift": 3, "showarrow": False, "font": {"size": 11, "color": colour}, "bgcolor": d.background, "opacity": 0.9})  # fmt: skip
    return shapes, notes


def _add_frames(record: Record, curve: Curve, data: list[Spec], layout: Spec, theme: str) -> None:
    """Put both frames above the curves: the pixel in one, its candidates in the other, near to far."""
    pixels = record.column("image", "pixels")
    for i, (group, words, box) in enumerate(
        (
            ("image", "the pixel", (0.0, 0.485, 0.62, 0.95)),
            ("image/source", "its candidates in the other frame", (0.515, 1.0, 0.62, 0.95)),
        ),
        1,
    ):
        layout |= panels.axes(i, pixels.shape, box)
        layout["images"].append(panels.frame(record.column(group, "pixels"), i))
        layout["annotations"].append(panels.heading(words, box, theme))
    data.append(panels.cross(curve.row, curve.column, 1, theme))
    inside = np.isfinite(curve.places).all(1) & curve.valid
    if inside.any():
        x, y = curve.places[inside].T.round(2).tolist()
        depths = curve.depth[inside]
        color = {
            "color": np.log(depths).round(3).tolist(),
            "colorscale": panels.DEPTH,
            "size": 5,
            "line": {"width": 0.6, "color": "#ffffff"},
        }
        data.append({"type": "scatter", "mode": "markers", "x": x, "y": y, "xaxis": "x3", "yaxis": "y3", "marker": color, "showlegend": False, "name": "candidates", "customdata": None, "hovertext": [f"{d:.2f} m" for d in depths], "hoverinfo": "text"})  # fmt: skip
        best = int(np.argmin(np.where(curve.valid, curve.raw, np.inf)))
        ring = {"symbol": "circle-open", "size": 13, "color": house.MEANINGS["selected"].colour, "line": {"width": 3}}
        data.append({"type": "scatter", "mode": "markers", "x": [float(curve.places[best, 0])], "y": [float(curve.places[best, 1])], "xaxis": "x3", "yaxis": "y3", "marker": ring, "showlegend": False, "name": "cheapest", "hoverinfo": "skip"})  # fmt: skip
    for trace in data:
        if trace.get("customdata", 0) is None:
            del trace["customdata"]


def caption(record: Record, *, selected: int | None = None) -> str:
    """Return what the chosen pixel's curves say."""
    curve = Curve(record, selected)
    values = {n: float(record.column("maps", n)[curve.row, curve.column]) for n, *_ in MARKS if has(record, "maps", n)}
    place = f"Column {curve.column}, row {curve.row}"
    if not curve.valid.any():
        return f"{place}: no candidate falls inside the other frame, so only the single frame can speak."
    words = [f"{w} {values[n]:.3g} m" for n, w, *_ in MARKS if n in values and np.isfinite(values[n])]
    end = "the two laws are joined here" if curve.joined else "the laws agree well enough, so matching stands alone"
    return f"{place}: {', '.join(words)}; {end}."


def say(record: Record, *, selected: int | None = None) -> str:
    """Return the sentence and the curves at some candidates."""
    curve = Curve(record, selected)
    rows = [
        [
            f"{curve.depth[i]:.2f}",
            f"{curve.raw[i]:.3f}" if curve.valid[i] else "–",
            *(f"{c[i]:.2f}" for c in (curve.matching, curve.single, curve.fused)),
        ]
        for i in np.unique(np.linspace(0, len(curve.depth) - 1, 12).astype(int))
    ]
    return caption(record, selected=selected) + "\n\n" + table(["depth, m", "cost", "matching", "one frame", "joined"], rows)


VIEW = View(
    name="cost_curve",
    groups=("cost_volume", "maps"),
    question="What does this pixel think, and where did it look?",
    reading=(
        "Above: the chosen pixel, and the places in the other frame where its depth candidates would be seen, near dark to far light; the "
        "ring is the cheapest. Below, over depth: the matching cost (low is good), the law that matching makes of it, the law of the single "
        "frame, and both joined, each scaled to its own range. Vertical lines are the depths that each opinion settles on. Click another "
        "pixel in a depth map."
    ),
    draw=draw,
    say=say,
    caption=caption,
)

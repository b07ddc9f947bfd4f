"""What pictures of maps share: panels on one grid, one colour map for each quantity, frames as images, which pixel is chosen.

Depth is viridis, near dark to far light, in metres; doubt is magma; cost is cividis. Every view that shows one of them asks here.
"""

from __future__ import annotations

import base64
import io
import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench import theme as house
from workbench.errors import InputError, expected
from workbench.views.common import Spec, has

if TYPE_CHECKING:
    from workbench.record import Record

DEPTH, COST = "Viridis", "Cividis"
_MAGMA = ("#000004", "#180f3d", "#440f76", "#721f81", "#9e2f7f", "#cd4071", "#f1605d", "#fd9668", "#feca8d", "#fcfdbf")
DOUBT = [[i / (len(_MAGMA) - 1), colour] for i, colour in enumerate(_MAGMA)]  # the browser's plotly knows no magma by name
MOST = 190  # pixels across that a panel draws; larger maps are thinned, and the hover says which pixel it was


def depth_range(record: Record) -> tuple[float, float]:
    """Return the metres at both ends of the depth colours: the truth's range, else that of the middle nine tenths of matches."""
    true = record.column("maps", "depth_true") if has(record, "maps", "depth_true") else np.array([np.nan])
    known = true[np.isfinite(true)]
    if len(known):
        low, high = float(known.min()), float(known.max())
        return low * 0.95, high * 1.15 if high > low else high + 1
    multi = record.column("maps", "depth_multi")
    low, high = np.nanpercentile(multi, [3, 97])
    return float(low), float(max(high, low + 1e-3))


def stride_of(shape: tuple[int, ...]) -> int:
    """Return every how many pixels a panel draws one."""
    return max(1, math.ceil(shape[1] / MOST))


def pixel_of(record: Record, selected: int | None) -> tuple[int, int]:
    """Return (row, column) of the chosen pixel: row * width + column, by default where matching is most wrong on what moves.

    Where a depth of the volume was chosen with it (`plane_of`), (candidate + 1) * height * width stand on top.

    Raises:
        InputError: the picture has no such pixel.
    """
    height, width = record.column("maps", "depth_multi").shape
    if selected is None:
        return default_pixel(record)
    candidates = len(record.column("cost_volume", "depth")) if has(record, "cost_volume", "depth") else 0
    if not 0 <= selected < (1 + candidates) * height * width:
        raise InputError(expected("selected", f"a pixel from 0 to {height * width - 1}", selected))
    return divmod(int(selected) % (height * width), width)


def plane_of(record: Record, selected: int | None) -> int | None:
    """Return the index of the candidate depth that was chosen with the pixel, None where only a pixel was."""
    size = record.column("maps", "depth_multi").size
    return None if selected is None or selected < size else selected // size - 1


def default_pixel(record: Record) -> tuple[int, int]:
    """Return the middle of what moves, else the middle of the picture."""
    shape = record.column("maps", "depth_multi").shape
    moving = record.column("maps", "moving_true") if has(record, "maps", "moving_true") else np.zeros(shape, bool)
    if not moving.any():
        return shape[0] // 2, shape[1] // 2
    rows = np.flatnonzero(moving.any(1))
    row = int(rows[len(rows) // 2])
    columns = np.flatnonzero(moving[row])
    return row, int(columns[len(columns) // 2])


def clicks(columns: int, row: int | None = None, layer: int | None = None) -> Spec:
    """Return the `meta` of a trace by which the browser names a clicked pixel: row * columns + column.

    A number for every pixel would be a third of what a map weighs on the wire.

    Args:
        columns: width of the maps. row: that of every point, where the ordinate is something else. layer: pixels of a map, where
            the trace's rows are candidate depths and the click chooses one, too (`plane_of`).
    """
    return {"columns": columns} | ({} if row is None else {"row": row}) | ({} if layer is None else {"layer": layer})


def panel(values: np.ndarray, index: int, *, digits: int = 3, unit: str = "", name: str = "", **how: Any) -> Spec:
    """Return one map as a heatmap on axes `index` (0 the first); a click names its pixel. What is not finite is a gap."""
    step = stride_of(values.shape)
    height, width = values.shape
    thin = np.round(np.asarray(values[::step, ::step], float), digits)
    y, x = np.arange(0, height, step), np.arange(0, width, step)
    suffix = str(index + 1) if index else ""
    return {
        "type": "heatmap", "z": np.where(np.isfinite(thin), thin, np.nan), "x": x.tolist(), "y": y.tolist(), "name": name, "xaxis": f"x{suffix}", "yaxis": f"y{suffix}",
        "meta": clicks(width), "hoverongaps": False,
        "hovertemplate": f"{house.escape(name)}: %{{z:.{digits}~f}} {unit}<br>column %{{x}}, row %{{y}}<extra></extra>", **how,
    }  # fmt: skip


def axes(index: int, shape: tuple[int, ...], box: tuple[float, float, float, float]) -> Spec:
    """Return the two hidden axes of a panel in the part (left, right, bottom, top) of the picture; rows run down."""
    suffix = str(index + 1) if index else ""
    height, width = shape[:2]
    hidden = {"visible": False, "fixedrange": True, "constrain": "domain"}
    return {
        f"xaxis{suffix}": hidden | {"domain": list(box[:2]), "range": [-0.5, width - 0.5], "anchor": f"y{suffix}"},
        f"yaxis{suffix}": hidden | {"domain": list(box[2:]), "range": [height - 0.5, -0.5], "anchor": f"x{suffix}", "scaleanchor": f"x{suffix}"},
    }  # fmt: skip


def heading(text: str, box: tuple[float, float, float, float], theme: str, meaning: str = "") -> Spec:
    """Return the words over a panel."""
    d = house.design(theme)
    colour = d.ink(meaning) if meaning else d.text
    return {
        "text": text, "x": box[0], "y": box[3], "xref": "paper", "yref": "paper", "xanchor": "left", "yanchor": "bottom", "showarrow": False,
        "font": {"size": 13, "color": colour}, "align": "left",
    }  # fmt: skip


def cross(row: int, column: int, index: int, theme: str) -> Spec:
    """Return the ring around the chosen pixel, dark and light so that it stands out of any map."""
    suffix = str(index + 1) if index else ""
    ring = {"symbol": "circle-open", "size": 13, "color": house.MEANINGS["selected"].colour, "line": {"width": 3}}
    return {
        "type": "scatter", "mode": "markers", "x": [column], "y": [row], "xaxis": f"x{suffix}", "yaxis": f"y{suffix}", "marker": ring, "hoverinfo": "skip",
        "name": "chosen pixel", "showlegend": False,
    }  # fmt: skip


def outline(mask: np.ndarray, index: int, theme: str) -> list[Spec]:
    """Return the border of what truly moves, as a dashed line; nothing where nothing does."""
    if not mask.any() or mask.all():
        return []
    suffix = str(index + 1) if index else ""
    x, y = _border(np.packbits(mask).tobytes(), mask.shape)
    colour = house.MEANINGS["chosen"].colour
    return [{
        "type": "scatter", "mode": "lines", "x": x, "y": y, "xaxis": f"x{suffix}", "yaxis": f"y{suffix}", "hoverinfo": "skip",
        "name": "what truly moves", "line": {"color": colour, "width": 2, "dash": "dash"}, "showlegend": False,
    }]  # fmt: skip


@lru_cache(maxsize=4)
def _border(bits: bytes, shape: tuple[int, int]) -> tuple[list[float | None], list[float | None]]:
    """Return abscissae and ordinates of the lines around a mask, None between two of them; its thing stays while a knob moves."""
    from contourpy import contour_generator

    step = stride_of(shape)
    mask = np.unpackbits(np.frombuffer(bits, np.uint8), count=shape[0] * shape[1]).reshape(shape)[::step, ::step]
    x: list[float | None] = []
    y: list[float | None] = []
    for line in map(np.asarray, contour_generator(z=mask).lines(0.5)):
        x += [*(line[:, 0] * step).tolist(), None]
        y += [*(line[:, 1] * step).tolist(), None]
    return x[:-1], y[:-1]


def frame(pixels: np.ndarray, index: int) -> Spec:
    """Return an image of the layout that holds (h, w, 3) uint8 pixels on the axes `index`."""
    step = stride_of(pixels.shape)
    suffix = str(index + 1) if index else ""
    height, width = pixels.shape[:2]
    thin = np.ascontiguousarray(pixels[::step, ::step])
    return {
        "source": _png(thin.tobytes(), thin.shape), "xref": f"x{suffix}", "yref": f"y{suffix}",
        "x": -0.5, "y": -0.5, "sizex": width, "sizey": height, "xanchor": "left", "yanchor": "top", "sizing": "stretch", "layer": "below",
    }  # fmt: skip


@lru_cache(maxsize=4)
def _png(pixels: bytes, shape: tuple[int, ...]) -> str:
    """Return pixels as the address of a PNG; while a knob moves, one of the two frames stays."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.frombuffer(pixels, np.uint8).reshape(shape)).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def said(record: Record) -> str:
    """Return what must be said of the picture's truth: a simulated teacher, a pasted patch, a preview; "" for nothing."""
    attrs = record.group_attrs("maps")
    words = []
    if attrs.get("teacher") == "simulated":
        words.append("the single-frame depth is simulated: the truth with a smooth bias of 12 %")
    if attrs.get("teacher") == "trained":
        words.append("the networks were trained on ray-cast scenes, supervised by exact depth")
    if attrs.get("mover"):
        words.append(f"what moves is {attrs['mover']}")
    if attrs.get("preview"):
        words.append("this is the 64 x 160 window; every pixel follows when you let go")
    return "; ".join(words)


def scale_bar(title: str, **how: Any) -> Spec:
    """Return a colour bar's settings."""
    return {
        "title": {"text": title, "side": "right", "font": {"size": 12}},
        "thickness": 11,
        "outlinewidth": 0,
        "tickfont": {"size": 11},
        **how,
    }

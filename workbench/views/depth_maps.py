"""How deep is every pixel, by four opinions? The truth, matching alone, one frame alone, and both joined."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench import theme as house
from workbench.views import View
from workbench.views import map_panels as panels
from workbench.views.common import Spec, has, revision, table

if TYPE_CHECKING:
    from workbench.record import Record

#: (variable, words over the panel, meaning of their colour)
SHOWN = (
    ("depth_true", "true", ""),
    ("depth_multi", "matching alone", "target"),
    ("depth_single", "one frame alone", ""),
    ("depth_fused", "both, joined", "accepted"),
)
FRAMES = (("image", "this frame"), ("image/source", "the other frame"))
SIDES, ROWS = ((0.0, 0.492), (0.508, 1.0)), ((0.735, 0.965), (0.42, 0.65), (0.105, 0.335))


def judged(record: Record) -> np.ndarray | None:
    """Return which pixels are judged: those whose truth is known and for which every opinion has a depth; None without truth."""
    if not has(record, "maps", "depth_true"):
        return None
    names = [n for n in record.variables("maps") if n.startswith("depth_")]
    return np.logical_and.reduce([np.isfinite(record.column("maps", n)) for n in names])


def error_of(record: Record, name: str, where: np.ndarray | None = None) -> float:
    """Return AbsRel of a depth map (NaN where nothing can be judged)."""
    known = judged(record)
    if known is None:
        return float("nan")
    known = known if where is None else known & where
    depth, true = record.column("maps", name)[known], record.column("maps", "depth_true")[known]
    return float(np.mean(np.abs(depth - true) / true)) if known.any() else float("nan")


def unjoined(record: Record) -> bool:
    """Return whether no pixel is distrusted enough for the single frame to be heard."""
    attrs = record.group_attrs("maps")
    if "gamma" not in attrs or attrs.get("product") == "everywhere" or not has(record, "maps", "uncertainty"):
        return False
    return not (record.column("maps", "uncertainty") >= attrs["gamma"]).any()


def _known(record: Record) -> list[tuple[str, str, str]]:
    """Return the panels that this record can show: the truth only where it is known."""
    true = has(record, "maps", "depth_true") and np.isfinite(record.column("maps", "depth_true")).any()
    return [s for s in SHOWN if has(record, "maps", s[0]) and (true or s[0] != "depth_true")]


def draw(record: Record, *, selected: int | None = None, theme: str = "light", title: str = "") -> Spec:
    """Return both frames and up to four depth maps on one scale.

    Args:
        selected: chosen pixel, row * width + column.
    """
    row, column = panels.pixel_of(record, selected)
    low, high = panels.depth_range(record)
    data: list[Spec] = []
    layout: Spec = {"annotations": [], "images": []}
    shape = record.column("maps", "depth_multi").shape
    frames = [(g, w) for g, w in FRAMES if g in record and record.column(g, "pixels").shape[:2] == shape]
    cells = [(side, down) for down in ROWS for side in SIDES]
    for i, ((name, words, meaning), cell) in enumerate(
        zip([*((g, w, "frame") for g, w in frames), *_known(record)], cells, strict=False)
    ):
        box = (*cell[0], *cell[1])
        layout |= panels.axes(i, shape, box)
        if meaning == "frame":
            layout["images"].append(panels.frame(record.column(name, "pixels"), i))
            data += [panels.cross(row, column, i, theme)] if name == "image" else [panels.cross(-9, -9, i, theme)]
        else:
            data += _depths(record, name, words, i, (row, column), theme)
            error = error_of(record, name) if name != "depth_true" else float("nan")
            words += f", off by {error:.1%}" if error == error else ""
        layout["annotations"].append(panels.heading(words, box, theme, meaning if meaning != "frame" else ""))
    bar = panels.scale_bar("depth, metres", orientation="h", x=0.5, y=0.05, yanchor="top", len=1.0, thicknessmode="pixels")
    bar["title"]["side"] = "bottom"
    layout |= {
        "height": int(150 + 960 * shape[0] / shape[1]), "dragmode": False,
        "coloraxis": {"colorscale": panels.DEPTH, "cmin": low, "cmax": high, "colorbar": bar},
    }  # fmt: skip
    return house.picture(data, layout, theme=theme, title=title, revision=revision(record, "depth_maps"))


def _depths(record: Record, name: str, words: str, index: int, pixel: tuple[int, int], theme: str) -> list[Spec]:
    """Return one depth map, the chosen pixel, and the border of what truly moves."""
    found = [panels.panel(record.column("maps", name), index, digits=2, unit="m", name=words, coloraxis="coloraxis")]
    found.append(panels.cross(*pixel, index, theme))
    if name != "depth_true" and has(record, "maps", "moving_true"):
        found += panels.outline(record.column("maps", "moving_true"), index, theme)
    return found


def caption(record: Record, *, selected: int | None = None) -> str:
    """Return how far off the opinions are where things move and where they stand."""
    variables = record.variables("maps")
    moving = record.column("maps", "moving_true") if "moving_true" in variables else None
    note = panels.said(record)
    tail = f" Here {note}." if note else ""
    if "depth_true" not in variables or not np.isfinite(record.column("maps", "depth_true")).any():
        return "Nobody knows the true depth of this pair; compare where matching and the single frame disagree." + tail
    if moving is None or not moving.any():
        return f"Nothing moves: matching alone is off by {error_of(record, 'depth_multi'):.1%} on average." + tail
    multi, single, fused = (error_of(record, f"depth_{n}", moving) for n in ("multi", "single", "fused"))
    if unjoined(record):
        highest = float(record.column("maps", "uncertainty").max())
        gamma = record.group_attrs("maps")["gamma"]
        tail = f" No pixel's U reaches gamma ({highest:.2f} < {gamma:g}), so the joined depth is matching's.{tail}"
    still = error_of(record, "depth_fused", ~moving)
    first = f"On what moves, matching alone is off by {multi:.0%}, one frame by {single:.0%}, both joined by {fused:.0%}"
    return f"{first}; where all stands still the joined depth is off by {still:.1%}.{tail}"


def say(record: Record, *, selected: int | None = None) -> str:
    """Return the sentence, the errors by part, and the depths at the chosen pixel."""
    row, column = panels.pixel_of(record, selected)
    names = [(n, w) for n, w, _ in SHOWN if n in record.variables("maps")]
    moving = record.column("maps", "moving_true") if "moving_true" in record.variables("maps") else None
    lines = []
    for name, words in names:
        judged = name != "depth_true" and "depth_true" in record.variables("maps")
        parts = [None, moving, ~moving] if moving is not None else [None, None, None]
        errors = [f"{error_of(record, name, part):.3f}" if judged else "–" for part in parts]
        here = float(record.column("maps", name)[row, column])
        lines.append([words, *(e if e != "nan" else "–" for e in errors), f"{here:.2f} m" if here == here else "–"])
    head = ["depth", "AbsRel, all", "moving", "still", f"at column {column}, row {row}"]
    return caption(record, selected=selected) + "\n\n" + table(head, lines)


VIEW = View(
    name="depth_maps",
    groups=("maps",),
    question="How deep is every pixel, and who is wrong?",
    reading=(
        "Above, the two frames. Below, dark is near, light is far, on one scale in metres; what lies beyond its end takes the end's colour. Matching compares two frames, the "
        "single frame only looks; joined is ProDepth's answer. The dashed line encloses what truly moves. Click a pixel: the ring marks it, and "
        "its curves, slices and the wipe follow. A gap means that no candidate could be compared."
    ),
    draw=draw,
    say=say,
    caption=caption,
)

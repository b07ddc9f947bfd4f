"""Where does each measure raise its hand? Four maps of doubt, and what truly moves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench import theme as house
from workbench.views import View
from workbench.views import map_panels as panels
from workbench.views.common import Spec, has, revision, table

if TYPE_CHECKING:
    from workbench.record import Record

SHOWN = (
    ("uncertainty", "contradiction U", "U"),
    ("entropy", "entropy, share of ln D", "entropy"),
    ("peak_ratio", "peak ratio", "peak ratio"),
    ("weight", "weight in the loss, (1 - U) below gamma", ""),
)
BOXES = ((0.0, 0.43, 0.53, 0.94), (0.55, 0.98, 0.53, 0.94), (0.0, 0.43, 0.0, 0.41), (0.55, 0.98, 0.0, 0.41))


def _range(name: str, values: np.ndarray) -> tuple[float, float]:
    if name in ("uncertainty", "weight", "peak_ratio"):
        return 0.0, 1.0
    known = values[np.isfinite(values)]
    low, high = (float(v) for v in np.percentile(known, [1, 99])) if len(known) else (0.0, 1.0)
    return low, max(high, low + 1e-4)


def draw(record: Record, *, selected: int | None = None, theme: str = "light", title: str = "") -> Spec:
    """Return the maps, each on its own scale, and the border of what truly moves.

    Args:
        selected: chosen pixel, row * width + column.
    """
    row, column = panels.pixel_of(record, selected)
    areas = record.group_attrs("curve/movers")
    data: list[Spec] = []
    layout: Spec = {"annotations": []}
    shape = record.column("maps", "uncertainty").shape
    for i, ((name, words, measure), box) in enumerate(zip(SHOWN, BOXES, strict=True)):
        if not has(record, "maps", name):
            continue
        values = record.column("maps", name)
        low, high = _range(name, values)
        bar = panels.scale_bar("", len=0.42, y=(box[2] + box[3]) / 2, x=box[1] + 0.005, nticks=4)
        colors: Spec = {
            "colorscale": panels.DOUBT if name != "weight" else "Greys",
            "zmin": low,
            "zmax": high,
            "colorbar": bar,
        }
        data.append(panels.panel(values, i, digits=4, name=words.split(",")[0], **colors))
        data.append(panels.cross(row, column, i, theme))
        if has(record, "maps", "moving_true"):
            data += panels.outline(record.column("maps", "moving_true"), i, theme)
        area = areas.get(f"auc {measure}", float("nan")) if measure else float("nan")
        layout |= panels.axes(i, shape, box)
        layout["annotations"].append(panels.heading(words + (f" · area {area:.2f}" if area == area else ""), box, theme))
    layout |= {"height": int(110 + 620 * shape[0] / shape[1]), "dragmode": False}
    return house.picture(data, layout, theme=theme, title=title, revision=revision(record, "uncertainty_maps"))


def weighed(record: Record) -> str:
    """Return what the weights do to the self-supervised loss, as a sentence; "" where the record does not say."""
    attrs = record.group_attrs("maps")
    plain, weighted = (float(attrs.get(name, np.nan)) for name in ("loss_plain", "loss_weighted"))
    if not np.isfinite(plain):
        return ""
    said = f" The joined depth leaves a photometric error of {plain:.3f} on average"
    return said + (f", of {weighted:.3f} as the loss weighs it." if np.isfinite(weighted) else "; no pixel has any weight left.")


def caption(record: Record, *, selected: int | None = None) -> str:
    """Return how sure each measure is on what moves and elsewhere."""
    u = record.column("maps", "uncertainty")
    if not has(record, "maps", "moving_true") or not record.column("maps", "moving_true").any():
        return (
            f"Both opinions contradict each other on average with U = {u.mean():.2f}; what moves is not known or nothing does."
            + weighed(record)
        )
    moving = record.column("maps", "moving_true")
    text = f"U is {u[moving].mean():.2f} on what moves and {u[~moving].mean():.2f} elsewhere"
    if has(record, "maps", "entropy"):
        e = record.column("maps", "entropy")
        text += f"; the matching law's entropy is {np.nanmean(e[moving]):.3f} and {np.nanmean(e[~moving]):.3f} of its greatest possible value"
    return text + "." + weighed(record)


def say(record: Record, *, selected: int | None = None) -> str:
    """Return the sentence, means by part, and the values at the chosen pixel."""
    row, column = panels.pixel_of(record, selected)
    moving = (
        record.column("maps", "moving_true")
        if has(record, "maps", "moving_true")
        else np.zeros(record.column("maps", "uncertainty").shape, bool)
    )
    rows = []
    for name, words, _ in SHOWN:
        if has(record, "maps", name):
            values = record.column("maps", name)
            means = [f"{np.nanmean(values[m]):.3f}" if m.any() else "–" for m in (moving, ~moving)]
            rows.append([words, *means, f"{values[row, column]:.3f}" if np.isfinite(values[row, column]) else "–"])
    return (
        caption(record, selected=selected)
        + "\n\n"
        + table(["measure", "moving", "still", f"at column {column}, row {row}"], rows)
    )


VIEW = View(
    name="uncertainty_maps",
    groups=("maps",),
    question="Where does each measure raise its hand?",
    reading=(
        "Light is doubtful. U compares both opinions; entropy is how flat the matching law is (nearly the greatest possible everywhere at "
        "temperature 1); a peak ratio near 1 says that a second match is as good. Dashed: what truly moves. The last panel is the "
        "weight that a pixel gets in self-supervised training: black pixels teach nothing."
    ),
    draw=draw,
    say=say,
    caption=caption,
)

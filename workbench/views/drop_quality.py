"""What does dropping cost? The loss that the limit adds, by position, from a run of the model with the limit in place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench import theme as house
from workbench.views import View
from workbench.views.common import Curves, Spec, note, revision, table
from workbench.views.drop_curve import lines

if TYPE_CHECKING:
    from workbench.record import Record

GROUP = "curve/drop_quality"


def draw(record: Record, *, theme: str = "light", title: str = "") -> Spec:
    """Return the added loss with its interval over texts."""
    d, curves, attrs = house.design(theme), Curves(record, GROUP), record.group_attrs("routing")
    setting = f"measured at factor {attrs['run_capacity_factor']:g}, {attrs['run_order']} order" if "run_order" in attrs else ""
    layout = {
        "height": 340, "showlegend": True, "xaxis": {"title": {"text": curves.label("x")}}, "yaxis": {"title": {"text": curves.label("y")}},
        "shapes": [{"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 0, "y1": 0, "line": {"color": d.text, "width": 1, "dash": "dash"}}],
        "annotations": [note(setting, theme, x=0.01, y=0.98, anchor="left")] if setting else [],
    }  # fmt: skip
    return house.picture(lines(curves, theme), layout, theme=theme, title=title, revision=revision(record, "drop_quality"))


def caption(record: Record) -> str:
    """Return the added loss of each side, and whether it is told from zero."""
    curves, attrs, parts = Curves(record, GROUP), record.group_attrs(GROUP), []
    means = np.atleast_1d(attrs.get("mean", [float(np.nanmean(curves[n][1])) for n in curves.names]))
    halves = np.atleast_1d(attrs.get("half", [-1.0] * len(curves.names)))
    for name, mean, half in zip(curves.names, means.tolist(), halves.tolist()):
        told = (
            "one text, no interval"
            if half < 0
            else f"± {half:.3f}, " + ("not told from zero" if abs(mean) <= half else "told from zero")
        )
        parts.append(f"{name}: {mean:+.3f} nats a token ({told})")
    return "What the limit adds to the loss, mean over positions; " + "; ".join(parts) + "."


def say(record: Record) -> str:
    """Return the sentence and the curves."""
    curves = Curves(record, GROUP)
    rows = [
        [name, f"{x:.0f}", f"{y:+.3f}", f"{low:+.3f} to {high:+.3f}" if low == low else ""]
        for name in curves.names
        for x, y, low, high in zip(*curves[name])
    ]
    return caption(record) + "\n\n" + table(["text", "token", "added loss, nats", "95 % interval"], rows)


VIEW = View(
    name="drop_quality",
    groups=(GROUP, "routing"),
    question="What does dropping cost in quality?",
    reading=(
        "The model reads the same texts twice, freely and with the limit inside every layer with experts. Up: the loss per token that the limit adds, in nats, by position in the text; bands are "
        "95 % intervals over texts; the dashed line is no difference. Measured at the limit of the run: after you move the limit, the picture is renewed by the run that "
        "follows when you let go."
    ),
    draw=draw,
    say=say,
    caption=caption,
)

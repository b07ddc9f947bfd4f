"""Which doubt finds what moves? Receiver operating curves of every uncertainty measure against the true mask."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench import theme as house
from workbench.views import View
from workbench.views.common import Curves, Spec, revision, table

if TYPE_CHECKING:
    from workbench.record import Record

GROUP = "curve/movers"
STYLE = {"U": ("accepted", "solid"), "entropy": ("target", "dash"), "peak ratio": ("chosen", "dot"), "smallest cost": ("rejected", "dashdot"), "spread": ("context", "longdash")}  # fmt: skip
WORDS = {"U": "contradiction U"}


def areas(record: Record) -> dict[str, float]:
    """Return the areas under the curves by measure; from the record where it has them."""
    attrs, curves = record.group_attrs(GROUP), Curves(record, GROUP)
    out = {}
    for name in curves.names:
        x, y = curves[name][:2]
        out[name] = float(attrs.get(f"auc {name}", np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2)))
    return out


def draw(record: Record, *, theme: str = "light", title: str = "") -> Spec:
    """Return one curve a measure and the diagonal of chance."""
    d, curves, area = house.design(theme), Curves(record, GROUP), areas(record)
    data: list[Spec] = [
        {"type": "scatter", "mode": "lines", "name": "chance, 0.50", "x": [0, 1], "y": [0, 1], "line": {"color": d.muted, "width": 1, "dash": "dash"}, "hoverinfo": "skip"}
    ]  # fmt: skip
    for name in sorted(curves.names, key=lambda n: -np.nan_to_num(area[n])):
        x, y, _, _ = curves[name]
        meaning, dash = STYLE.get(name, ("context", "solid"))
        words = f"{WORDS.get(name, name)}, {area[name]:.2f}" if area[name] == area[name] else f"{WORDS.get(name, name)}, –"
        data.append({
            "type": "scatter", "mode": "lines", "name": words, "x": x.round(4).tolist(), "y": y.round(4).tolist(),
            "line": {"color": d.line(meaning), "width": 3.2 if name == "U" else 2, "dash": dash},
            "hovertemplate": f"{house.escape(name)}: finds %{{y:.0%}}, false alarms %{{x:.0%}}<extra></extra>",
        })  # fmt: skip
    layout = {
        "height": 360, "showlegend": True, "legend": {"orientation": "v", "x": 0.98, "xanchor": "right", "y": 0.04, "yanchor": "bottom", "bgcolor": d.background, "title": {"text": "area under the curve", "font": {"size": 12, "color": d.muted}}},
        "xaxis": {"range": [-0.01, 1.01], "tickformat": ".0%", "title": {"text": curves.label("x")}},
        "yaxis": {"range": [-0.01, 1.03], "tickformat": ".0%", "title": {"text": curves.label("y")}},
    }  # fmt: skip
    spec = house.picture(data, layout, theme=theme, title=title, revision=revision(record, "movers_found"))
    spec["layout"]["margin"]["t"] = 44 if title else 12  # the legend stands inside
    return spec


def caption(record: Record) -> str:
    """Return the lesson in two numbers."""
    area = {n: a for n, a in areas(record).items() if a == a}
    if "U" not in area:
        return "Nothing moves here, or its place is unknown: there is nothing to find."
    others = {n: a for n, a in area.items() if n != "U"}
    best = max(others, key=lambda n: others[n]) if others else "U"
    worst = min(others, key=lambda n: others[n]) if others else "U"
    if area["U"] <= max(others.values(), default=0.0):
        return f"Here the contradiction between both opinions finds what moves no better ({area['U']:.2f}) than {best} ({others[best]:.2f}); chance is 0.50."
    return (
        f"The contradiction between both opinions finds what moves with an area of {area['U']:.2f}; the volume's own doubt at best with "
        f"{area[best]:.2f} ({best}), at worst with {area[worst]:.2f} ({worst}); chance is 0.50."
    )


def say(record: Record) -> str:
    """Return the sentence and the areas."""
    rows = [[WORDS.get(n, n), f"{a:.3f}" if a == a else "–"] for n, a in areas(record).items()]
    return caption(record) + "\n\n" + table(["measure", "area"], rows)


VIEW = View(
    name="movers_found",
    groups=(GROUP,),
    question="Which doubt finds what moves?",
    reading=(
        "For every threshold of a measure: how many moving pixels it finds (up) and how many still ones it flags (right). A curve in the upper "
        "left corner finds them all; on the diagonal it guesses; below it, moving pixels look *more* certain than still ones. A thing that "
        "moves has a sharp, cheap, wrong minimum, which is why the volume's own doubt misses it."
    ),
    draw=draw,
    say=say,
    caption=caption,
)

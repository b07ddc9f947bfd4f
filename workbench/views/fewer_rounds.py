"""How many rounds does exploring save, and what does it cost? Rounds, sequences and right answers over f for several K."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench import theme as house
from workbench.views import View
from workbench.views.common import Curves, Spec, revision, table

if TYPE_CHECKING:
    from workbench.record import Record

ROUNDS, SEQUENCES, RIGHT = "curve/sweep", "curve/sweep_sequences", "curve/sweep_accuracy"
_MARKS = (
    ("accepted", "circle", "solid"),
    ("proposed", "square", "dash"),
    ("chosen", "star", "solid"),
    ("target", "diamond", "dot"),
)
_PANELS = ((ROUNDS, "", "rounds"), (SEQUENCES, "2", "sequences forwarded"), (RIGHT, "3", "right answers, %"))


def draw(record: Record, *, theme: str = "light", title: str = "") -> Spec:
    """Return three panels over f: rounds, sequences, right answers; a line for each K, and where the knobs stand."""
    d = house.design(theme)
    data: list[Spec] = []
    layout: Spec = {"height": 400, "showlegend": True, "annotations": [], "shapes": []}
    for i, (group, axis, label) in enumerate(_PANELS):
        curves = Curves(record, group)
        for name, (meaning, symbol, dash) in zip(curves.names, _MARKS, strict=False):
            x, y, _, _ = curves[name]
            data.append({
                "type": "scatter", "mode": "lines+markers", "name": name, "x": x.tolist(), "y": np.round(y, 3).tolist(), "xaxis": f"x{axis}", "yaxis": f"y{axis}", "showlegend": i == 0, "legendgroup": name,
                "line": {"color": d.line(meaning), "width": 2, "dash": dash}, "marker": {"symbol": symbol, "size": 8, "color": d.line(meaning)},
                "hovertemplate": f"{house.escape(name)}, f = %{{x:g}}<br>{label}: %{{y:.2f}}<extra></extra>",
            })  # fmt: skip
        left = i * 0.37
        top = float(curves.y.max(initial=1.0)) * 1.1
        layout[f"xaxis{axis}"] = {
            "domain": [left, left + 0.26],
            "range": [0, 2.05],
            "title": {"text": "factor f"},
            "anchor": f"y{axis}",
        }
        layout[f"yaxis{axis}"] = {"range": [0, 104 if group == RIGHT else top], "title": {"text": label}, "anchor": f"x{axis}"}
        layout["shapes"].append(
            {
                "type": "rect",
                "xref": f"x{axis}",
                "yref": f"y{axis} domain",
                "x0": 1,
                "x1": 2.05,
                "y0": 0,
                "y1": 1,
                "fillcolor": d.raised,
                "line": {"width": 0},
                "layer": "below",
            }
        )
        layout["shapes"] += _here(record, axis, d)
    return house.picture(data, layout, theme=theme, title=title, revision=revision(record, "fewer_rounds"))


def _here(record: Record, axis: str, d: house.Design) -> list[Spec]:
    if "curve/bounds" not in record:
        return []
    f = float(Curves(record, "curve/bounds")["f"][1][0])
    return [
        {
            "type": "line",
            "xref": f"x{axis}",
            "yref": f"y{axis} domain",
            "x0": f,
            "x1": f,
            "y0": 0,
            "y1": 1,
            "line": {"color": d.line("selected"), "width": 1.5},
        }
    ]


def _at(record: Record, group: str, name: str, f: float) -> float:
    x, y, _, _ = Curves(record, group)[name]
    return float(np.interp(f, x, y))


def caption(record: Record) -> str:
    """Return what the largest saving at f = 1 is, and what it costs in sequences and right answers."""
    curves = Curves(record, ROUNDS)
    base, rest = curves.names[0], curves.names[1:]
    if not rest:
        return "Only one decoder was measured."
    best = min(rest, key=lambda n: _at(record, ROUNDS, n, 1.0))
    few, many = _at(record, ROUNDS, best, 1.0), _at(record, ROUNDS, base, 1.0)
    text = f"At f = 1 the {base} takes {many:.2f} rounds; {best} takes {few:.2f} ({100 * (few / many - 1):+.0f} %)"
    ratio = _at(record, SEQUENCES, best, 1.0) / _at(record, SEQUENCES, base, 1.0)
    text += f" and forwards {ratio:.1f} times the sequences"
    if record.group_attrs(RIGHT).get("judged"):
        text += f"; right answers {_at(record, RIGHT, base, 1.0):.0f} % and {_at(record, RIGHT, best, 1.0):.0f} %"
    return text + "."


def say(record: Record) -> str:
    """Return the sentence and every point."""
    rows = []
    for name in Curves(record, ROUNDS).names:
        x = Curves(record, ROUNDS)[name][0]
        parts = [Curves(record, g)[name][1] for g, _, _ in _PANELS]
        rows += [[name, f"{f:g}", f"{r:.2f}", f"{s:.2f}", f"{a:.1f} %"] for f, r, s, a in zip(x, *parts, strict=True)]
    return caption(record) + "\n\n" + table(["decoder", "f", "rounds", "sequences", "right"], rows)


VIEW = View(
    name="fewer_rounds",
    groups=(ROUNDS, SEQUENCES, RIGHT, "curve/bounds"),
    question="How many rounds does exploring save, and what does it cost?",
    reading=(
        "Three panels over the factor f, each line a number of candidate states K, measured on the same prompts. Left: rounds, calls that wait for each other. "
        "Middle: sequences forwarded, the work done. Right: right answers. Exploring pays where rounds are what you wait for and sequences are nearly "
        "free. The shaded part has no theorem; the line is where the knob f stands."
    ),
    draw=draw,
    say=say,
    caption=caption,
    wide=True,
)

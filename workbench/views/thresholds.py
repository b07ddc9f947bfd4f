"""Did the thresholds learn to differ? Their spread over many questions, module by module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench import theme as house
from workbench.views import View
from workbench.views.common import Spec, columns, revision, table

if TYPE_CHECKING:
    from workbench.record import Record

GROUP = "thresholds/exam"
COLLAPSED = 0.01  # a standard deviation below which a threshold is one number for all


def draw(record: Record, *, theme: str = "light", title: str = "") -> Spec:
    """Return a histogram a module, of both thresholds."""
    d = house.design(theme)
    layer, theta_r, theta_s = columns(record, GROUP, "layer", "theta_r", "theta_s")
    low, high = min(0.0, float(min(theta_r.min(), theta_s.min()))), max(1.0, float(max(theta_r.max(), theta_s.max())))
    bins = np.linspace(low, high, 41)
    data: list[Spec] = []
    layout: Spec = {"showlegend": True, "bargap": 0.05, "barmode": "overlay", "annotations": []}
    count = len(layer)
    for i in range(count):
        axis = str(i + 1) if i else ""
        for values, name, meaning in ((theta_r[i], "theta_r, redundancy", "target"), (theta_s[i], "theta_s, grid", "chosen")):
            share = np.histogram(values, bins)[0] / len(values)
            data.append({
                "type": "bar", "x": ((bins[:-1] + bins[1:]) / 2).round(3).tolist(), "y": share.round(4).tolist(), "name": name, "legendgroup": name,
                "showlegend": i == 0, "xaxis": "x", "yaxis": f"y{axis}",
                "marker": {"color": d.fill(meaning, 0.75), "line": {"color": d.line(meaning), "width": 1}, "pattern": {"shape": "" if meaning == "target" else "/"}},
                "hovertemplate": f"module behind layer {layer[i] + 1}, {name}: %{{y:.0%}} near %{{x:.2f}}<extra></extra>",
            })  # fmt: skip
        layout[f"yaxis{axis}"] = {
            "domain": [i / count + 0.04, (i + 1) / count - 0.04],
            "range": [0, 1.05],
            "tickformat": ".0%",
            "nticks": 3,
        }
        layout["annotations"].append({
            "text": f"behind layer {layer[i] + 1}", "x": 0.99, "y": (i + 1) / count - 0.05, "xref": "paper", "yref": "paper", "showarrow": False, "xanchor": "right",
            "font": {"size": 12, "color": d.muted},
        })  # fmt: skip
    layout["xaxis"] = {"range": [low - 0.02, high + 0.02], "title": {"text": "threshold"}}
    return house.picture(data, layout, theme=theme, title=title, revision=revision(record, "thresholds"))


def caption(record: Record) -> str:
    """Return which thresholds vary and which have collapsed to a constant."""
    layer, theta_r, theta_s = columns(record, GROUP, "layer", "theta_r", "theta_s")
    spread = [
        (f"theta_{n} behind layer {la + 1}", float(t.std()))
        for n, all_of in (("r", theta_r), ("s", theta_s))
        for la, t in zip(layer, all_of)
    ]
    name, most = max(spread, key=lambda s: s[1])
    flat = sum(s < COLLAPSED for _, s in spread)
    if most < COLLAPSED:
        return "Every threshold is the same for all questions: the modules have learnt a constant, not to adapt."
    return f"{name} differs most between questions (standard deviation {most:.2f}); {flat} of {len(spread)} thresholds are practically constant."


def say(record: Record) -> str:
    """Return the sentence and the quartiles of every threshold."""
    layer, theta_r, theta_s = columns(record, GROUP, "layer", "theta_r", "theta_s")
    rows = []
    for la, r, s in zip(layer, theta_r, theta_s):
        for name, t in (("theta_r", r), ("theta_s", s)):
            rows.append([str(la + 1), name, *(f"{q:.3f}" for q in np.percentile(t, [5, 50, 95])), f"{t.std():.3f}"])
    return caption(record) + "\n\n" + table(["behind layer", "", "5 %", "median", "95 %", "deviation"], rows)


VIEW = View(
    name="thresholds",
    groups=(GROUP,),
    question="Do the thresholds differ from question to question?",
    reading=(
        "One strip a module, the first at the bottom: how often a threshold took a value over the exam's questions. A single bar means that "
        "the module learnt one number for all; a spread means it adapts. A token stays if its score lies above either threshold."
    ),
    draw=draw,
    say=say,
    caption=caption,
)

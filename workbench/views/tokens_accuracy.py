"""What does each rule pay in right answers for its speed? Every rule at every setting on the same prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench import theme as house
from workbench.views import View
from workbench.views.common import Curves, Spec, error_bars, note, revision, table

if TYPE_CHECKING:
    from workbench.record import Record

GROUP = "curve/rules"
#: name -> (meaning of its colour, marker, dash)
_STYLE = {
    "static": ("target", "circle", "solid"),
    "threshold": ("accepted", "square", "solid"),
    "factor": ("chosen", "diamond", "solid"),
    "entropy-bounded": ("proposed", "triangle-up", "dot"),
    "TinyAR, left to right": ("rejected", "hourglass", "solid"),
    "random": ("context", "x", "dot"),
    "margin": ("context", "triangle-down", "dash"),
    "entropy": ("context", "pentagon", "dashdot"),
}


def draw(record: Record, *, theme: str = "light", title: str = "") -> Spec:
    """Return one line a rule with Wilson's intervals, the ideal curve, published points, and where the knobs stand."""
    d, curves = house.design(theme), Curves(record, GROUP)
    data = [_line(name, curves, d) for name in curves.names]
    here = Curves(record, "curve/here")
    mine = str(record.group_attrs(GROUP).get("rule", ""))
    for name in here.names:
        x, y, _, _ = here[name]
        own = name == mine
        data.append({
            "type": "scatter", "mode": "markers", "name": "your knobs" if own else f"{name} at your knob", "showlegend": own, "x": x.tolist(), "y": y.tolist(),
            "marker": {"size": 17 if own else 11, "symbol": "circle-open", "color": d.line("selected"), "line": {"width": 3 if own else 1.6}},
            "hovertemplate": f"{house.escape(name)} at the present knob<br>%{{x:.2f}} tokens a round, %{{y:.1f}} %<extra></extra>",
        })  # fmt: skip
    most = max((float(np.nanmax(curves[n][0])) for n in curves.names if "reported" not in n), default=1.0)
    layout = {
        "height": 420, "showlegend": True,
        "xaxis": {"range": [0.8, most * 1.06 + 0.1], "title": {"text": curves.label("x")}},
        "yaxis": {"range": [-3, 104], "title": {"text": curves.label("y")}},
        "annotations": [note(f"bars: 95 % intervals over {record.group_attrs(GROUP).get('samples', '?')} prompts", theme, x=0.99, y=0.99)],
    }  # fmt: skip
    return house.picture(data, layout, theme=theme, title=title, revision=revision(record, "tokens_accuracy"))


def _line(name: str, curves: Curves, d: house.Design) -> Spec:
    x, y, low, high = curves[name]
    order = np.argsort(x, kind="stable")
    if "ideal" in name:
        colour, marker, dash, width = d.text, "line-ns", "dash", 2.0
    elif "reported" in name:
        colour, marker, dash, width = d.muted, "star-open", "dot", 1.0
    else:
        meaning, marker, dash = _STYLE.get(name, ("context", "cross", "dot"))
        colour, width = d.line(meaning), 2.0 if meaning != "context" else 1.2
    return {
        "type": "scatter", "mode": "lines" if "ideal" in name else "lines+markers", "name": name, "x": np.round(x[order], 4).tolist(), "y": np.round(y[order], 3).tolist(),
        "line": {"color": colour, "width": width, "dash": dash}, "marker": {"symbol": marker, "size": 8, "color": colour},
        "error_y": error_bars(y[order], low[order], high[order], colour) | {"width": 0, "thickness": 0.9},
        "hovertemplate": f"{house.escape(name)}<br>%{{x:.2f}} tokens a round, %{{y:.1f}} % right<extra></extra>",
    }  # fmt: skip


def fastest_at(record: Record, floor: float) -> tuple[str, float] | None:
    """Return the measured rule with the most tokens a round among points of at least `floor` per cent, and how many."""
    curves = Curves(record, GROUP)
    found = [
        (float(x[y >= floor].max()), n)
        for n in curves.names
        if n in _STYLE and "TinyAR" not in n
        for x, y, _, _ in [curves[n]]
        if (y >= floor).any()
    ]
    return (max(found)[1], max(found)[0]) if found else None


def caption(record: Record) -> str:
    """Return the fastest rule that keeps nine in ten answers right, and what the ideal model would keep at two at once."""
    best = fastest_at(record, 90.0)
    text = (
        f"With at least 90 % right the fastest here is the {best[0]} rule: {best[1]:.2f} tokens a round"
        if best
        else "No rule keeps 90 % of the answers right, not even one token a round"
    )
    curves = Curves(record, GROUP)
    if "ideal (closed form)" in curves.names:
        x, y, _, _ = curves["ideal (closed form)"]
        at = int(np.argmin(np.abs(x - 2)))
        text += f". A model without any error keeps {y[at]:.0f} % at {x[at]:.0f} at once"
    return text + "."


def say(record: Record) -> str:
    """Return the sentence and every point."""
    curves = Curves(record, GROUP)
    names, settings = record.column(GROUP, "curve").astype(str), record.column(GROUP, "setting")
    rows = [
        [
            name,
            f"{s:g}" if s == s else "",
            f"{x:.2f}",
            f"{y:.1f} %",
            f"{low:.1f} to {high:.1f}" if low == low else "reported" if "reported" in name else "exact",
        ]
        for name in curves.names
        for s, x, y, low, high in zip(settings[names == name], *curves[name], strict=True)
    ]
    return caption(record) + "\n\n" + table(["rule", "setting", "tokens a round", "right", "95 % interval"], rows)


VIEW = View(
    name="tokens_accuracy",
    groups=(GROUP, "curve/here"),
    question="What does each rule pay for its speed?",
    reading=(
        "Each line is an unmasking rule at several settings, measured on the same prompts: to the right more tokens a round, up more right answers; "
        "thin bars are 95 % intervals. Dashed black: the closed form of a model with exact marginals, which no decoder of this kind can beat at k tokens "
        "a round. Open stars: published points of an 8 B model on longer answers (reported, unverified). Hourglass: a model of the same size that writes one token a call from left to right. Rings: where the knobs stand, between measured "
        "points read off the line."
    ),
    draw=draw,
    say=say,
    caption=caption,
)

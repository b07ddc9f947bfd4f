"""What would the best threshold for each prompt save? One global threshold against an oracle that no decoder can be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench import theme as house
from workbench.views import View
from workbench.views.common import Curves, Spec, error_bars, revision, table

if TYPE_CHECKING:
    from workbench.record import Record

GROUP = "curve/oracle"
ONE, EACH = "one threshold for all", "best threshold for each prompt"


def draw(record: Record, *, theme: str = "light", title: str = "") -> Spec:
    """Return the line of global thresholds, each labelled, and the oracle's star."""
    d, curves = house.design(theme), Curves(record, GROUP)
    x, y, low, high = curves[ONE]
    setting = record.column(GROUP, "setting")[record.column(GROUP, "curve").astype(str) == ONE]
    star_x, star_y, star_low, star_high = curves[EACH]
    data: list[Spec] = [
        {
            "type": "scatter", "mode": "lines+markers+text", "name": ONE, "x": x.tolist(), "y": y.tolist(), "line": {"color": d.line("accepted"), "width": 2}, "marker": {"size": 8, "symbol": "square", "color": d.line("accepted")},
            "text": _labels(x, y, setting), "textposition": "bottom left", "textfont": {"size": 11, "color": d.muted}, "error_y": error_bars(y, low, high, d.line("accepted")) | {"width": 0, "thickness": 0.9},
            "hovertemplate": "%{hovertext}<br>%{x:.2f} tokens a round, %{y:.1f} % right<extra></extra>", "hovertext": [f"γ = {s:g}" for s in setting],
        },
        {
            "type": "scatter", "mode": "markers", "name": EACH, "x": star_x.tolist(), "y": star_y.tolist(), "marker": {"size": 17, "symbol": "star", "color": d.fill("chosen"), "line": {"color": d.text, "width": 1.5}},
            "error_y": error_bars(star_y, star_low, star_high, d.line("chosen")), "hovertemplate": "oracle<br>%{x:.2f} tokens a round, %{y:.1f} % right<extra></extra>",
        },
    ]  # fmt: skip
    ends = np.r_[x, star_x]
    layout = {
        "height": 380, "showlegend": True, "xaxis": {"range": [float(ends.min()) - 0.25, float(ends.max()) + 0.25], "title": {"text": curves.label("x")}},
        "yaxis": {"range": [-4, 105], "title": {"text": curves.label("y")}},
    }  # fmt: skip
    return house.picture(data, layout, theme=theme, title=title, revision=revision(record, "oracle_gap"))


def _labels(x: np.ndarray, y: np.ndarray, setting: np.ndarray) -> list[str]:
    """Return "γ = 0.9" for each point that has room for it, from the fastest back; a point too near to a named one is named by its hover."""
    wide = max(float(np.ptp(x)), 0.5) / 6
    named: list[int] = []
    for i in np.argsort(-x, kind="stable").tolist():
        if all(abs(x[i] - x[j]) > wide or abs(y[i] - y[j]) > 6 for j in named):
            named.append(i)
    return [f"γ = {s:g}" if i in named else "" for i, s in enumerate(setting)]


def caption(record: Record) -> str:
    """Return the oracle's point beside the fastest global threshold that is as accurate."""
    curves = Curves(record, GROUP)
    x, y, _, _ = curves[ONE]
    star_x, star_y = float(curves[EACH][0][0]), float(curves[EACH][1][0])
    good = np.flatnonzero(y >= star_y - 1e-9)
    best = float(x[good].max()) if len(good) else None
    text = f"With the best threshold for each prompt {star_y:.0f} % are right at {star_x:.2f} tokens a round"
    if best is None:
        return text + f"; no single threshold is as accurate (the best {y.max():.0f} %)."
    return text + f"; the fastest single threshold that is as accurate does {best:.2f}."


def say(record: Record) -> str:
    """Return the sentence and every point."""
    curves = Curves(record, GROUP)
    names, settings = record.column(GROUP, "curve").astype(str), record.column(GROUP, "setting")
    rows = [
        [name, f"{s:g}" if s == s else "each its own", f"{a:.2f}", f"{b:.1f} %"]
        for name in (ONE, EACH)
        for s, a, b in zip(settings[names == name], *curves[name][:2], strict=True)
    ]
    return caption(record) + "\n\n" + table(["", "threshold", "tokens a round", "right"], rows)


VIEW = View(
    name="oracle_gap",
    groups=(GROUP,),
    question="What would the best threshold for each prompt save?",
    reading=(
        "Green squares: one threshold for all prompts, labelled with its value where there is room (the others on hover). The star: for each prompt the threshold with the fewest rounds among "
        "those that get it right, which no decoder can know beforehand. The distance between star and line is what a rule that adapts to the prompt could "
        "still gain. Bars are 95 % intervals."
    ),
    draw=draw,
    say=say,
    caption=caption,
)

"""How wrong does a moving thing come out, at any speed? Errors over object speed beside the closed form."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench import theme as house
from workbench.views import View
from workbench.views.common import Curves, Spec, revision, table

if TYPE_CHECKING:
    from workbench.record import Record

GROUP, HERE = "curve/object_speed", "curve/here"
STYLE = {
    "multi": ("matching alone", "target", "solid"),
    "single": ("one frame alone", "context", "dot"),
    "ManyDepth": ("ManyDepth's mask", "proposed", "dash"),
    "fused": ("both, joined", "accepted", "solid"),
}
TICKS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10)


def draw(record: Record, *, theme: str = "light", title: str = "") -> Spec:
    """Return the errors on the moving thing, the closed form, and a ring at the present speed."""
    d, curves = house.design(theme), Curves(record, GROUP)
    here = Curves(record, HERE) if HERE in record else None
    data: list[Spec] = []
    if "closed form" in curves.names:
        x, y = curves["closed form"][:2]
        data.append({"type": "scatter", "mode": "lines", "name": "closed form |z'/z - 1|", "x": x.round(3).tolist(), "y": _positive(y), "line": {"color": d.muted, "width": 6}, "opacity": 0.35, "hoverinfo": "skip"})  # fmt: skip
    for name, (words, meaning, dash) in STYLE.items():
        if name not in curves.names:
            continue
        x, y = curves[name][:2]
        data.append({
            "type": "scatter", "mode": "lines+markers", "name": words, "x": x.tolist(), "y": _positive(y), "connectgaps": True,
            "line": {"color": d.line(meaning), "width": 2.4, "dash": dash}, "marker": {"size": 6, "color": d.line(meaning)},
            "hovertemplate": f"{words}: %{{y:.1%}} at m/B %{{x}}<extra></extra>",
        })  # fmt: skip
        if here is not None and f"speed {name}" in here.names:
            hx, hy = here[f"speed {name}"][:2]
            data.append({"type": "scatter", "mode": "markers", "x": hx.tolist(), "y": _positive(hy), "marker": {"size": 12, "symbol": "circle-open", "color": d.line("selected"), "line": {"width": 3}}, "showlegend": False, "name": "now", "hovertemplate": f"{words}, now: %{{y:.1%}}<extra></extra>"})  # fmt: skip
    layout = {
        "height": 360, "showlegend": True,
        "xaxis": {"range": [-1.05, 1.25], "title": {"text": "object speed m / B (1: it keeps pace with the camera)"}},
        "yaxis": {"type": "log", "range": [-2.1, 1.2], "title": {"text": "error on the moving thing"}, "tickvals": list(TICKS), "ticktext": [f"{t:.0%}" for t in TICKS]},
    }  # fmt: skip
    return house.picture(data, layout, theme=theme, title=title, revision=revision(record, "ghost_speed"))


def _positive(y: np.ndarray) -> list[float | None]:
    return [float(v) if np.isfinite(v) and v > 0 else None for v in np.asarray(y, float).round(5)]


def blind_spot(record: Record) -> float | None:
    """Return the speed between 0 and 1 at which the joined depth is furthest off the single frame's, if it is off by half as much again."""
    curves = Curves(record, GROUP)
    if not {"fused", "single"} <= set(curves.names):
        return None
    x, fused, single = curves["fused"][0], curves["fused"][1], curves["single"][1]
    excess = np.where((x > 0) & (x < 1) & np.isfinite(fused), fused / single, 0)
    return float(x[excess.argmax()]) if excess.max() > 1.5 else None


def caption(record: Record) -> str:
    """Return how the joined depth follows, and where its blind spot lies."""
    curves = Curves(record, GROUP)
    multi, fused = curves["multi"], curves["fused"]
    at = int(np.nanargmin(np.abs(multi[0] - 0.5)))
    text = f"At half the camera's speed matching is off by {multi[1][at]:.0%}, the joined depth by {fused[1][at]:.0%}."
    spot = blind_spot(record)
    if spot is None:
        return text + " The joined depth never strays far from the better opinion."
    worst = float(fused[1][np.argmin(np.abs(fused[0] - spot))])
    return (
        text
        + f" Slow things are its blind spot: at m/B = {spot:g} they disagree too little to be noticed, and it is off by {worst:.0%}."
    )


def say(record: Record) -> str:
    """Return the sentence and the measured points."""
    curves = Curves(record, GROUP)
    names = [n for n in STYLE if n in curves.names]
    x = curves[names[0]][0]
    rows = [
        [f"{s:g}", *(f"{curves[n][1][i]:.3f}" if np.isfinite(curves[n][1][i]) else "–" for n in names)] for i, s in enumerate(x)
    ]
    return caption(record) + "\n\n" + table(["m / B", *(STYLE[n][0] for n in names)], rows)


VIEW = View(
    name="ghost_speed",
    groups=(GROUP,),
    question="How far away does a moving thing seem?",
    reading=(
        "Up is worse, on a logarithmic scale. A thing that moves m while the camera moves B seems to stand at z B / (B - m): the broad grey "
        "line is that closed form, matching follows it, the single frame does not care. The joined depth follows the better of the two, except "
        "where the disagreement stays under the threshold. Rings stand at the present knobs."
    ),
    draw=draw,
    say=say,
    caption=caption,
)

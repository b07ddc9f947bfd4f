"""Are gamma and beta well chosen? Errors of the joined depth over each, everything else as it stands."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench import theme as house
from workbench.views import View
from workbench.views.common import Curves, Spec, revision, table

if TYPE_CHECKING:
    from workbench.record import Record

GROUPS = {"gamma": "curve/gamma", "beta": "curve/beta"}
PAPER = {"gamma": 0.6, "beta": 0.6}
STYLE = {"all": ("accepted", "solid", 3.0), "moving": ("chosen", "dash", 2.0), "still": ("context", "dot", 2.0)}


def draw(record: Record, *, theme: str = "light", title: str = "") -> Spec:
    """Return two panels, gamma and beta, a line a part, the paper's value ticked and the present one ringed."""
    d = house.design(theme)
    here = Curves(record, "curve/here") if "curve/here" in record else None
    data: list[Spec] = []
    layout: Spec = {"height": 340, "showlegend": True, "shapes": [], "annotations": []}
    top = 0.0
    for i, (name, group) in enumerate(GROUPS.items()):
        curves, axis = Curves(record, group), str(i + 1) if i else ""
        for part in curves.names:
            meaning, dash, width = STYLE.get(part, ("context", "solid", 2.0))
            x, y = curves[part][:2]
            top = max(top, float(np.nanmax(y, initial=0.0)))
            base = {"type": "scatter", "xaxis": f"x{axis}", "yaxis": f"y{axis}"}
            data.append(base | {
                "mode": "lines+markers", "name": part, "legendgroup": part, "showlegend": i == 0, "x": x.tolist(), "y": _numbers(y),
                "line": {"color": d.line(meaning), "dash": dash, "width": width}, "marker": {"size": 5, "color": d.line(meaning)},
                "hovertemplate": f"{name} %{{x}}, {part}: %{{y:.1%}}<extra></extra>",
            })  # fmt: skip
            if here is not None and f"{name} {part}" in here.names:
                hx, hy = here[f"{name} {part}"][:2]
                top = max(top, float(np.nanmax(hy, initial=0.0)))
                ring = {"size": 11, "symbol": "circle-open", "color": d.line("selected"), "line": {"width": 3}}
                data.append(
                    base
                    | {
                        "mode": "markers",
                        "name": "now",
                        "showlegend": False,
                        "x": hx.tolist(),
                        "y": _numbers(hy),
                        "marker": ring,
                        "hoverinfo": "skip",
                    }
                )
        layout[f"xaxis{axis}"] = {"domain": [0, 0.47] if not i else [0.53, 1], "anchor": f"y{axis}", "title": {"text": f"{name} ({'γ' if not i else 'β'}), dashed: the paper's"}, **({"type": "log", "tickvals": [0.05, 0.1, 0.2, 0.6, 1, 3]} if i else {})}  # fmt: skip
        layout[f"yaxis{axis}"] = {
            "tickformat": ".0%",
            "anchor": f"x{axis}",
            **({"matches": "y", "showticklabels": False} if i else {"title": {"text": "error of the joined depth"}}),
        }
        layout["shapes"].append({"type": "line", "xref": f"x{axis}", "yref": "paper", "x0": PAPER[name], "x1": PAPER[name], "y0": 0, "y1": 1, "line": {"color": d.muted, "width": 1, "dash": "dash"}})  # fmt: skip
    layout["yaxis"]["range"] = [0, max(top * 1.08, 0.01)]
    return house.picture(data, layout, theme=theme, title=title, revision=revision(record, "threshold_sweep"))


def _numbers(y: np.ndarray) -> list[float | None]:
    return [float(v) if np.isfinite(v) else None for v in np.asarray(y, float).round(5)]


def caption(record: Record) -> str:
    """Return where each minimum lies, and what its ends cost."""
    words = []
    for name, group in GROUPS.items():
        x, y = Curves(record, group)["all"][:2]
        if not np.isfinite(y).any():
            return "Nobody knows the true depth here, so no setting can be called best."
        best = int(np.nanargmin(y))
        words.append(f"{name} is best at {x[best]:g} ({y[best]:.1%}); its ends give {y[0]:.1%} and {y[-1]:.1%}")
    return "Over all pixels " + "; ".join(words) + "."


def say(record: Record) -> str:
    """Return the sentence and every measured point."""
    rows = []
    for name, group in GROUPS.items():
        curves = Curves(record, group)
        for i, x in enumerate(curves["all"][0]):
            rows.append(
                [name, f"{x:g}", *(f"{curves[p][1][i]:.3f}" if np.isfinite(curves[p][1][i]) else "–" for p in curves.names)]
            )
    return caption(record) + "\n\n" + table(["knob", "value", *Curves(record, "curve/gamma").names], rows)


VIEW = View(
    name="threshold_sweep",
    groups=tuple(GROUPS.values()),
    question="Are gamma and beta well chosen here?",
    reading=(
        "Errors of the joined depth while one knob sweeps and the rest stays. Too low a gamma, or too high a beta, hands good matches to the "
        "single frame; the other end keeps the ghosts of what moves. Dashed vertical lines: the paper's values; rings: the knobs as they "
        "stand. Both count in network units: a metre with the simulated teacher, four with trained networks, times the knob."
    ),
    draw=draw,
    say=say,
    caption=caption,
)

"""Who pays for what moves? Errors of each opinion where things stand and where they move."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench import theme as house
from workbench.views import View
from workbench.views.common import Curves, Spec, columns, optional, revision, table, texts

if TYPE_CHECKING:
    from workbench.record import Record

GROUP = "curve/errors"
PARTS = ("still", "moving", "all")
WORDS = {
    "multi": "matching alone",
    "single": "one frame alone",
    "fused": "both, joined",
    "ManyDepth": "ManyDepth's mask",
    "decoder": "trained decoder",
    "semi-global": "classical, semi-global",
}
MEANING = {
    "multi": "target",
    "single": "context",
    "fused": "accepted",
    "ManyDepth": "proposed",
    "decoder": "chosen",
    "semi-global": "context",
}
PATTERN = {"multi": "", "single": ".", "fused": "", "ManyDepth": "/", "decoder": "x", "semi-global": "\\"}


def values(record: Record) -> dict[str, np.ndarray]:
    """Return AbsRel over (still, moving, all) by method; NaN where a part is empty."""
    curves = Curves(record, GROUP)
    return {n: curves[n][1] for n in curves.names}


def _words(record: Record, name: str) -> str:
    """Return what a method is called; a simulated opinion says so in every picture."""
    simulated = name == "single" and record.group_attrs(GROUP).get("teacher") == "simulated"
    return WORDS.get(name, name) + (" (simulated)" if simulated else "")


def draw(record: Record, *, theme: str = "light", title: str = "") -> Spec:
    """Return one bar a method and part, on a logarithmic scale of the error."""
    d, data = house.design(theme), []
    for name, y in values(record).items():
        meaning = MEANING.get(name, "context")
        shown = [float(v) if np.isfinite(v) else None for v in y]
        data.append({
            "type": "bar", "name": _words(record, name), "x": list(PARTS), "y": shown, "text": [f"{v:.1%}" if v is not None else "" for v in shown],
            "textposition": "outside", "textfont": {"size": 11, "color": d.text}, "cliponaxis": False,
            "marker": {"color": d.fill(meaning, 0.85), "line": {"color": d.line(meaning), "width": 1}, "pattern": {"shape": PATTERN.get(name, "")}},
            "hovertemplate": f"{house.escape(_words(record, name))}, %{{x}}: %{{y:.3f}}<extra></extra>",
        })  # fmt: skip
    layout = {
        "height": 330, "showlegend": True, "barmode": "group", "bargap": 0.22, "bargroupgap": 0.06,
        "yaxis": {"type": "log", "range": [-2.1, 0.75], "title": {"text": "mean absolute relative error"}, "tickvals": [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5], "ticktext": ["1 %", "2 %", "5 %", "10 %", "20 %", "50 %", "100 %", "200 %", "500 %"]},
        "xaxis": {"title": {"text": "part of the picture"}, "showgrid": False},
    }  # fmt: skip
    return house.picture(data, layout, theme=theme, title=title, revision=revision(record, "error_split"))


def caption(record: Record) -> str:
    """Return who is best where, and what joining costs."""
    found = values(record)
    still, moving, everything = ({n: y[i] for n, y in found.items() if np.isfinite(y[i])} for i in range(3))
    if not everything:
        return "Nobody knows the true depth of this pair, so nothing can be judged."
    best = min(everything, key=lambda n: everything[n])
    text = f"Over all pixels “{_words(record, best)}” is nearest to the truth: {everything[best]:.1%}."
    if moving and "multi" in moving and "fused" in moving:
        text += f" Joining takes the moving part from {moving['multi']:.0%} to {moving['fused']:.0%}"
        change = still["fused"] - still["multi"] if "fused" in still else 0.0
        text += f" and {'lowers' if change < 0 else 'raises'} the still part by {abs(change):.1%} of the depth."
    return text + judged(record)


def judged(record: Record) -> str:
    """Return on how many pixels everybody is judged, as a sentence of its own; nothing where a record does not say."""
    part = columns(record, GROUP, "x")[0]
    pixels = optional(record, GROUP, "pixels", np.nan)[part == PARTS.index("all")]
    return f" Judged on the {int(pixels[0]):,} pixels whose depth is known and found by all." if np.ptp(pixels) == 0 else ""


def say(record: Record) -> str:
    """Return the sentence and all figures."""
    names, delta = texts(record, GROUP, "curve"), optional(record, GROUP, "delta", np.nan)
    part, y = columns(record, GROUP, "x", "y")
    rows = [
        [_words(record, n), PARTS[int(p)], f"{v:.4f}" if v == v else "–", f"{s:.3f}" if s == s else "–"]
        for n, p, v, s in zip(names, part, y, delta, strict=True)
    ]
    return caption(record) + "\n\n" + table(["depth", "part", "AbsRel", "delta < 1.25"], rows)


VIEW = View(
    name="error_split",
    groups=(GROUP,),
    question="Who pays for what moves?",
    reading=(
        "Bars are mean absolute relative errors of depth on a logarithmic scale: lower is better. Matching alone takes the cheapest candidate; the "
        "single frame looks only; ManyDepth's mask swaps in the single frame where the two differ by a factor of two; joined is ProDepth; semi-global is a "
        "classical matcher of the OpenCV library, for rectified pairs. "
        "The parts come from the scene's exact labels; all are judged on the same pixels."
    ),
    draw=draw,
    say=say,
    caption=caption,
)

"""How many rounds does a text of so many bits need? One dot a text, and the theorem's bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench import theme as house
from workbench.views import View
from workbench.views.common import Curves, Spec, note, plural, revision, table

if TYPE_CHECKING:
    from workbench.record import Record

GROUP, BOUNDS = "curve/rounds", "curve/bounds"
LINES = {
    "joint bound": ("target", "solid"),
    "marginal bound": ("target", "dash"),
    "threshold's bound (our extension)": ("context", "dot"),
}


def factor(record: Record) -> float:
    """Return the present factor f."""
    return float(Curves(record, BOUNDS)["f"][1][0])


def draw(record: Record, *, theme: str = "light", title: str = "") -> Spec:
    """Return the dots of each decoder and the lines of the bounds, grey where the theorem says nothing."""
    d, dots, bounds = house.design(theme), Curves(record, GROUP), Curves(record, BOUNDS)
    valid = factor(record) <= 1
    data: list[Spec] = []
    for name, (meaning, dash) in LINES.items():
        if name not in bounds.names:
            continue
        x, y, _, _ = bounds[name]
        theirs = name.startswith("threshold")
        colour = d.line(meaning) if valid or theirs else d.muted
        data.append({
            "type": "scatter", "mode": "lines", "name": name if valid or theirs else f"{name} (f > 1: no theorem)", "x": x.tolist(), "y": y.tolist(),
            "line": {"color": colour, "width": 2 if valid else 1, "dash": dash if valid else "dot"}, "hovertemplate": f"{house.escape(name)}<br>%{{x:.2f}} nat need %{{y:.2f}} rounds<extra></extra>",
        })  # fmt: skip
    jitter = np.random.default_rng(0)
    for i, name in enumerate(dots.names):
        x, y, low, _ = dots[name]
        meaning = ("chosen", "accepted")[i % 2] if len(dots.names) > 1 else "accepted"
        data.append({
            "type": "scatter", "mode": "markers", "name": "explore, then exploit" if name == "ete" else name, "x": x.tolist(), "y": (y + jitter.uniform(-0.16, 0.16, len(y))).tolist(),
            "marker": {"size": 8, "symbol": ("star", "circle")[i % 2], "opacity": 0.65, "color": d.fill(meaning), "line": {"width": 0.6, "color": d.background}},
            "customdata": list(zip(y.tolist(), np.round(low, 2).tolist(), strict=True)),
            "hovertemplate": "%{x:.2f} nat in %{customdata[0]} rounds<br>corrected bound %{customdata[1]}<extra></extra>",
        })  # fmt: skip
    exact = bool(record.group_attrs(GROUP).get("exact"))
    top = float(max(dots.y.max(initial=1.0), 2.0)) * 1.12
    layout = {
        "height": 420, "showlegend": True,
        "xaxis": {"range": [0, float(dots.x.max(initial=1.0)) * 1.05], "title": {"text": dots.label("x") + ("" if exact else ", estimated token by token")}},
        "yaxis": {"range": [0, top], "title": {"text": "rounds (dots spread a little)"}},
        "annotations": [] if exact else [note("a trained model has no single joint law: -ln p is an estimate", theme, x=0.01, y=0.99, anchor="left")],
    }  # fmt: skip
    return house.picture(data, layout, theme=theme, title=title, revision=revision(record, "bits_rounds"))


def caption(record: Record) -> str:
    """Return how the decoders stand to the bound, and whether the theorem applies."""
    dots = Curves(record, GROUP)
    parts = []
    for name in dots.names:
        x, y, low, _ = dots[name]
        known = np.isfinite(low)
        label = "explore, then exploit" if name == "ete" else name
        text = f"{label}: {y.mean():.2f} rounds for {x.mean():.2f} nat"
        if known.any():
            text += (
                f", {int((y[known] < low[known] - 1e-9).sum())} of {plural(int(known.sum()), 'text')} under the corrected bound"
            )
        parts.append(text)
    f = factor(record)
    ending = "" if f <= 1 else f" At f = {f:g} the theorem says nothing; its lines are grey."
    return "; ".join(parts) + "." + ending


def say(record: Record) -> str:
    """Return the sentence, the budgets and the spread of each decoder."""
    dots, bounds = Curves(record, GROUP), Curves(record, BOUNDS)
    setting, names = record.column(BOUNDS, "setting"), record.column(BOUNDS, "curve").astype(str)
    lines = [[n, f"{setting[names == n][0]:.3f} nat a round"] for n in LINES if n in bounds.names]
    rows = [
        [n, f"{dots[n][0].min():.2f} to {dots[n][0].max():.2f}", f"{dots[n][1].min():.0f} to {dots[n][1].max():.0f}"]
        for n in dots.names
    ]
    return caption(record) + "\n\n" + table(["bound", "budget"], lines) + "\n\n" + table(["decoder", "nat", "rounds"], rows)


VIEW = View(
    name="bits_rounds",
    groups=(GROUP, BOUNDS),
    question="How many rounds does a text of so many bits need?",
    reading=(
        "Each mark is one text: to the right more information, up more rounds. The lines are the least rounds of a decoder that decides only what it "
        "trusts: solid by joint information, dashed by the tokens' own. Rounds that decide one token because nothing was trusted lie outside the theorem and "
        "are counted by themselves in the corrected bound (on hover). Exploring may go under: it breaks the assumption on purpose. "
        "Grey lines: f above 1, where there is no theorem."
    ),
    draw=draw,
    say=say,
    caption=caption,
)

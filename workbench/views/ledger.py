"""What did each round reveal, and what was it allowed to? The information ledger of one text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench import theme as house
from workbench.views import View
from workbench.views.common import Curves, Spec, check_step, note, plural, revision, table, texts

if TYPE_CHECKING:
    from workbench.record import Record

KINDS = {"exploit": "accepted", "explore": "chosen", "fallback": "rejected", "static": "target", "verify": "proposed"}


def draw(record: Record, *, step: int | None = None, theme: str = "light", title: str = "") -> Spec:
    """Return a bar for each round with its budgets, and the running sum.

    Args:
        step: round to point at (None: none).
    """
    if step is not None:
        check_step(record, "text", step)
    d = house.design(theme)
    kinds = texts(record, "rounds", "kind")
    marginal, joint, budget = (record.column("rounds", n) for n in ("information_marginal", "information_joint", "budget_joint"))
    x = np.arange(1, len(kinds) + 1)
    exact = bool(record.group_attrs("rounds").get("exact", True))
    data: list[Spec] = []
    for kind, meaning in KINDS.items():
        where = kinds == kind
        if where.any():
            marker = house.solid(theme, meaning)
            if kind == "fallback":
                marker |= {"pattern": {"shape": "x", "size": 6, "solidity": 0.2, "fgcolor": d.background, "fillmode": "overlay"}}
            data.append({"type": "bar", "width": 0.72, "name": kind, "x": x[where].tolist(), "y": marginal[where].tolist(), "marker": marker, "customdata": (x[where] - 1).tolist(), "hovertemplate": f"round %{{x}}, {kind}: %{{y:.3f}} nat<extra></extra>"})  # fmt: skip
    shown = np.where(np.isfinite(budget) & np.isin(kinds, ("exploit", "explore")), budget, np.nan)
    data.append({
        "type": "scatter", "mode": "markers", "name": "budget of so many tokens, jointly", "x": x.tolist(), "y": [None if v != v else float(v) for v in shown],
        "marker": {"symbol": "line-ew", "size": 18, "line": {"width": 2.5, "color": d.text}}, "hovertemplate": "round %{x}: at most %{y:.3f} nat jointly<extra></extra>",
    })  # fmt: skip
    data += _threshold(record, d)
    total = np.cumsum(np.nan_to_num(joint))
    data.append({
        "type": "scatter", "mode": "lines+markers", "name": "joint information so far" + ("" if exact else " (estimated)"), "x": np.r_[0, x].tolist(), "y": np.r_[0, total].tolist(), "xaxis": "x2", "yaxis": "y2",
        "line": {"color": d.line("selected"), "width": 2, "shape": "hv", "dash": "solid" if exact else "dash"}, "marker": {"size": 6}, "hovertemplate": "after round %{x}: %{y:.3f} nat<extra></extra>",
    })  # fmt: skip
    shapes, notes = _level(record, d, theme)
    if step is not None and len(x):
        at = min(step, len(x) - 1) + 1
        shapes.append(
            {
                "type": "rect",
                "x0": at - 0.5,
                "x1": at + 0.5,
                "yref": "paper",
                "y0": 0.46,
                "y1": 1,
                "line": {"color": d.line("selected"), "width": 1.5},
            }
        )
    top = float(max(np.nanmax(np.r_[marginal, shown, 0.1]), 0.1)) * 1.12
    layout = {
        "height": 430, "showlegend": True, "shapes": shapes, "annotations": notes, "bargap": 0.25,
        "xaxis": {"range": [0.4, max(len(x), 1) + 0.6], "dtick": max(1, len(x) // 12), "anchor": "y"}, "yaxis": {"domain": [0.46, 1], "range": [0, top], "title": {"text": "nat a round"}},
        "xaxis2": {"range": [0.4, max(len(x), 1) + 0.6], "dtick": max(1, len(x) // 12), "anchor": "y2", "title": {"text": "round"}}, "yaxis2": {"domain": [0, 0.34], "range": [0, float(total[-1]) * 1.12 + 1e-3 if len(total) else 1], "title": {"text": "nat in all"}},
    }  # fmt: skip
    return house.picture(data, layout, theme=theme, title=title, revision=revision(record, "ledger"))


def _threshold(record: Record, d: house.Design) -> list[Spec]:
    """Return what a fixed threshold would let as many tokens reveal, each by itself: a budget that grows with their number."""
    curves = Curves(record, "curve/bounds")
    name = "threshold's budget by round"
    if name not in curves.names:
        return []
    x, y, _, _ = curves[name]
    gamma = record.column("curve/bounds", "setting")[record.column("curve/bounds", "curve").astype(str) == name][0]
    return [{
        "type": "scatter", "mode": "markers", "name": f"as many tokens at a threshold of {gamma:g}", "x": x.tolist(), "y": y.tolist(),
        "marker": {"symbol": "triangle-down-open", "size": 9, "color": d.muted, "line": {"width": 1.5}}, "hovertemplate": "round %{x}: at most %{y:.3f} nat at the threshold γ<extra></extra>",
    }]  # fmt: skip


def _level(record: Record, d: house.Design, theme: str) -> tuple[list[Spec], list[Spec]]:
    """Return the line of f, the most that a trusting round reveals token by token."""
    f = float(Curves(record, "curve/bounds")["f"][1][0])
    line = {
        "type": "line",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "y0": f,
        "y1": f,
        "line": {"color": d.text, "width": 1.2, "dash": "dash"},
    }
    return [line], [note(f"f = {f:g} nat" + ("" if f <= 1 else ": no theorem"), theme, x=0.995, y=0.995)]


def caption(record: Record, *, step: int | None = None) -> str:
    """Return what the rounds revealed and which kind revealed most."""
    kinds, marginal = texts(record, "rounds", "kind"), record.column("rounds", "information_marginal")
    joint = record.column("rounds", "information_joint")
    exact = bool(record.group_attrs("rounds").get("exact", True))
    if not len(kinds):
        return "Nothing was hidden, so no round revealed anything."
    sums = {k: float(marginal[kinds == k].sum()) for k in KINDS if (kinds == k).any()}
    most = max(sums, key=lambda k: sums[k])
    counted = ", ".join(f"{plural(int((kinds == k).sum()), f'{k} round')} with {v:.2f} nat" for k, v in sums.items())
    word = "" if exact else " (estimated)"
    return f"{counted}; in all {np.nansum(joint):.2f} nat jointly{word}, most of it in {most} rounds."


def say(record: Record, *, step: int | None = None) -> str:
    """Return the sentence and every round."""
    kinds = texts(record, "rounds", "kind")
    names = ("committed", "sequences", "information_marginal", "information_joint", "budget_marginal", "budget_joint")
    columns = [record.column("rounds", n) for n in names]
    rows = [[str(r + 1), str(kinds[r]), *(f"{c[r]:.4g}" if c[r] == c[r] else "–" for c in columns)] for r in range(len(kinds))]
    head = ["round", "kind", "tokens", "sequences", "nat, one by one", "nat jointly", "budget, one by one", "budget jointly"]
    return caption(record, step=step) + "\n\n" + table(head, rows)


VIEW = View(
    name="ledger",
    groups=("rounds", "curve/bounds"),
    question="What did each round reveal, and what was it allowed to?",
    reading=(
        "Above, a bar for each round: the information of its tokens, each by itself, in nats. Green: decided because trusted. Orange: with a token explored "
        "on purpose. Red with crosses: nothing was trusted, the best one was taken. The short black lines are the most that so many trusted tokens can reveal "
        "jointly, the dashed one is f, the most one by one; open triangles, what a fixed threshold would allow as many tokens one by one. Below, the joint information adds up to that of the whole text."
    ),
    draw=draw,
    say=say,
    caption=caption,
    steps="text",
)

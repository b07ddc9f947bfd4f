"""Why did a round break the answer? The marginals it drew from, and which of their combinations cannot be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench import theme as house
from workbench.views import View
from workbench.views.common import Spec, check_step, plural, revision, table, texts

if TYPE_CHECKING:
    from workbench.record import Record

GROUP = "parallel"
MOST_PLACES, MOST_BARS = 6, 10


def _rows(record: Record, step: int | None) -> tuple[int, np.ndarray, np.ndarray]:
    """Return (step, rows of its marginals, rows of its combinations); by default the first round that decided several."""
    steps, kinds = record.column(GROUP, "step"), texts(record, GROUP, "kind")
    if step is None:
        for candidate in np.unique(steps):
            there = (steps == candidate) & (kinds == "marginal")
            step = int(candidate)
            if len(set(record.column(GROUP, "place")[there])) > 1:
                break
    else:
        check_step(record, "text", step)
    at = 0 if step is None else step
    return at, np.flatnonzero((steps == at) & (kinds == "marginal")), np.flatnonzero((steps == at) & (kinds == "combination"))


def draw(record: Record, *, step: int | None = None, theme: str = "light", title: str = "") -> Spec:
    """Return the marginals of the round's positions, and the likeliest combinations, impossible ones crossed.

    Args:
        step: round to explain (None: the first that decided several tokens).
    """
    d = house.design(theme)
    _, marginals, combinations = _rows(record, step)
    place, probability, joint = (record.column(GROUP, n) for n in ("place", "probability", "joint"))
    drawn, pieces = record.column(GROUP, "drawn"), texts(record, GROUP, "piece")
    data, ticks = _marginals(marginals, place, probability, drawn, pieces, d, theme)
    order = combinations[:MOST_BARS]
    if drawn[combinations].any() and not drawn[order].any():
        order = np.r_[order[:-1], combinations[drawn[combinations]][0]]
    y = np.arange(len(order))
    possible = ~(joint[order] <= 0)
    for good, meaning, name in ((True, "accepted", "possible"), (False, "rejected", "impossible together")):
        rows = order[possible == good]
        marker = (
            house.solid(theme, meaning)
            if good
            else house.solid(theme, meaning)
            | {"pattern": {"shape": "x", "size": 6, "solidity": 0.25, "fgcolor": d.background, "fillmode": "overlay"}}
        )
        data.append({
            "type": "bar", "width": 0.8, "orientation": "h", "name": name, "x": probability[rows].tolist(), "y": y[possible == good].tolist(), "xaxis": "x2", "yaxis": "y2", "marker": marker,
            "hovertext": [_told(pieces[r], probability[r], joint[r]) for r in rows], "hoverinfo": "text",
        })  # fmt: skip
    truth = [float(j) if j == j else None for j in joint[order]]
    data.append({
        "type": "scatter", "mode": "markers", "name": "under the true law", "x": truth, "y": y.tolist(), "xaxis": "x2", "yaxis": "y2",
        "marker": {"symbol": "line-ns", "size": 16, "line": {"width": 3, "color": d.text}}, "hoverinfo": "skip",
    })  # fmt: skip
    labels = [("▶ " if drawn[r] else "") + house.label(pieces[r], 24) for r in order]
    most = float(np.nanmax(np.r_[probability[order], joint[order], 0.01]))
    layout = {
        "height": 400, "showlegend": True, "barmode": "overlay", "bargap": 0.2,
        "xaxis": {"domain": [0, 0.4], "range": [0, 1.0], "title": {"text": "probability under the marginal"}},
        "yaxis": {"range": [max(len(ticks), 8) - 0.4, -0.6], "tickmode": "array", "tickvals": list(range(len(ticks))), "ticktext": ticks, "tickfont": {"family": house.MONO, "size": 11}, "showgrid": False},
        "xaxis2": {"domain": [0.62, 1], "range": [0, most * 1.1], "title": {"text": "probability of the combination"}, "anchor": "y2", "nticks": 5},
        "yaxis2": {"anchor": "x2", "range": [MOST_BARS - 0.4, -0.6], "tickmode": "array", "tickvals": y.tolist(), "ticktext": labels, "tickfont": {"family": house.MONO, "size": 11}, "showgrid": False},
    }  # fmt: skip
    return house.picture(data, layout, theme=theme, title=title, revision=revision(record, "why_broke"))


def _told(piece: str, product: float, joint: float) -> str:
    true = "unknown" if joint != joint else "impossible" if joint <= 0 else f"{joint:.4f}"
    return f"{house.label(piece, 60)}<br>drawn independently: {product:.4f}<br>true law: {true}"


def _marginals(rows: np.ndarray, place: np.ndarray, probability: np.ndarray, drawn: np.ndarray, pieces: np.ndarray, d: house.Design, theme: str) -> tuple[list[Spec], list[str]]:  # fmt: skip
    """Return bars of every token of every position (a blank line between positions), and their labels."""
    chosen, labels, values, taken = list(dict.fromkeys(place[rows].tolist()))[:MOST_PLACES], [], [], []
    room = max(2, 22 // max(1, len(chosen)) - 1)
    for p in chosen:
        mine = rows[place[rows] == p]
        for r in mine[np.argsort(-probability[mine], kind="stable")][:room]:
            labels.append(f"{p + 1}: {house.label(pieces[r], 10)}")
            values.append(float(probability[r]))
            taken.append(bool(drawn[r]))
        labels.append("")
        values.append(0.0)
        taken.append(False)
    colours = [d.fill("selected") if t else d.fill("proposed") for t in taken]
    bars = {
        "type": "bar", "orientation": "h", "name": "marginals (ringed: drawn)", "x": values, "y": list(range(len(values))), "showlegend": False,
        "marker": {"color": colours, "line": {"width": [2.0 if t else 0.0 for t in taken], "color": d.text}}, "hovertext": labels, "hoverinfo": "text+x",
    }  # fmt: skip
    return [bars], labels


def _mass(record: Record, combinations: np.ndarray) -> tuple[float, bool]:
    """Return the listed probability that falls on impossible combinations, and whether the true law is known."""
    joint, product = record.column(GROUP, "joint")[combinations], record.column(GROUP, "probability")[combinations]
    return float(product[joint <= 0].sum()), bool(np.isfinite(joint).any())


def caption(record: Record, *, step: int | None = None) -> str:
    """Return what the round drew and how much of its independent draws is impossible."""
    at, marginals, combinations = _rows(record, step)
    places = len(set(record.column(GROUP, "place")[marginals].tolist()))
    if places < 2:
        return f"Round {at + 1} decides one token: there is nothing to combine, and nothing is lost."
    drawn = combinations[record.column(GROUP, "drawn")[combinations]]
    words = house.quoted(str(texts(record, GROUP, "piece")[drawn[0]]), 40) if len(drawn) else "?"
    bad, known = _mass(record, combinations)
    text = f"Round {at + 1} decides {plural(places, 'token')} independently and draws {words}"
    if not known:
        return text + "; the true law of this task is not enumerated here."
    joint = float(record.column(GROUP, "joint")[drawn[0]]) if len(drawn) else 1.0
    verdict = "which cannot be" if joint <= 0 else f"which has probability {joint:.3f} in truth"
    return text + f", {verdict}; of the combinations listed, {bad:.0%} of all draws are impossible together."


def say(record: Record, *, step: int | None = None) -> str:
    """Return the sentence, the marginals and the combinations."""
    _, marginals, combinations = _rows(record, step)
    place, probability, joint, drawn = (record.column(GROUP, n) for n in ("place", "probability", "joint", "drawn"))
    pieces = texts(record, GROUP, "piece")
    one = [
        [str(place[r] + 1), house.token(str(pieces[r]), 16), f"{probability[r]:.3f}", "drawn" if drawn[r] else ""]
        for r in marginals
    ]
    many = [
        [
            house.token(str(pieces[r]), 40),
            f"{probability[r]:.4f}",
            "unknown" if joint[r] != joint[r] else f"{joint[r]:.4f}",
            "drawn" if drawn[r] else "",
        ]
        for r in combinations
    ]
    return (
        caption(record, step=step)
        + "\n\n"
        + table(["position", "token", "marginal", ""], one)
        + "\n\n"
        + table(["combination", "independent", "true", ""], many)
    )


VIEW = View(
    name="why_broke",
    groups=(GROUP,),
    question="Why did this round break the answer?",
    reading=(
        "Left: for each position that the round decides, the likeliest tokens under the model's marginal; the framed bar is what was drawn. Right: what "
        "these marginals give when drawn independently, likeliest first; green can be right, red with crosses cannot be right together. The black tick is "
        "the combination's probability under the task's true law, ▶ the one that was drawn."
    ),
    draw=draw,
    say=say,
    caption=caption,
    steps="text",
)

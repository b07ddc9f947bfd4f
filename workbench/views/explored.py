"""What did exploring try, and what did it unlock? Every candidate of every exploring round, and when a round was poor enough."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench import theme as house
from workbench.views import View
from workbench.views.common import Curves, Spec, note, optional, plural, revision, table, texts

if TYPE_CHECKING:
    from workbench.record import Record

GROUP = "candidates"


def _level(record: Record, name: str, default: float) -> float:
    if "curve/bounds" not in record:
        return default
    curves = Curves(record, "curve/bounds")
    return float(curves[name][1][0]) if name in curves.names else default


def draw(record: Record, *, theme: str = "light", title: str = "") -> Spec:
    """Return the worth of each candidate by round, the winner filled, and the trusted tokens of each round with the trigger."""
    d = house.design(theme)
    step, place, logprob, unlocked, won = (record.column(GROUP, n) for n in ("step", "place", "logprob", "unlocked", "won"))
    wins, pieces = optional(record, GROUP, "wins", False).astype(bool), texts(record, GROUP, "piece")
    weight, trigger = _level(record, "explore weight", 0.5), _level(record, "trigger", 2.0)
    worth = np.where(place >= 0, unlocked + 1 + weight * logprob, np.maximum(unlocked, 1.0))
    data: list[Spec] = []
    groups = (("the state itself", place < 0, "target", "square"), ("a token tried", place >= 0, "chosen", "star"))
    for name, where, meaning, symbol in groups:
        for taken in (False, True):
            rows = np.flatnonzero(where & (won == taken))
            data.append({
                "type": "scatter", "mode": "markers", "name": name + (", taken" if taken else ""), "x": (step[rows] + 1).tolist(), "y": np.round(worth[rows], 4).tolist(),
                "marker": {"symbol": symbol if taken else f"{symbol}-open", "size": 14 if taken else 9, "color": d.line(meaning), "line": {"width": 1.5, "color": d.text if taken else d.line(meaning)}},
                "hovertext": [_told(pieces[r], place[r], logprob[r], unlocked[r], worth[r]) for r in rows], "hoverinfo": "text",
            })  # fmt: skip
    rows = np.flatnonzero(wins & ~won)
    data.append({
        "type": "scatter", "mode": "markers", "name": "would be taken at the present weight (estimated)", "x": (step[rows] + 1).tolist(), "y": np.round(worth[rows], 4).tolist(),
        "marker": {"symbol": "circle-open", "size": 21, "color": d.line("selected"), "line": {"width": 2.5}}, "hoverinfo": "skip",
    })  # fmt: skip
    shapes, notes, axes = _trusted(record, trigger, data, theme)
    last = max(float(step.max(initial=0)) + 1, len(record.column("rounds", "kind")) if "rounds" in record else 1)
    low, high = float(min(worth.min(initial=0.0), 0.0)), float(worth.max(initial=1.0))
    room = 0.08 * (high - low) + 0.2
    layout = {
        "height": 430, "showlegend": True, "shapes": shapes, "annotations": notes, "bargap": 0.3,
        "xaxis": {"range": [0.4, last + 0.6], "dtick": max(1, int(last) // 12), "anchor": "y"},
        "yaxis": {"domain": [0.42, 1], "range": [low - room, high + room], "title": {"text": "worth of the candidate"}}, **axes,
    }  # fmt: skip
    layout["xaxis2"]["range"] = layout["xaxis"]["range"]
    return house.picture(data, layout, theme=theme, title=title, revision=revision(record, "explored"))


def _trusted(record: Record, trigger: float, data: list[Spec], theme: str) -> tuple[list[Spec], list[Spec], Spec]:
    """Append bars of the trusted tokens of each round; return the trigger's line, its note and the axes."""
    d = house.design(theme)
    confident = optional(record, "rounds", "confident", 0) if "rounds" in record else np.zeros(1)
    x = np.arange(1, len(confident) + 1)
    poor = confident < trigger
    for where, meaning, name in ((~poor, "accepted", "trusted enough"), (poor, "rejected", "too few: explore next")):
        marker = house.solid(theme, meaning)
        if meaning == "rejected":
            marker |= {"pattern": {"shape": "x", "size": 6, "solidity": 0.2, "fgcolor": d.background, "fillmode": "overlay"}}
        # A round that trusted nothing still shows as a sliver, so that the eye can count it.
        data.append({"type": "bar", "width": 0.72, "name": name, "x": x[where].tolist(), "y": np.maximum(confident[where], 0.06).tolist(), "xaxis": "x2", "yaxis": "y2", "marker": marker, "customdata": confident[where].tolist(), "hovertemplate": "round %{x}: %{customdata} trusted<extra></extra>"})  # fmt: skip
    line = {
        "type": "line",
        "xref": "x2 domain",
        "yref": "y2",
        "x0": 0,
        "x1": 1,
        "y0": trigger - 0.5,
        "y1": trigger - 0.5,
        "line": {"color": d.text, "width": 1.2, "dash": "dash"},
    }
    top = float(max(confident.max(initial=1), 4.0)) * 1.15
    axes: Spec = {
        "xaxis2": {"anchor": "y2", "title": {"text": "round"}, "dtick": max(1, len(x) // 12)},
        "yaxis2": {"domain": [0, 0.3], "range": [0, top], "title": {"text": "tokens trusted"}},
    }
    return [line], [note(f"trigger m = {trigger:g}", theme, x=0.995, y=0.3)], axes


def _told(piece: str, place: int, logprob: float, unlocked: int, worth: float) -> str:
    if place < 0:
        return f"the state itself<br>trusts {plural(int(unlocked), 'token')}, worth {worth:.2f}"
    return f"{house.label(piece, 30)} at position {place + 1}, probability {np.exp(logprob):.3f}<br>unlocks {plural(int(unlocked), 'token')}, worth {worth:.2f}"


def caption(record: Record) -> str:
    """Return how often exploring won and what its best candidate unlocked."""
    step, place, unlocked, won = (record.column(GROUP, n) for n in ("step", "place", "unlocked", "won"))
    rounds = len(np.unique(step))
    taken = np.flatnonzero(won & (place >= 0))
    text = f"Of {plural(rounds, 'exploring round')}, {len(taken)} took a token that was tried on purpose"
    if len(taken):
        best = taken[np.argmax(unlocked[taken])]
        text += f"; the best, {house.quoted(str(texts(record, GROUP, 'piece')[best]))}, unlocked {plural(int(unlocked[best]), 'further token')}"
    wins = optional(record, GROUP, "wins", False).astype(bool)
    changed = len(np.unique(step[wins & ~won]))
    if changed:
        text += f". At the present weight {plural(changed, 'round')} would choose otherwise (estimated)"
    return text + "."


def say(record: Record) -> str:
    """Return the sentence and every candidate."""
    step, place, logprob, unlocked, won = (record.column(GROUP, n) for n in ("step", "place", "logprob", "unlocked", "won"))
    pieces = texts(record, GROUP, "piece")
    rows = [
        [
            str(step[i] + 1),
            "–" if place[i] < 0 else str(place[i] + 1),
            house.token(str(pieces[i]), 16),
            "–" if place[i] < 0 else f"{np.exp(logprob[i]):.3f}",
            str(unlocked[i]),
            "taken" if won[i] else "",
        ]
        for i in range(len(step))
    ]
    return caption(record) + "\n\n" + table(["round", "position", "token", "probability", "unlocks", ""], rows)


VIEW = View(
    name="explored",
    groups=(GROUP, "curve/bounds"),
    question="What did exploring try, and what did it unlock?",
    reading=(
        "Above: every state that an exploring round forwarded. Blue squares are the text as it stood, orange stars have one uncertain token decided on purpose; "
        "filled ones were taken. Higher is worth more: tokens decided, plus the weight times the explored token's log-probability. A ring: what the present "
        "weight would take instead (candidates whose token was no longer the likeliest are not told apart). Below: tokens that the rule trusted in each "
        "round; under the dashed trigger the next round explores. The decoder is our reconstruction."
    ),
    draw=draw,
    say=say,
    caption=caption,
)

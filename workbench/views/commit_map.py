"""How sure is the model of every position in every round? Position by round, and where each token was decided."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench import theme as house
from workbench.views import View
from workbench.views.commit_film import at_positions, shown_group
from workbench.views.common import Spec, check_step, plural, revision, table, texts

if TYPE_CHECKING:
    from workbench.record import Record


def draw(record: Record, *, step: int | None = None, theme: str = "light", title: str = "") -> Spec:
    """Return the heat map of confidences of hidden positions, with a mark where and when each was decided.

    Args:
        step: round to point at (None: none).
    """
    if step is not None:
        check_step(record, "text", step)
    d, group = house.design(theme), shown_group(record)
    confidence, commit = record.column(group, "confidence"), record.column(group, "commit_round")
    pieces, explored = texts(record, group, "piece"), at_positions(record, group, "explored", False)
    rounds, length = confidence.shape
    decided = np.flatnonzero(commit >= 0)
    data: list[Spec] = [
        {
            "type": "heatmap", "z": np.round(confidence.astype(float), 4).tolist(), "x": list(range(length)), "y": list(range(1, rounds + 1)), "zmin": 0, "zmax": 1,
            "colorscale": "Cividis", "reversescale": theme == "light", "xgap": 1, "ygap": 1, "name": "confidence", "hoverongaps": False,
            "hovertemplate": "position %{x}, round %{y}<br>likeliest token: %{z:.3f}<extra></extra>",
            "colorbar": {"title": {"text": "probability of the<br>likeliest token", "side": "right", "font": {"size": 12}}, "thickness": 12, "len": 0.9, "outlinewidth": 0},
        },
        _decisions("decided", decided[~explored[decided]], commit, pieces, d, "accepted", "square-open"),
    ]  # fmt: skip
    if explored.any():
        data.append(_decisions("explored", decided[explored[decided]], commit, pieces, d, "chosen", "star"))
    layout = {
        "height": int(150 + min(420, 26 * rounds)), "showlegend": True, "shapes": _lines(record, length, rounds, step, d),
        "xaxis": {"range": [-0.6, length - 0.4], "tickmode": "array", "tickvals": list(range(length)), "ticktext": [house.label(p, 9) for p in pieces],
                  "tickangle": -60 if length > 12 else 0, "tickfont": {"family": house.MONO, "size": 11}, "title": {"text": "position, with the token it ends as"}, "showgrid": False},
        "yaxis": {"range": [rounds + 0.6, 0.4], "title": {"text": "round"}, "showgrid": False, "dtick": max(1, rounds // 10)},
    }  # fmt: skip
    return house.picture(data, layout, theme=theme, title=title, revision=revision(record, "commit_map"))


def _decisions(
    name: str, where: np.ndarray, commit: np.ndarray, pieces: np.ndarray, d: house.Design, meaning: str, symbol: str
) -> Spec:
    return {
        "type": "scatter", "mode": "markers", "name": name, "x": where.tolist(), "y": (commit[where] + 1).tolist(), "customdata": commit[where].tolist(),
        "marker": {"symbol": symbol, "size": 12, "color": d.fill(meaning), "line": {"width": 2.2, "color": d.fill(meaning)}},
        "hovertext": [f"{house.label(p, 30)}: {name} in round {r + 1}" for p, r in zip(pieces[where], commit[where], strict=True)], "hoverinfo": "text",
    }  # fmt: skip


def _lines(record: Record, length: int, rounds: int, step: int | None, d: house.Design) -> list[Spec]:
    """Return block boundaries and the line of the round pointed at."""
    block = record.group_attrs("unmasking").get("block_length")
    edges = range(int(block), length, int(block)) if block else ()
    dashed = {"type": "line", "y0": 0.4, "y1": rounds + 0.6, "line": {"color": d.muted, "width": 1.2, "dash": "dash"}}
    lines: list[Spec] = [dashed | {"x0": edge - 0.5, "x1": edge - 0.5} for edge in edges]
    if step is not None:
        lines.append(
            {
                "type": "rect",
                "x0": -0.6,
                "x1": length - 0.4,
                "y0": step + 0.5,
                "y1": step + 1.5,
                "line": {"color": d.line("selected"), "width": 2},
            }
        )
    return lines


def caption(record: Record, *, step: int | None = None) -> str:
    """Return how the decisions go: the largest avalanche, and how often the order was left to right."""
    group = shown_group(record)
    commit = record.column(group, "commit_round")
    decided = commit[commit >= 0]
    if not len(decided):
        return "Nothing was hidden: there is nothing to decide."
    sizes = np.bincount(decided)
    largest = int(sizes.argmax())
    text = f"{plural(len(decided), 'token')} in {plural(len(sizes), 'round')}; the most, {int(sizes[largest])}, in round {largest + 1}"
    explored = at_positions(record, group, "explored", False)
    if explored.any():
        first = int(commit[explored].min())
        text += f"; {plural(int(explored.sum()), 'token was', 'tokens were')} explored, the first in round {first + 1}, which decided {int(sizes[first])}"
    return text + f". {order_words(commit)}."


def order_words(commit: np.ndarray) -> str:
    """Return how the order of decisions agrees with reading order (Kendall's tau over positions)."""
    from scipy.stats import kendalltau

    where = np.flatnonzero(commit >= 0)
    if len(where) < 2 or len(set(commit[where])) < 2:
        return "All in one round, so there is no order"
    tau = float(kendalltau(where, commit[where]).statistic)
    kind = "mostly left to right" if tau > 0.5 else "mostly right to left" if tau < -0.5 else "neither left to right nor back"
    return f"The order is {kind} (Kendall's tau with position {tau:.2f})"


def say(record: Record, *, step: int | None = None) -> str:
    """Return the sentence and each position's round and confidences."""
    group = shown_group(record)
    commit, confidence = record.column(group, "commit_round"), record.column(group, "confidence")
    rows = []
    for i, piece in enumerate(texts(record, group, "piece")):
        r = int(commit[i])
        seen = confidence[r, i] if 0 <= r < len(confidence) else np.nan
        rows.append(
            [str(i + 1), house.token(str(piece), 16), "given" if r < 0 else str(r + 1), f"{seen:.3f}" if seen == seen else "–"]
        )
    return caption(record, step=step) + "\n\n" + table(["position", "token", "round", "probability then"], rows)


VIEW = View(
    name="commit_map",
    groups=("unmasking",),
    question="When does the model become sure, and of what?",
    reading=(
        "Columns are positions of the answer, rows are rounds from top to bottom. A cell's colour is the probability of the likeliest token "
        "while the position is hidden; below its mark it is decided and the column ends. Green square: decided. Orange star: decided on purpose; "
        "look at the row below it for the avalanche. Dashed lines: blocks. The frame is the round of the film."
    ),
    draw=draw,
    say=say,
    caption=caption,
    steps="text",
)

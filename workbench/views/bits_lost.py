"""Which step loses how many bits? The exact price of every step of a schedule, and the least that any schedule pays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench import theme as house
from workbench.errors import InputError, expected
from workbench.views import View
from workbench.views.common import Curves, Spec, revision, table

if TYPE_CHECKING:
    from workbench.record import Record

GROUP = "curve/lost"
ACROSS = 4  # labels side by side above a bar; more stand in further rows
MINE, TOKENS, LEAST = "this schedule", "entropy of each token when it is decided", "least of any schedule"


def _parts(record: Record) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return (loss, revealed) of each step, then (position, step) of each token, and the least loss for T = 1..n."""
    curves, setting = Curves(record, GROUP), record.column(GROUP, "setting")
    names = record.column(GROUP, "curve").astype(str)
    lost, place, alone = curves[MINE][1], curves[TOKENS][0], curves[TOKENS][1]
    step = setting[names == TOKENS].astype(int)
    revealed = np.array([alone[step == t + 1].sum() for t in range(len(lost))]) - lost
    return lost, np.maximum(revealed, 0.0), place.astype(int), step, curves[LEAST][1]


def draw(record: Record, *, theme: str = "light", title: str = "") -> Spec:
    """Return stacked bars of each step (revealed and lost), and the least loss over the number of steps."""
    d = house.design(theme)
    lost, revealed, place, step, least = _parts(record)
    x = np.arange(1, len(lost) + 1)
    data: list[Spec] = [
        {"type": "bar", "name": "revealed: what the step's tokens are worth together", "x": x.tolist(), "y": revealed.tolist(), "marker": house.solid(theme, "accepted"), "hovertemplate": "step %{x}: %{y:.3f} bits revealed<extra></extra>"},
        {
            "type": "bar", "name": "lost: their total correlation", "x": x.tolist(), "y": lost.tolist(), "base": revealed.tolist(),
            "marker": house.solid(theme, "rejected") | {"pattern": {"shape": "x", "size": 6, "solidity": 0.2, "fgcolor": d.background, "fillmode": "overlay"}},
            "hovertemplate": "step %{x}: %{y:.3f} bits lost<extra></extra>",
        },
        {"type": "scatter", "mode": "lines+markers", "name": "least of any schedule of T steps", "x": np.arange(1, len(least) + 1).tolist(), "y": least.tolist(), "xaxis": "x2", "yaxis": "y2", "line": {"color": d.line("target"), "width": 2}, "marker": {"size": 7}, "hovertemplate": "%{x} steps: at least %{y:.3f} bits<extra></extra>"},
        {"type": "scatter", "mode": "markers", "name": "this schedule", "x": [len(lost)], "y": [float(lost.sum())], "xaxis": "x2", "yaxis": "y2", "marker": {"size": 16, "symbol": "circle-open", "color": d.line("selected"), "line": {"width": 3}}, "hovertemplate": "this schedule: %{x} steps, %{y:.3f} bits<extra></extra>"},
    ]  # fmt: skip
    top = revealed + lost
    notes = [note for t in x for note in _chips(place[step == t], int(t), float(top[t - 1]), d)]
    rows = max(-(-int((step == t).sum()) // ACROSS) for t in x)
    length = len(least)
    most = float(max(top.max(), 0.5))
    layout = {
        "height": 370, "showlegend": True, "annotations": notes, "bargap": 0.25, "meta": {"drag": True},
        "xaxis": {"domain": [0, 0.56], "range": [0.4, length + 0.6], "dtick": 1, "title": {"text": "step (the positions it decides stand above)"}},
        "yaxis": {"range": [0, most * (1.07 + 0.08 * rows)], "title": {"text": "bits"}},
        "xaxis2": {"domain": [0.66, 1], "range": [0.6, length + 0.4], "dtick": 1, "title": {"text": "steps T"}, "anchor": "y2"},
        "yaxis2": {"anchor": "x2", "range": [-0.04 * max(1.0, float(least.max())), max(1.0, float(max(least.max(), lost.sum()))) * 1.1], "title": {"text": "bits lost in all"}},
    }  # fmt: skip
    return house.picture(data, layout, theme=theme, title=title, revision=revision(record, "bits_lost"))


def _chips(places: np.ndarray, step: int, top: float, design: house.Design) -> list[Spec]:
    """Return the positions that a step decides, each a label of its own above the step's bar."""
    return [
        {
            "name": f"position {place}", "text": str(place), "y": top, "yanchor": "bottom", "yshift": 4 + 21 * (i // ACROSS), "showarrow": False, "captureevents": True,
            "x": step + (i % ACROSS - (min(len(places) - ACROSS * (i // ACROSS), ACROSS) - 1) / 2) * 0.23,
            "bordercolor": design.grid, "borderpad": 2, "bgcolor": design.background,
            "hovertext": f"position {place}: drag it to another step",
            "font": {"family": house.MONO, "size": 12, "color": design.text},
        }
        for i, place in enumerate(places)
    ]  # fmt: skip


def drag(record: Record, name: str, x: float) -> dict[str, str]:
    """Return the knobs that say what a position dropped at `x` asks for: its step becomes the nearest, or a new one at either end.

    Args:
        name: of the label, "position 3". x: where it was let go, in steps; past the first or last bar makes a step of its own.
    Raises:
        InputError: there is no such position.
    """
    _, _, place, step, _ = _parts(record)
    found = [p for p in place.tolist() if name == f"position {p}"]
    if not found:
        raise InputError(expected("what was dragged", f"position 1 to {len(place)}", repr(name[:40])))
    last = int(step.max())
    where = {p: int(t) for p, t in zip(place.tolist(), step)} | {found[0]: int(np.clip(np.floor(x + 0.5), 0, last + 1))}
    groups = [sorted(p for p, t in where.items() if t == at) for at in range(last + 2)]
    return {"schedule": " | ".join(" ".join(map(str, group)) for group in groups if group)}


def caption(record: Record) -> str:
    """Return the sum, what it does to the share of right answers, and the least that so many steps must lose."""
    lost, _, _, _, least = _parts(record)
    total = float(lost.sum())
    text = f"In {len(lost)} steps {total:.3f} bits are lost, so that at least {100 * 2**-total:.1f} % of the draws stay right"
    if total < 1e-9:
        return f"In {len(lost)} steps nothing is lost: given what is visible, the tokens of each step are independent."
    return text + f"; no schedule of {len(lost)} steps loses less than {least[len(lost) - 1]:.3f}."


def say(record: Record) -> str:
    """Return the sentence, each step, and the least loss by number of steps."""
    lost, revealed, place, step, least = _parts(record)
    rows = [
        [str(t + 1), " ".join(str(p) for p in place[step == t + 1]), f"{revealed[t]:.4f}", f"{lost[t]:.4f}"]
        for t in range(len(lost))
    ]
    most = [[str(t + 1), f"{v:.4f}"] for t, v in enumerate(least)]
    return (
        caption(record)
        + "\n\n"
        + table(["step", "positions", "bits revealed", "bits lost"], rows)
        + "\n\n"
        + table(["steps T", "least bits lost"], most)
    )


VIEW = View(
    name="bits_lost",
    groups=(GROUP,),
    question="Which step loses how many bits?",
    reading=(
        "Left: one bar for each step of the schedule; green is what its tokens reveal together, red with crosses what is lost because they are drawn "
        "independently (their total correlation given all before). The numbers above are positions: drag one to another step, or past the last bar for a step of its own (by keyboard: the knob schedule). "
        "Right: the least that any schedule of T steps loses, which never rises with T; the ring is this schedule. All exact for the task's own law."
    ),
    draw=draw,
    say=say,
    caption=caption,
    drag=drag,
)

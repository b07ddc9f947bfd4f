"""In which order does the text appear? Two decoders write the same answer, round by round."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from workbench import theme as house
from workbench.views import View
from workbench.views.common import Spec, check_step, has, plural, revision, table, texts

if TYPE_CHECKING:
    from workbench.record import Record

#: Letters in a line of a long answer and of a short one, and the pixels of a line; short answers are set larger.
WIDEST, NARROWEST = 66, 30
HIDDEN = "·"


class Panel:
    """One decoder's answer as a grid of boxes: line and left edge of each token, its size, and when it was decided."""

    def __init__(self, record: Record, group: str, first_line: float, columns: int = WIDEST) -> None:
        self.group = group
        self.pieces = texts(record, group, "piece")
        self.commit = record.column(group, "commit_round")
        self.rounds = int(self.commit.max(initial=-1)) + 1
        self.explored = at_positions(record, group, "explored", False)
        self.estimated = at_positions(record, group, "estimated", False)
        self.right = at_positions(record, group, "right", True)
        self.information = at_positions(record, group, "information", np.nan)
        self.shown = [house.token(p, 12) for p in self.pieces]
        self.size = np.array([max(2.0, house.width(s) + 0.9) for s in self.shown])
        self.left, line = wrap(self.size, columns)
        self.line = first_line + line
        self.lines = int(line.max(initial=0)) + 1


def at_positions(record: Record, group: str, name: str, default: Any) -> np.ndarray:
    """Return an optional column of a film's positions, or `default` for each of them."""
    if has(record, group, name):
        return record.column(group, name)
    return np.full(len(record.column(group, "commit_round")), default)


def wrap(size: np.ndarray, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (left edge, line) of boxes of these widths, set like words in lines."""
    left: list[float] = []
    line: list[int] = []
    at, row = 0.0, 0
    for width in size:
        if at and at + width > columns:
            at, row = 0.0, row + 1
        left.append(at)
        line.append(row)
        at += width + 0.35
    return np.array(left), np.array(line)


def letters_in_a_line(record: Record) -> int:
    """Return how many letters a line of the film holds: few for a short answer, which is then set larger."""
    sizes = [max(2.0, house.width(house.token(p, 12)) + 0.9) + 0.35 for p in texts(record, "unmasking", "piece")]
    return int(np.clip(sum(sizes) + 1, NARROWEST, WIDEST))


def shown_group(record: Record) -> str:
    """Return the group of the film on show: the replay where live knobs made one."""
    return "film/shown" if "film/shown" in record else "unmasking"


def draw(record: Record, *, step: int | None = None, theme: str = "light", title: str = "") -> Spec:
    """Return the boxes of both decoders after a round.

    Args:
        step: round to show (None: the last).
    """
    step = _step(record, step)
    d, attrs = house.design(theme), record.group_attrs("unmasking")
    columns = letters_in_a_line(record)
    scale = min(1.5, (WIDEST / columns) ** 0.6)
    prompt = _Prompt(str(attrs.get("prompt", "")), columns, 12.5 * scale)
    mine = Panel(record, shown_group(record), prompt.lines + 1.3, columns)
    panels = [mine]
    if "film/baseline" in record:
        panels.append(Panel(record, "film/baseline", mine.line.max(initial=0) + 2.6, columns))
    most = max(p.rounds for p in panels)
    data = prompt.traces(d)
    notes = [_heading(_name(attrs, "rule"), mine, step, mine.line[0] - 0.95, d)] if len(mine.line) else []
    if len(panels) > 1:
        notes.append(_heading(_name(attrs, "baseline"), panels[1], step, panels[1].line[0] - 0.95, d))
    for panel in panels:
        data += _boxes(panel, step, most, d, theme, 13 * scale)
    bottom = max(float(p.line.max(initial=0)) for p in panels) + 0.8
    layout = {
        "height": int(50 + 31 * scale * bottom), "showlegend": False, "annotations": notes, "bargap": 0, "barmode": "overlay",
        "xaxis": {"visible": False, "range": [-0.6, columns + 2], "fixedrange": True},
        "yaxis": {"visible": False, "range": [bottom, -0.7], "fixedrange": True},
    }  # fmt: skip
    return house.picture(data, layout, theme=theme, title=title, revision=revision(record, "commit_film"))


def _step(record: Record, step: int | None) -> int:
    if step is None:
        return int(record.column("text", "step").max(initial=0))
    check_step(record, "text", step)
    return step


def _name(attrs: dict[str, Any], key: str) -> str:
    words = {"ete": "explore, then exploit", "static": "the most confident k", "factor": "factor rule", "threshold": "threshold"}
    return words.get(str(attrs.get(key, "")), str(attrs.get(key, "")).replace("-", " "))


class _Prompt:
    """The prompt, in small grey boxes above the answer."""

    def __init__(self, text: str, columns: int, size: float) -> None:
        self.font = size
        self.shown = [house.token(p, 14) for p in text.split(" ") if p] if text.strip() else []
        boxes = np.array([max(2.0, house.width(s) + 0.6) for s in self.shown])
        self.size = boxes
        self.left, self.line = wrap(boxes, columns)
        self.lines = int(self.line.max(initial=-1)) + 1

    def traces(self, d: house.Design) -> list[Spec]:
        if not self.shown:
            return []
        return [{
            "type": "scatter", "mode": "text", "name": "prompt", "x": (self.left + self.size / 2).tolist(), "y": self.line.tolist(),
            "text": [house.escape(s, quote=False) for s in self.shown], "textfont": {"family": house.MONO, "size": self.font, "color": d.muted},
            "hoverinfo": "skip", "cliponaxis": False,
        }]  # fmt: skip


def _heading(name: str, panel: Panel, step: int, y: float, d: house.Design) -> Spec:
    stands = int(((panel.commit >= 0) & (panel.commit <= step)).sum())
    total = int((panel.commit >= 0).sum())
    done = min(step + 1, panel.rounds)
    words = f"<b>{house.escape(name)}</b> · round {done} of {panel.rounds} · {stands} of {total} tokens"
    return {
        "text": words,
        "x": -0.2,
        "y": y,
        "xanchor": "left",
        "yanchor": "middle",
        "showarrow": False,
        "font": {"size": 13, "color": d.text},
    }


def _boxes(panel: Panel, step: int, most: int, d: house.Design, theme: str, font: float) -> list[Spec]:
    """Return one bar for each token (colour by round, hatched where estimated), its text, and rings around the newest."""
    visible = panel.commit <= step
    share = np.clip(panel.commit, 0, None) / max(1, most - 1)
    given = panel.commit < 0
    dark = theme == "dark"
    colours = [
        "rgba(0,0,0,0)" if not v else d.raised if g else shade(s, dark) for v, g, s in zip(visible, given, share, strict=True)
    ]
    new = panel.commit == step
    wrong = visible & ~panel.right & ~given
    borders = [_border(*state, d) for state in zip(new, panel.explored & visible, wrong, visible, strict=True)]
    bars = {
        "type": "bar", "orientation": "h", "name": panel.group, "y": panel.line.tolist(), "base": panel.left.tolist(), "x": panel.size.tolist(),
        "width": 0.84, "hoverinfo": "text", "hovertext": _hovers(panel, visible), "customdata": np.maximum(panel.commit, 0).tolist(),
        "marker": {"color": colours, "line": {"color": [b[0] for b in borders], "width": [b[1] for b in borders]}},
    }  # fmt: skip
    hatched = visible & panel.estimated
    hatches = {  # a trace of their own: a pattern over a list of colours is no colour to plotly.js 3
        "type": "bar", "orientation": "h", "name": "estimated", "y": panel.line[hatched].tolist(), "base": panel.left[hatched].tolist(),
        "x": panel.size[hatched].tolist(), "width": 0.84, "hoverinfo": "skip",
        "marker": {
            "color": "rgba(0,0,0,0)", "line": {"width": 0}, "pattern": {"shape": "/", "fgcolor": d.muted, "size": 6, "solidity": 0.18, "fillmode": "overlay"},
        },
    }  # fmt: skip
    inks = [d.muted if not v or g else ink(s, dark) for v, g, s in zip(visible, given, share, strict=True)]
    letters = {
        "type": "scatter", "mode": "text", "x": (panel.left + panel.size / 2).tolist(), "y": panel.line.tolist(), "hoverinfo": "skip", "cliponaxis": False,
        "text": [house.escape(s, quote=False) if v else HIDDEN for s, v in zip(panel.shown, visible, strict=True)],
        "textfont": {"family": house.MONO, "size": font, "color": inks}, "name": "tokens",
    }  # fmt: skip
    marks = {
        "type": "scatter", "mode": "markers", "name": "marks", "hoverinfo": "skip", "cliponaxis": False,
        "x": (panel.left + panel.size)[wrong | (panel.explored & visible)].tolist(), "y": (panel.line - 0.38)[wrong | (panel.explored & visible)].tolist(),
        "marker": {
            "size": 9, "symbol": ["x" if w else "star" for w in wrong[wrong | (panel.explored & visible)]],
            "color": [d.line("rejected") if w else d.line("chosen") for w in wrong[wrong | (panel.explored & visible)]],
            "line": {"width": 1, "color": d.background},
        },
    }  # fmt: skip
    return [bars, hatches, letters, marks]


#: Stops of a sequential map whose start is near the background: light pages dark, dark pages light (cividis, cut at the ends).
_STOPS = ("#f3e35b", "#d2bf63", "#a9a075", "#7f8078", "#55616f", "#2e466c", "#0e2f5f")


def shade(share: float, dark: bool) -> str:
    """Return the colour of a share (0..1) of the rounds: early ones near the background, late ones far from it."""
    at = (1 - share if dark else share) * (len(_STOPS) - 1)
    low = min(int(at), len(_STOPS) - 2)
    return house.mix(_STOPS[low], _STOPS[low + 1], at - low)


def ink(share: float, dark: bool) -> str:
    """Return black or white, whichever is readable on the shade."""
    colour = shade(share, dark)
    return max(("#101418", "#ffffff"), key=lambda c: house.contrast(c, colour))


def _border(new: bool, explored: bool, wrong: bool, visible: bool, d: house.Design) -> tuple[str, float]:
    if not visible:
        return d.grid, 1.0
    if explored:
        return d.line("chosen"), 3.0
    if new:
        return d.line("selected"), 3.0
    return (d.line("rejected"), 2.0) if wrong else (d.background, 0.5)


def _hovers(panel: Panel, visible: np.ndarray) -> list[str]:
    out = []
    for i, piece in enumerate(panel.pieces):
        if panel.commit[i] < 0:
            out.append(f"{house.label(piece, 40)}<br>given")
        elif not visible[i]:
            out.append("hidden")
        else:
            nats = panel.information[i]
            words = f"{house.label(piece, 40)}<br>decided in round {panel.commit[i] + 1}"
            words += f", probability {np.exp(-nats):.3f}" if np.isfinite(nats) else ""
            words += "<br>explored: decided on purpose" if panel.explored[i] else ""
            words += "<br>estimated" if panel.estimated[i] else ""
            out.append(words + ("" if panel.right[i] else "<br>no right answer goes on from here"))
    return out


def caption(record: Record, *, step: int | None = None) -> str:
    """Return what the round decided, and where the other decoder is by then."""
    step = _step(record, step)
    mine = Panel(record, shown_group(record), 0)
    new = np.flatnonzero(mine.commit == step)
    words = ", ".join(house.quoted(str(mine.pieces[i]), 16) for i in new[:6]) + (", …" if len(new) > 6 else "")
    text = f"Round {step + 1} of {mine.rounds} decides {plural(len(new), 'token')}: {words}"
    if mine.explored[new].any():
        text += "; the one with the orange frame on purpose"
    if "film/baseline" in record:
        other = Panel(record, "film/baseline", 0)
        name = str(record.group_attrs("unmasking").get("baseline", "the baseline"))
        stands = int(((other.commit >= 0) & (other.commit <= step)).sum())
        text += f". By then {name} has {stands} of {int((other.commit >= 0).sum())}"
    if mine.estimated.any():
        text += f". Estimated from round {int(mine.commit[mine.estimated].min()) + 1} on"
    if not mine.right[mine.commit >= 0].all() and step + 1 >= mine.rounds:
        text += ". The answer is wrong"
    return text + "."


def say(record: Record, *, step: int | None = None) -> str:
    """Return the sentence and each round's tokens."""
    mine = Panel(record, shown_group(record), 0)
    rows = []
    for r in range(mine.rounds):
        where = np.flatnonzero(mine.commit == r)
        flags = [w for w, on in (("explored", mine.explored[where].any()), ("estimated", mine.estimated[where].any())) if on]
        rows.append([str(r + 1), " ".join(f"{i + 1}:{house.token(str(mine.pieces[i]), 16)}" for i in where), ", ".join(flags)])
    state = " ".join(
        house.token(str(p), 16) if c <= _step(record, step) else HIDDEN for p, c in zip(mine.pieces, mine.commit, strict=True)
    )
    return caption(record, step=step) + "\n\n" + state + "\n\n" + table(["round", "position:token", ""], rows)


VIEW = View(
    name="commit_film",
    groups=("unmasking",),
    question="In which order does the answer appear?",
    reading=(
        "Each box is a token of the answer, above as this decoder writes it, below by the baseline on the same prompt. A dot: still hidden. "
        "The colour says in which round it was decided, early near the page's own colour, late far from it; the ring marks this round. "
        "Orange frame and star: decided on purpose although uncertain. Red frame and cross: no right answer goes on from here. Hatched: a "
        "replay's guess. Grey: given."
    ),
    draw=draw,
    say=say,
    caption=caption,
    steps="text",
    wide=True,
)

__all__ = ["VIEW", "Panel", "has", "shade", "shown_group"]

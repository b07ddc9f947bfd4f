"""Where did each token come from? The text as tokens, each in the state it was written in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench import theme as house
from workbench.errors import InputError, expected
from workbench.views import View
from workbench.views.common import Spec, columns, plural, revision, table

if TYPE_CHECKING:
    from workbench.record import Record

#: source -> (meaning in the palette, words for the legend)
SOURCES = {
    "prompt": ("context", "prompt"),
    "draft": ("accepted", "draft, accepted"),
    "residual": ("chosen", "residual"),
    "bonus": ("chosen", "bonus"),
    "target": ("target", "target"),
    "unmasked": ("accepted", "decided by a diffusion decoder"),
    "agrees": ("accepted", "same as the dense run"),
    "differs": ("rejected", "this run would write another than the dense run"),
}
DASH = {
    "prompt": "1.5px,2.5px",
    "draft": "solid",
    "residual": "solid",
    "bonus": "solid",
    "target": "solid",
    "unmasked": "solid",
    "agrees": "solid",
    "differs": "dash",
}
COLUMNS, LINE_PIXELS, MAX_TOKENS = 76, 25, 512
MAX_PROMPT = 96  # of a long prompt the end is drawn: what was written after it is what the picture is about


def draw(record: Record, *, step: int | None = None, line_length: int = COLUMNS, theme: str = "light", title: str = "") -> Spec:
    """Return the text in a monospaced grid.

    Args:
        step: decoding step to highlight (None = none).
        line_length: letters in a line.
    """
    check(record, step)
    d = house.design(theme)
    grid = Grid(record, line_length)
    order = [s for s in dict.fromkeys([*SOURCES, *grid.sources]) if s in set(grid.sources)]
    data = [trace for s in order for trace in _boxes(grid, s, d)]
    data += _highlight(grid, step, d)
    data.append(_pieces(grid, step, d))
    height = grid.lines * LINE_PIXELS + (44 if title else 12) + 34
    layout = {
        "height": height,
        "showlegend": True,
        "legend": {"y": 1, "itemclick": False, "itemdoubleclick": False},
        "margin": {"b": 6, "l": 10, "r": 10},
        "xaxis": {"range": [-0.6, line_length + 0.6], "visible": False, "fixedrange": True},
        "yaxis": {"range": [grid.lines - 0.42, -0.58], "visible": False, "fixedrange": True},
        "hovermode": "closest",
    }
    return house.picture(data, layout, theme=theme, title=title, revision=revision(record, "text_strip"))


def _dropped(sources: np.ndarray) -> int:
    """Return how many tokens at the start are not drawn."""
    written = sources.astype(str) != "prompt"
    prompt = int(written.argmax()) if written.any() else 0
    return max(0, len(sources) - MAX_TOKENS, prompt - MAX_PROMPT)


def check(record: Record, step: int | None) -> None:
    """Raise `InputError` for a step that wrote nothing."""
    steps = record.column("text", "step")
    if step is not None and not (steps == step).any():
        raise InputError(expected("step", f"a step from {max(0, steps.min())} to {steps.max()}", step, "group text"))


class Grid:
    """Tokens on lines of a fixed number of letters; a line break in the text starts a new line."""

    def __init__(self, record: Record, width: int) -> None:
        pieces, sources, self.steps = columns(record, "text", "piece", "source", "step")
        self.dropped = _dropped(sources)
        self.steps = self.steps[self.dropped :]
        self.sources = [str(s) for s in sources[self.dropped :]]
        self.pieces = [str(p) for p in pieces[self.dropped :]]
        self.shown = [house.token(p, 24) for p in self.pieces]
        sizes = [house.width(s) + 1 for s in self.shown]
        self.left, self.line = np.zeros(len(sizes)), np.zeros(len(sizes))
        x = y = 0
        for i, size in enumerate(sizes):
            if x and x + size > width:
                x, y = 0, y + 1
            self.left[i], self.line[i] = x, y
            x += size
            if self.pieces[i].endswith("\n") and i + 1 < len(sizes):
                x, y = 0, y + 1
        self.size, self.lines = np.array(sizes, float), y + 1

    def rectangles(self, rows: np.ndarray, inset: float) -> tuple[list[float | None], list[float | None]]:
        """Return x and y of closed outlines around tokens, with gaps between them."""
        x0, x1 = self.left[rows] + inset, self.left[rows] + self.size[rows] - inset
        y0, y1 = self.line[rows] - 0.40 + inset, self.line[rows] + 0.40 - inset
        gap = np.full(len(rows), np.nan)
        x = np.stack([x0, x1, x1, x0, x0, gap], 1).round(2)
        y = np.stack([y0, y0, y1, y1, y0, gap], 1).round(2)
        return [None if v != v else v for v in x.ravel().tolist()], [None if v != v else v for v in y.ravel().tolist()]


def _boxes(grid: Grid, source: str, d: house.Design) -> list[Spec]:
    """Return the boxes of one source: a fill, a border, and a second mark that works without colour."""
    meaning, words = SOURCES.get(source, ("proposed", source))
    rows = np.flatnonzero(np.array(grid.sources) == source)
    boxes = [_outline(grid, rows, 0.08, source, d, fill=0.16 if source == "prompt" else 0.24, name=words)]
    if meaning == "chosen":
        boxes.append(_outline(grid, rows, 0.2, source, d))
    if source == "residual":
        boxes.append(_rejection_mark(grid, rows, d))
    return boxes


def _outline(grid: Grid, rows: np.ndarray, inset: float, source: str, d: house.Design, fill: float = 0, name: str = "") -> Spec:
    meaning = SOURCES.get(source, ("proposed",))[0]
    x, y = grid.rectangles(rows, inset)
    return {
        "type": "scatter", "mode": "lines", "x": x, "y": y, "fill": "toself" if fill else "none", "hoverinfo": "skip",
        "fillcolor": d.fill(meaning, fill) if fill else None, "name": name or f"{source}: second border", "showlegend": bool(name),
        "line": {"color": d.line(meaning), "width": 1.2, "dash": DASH.get(source, "dash"), "shape": "linear"},
    }  # fmt: skip


def _rejection_mark(grid: Grid, rows: np.ndarray, d: house.Design) -> Spec:
    """Return the bar at the left of a token that was written because a draft had been rejected."""
    x = np.stack([grid.left[rows] + 0.08] * 2 + [np.full(len(rows), np.nan)], 1).ravel().tolist()
    y = np.stack([grid.line[rows] - 0.4, grid.line[rows] + 0.4, np.full(len(rows), np.nan)], 1).ravel().tolist()
    return {
        "type": "scatter", "mode": "lines", "name": "rejection before it", "showlegend": False, "hoverinfo": "skip",
        "x": [None if v != v else v for v in x], "y": [None if v != v else round(v, 2) for v in y],
        "line": {"color": d.line("rejected"), "width": 4},
    }  # fmt: skip


def _highlight(grid: Grid, step: int | None, d: house.Design) -> list[Spec]:
    """Return the ring around the tokens of the highlighted step."""
    rows = np.flatnonzero(grid.steps == step) if step is not None else np.array([], int)
    x, y = grid.rectangles(rows, -0.02)
    line = {"color": d.line("selected"), "width": 3}
    return [
        {
            "type": "scatter", "mode": "lines", "name": "this step", "showlegend": step is not None, "hoverinfo": "skip", "x": x, "y": y,
            "line": line, "fill": "toself", "fillcolor": d.fill("selected", 0.18),
        }
    ]  # fmt: skip


def _pieces(grid: Grid, step: int | None, d: house.Design) -> Spec:
    words = {s: w for s, (_, w) in SOURCES.items()}
    return {
        "type": "scatter", "mode": "text", "name": "tokens", "showlegend": False, "cliponaxis": False,
        "x": (grid.left + grid.size / 2).tolist(), "y": grid.line.tolist(), "customdata": grid.steps.tolist(),
        "text": [house.escape(s, quote=False) for s in grid.shown], "textposition": "middle center",
        "textfont": {
            "family": house.MONO, "size": 12.5,
            "color": [d.muted if s < 0 else d.text for s in grid.steps.tolist()],
        },
        "hovertext": [
            f"{house.label(p, 60)}<br>{words.get(s, s)}" + (f", step {t}" if t >= 0 else "")
            for p, s, t in zip(grid.pieces, grid.sources, grid.steps.tolist())
        ],
        "hoverinfo": "text",
    }  # fmt: skip


def caption(record: Record, *, step: int | None = None) -> str:
    """Return how many tokens came from where, or what the highlighted step wrote; and what of a long text is not drawn."""
    dropped = _dropped(record.column("text", "source"))
    return _told(record, step) + (f" The first {plural(dropped, 'token')} of the text are not drawn." if dropped else "")


def _told(record: Record, step: int | None) -> str:
    sources, steps, pieces = columns(record, "text", "source", "step", "piece")
    if step is not None:
        check(record, step)
        between = str(record.group_attrs("text").get("words", ""))
        mine = between.join(house.token(str(p), 40) for p in pieces[steps == step])
        if (sources[steps == step] == "differs").any():
            return f"Token {step + 1} after the prompt, “{mine}”: this run would write another than the dense run."
        if (sources[steps == step] == "agrees").any():
            return f"Token {step + 1} after the prompt, “{mine}”: this run would write the same as the dense run."
        if (sources[steps == step] == "unmasked").any():
            return f"Round {step + 1} decided {plural(int((steps == step).sum()), 'token')}: “{mine}”."
        return f"Step {step} wrote “{mine}” in one call of the target."
    made = [str(s) for s in sources[steps >= 0]]
    if not made:
        return "Nothing has been written yet."
    if {"agrees", "differs"} & set(made):
        return f"At {made.count('agrees')} of {plural(len(made), 'token')} after the prompt this run would write the same as the dense run."
    calls = len(np.unique(steps[steps >= 0]))
    if "unmasked" in made:
        return f"{plural(len(made), 'token')} were decided in {plural(calls, 'round')}."
    return (
        f"{made.count('draft')} of {plural(len(made), 'new token')} were drafted; the target was called {plural(calls, 'time')}."
    )


def say(record: Record, *, step: int | None = None) -> str:
    """Return the sentence and each step's tokens."""
    pieces, sources, steps = columns(record, "text", "piece", "source", "step")
    rows = []
    for s in np.unique(steps):
        mine = np.flatnonzero(steps == s)
        words = " ".join(house.token(str(pieces[i]), 24) for i in mine)
        rows.append(["prompt" if s < 0 else str(int(s)), words, str(sources[mine[-1]])])
    return caption(record, step=step) + "\n\n" + table(["step", "tokens", "last from"], rows)


VIEW = View(
    name="text_strip",
    groups=("text",),
    question="Where did each token come from?",
    reading=(
        "The text in reading order, one box a token; ␣ ↵ → are white space. Dotted grey: the prompt. Green: proposed by the draft "
        "and accepted. Orange with a double border: written by the target itself, with a red bar where a rejection came before. "
        "Blue: plain decoding. The ring marks the step you are looking at."
    ),
    draw=draw,
    say=say,
    caption=caption,
    steps="text",
    wide=True,
)

"""Which drafted tokens survive? The token tree of one step, left to right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from workbench import theme as house
from workbench.errors import InputError, expected
from workbench.views import View
from workbench.views.common import Spec, plural, revision, table
from workbench.views.tree_layout import (
    ACCEPTED,
    FINAL,
    REJECTED,
    ROOT,
    TRIMMED,
    UNTRIED,
    WRITTEN,
    Place,
    StepTree,
    extent,
    place,
    step_tree,
)

if TYPE_CHECKING:
    from workbench.record import Record

#: What each state means in the palette.
MEANING = {
    ROOT: "context",
    ACCEPTED: "accepted",
    REJECTED: "rejected",
    UNTRIED: "proposed",
    TRIMMED: "context",
    WRITTEN: "chosen",
}
EDGE_DASH = {ACCEPTED: "solid", REJECTED: "solid", UNTRIED: "dash", TRIMMED: "dot", WRITTEN: "solid"}
EDGE_WIDTH = {ACCEPTED: 3.0, REJECTED: 1.8, UNTRIED: 1.5, TRIMMED: 1.2, WRITTEN: 3.0}
LEGEND = {
    ACCEPTED: "accepted",
    REJECTED: "tried, rejected",
    UNTRIED: "never tried",
    TRIMMED: "trimmed away",
    WRITTEN: "written by the target",
}
WIDTH = 620  # pixels the labels are cut for; a wider page gives them more air
LARGEST, LEAST, FONT = 28.0, 8.0, 14.0
ROWS_HEIGHT = 260  # pixels that all rows take where the picture is smallest: circles must not touch
_CURVE = np.linspace(0, 1, 9)
_BEND = _CURVE**2 * (3 - 2 * _CURVE)


class Frame:
    """The fixed frame of a run's trees: levels to pixels, room for a label, the marks of one step in it."""

    def __init__(self, record: Record, tree: StepTree) -> None:
        self.tree = tree
        self.places, rows = place(tree)
        self.rows, self.levels = extent(record)
        self.rows = max(self.rows, rows)
        for p in self.places:  # each step's tree stands in the middle of the run's frame
            p.y += (self.rows - rows) / 2
        self.largest = min(LARGEST, ROWS_HEIGHT / self.rows)
        self.pixels = WIDTH / (self.levels + 2.05)  # of one level
        self.letters = max(3, int((0.74 * self.pixels - LARGEST / 2 - 6) / (FONT * 0.6)))

    def state(self, p: Place) -> str:
        if p.node == FINAL:
            return TRIMMED if self.tree.cut else WRITTEN
        return self.tree.state[p.node]

    def label(self, p: Place) -> str:
        """Return the label of a mark as plain text."""
        if p.is_fold:
            return f"+{p.folded}"
        piece = self.tree.final_piece if p.node == FINAL else self.tree.piece[p.node]
        more = f" +{p.folded}" if p.folded else ""
        return house.token(piece, max(2, self._room(p) - len(more))) + more

    def _room(self, p: Place) -> int:
        """Return the letters a label may take: nothing follows a leaf in its row, unless the picture ends there."""
        leaf = p.folded or not self.tree.children.get(p.node)
        return self.letters + 6 if leaf and p.x <= self.levels else self.letters

    def diameter(self, p: Place) -> float:
        """Return the diameter in pixels: the area is the draft's probability (root and final token: fixed)."""
        if p.node <= 0:
            return 16.0
        share = float(np.nan_to_num(self.tree.draft[p.node]))
        return LEAST if p.is_fold else max(LEAST, self.largest * share**0.5)


def draw(record: Record, *, step: int = 0, selected: int | None = None, theme: str = "light", title: str = "") -> Spec:
    """Return the tree of a step.

    Args:
        step: decoding step.
        selected: node with a ring around it.
    """
    tree = step_tree(record, step)
    _check_node(tree, selected)
    frame = Frame(record, tree)
    d = house.design(theme)
    trimmed = "kept" in record.variables("tree") and not record.column("tree", "kept").all()
    states = [s for s in LEGEND if s != TRIMMED or trimmed]
    data = [*_edges(frame, d), *(_key(s, d) for s in states), *_rings(frame, d, selected), _nodes(frame, d)]
    layout = {
        "showlegend": True,
        "legend": {"itemsizing": "constant", "itemclick": False, "itemdoubleclick": False},
        "margin": {"b": 8},
        "xaxis": {
            "range": [-0.3, frame.levels + 1.75], "tickmode": "array", "showgrid": False, "fixedrange": True,
            "tickvals": list(range(frame.levels + 2)),
            "ticktext": ["last token", *(f"+{i}" for i in range(1, frame.levels + 2))], "ticks": "",
            "title": {"text": "position after the last written token"},
        },
        "yaxis": {"range": [frame.rows - 0.4, -0.6], "visible": False, "fixedrange": True},
        "shapes": _dashes(frame, d),
    }  # fmt: skip
    data += [_labels(frame, d), _ranks(frame, d)]
    return house.picture(data, layout, theme=theme, title=title, revision=revision(record, "token_tree"))


def _check_node(tree: StepTree, selected: int | None) -> None:
    if selected is not None and not 0 <= selected < len(tree):
        raise InputError(expected("selected", f"a node from 0 to {len(tree) - 1}", selected, f"step {tree.step}"))


def _edges(frame: Frame, d: house.Design) -> list[Spec]:
    """Return one trace of curves for each state: from the end of the parent's label to the child's rank."""
    by_state: dict[str, list[tuple[float, float, float, float]]] = {s: [] for s in EDGE_DASH}
    for p in frame.places[1:]:
        parent = frame.places[p.parent]
        reach = frame.diameter(parent) / 2 + 8 + house.width(frame.label(parent)) * FONT * 0.6
        start = parent.x + min(reach / frame.pixels, 0.78)
        stop = p.x - (frame.diameter(p) / 2 + (4 if p.node == FINAL or p.is_fold else 15)) / frame.pixels
        by_state[frame.state(p)].append((start, parent.y, max(stop, start), p.y))
    return [_edge_trace(np.array(lines), s, d) for s, lines in by_state.items() if lines]


def _edge_trace(lines: np.ndarray, state: str, d: house.Design) -> Spec:
    x0, y0, x1, y1 = (lines[:, i : i + 1] for i in range(4))
    gap = np.full((len(lines), 1), np.nan)
    x = np.hstack([x0 + (x1 - x0) * _CURVE, gap]).round(3)
    y = np.hstack([y0 + (y1 - y0) * _BEND, gap]).round(3)
    style = {"color": d.line(MEANING[state]), "width": EDGE_WIDTH[state], "dash": EDGE_DASH[state]}
    return {
        "type": "scatter", "mode": "lines", "x": _gaps(x), "y": _gaps(y), "line": style, "hoverinfo": "skip", "showlegend": False,
        "name": f"edges: {state}",
    }  # fmt: skip


def _gaps(values: np.ndarray) -> list[float | None]:
    return [None if v != v else v for v in values.ravel().tolist()]


def _marker(state: str, d: house.Design) -> tuple[str, str, str, float]:
    """Return (symbol, fill, border colour, border width): the border and the cross tell states apart without colour."""
    line = d.line(MEANING[state])
    return {
        ROOT: ("circle", d.fill("context", 0.35), d.muted, 0.0),
        ACCEPTED: ("circle", d.fill("accepted"), line, 2.0),
        REJECTED: ("circle-x", d.fill("rejected", 0.3), line, 1.8),
        UNTRIED: ("circle", d.background, d.background, 0.0),
        TRIMMED: ("circle", d.background, d.background, 0.0),
        WRITTEN: ("circle", d.fill("chosen"), line, 1.5),
    }[state]


def _key(state: str, d: house.Design) -> Spec:
    """Return a legend entry: the node's mark on its edge."""
    symbol, fill, line, width = _marker(state, d)
    if state in (UNTRIED, TRIMMED):
        symbol, line, width = "circle-open-dot" if state == TRIMMED else "circle", d.line(MEANING[state]), 1.5
    if state == WRITTEN:
        symbol, line, width = "circle-dot", d.text, 1.5
    return {
        "type": "scatter", "mode": "lines+markers", "x": [None], "y": [None], "name": LEGEND[state], "showlegend": True,
        "line": {"color": d.line(MEANING[state]), "width": EDGE_WIDTH[state], "dash": EDGE_DASH[state]},
        "marker": {"symbol": symbol, "size": 11, "color": fill, "line": {"color": line, "width": width}},
    }  # fmt: skip


def _nodes(frame: Frame, d: house.Design) -> Spec:
    marks = [_marker(frame.state(p), d) for p in frame.places]
    return {
        "type": "scatter", "mode": "markers", "name": "nodes", "showlegend": False, "cliponaxis": False,
        "x": [p.x for p in frame.places], "y": [p.y for p in frame.places],
        "customdata": [p.node for p in frame.places],
        "hovertext": [_hover(frame, p) for p in frame.places], "hoverinfo": "text",
        "marker": {
            "symbol": [m[0] for m in marks], "color": [m[1] for m in marks], "opacity": 1,
            "size": [round(frame.diameter(p), 1) for p in frame.places],
            "line": {"color": [m[2] for m in marks], "width": [m[3] for m in marks]},
        },
    }  # fmt: skip


def _rings(frame: Frame, d: house.Design, selected: int | None) -> list[Spec]:
    """Return the outer border of the written token, and the reader's ring."""
    rings = [(p, "chosen", 7.0, 2.0) for p in frame.places if frame.state(p) == WRITTEN]
    rings += [(p, "selected", 11.0, 3.0) for p in frame.places if p.node == selected and not p.is_fold]
    return [
        {
            "type": "scatter", "mode": "markers", "name": f"ring: {meaning}", "showlegend": False, "hoverinfo": "skip",
            "x": [p.x], "y": [p.y], "cliponaxis": False,
            "marker": {"symbol": "circle-open", "size": frame.diameter(p) + grow, "color": d.line(meaning), "line": {"width": width}},
        }
        for p, meaning, grow, width in rings
    ]  # fmt: skip


def _dashes(frame: Frame, d: house.Design) -> list[Spec]:
    """Return the dashed or dotted borders, which plotly's markers cannot draw."""
    style = {UNTRIED: "4px,3px", TRIMMED: "1.5px,3px", ROOT: "1.5px,3px"}
    return [
        {
            "type": "circle", "xsizemode": "pixel", "ysizemode": "pixel", "xanchor": p.x, "yanchor": p.y, "x0": -r, "x1": r, "y0": -r,
            "y1": r, "line": {"color": d.line(MEANING[s]), "width": 1.8, "dash": style[s]},
        }
        for p in frame.places
        if (s := frame.state(p)) in style and (r := round(frame.diameter(p) / 2, 1))
    ]  # fmt: skip


def _labels(frame: Frame, d: house.Design) -> Spec:
    inks = {
        ACCEPTED: d.ink("accepted"),
        WRITTEN: d.ink("chosen"),
        ROOT: d.text,
        REJECTED: d.ink("rejected"),
        UNTRIED: d.text,
        TRIMMED: d.muted,
    }
    return {
        "type": "scatter", "mode": "text", "name": "tokens", "showlegend": False, "hoverinfo": "skip", "cliponaxis": False,
        "x": [round(p.x + (frame.diameter(p) / 2 + (8 if p.node == FINAL else 5)) / frame.pixels, 3) for p in frame.places],
        "y": [p.y for p in frame.places],
        "text": [_dress(house.escape(frame.label(p), quote=False), frame.state(p)) for p in frame.places],
        "textposition": "middle right",
        "textfont": {"family": house.MONO, "size": FONT, "color": [inks[frame.state(p)] for p in frame.places]},
    }  # fmt: skip


def _dress(text: str, state: str) -> str:
    return f"<b>{text}</b>" if state in (ACCEPTED, WRITTEN) else text


def _ranks(frame: Frame, d: house.Design) -> Spec:
    ranked = [p for p in frame.places if p.node > 0 and not p.is_fold]
    return {
        "type": "scatter", "mode": "text", "name": "sibling ranks", "showlegend": False, "hoverinfo": "skip",
        "x": [round(p.x - (frame.diameter(p) / 2 + 9) / frame.pixels, 3) for p in ranked], "y": [p.y for p in ranked],
        "text": [str(int(frame.tree.rank[p.node]) + 1) for p in ranked], "textposition": "middle center",
        "textfont": {"family": house.MONO, "size": 11, "color": d.muted},
    }  # fmt: skip


def _hover(frame: Frame, p: Place) -> str:
    tree, n = frame.tree, p.node
    if p.is_fold:
        return f"{plural(p.folded, 'node')} that the walk never tried"
    if n == FINAL:
        why = {"residual": "drawn from what the rejections left (residual)", "bonus": "every draft on the path survived (bonus)"}
        return f"<b>{house.label(tree.final_piece, 40)}</b><br>{why.get(tree.final_source, 'written by the target')}"
    lines = [f"<b>{house.label(tree.piece[n], 40)}</b>  id {int(tree.token_id[n])}"]
    if n == 0:
        return lines[0] + "<br>the last written token"
    lines.append(f"node {n}, sibling {int(tree.rank[n]) + 1} in trial order")
    for name, prob in (("draft", tree.draft[n]), ("target", tree.target[n])):
        lines.append(f"{name:<6} {house.number(float(prob))}  (log {np.log(prob):.2f})" if prob > 0 else f"{name:<6} 0")
    if tree.ratio[n] == tree.ratio[n]:
        sign = "<" if tree.uniform[n] < tree.ratio[n] else "≥"
        lines.append(f"draw {tree.uniform[n]:.3f} {house.escape(sign)} ratio {tree.ratio[n]:.3f}: {tree.state[n]}")
    else:
        lines.append(tree.state[n])
    if p.folded:
        lines.append(f"{plural(p.folded, 'node')} below, folded")
    return "<br>".join(lines)


def caption(record: Record, *, step: int = 0) -> str:
    """Return what this step shows, in one sentence (two where something is folded or trimmed)."""
    tree = step_tree(record, step)
    drafted, accepted = len(tree) - 1, int(tree.accepted.sum()) - 1
    words = f"{accepted} of {plural(drafted, 'drafted token')} survive{'s' if accepted == 1 else ''}"
    if not drafted:
        words = "Nothing is drafted"
    if tree.final_source:
        how = {"residual": " from what the rejections left", "bonus": " as a bonus"}.get(tree.final_source, "")
        words += f"; the target adds {house.quoted(tree.final_piece)}{how}"
    folded = sum(p.folded for p in place(tree)[0])
    more = f" {folded} nodes that were never tried are folded into “+n”." if folded else ""
    return f"Step {step}: {words}.{more}{_trim_words(tree)}"


def _trim_words(tree: StepTree) -> str:
    trimmed = tree.count(TRIMMED)
    if not trimmed:
        return ""
    lost = int(tree.accepted.sum()) - 1 - tree.count(ACCEPTED)
    loss = f", {lost} of them accepted in the run: from here on the replay is an estimate" if lost else ""
    return f" {plural(trimmed, 'node is', 'nodes are')} trimmed away{loss}."


def say(record: Record, *, step: int = 0) -> str:
    """Return the sentence and the tree as a table."""
    tree = step_tree(record, step)
    rows = [
        [
            str(n), str(int(tree.parent[n])), str(int(tree.rank[n]) + 1), "  " * (int(tree.depth[n]) - 1) + house.token(tree.piece[n]),
            house.number(float(tree.draft[n])), house.number(float(tree.target[n])), house.number(float(tree.ratio[n])),
            house.number(float(tree.uniform[n])), tree.state[n],
        ]
        for n in range(1, len(tree))
    ]  # fmt: skip
    head = ["node", "parent", "rank", "token", "draft", "target", "ratio", "draw", "outcome"]
    return caption(record, step=step) + ("\n\n" + table(head, rows) if rows else "")


VIEW = View(
    name="token_tree",
    groups=("tree",),
    question="Which drafted tokens survive?",
    reading=(
        "Time runs left to right from the last written token. Each circle is a drafted token; its area is the draft's probability, "
        "the small number the order in which siblings are tried. Solid green: accepted. Crossed: tried and rejected. Dashed: never "
        "tried. Dotted grey: trimmed away by the live knobs. Double border: the token that the target itself writes."
    ),
    draw=draw,
    say=say,
    caption=caption,
    steps="tree",
    wide=True,
)


def nodes_of(figure: Any) -> list[int]:
    """Return the node index behind every mark of a drawn tree (what a click on point i selects)."""
    return next(t["customdata"] for t in figure["data"] if t["name"] == "nodes")

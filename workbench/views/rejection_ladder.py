"""What does a rejection change? The residual of the target, melting as one sibling after the other is rejected."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from workbench import theme as house
from workbench.views import View
from workbench.views.common import Spec, check_step, columns, note, revision, table
from workbench.views.tree_layout import FINAL, StepTree, step_tree

if TYPE_CHECKING:
    from workbench.record import Record

#: Candidates that get a row of their own, and trials that get a panel.
MAX_TOKENS, MAX_PANELS = 8, 4
OTHERS = "all others"


@dataclass
class Rung:
    """One trial: the laws before it, the child that is tried, and the outcome."""

    trial: int
    residual: np.ndarray  # (rows,) r_j of the shown candidates, the last row is all others
    remaining: np.ndarray  # (rows,) Q_j
    token: int  # row of the tried (or finally written) token; -1 = unknown
    piece: str
    ratio: float
    uniform: float
    outcome: str  # "accepted", "rejected", "written", "repeat"
    estimated: bool = False  # computed from the recorded candidates instead of recorded


@dataclass
class Ladder:
    """All trials at one node."""

    step: int
    node: int
    at: str
    pieces: list[str]
    rungs: list[Rung]


def ladder(record: Record, step: int, selected: int | None) -> Ladder | None:
    """Return the ladder of a node, or None where the step tried nothing.

    `selected` may be the node whose children were tried, or one of its children; by default the first node of the step with
    a rejection. A node that the walk never reached has no laws: the default is shown.
    """
    tree = step_tree(record, step)
    steps, nodes, trials = columns(record, "laws", "step", "node", "trial")
    mine = np.flatnonzero(steps == step)
    if not len(mine):
        return None
    node = _choose(tree, nodes[mine], trials[mine], selected)
    rows = mine[nodes[mine] == node]
    return _read(record, tree, node, rows, trials[rows])


def _choose(tree: StepTree, nodes: np.ndarray, trials: np.ndarray, selected: int | None) -> int:
    walked = set(nodes.tolist())
    if selected is not None and 0 <= selected < len(tree):
        for candidate in (selected, int(tree.parent[selected])):
            if candidate in walked:
                return candidate
    rejected = nodes[trials > 0]
    return int(rejected[0] if len(rejected) else nodes[0])


def _read(record: Record, tree: StepTree, node: int, rows: np.ndarray, trials: np.ndarray) -> Ladder:
    ids, pieces, target, draft, residual, remaining = (
        c[rows] for c in columns(record, "laws", "token_id", "piece", "target", "draft", "residual", "remaining")
    )
    children = {int(tree.rank[c]): c for c in tree.children.get(node, ()) if c != FINAL}
    tried = {int(tree.token_id[c]) for c in children.values() if tree.ratio[c] == tree.ratio[c]}
    shown = _candidates(ids[trials == 0], np.maximum(target, draft)[trials == 0], tried)
    names = dict(zip(ids.tolist(), (str(p) for p in pieces)))
    out = Ladder(tree.step, node, tree.piece[node], [names[i] for i in shown], [])
    for trial in np.unique(trials):
        now = trials == trial
        laws = [_fold(ids[now], law[now], shown) for law in (residual, remaining)]
        out.rungs.append(_rung(tree, int(trial), laws[0], laws[1], shown, children))
    if out.rungs[-1].outcome == "rejected":
        last = trials == trials.max()
        out.rungs.append(_after(out.rungs[-1], ids[last], residual[last], remaining[last], shown, tree.final_piece))
    return out


def _after(last: Rung, ids: np.ndarray, residual: np.ndarray, remaining: np.ndarray, shown: list[int], final: str) -> Rung:
    """Return what is left after the last sibling was rejected, from the recorded candidates (the rest is too rare to record)."""
    left = np.maximum(residual - remaining, 0)
    rest = np.where(ids == (shown[last.token] if last.token >= 0 else -1), 0, remaining)
    laws = [_fold(ids, law / max(float(law.sum()), 1e-12), shown) for law in (left, rest)]
    return Rung(last.trial + 1, laws[0], laws[1], -1, final, np.nan, np.nan, "written", estimated=True)


def _candidates(ids: np.ndarray, weight: np.ndarray, tried: set[int]) -> list[int]:
    """Return the token ids that get a row: those tried, then the likeliest, in falling order."""
    order = ids[np.argsort(-weight, kind="stable")].tolist()
    first = [i for i in order if i in tried][:MAX_TOKENS]
    chosen = set(first) | set([i for i in order if i not in tried][: MAX_TOKENS - len(first)])
    return [i for i in order if i in chosen]


def _fold(ids: np.ndarray, law: np.ndarray, shown: list[int]) -> np.ndarray:
    value = dict(zip(ids.tolist(), law.tolist()))
    rows = [value.get(i, 0.0) for i in shown]
    return np.array([*rows, max(0.0, 1.0 - sum(rows))])


def _rung(
    tree: StepTree, trial: int, residual: np.ndarray, remaining: np.ndarray, shown: list[int], children: dict[int, int]
) -> Rung:
    child = children.get(trial)
    if child is not None and tree.ratio[child] == tree.ratio[child]:
        token = shown.index(int(tree.token_id[child])) if int(tree.token_id[child]) in shown else -1
        ratio, uniform = float(tree.ratio[child]), float(tree.uniform[child])
        return Rung(
            trial, residual, remaining, token, tree.piece[child], ratio, uniform, "accepted" if uniform < ratio else "rejected"
        )
    if trial < max(children, default=-1):
        return Rung(trial, residual, remaining, -1, "", np.nan, np.nan, "repeat")
    return Rung(trial, residual, remaining, -1, tree.final_piece, np.nan, np.nan, "written")


def draw(record: Record, *, step: int = 0, selected: int | None = None, theme: str = "light", title: str = "") -> Spec:
    """Return one panel of paired bars for each trial at a node.

    Args:
        step: decoding step.
        selected: the node whose children are tried, or one of its children.
    """
    check_step(record, "tree", step)
    found = ladder(record, step, selected)
    name = revision(record, "rejection_ladder")
    if found is None:
        empty = {"xaxis": {"visible": False}, "yaxis": {"visible": False}, "annotations": [_nothing(theme)]}
        return house.picture([], empty, theme=theme, title=title, revision=name)
    rungs = found.rungs if len(found.rungs) <= MAX_PANELS else [*found.rungs[: MAX_PANELS - 1], found.rungs[-1]]
    layout = _frame(record, found, rungs, theme)
    data = [trace for i, rung in enumerate(rungs) for trace in _bars(found, rung, i, theme)]
    return house.picture(data, layout, theme=theme, title=title, revision=name)


def _nothing(theme: str) -> Spec:
    return note("Nothing was drafted in this step, so nothing was tried.", theme, x=0.5, y=0.5, anchor="center", size=14)


def _bars(found: Ladder, rung: Rung, panel: int, theme: str) -> list[Spec]:
    d = house.design(theme)
    rows = np.arange(len(rung.residual))
    shown = [*(house.label(p, 40) for p in found.pieces), OTHERS]
    faint = house.ESTIMATED_OPACITY if rung.estimated else 1.0
    target = (
        house.hatch(theme, "target")
        if rung.estimated
        else {"color": d.fill("target"), "line": {"color": d.line("target"), "width": 1}}
    )
    draft = {
        "color": d.fill("proposed", 0.35 * faint), "line": {"color": d.line("proposed"), "width": 1.2},
        "pattern": {"shape": ".", "fgcolor": d.line("proposed"), "size": 5, "solidity": 0.18, "fillmode": "overlay"},
    }  # fmt: skip
    axis = "" if panel == 0 else str(panel + 1)
    laws = (
        ("target: p, then its residual r", rung.residual, target, -0.19),
        ("draft: q, then its rest Q", rung.remaining, draft, 0.19),
    )
    return [
        {
            "type": "bar", "orientation": "h", "name": name, "showlegend": panel == 0, "x": law.round(5).tolist(),
            "y": (rows + shift).tolist(), "width": 0.36, "marker": marker, "xaxis": f"x{axis}", "yaxis": "y", "legendgroup": name,
            "customdata": shown, "hovertemplate": f"%{{customdata}}<br>{symbol}<sub>{rung.trial + 1}</sub> = %{{x:.3f}}<extra></extra>",
        }
        for (name, law, marker, shift), symbol in zip(laws, "rQ")
    ]  # fmt: skip


def _frame(record: Record, found: Ladder, rungs: list[Rung], theme: str) -> Spec:
    """Return axes (fixed for the run), the row of what is tried, and the verdict above each panel."""
    d = house.design(theme)
    top = max(float(record.column("laws", name).max(initial=0.1)) for name in ("residual", "remaining"))
    rows, gap = MAX_TOKENS + 1, 0.05
    width = (1 + gap) / len(rungs) - gap
    ticks = [*(house.label(p, 12) for p in found.pieces), f"<i>{OTHERS}</i>"]
    layout: Spec = {
        "showlegend": True, "legend": {"itemclick": False, "itemdoubleclick": False},
        "yaxis": {"range": [rows - 0.5, -3.9], "tickvals": list(range(len(ticks))), "ticktext": ticks, "showgrid": False,
                  "tickfont": {"family": house.MONO, "size": 12, "color": d.text}, "fixedrange": True},
        "annotations": [], "shapes": [],
    }  # fmt: skip
    for i, rung in enumerate(rungs):
        left, axis = i * (width + gap), "" if i == 0 else str(i + 1)
        layout[f"xaxis{axis}"] = {
            "domain": [left, left + width], "range": [0, min(1.0, top * 1.05)], "anchor": "y", "nticks": 4, "fixedrange": True,
            "title": {"text": "probability" if i == 0 else ""},
        }  # fmt: skip
        layout["annotations"].append(_verdict(rung, left, i, len(found.rungs) > len(rungs) and i == len(rungs) - 1, theme))
        if rung.token >= 0:
            layout["shapes"].append(_row(rung, axis, d))
    return layout


def _verdict(rung: Rung, left: float, panel: int, skipped: bool, theme: str) -> Spec:
    d = house.design(theme)
    head, words, ink = f"<b>{house.label(rung.piece, 11)}</b>", "", d.text
    if rung.outcome == "repeat":
        head, words, ink = "<b>a repeat</b>", "a sibling drawn again", d.muted
    elif rung.outcome == "written":
        words, ink = f"written by the<br>target, from r{' (est.)' if rung.estimated else ''}", d.ink("chosen")
    else:
        sign = "&lt;" if rung.outcome == "accepted" else "≥"
        mark = "✓ accepted" if rung.outcome == "accepted" else "✕ rejected"
        words, ink = f"{rung.uniform:.2f} {sign} {rung.ratio:.2f}<br>{mark}", d.ink(rung.outcome)
    lead = "… " if skipped else ""
    text = f"{lead}{'try' if rung.outcome in ('accepted', 'rejected') else ''} {head}<br><span style='color:{ink}'>{words}</span>"
    return {"text": text, "xref": "paper", "yref": "y", "x": left, "y": -3.85, "xanchor": "left", "yanchor": "top",
            "align": "left", "showarrow": False, "font": {"size": 12, "color": d.text, "family": house.SANS}, "name": f"verdict {panel}"}  # fmt: skip


def _row(rung: Rung, axis: str, d: house.Design) -> Spec:
    meaning = "accepted" if rung.outcome == "accepted" else "rejected"
    return {
        "type": "rect", "xref": f"x{axis} domain", "yref": "y", "x0": 0, "x1": 1, "y0": rung.token - 0.46, "y1": rung.token + 0.46,
        "layer": "below", "fillcolor": d.fill(meaning, 0.14),
        "line": {"color": d.line(meaning), "width": 1.5, "dash": "solid" if meaning == "accepted" else "dash"},
    }  # fmt: skip


def caption(record: Record, *, step: int = 0, selected: int | None = None) -> str:
    """Return what happens on the ladder, in one sentence."""
    found = ladder(record, step, selected)
    if found is None:
        return f"Step {step}: nothing was drafted, so nothing was tried."
    rejected = [house.quoted(r.piece) for r in found.rungs if r.outcome == "rejected"]
    last = found.rungs[-1]
    start = f"Step {step}, after {house.quoted(found.at)}: "
    end = {"accepted": f"{house.quoted(last.piece)} is accepted", "written": f"the target writes {house.quoted(last.piece)}"}
    ending = end.get(last.outcome, "the walk ends")
    if not rejected:
        return f"{start}{ending} at the first try, nothing melts."
    again = " again and again" if len(rejected) > 2 else ""
    return f"{start}{', '.join(rejected)} rejected; what the draft offered too often melts away{again}, and {ending} from what is left."


def say(record: Record, *, step: int = 0, selected: int | None = None) -> str:
    """Return the sentence and each trial's laws as a table."""
    found = ladder(record, step, selected)
    if found is None:
        return caption(record, step=step)
    head = ["token", *(f"{s}{r.trial + 1}" for r in found.rungs for s in "rQ")]
    names = [*(house.token(p) for p in found.pieces), OTHERS]
    rows = [[n, *(f"{law[i]:.3f}" for r in found.rungs for law in (r.residual, r.remaining))] for i, n in enumerate(names)]
    tries = [
        f"try {house.token(r.piece)}: draw {r.uniform:.3f}, ratio {r.ratio:.3f}, {r.outcome}"
        for r in found.rungs
        if r.ratio == r.ratio
    ]
    return "\n".join([caption(record, step=step, selected=selected), *tries, "", table(head, rows)])


VIEW = View(
    name="rejection_ladder",
    groups=("tree", "laws"),
    question="What does a rejection leave for the next try?",
    reading=(
        "Each panel is one try at the same node. Plain blue bars: what the target still has to emit (p, then the residual r_j). "
        "Dotted light bars: what the draft still offers (q, then Q_j without the rejected siblings). The framed row is tried: it is "
        "accepted if a uniform draw is below the ratio r_j / Q_j. After a rejection the overlap is taken out of the target's law, "
        "and the rest is scaled up to one."
    ),
    draw=draw,
    say=say,
    caption=caption,
    steps="tree",
    wide=True,
)

"""Do some questions need more tokens? Tokens kept by kind of question, right and wrong answers apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench import theme as house
from workbench.meters import wilson
from workbench.views import View
from workbench.views.common import Spec, columns, revision, table, texts

if TYPE_CHECKING:
    from workbench.record import Record

GROUP = "thresholds/exam"


def _kinds(record: Record) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    kind = texts(record, GROUP, "kind")
    right, kept = columns(record, GROUP, "right", "kept")
    return list(dict.fromkeys(kind)), kind, right, kept


def draw(record: Record, *, theme: str = "light", title: str = "") -> Spec:
    """Return a box a kind, with every question as a mark."""
    d = house.design(theme)
    names, kind, right, kept = _kinds(record)
    rng = np.random.default_rng(0)  # only spreads marks sideways
    data: list[Spec] = []
    for i, name in enumerate(names):
        data.append({
            "type": "box", "y": kept[kind == name].round(2).tolist(), "x0": i, "name": name, "boxpoints": False, "showlegend": False, "fillcolor": d.raised,
            "line": {"color": d.muted, "width": 1.5}, "width": 0.7,
        })  # fmt: skip
    for good, label, meaning, symbol in ((True, "right", "accepted", "circle"), (False, "wrong", "rejected", "x")):
        rows = np.flatnonzero(right == good)
        x = [names.index(kind[r]) + float(rng.uniform(-0.28, 0.28)) for r in rows]
        data.append({
            "type": "scatter", "mode": "markers", "x": np.round(x, 3).tolist(), "y": kept[rows].round(2).tolist(), "name": label,
            "marker": {"symbol": symbol, "size": 5, "color": d.line(meaning)}, "hovertemplate": f"{label}: %{{y:.1f}} tokens<extra></extra>",
        })  # fmt: skip
    layout = {
        "showlegend": True,
        "xaxis": {"tickvals": list(range(len(names))), "ticktext": names, "range": [-0.6, len(names) - 0.4], "showgrid": False, "title": {"text": "what is asked"}},
        "yaxis": {"title": {"text": "picture tokens, mean over layers"}, "range": [0, float(kept.max()) * 1.08]},
    }  # fmt: skip
    return house.picture(data, layout, theme=theme, title=title, revision=revision(record, "kept_by_kind"))


def caption(record: Record) -> str:
    """Return the kinds that keep most and least, and whether that is more than chance."""
    names, kind, _, kept = _kinds(record)
    means = {n: float(kept[kind == n].mean()) for n in names}
    most, least = max(means, key=lambda n: means[n]), min(means, key=lambda n: means[n])
    error = np.sqrt(sum(kept[kind == n].var(ddof=1) / max(1, (kind == n).sum()) for n in (most, least)))
    gap = means[most] - means[least]
    verdict = "more than chance" if gap > 2.6 * max(error, 1e-9) else "no more than chance would give"
    return f"“{most}” keeps {means[most]:.1f} tokens a layer, “{least}” {means[least]:.1f}: {verdict}."


def say(record: Record) -> str:
    """Return the sentence and a row a kind."""
    names, kind, right, kept = _kinds(record)
    rows = []
    for name in names:
        mine = kind == name
        low, high = wilson(int(right[mine].sum()), int(mine.sum()))
        rows.append(
            [name, f"{kept[mine].mean():.1f}", f"{kept[mine].std():.1f}", f"{right[mine].mean():.1%}", f"{low:.0%} to {high:.0%}"]
        )
    return caption(record) + "\n\n" + table(["asked", "kept", "deviation", "right", "95 % interval"], rows)


VIEW = View(
    name="kept_by_kind",
    groups=(GROUP,),
    question="Do some questions need more tokens?",
    reading=(
        "Each mark is a question of the exam: how many picture tokens it kept (mean over layers); green circles were answered right, red crosses "
        "wrong. Boxes that stand at different heights mean that the method adapts to what is asked."
    ),
    draw=draw,
    say=say,
    caption=caption,
)

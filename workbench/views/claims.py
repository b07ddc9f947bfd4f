"""Do the paper's claims hold here? Each with what was found, its interval, and what it is compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench import theme as house
from workbench.views import View
from workbench.views.common import Spec, columns, error_bars, revision, table, texts

if TYPE_CHECKING:
    from workbench.record import Record

_MARK = {
    "holds": ("accepted", "circle", "✓ holds"),
    "fails": ("rejected", "x", "✕ does not hold"),
    "unclear": ("context", "diamond", "? unclear"),
}


def draw(record: Record, *, theme: str = "light", title: str = "") -> Spec:
    """Return a row a claim: the finding with its interval, the comparison as an open mark, the verdict in words."""
    d = house.design(theme)
    claim, name, verdict = (texts(record, "claims", n) for n in ("claim", "compared_name", "verdict"))
    value, low, high, compared = columns(record, "claims", "value", "low", "high", "compared")
    at = list(range(len(claim)))
    data: list[Spec] = [{
        "type": "scatter", "mode": "markers", "x": compared.round(4).tolist(), "y": at, "name": "compared with", "marker": {"symbol": "circle-open", "size": 11, "color": d.muted, "line": {"width": 2}},
        "text": list(map(str, name)), "hovertemplate": "%{text}: %{x:.1%}<extra></extra>",
    }]  # fmt: skip
    for word, (meaning, symbol, _) in _MARK.items():
        rows = [i for i in at if verdict[i] == word]
        if rows:
            bars = error_bars(value[rows], low[rows], high[rows], d.line(meaning))
            data.append({
                "type": "scatter", "mode": "markers", "x": value[rows].round(4).tolist(), "y": rows, "name": word, "marker": {"symbol": symbol, "size": 11, "color": d.line(meaning)},
                "error_x": bars, "text": [house.escape(str(texts(record, "claims", "measure")[i])) for i in rows], "hovertemplate": "%{text}: %{x:.1%}<extra></extra>",
            })  # fmt: skip
    notes = [
        {"text": _MARK[str(v)][2], "x": 1.0, "xref": "paper", "xanchor": "left", "xshift": 8, "y": i, "showarrow": False, "font": {"size": 13, "color": d.ink(_MARK[str(v)][0])}}
        for i, v in enumerate(verdict)
    ]  # fmt: skip
    layout = {
        "height": 46 * len(at) + 110, "margin": {"r": 130}, "annotations": notes,
        "xaxis": {"range": [-0.02, max(1.0, *value.tolist(), *compared.tolist()) + 0.02], "tickformat": ".0%", "title": {"text": "what was measured (the words are in the table and the hover)"}},
        "yaxis": {"range": [len(at) - 0.5, -0.5], "tickvals": at, "ticktext": [house.escape(str(c), quote=False) for c in claim], "tickfont": {"color": d.text, "size": 13}},
    }  # fmt: skip
    return house.picture(data, layout, theme=theme, title=title, revision=revision(record, "claims"))


def caption(record: Record) -> str:
    """Return which claims hold and which do not."""
    claim, verdict = texts(record, "claims", "claim"), texts(record, "claims", "verdict")
    parts = []
    for word, says in (("holds", "Found here too"), ("fails", "Not found here"), ("unclear", "Unclear")):
        rows = [str(c) for c, v in zip(claim, verdict) if v == word]
        if rows:
            parts.append(f"{says}: {', '.join(rows)}")
    return ". ".join(parts) + "."


def say(record: Record) -> str:
    """Return the sentence and every claim with its figures."""
    names = ("claim", "measure", "compared_name", "verdict")
    claim, measure, name, verdict = (texts(record, "claims", n) for n in names)
    value, low, high, compared = columns(record, "claims", "value", "low", "high", "compared")
    rows = [
        [
            str(claim[i]),
            str(measure[i]),
            f"{value[i]:.3f}",
            f"{low[i]:.3f} to {high[i]:.3f}" if low[i] == low[i] else "",
            f"{compared[i]:.3f} {name[i]}",
            str(verdict[i]),
        ]
        for i in range(len(claim))
    ]
    return caption(record) + "\n\n" + table(["claim", "measured", "found", "95 % interval", "compared with", ""], rows)


VIEW = View(
    name="claims",
    groups=("claims",),
    question="Do the paper's claims hold here?",
    reading=(
        "A row is a statement of the paper; the filled mark is what was found in this run with its 95 % interval, the open grey circle what it is compared with (hover for its name). Green circle: it "
        "holds by the threshold written in the table; red cross: it does not; grey diamond: the figures do not decide. One small model on a few thousand tokens is a check, "
        "not a refutation."
    ),
    draw=draw,
    say=say,
    caption=caption,
    wide=True,
)

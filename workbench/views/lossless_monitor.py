"""Is the output still the target's? The running distance of what is written from the exact law."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench import theme as house
from workbench.views import View
from workbench.views.common import Curves, Spec, note, revision, table

if TYPE_CHECKING:
    from workbench.record import Record

GROUP = "curve/lossless"
#: An exact sampler falls below this p-value once in a thousand runs.
BIASED_BELOW = 1e-3
EXPECTED = "expected of an exact sampler"


def verdict(curves: Curves) -> tuple[str, str, float]:
    """Return (statement, meaning in the palette, p-value) from the chi-square p-value that the record carries."""
    p = float(curves.attrs.get("p_value", float("nan")))
    if p != p:
        return "Not tested", "context", p
    return ("No bias seen", "accepted", p) if p >= BIASED_BELOW else ("Biased", "rejected", p)


def panels(curves: Curves) -> list[tuple[str, str | None]]:
    """Return (curve, curve of an exact sampler or None) for each statistic in the record."""
    expected = {n.replace(EXPECTED, "").strip(): n for n in curves.names if EXPECTED in n}
    return [(n, expected.get(n)) for n in curves.names if EXPECTED not in n]


def draw(record: Record, *, theme: str = "light", title: str = "") -> Spec:
    """Return one panel a statistic, against the number of samples, with what an exact sampler would show."""
    d, curves = house.design(theme), Curves(record, GROUP)
    shown = panels(curves)
    statement, meaning, p = verdict(curves)
    gap = 0.13
    width = (1 + gap) / max(len(shown), 1) - gap
    layout: Spec = {"annotations": [], "margin": {"t": 78 if title else 46}}
    data: list[Spec] = []
    for i, (name, exact) in enumerate(shown):
        data += _panel(curves, name, exact, i, d)
        layout |= _axes(curves, name, exact, i, i * (width + gap), width)
        head = f"{name}  <i>({'dotted' if exact else 'band'}: exact)</i>"
        layout["annotations"].append(note(head, theme, x=i * (width + gap), y=1.0, anchor="left", size=13))
    mark = {"accepted": "✓ ", "rejected": "✕ "}.get(meaning, "")
    odds = f"   <span style='font-size:13px'>p = {house.number(p)}</span>" if p == p else ""
    layout["annotations"].append(
        {"text": f"<b>{mark}{statement}</b>{odds}", "xref": "paper", "yref": "paper", "x": 0, "y": 1, "xanchor": "left", "yanchor": "bottom",
         "yshift": 17, "showarrow": False, "font": {"size": 20, "color": d.ink(meaning)}}
    )  # fmt: skip
    return house.picture(data, layout, theme=theme, title=title, revision=revision(record, "lossless_monitor"))


def _panel(curves: Curves, name: str, exact: str | None, index: int, d: house.Design) -> list[Spec]:
    x, y, low, high = curves[name]
    axes = {"xaxis": f"x{index + 1 if index else ''}", "yaxis": f"y{index + 1 if index else ''}"}
    y = np.where(np.isfinite(y), y, np.nan)
    traces: list[Spec] = []
    if np.isfinite(low).any():
        band = d.fill("accepted", 0.16)
        edge = {"color": d.line("accepted"), "width": 1, "dash": "dot"}
        traces.append(_line(x, low, "low", axes, edge) | {"hoverinfo": "skip"})
        traces.append(_line(x, high, "an exact sampler, 95 %", axes, edge) | {"fill": "tonexty", "fillcolor": band})
    if exact is not None:
        traces.append(_line(x, curves[exact][1], EXPECTED, axes, {"color": d.line("accepted"), "width": 2, "dash": "dot"}))
    meaning = "rejected" if verdict(curves)[1] == "rejected" else "target"
    return [*traces, _line(x, y, name, axes, {"color": d.line(meaning), "width": 2.5})]


def _line(x: np.ndarray, y: np.ndarray, name: str, axes: Spec, line: Spec) -> Spec:
    values = [None if v != v else round(v, 5) for v in y.tolist()]
    hover = f"{house.escape(name)}<br>%{{y:.3f}} after %{{x:,.0f}}<extra></extra>"
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": x.tolist(),
        "y": values,
        "line": line,
        "hovertemplate": hover,
        **axes,
    }


def _axes(curves: Curves, name: str, exact: str | None, index: int, left: float, width: float) -> Spec:
    x, y, _, high = curves[name]
    values = np.concatenate([y[np.isfinite(y)], high[np.isfinite(high)], curves[exact][1] if exact else y[:0]])
    end, top = str(index + 1) if index else "", float(values.max(initial=0.0)) * 1.12 or 1.0
    logs = [float(np.log10(max(1.0, v))) for v in ((x[0], x[-1]) if len(x) else (1, 10))]
    return {
        f"xaxis{end}": {"domain": [left, left + width], "type": "log", "range": logs, "anchor": f"y{end}", "dtick": "D2" if logs[1] - logs[0] < 1.2 else 1,
                        "tickformat": ",d", "title": {"text": curves.label("x")}},
        f"yaxis{end}": {"range": [0, top], "anchor": f"x{end}", "nticks": 6},
    }  # fmt: skip


def caption(record: Record) -> str:
    """Return the verdict of the chi-square test as a plain statement."""
    curves = Curves(record, GROUP)
    statement, meaning, p = verdict(curves)
    law = str(curves.attrs.get("law", "the exact law"))
    count = int(curves.attrs.get("samples", curves.x.max(initial=0)))
    unit = curves.label("x")
    if meaning == "context":
        return f"Not tested: the record has no p-value for {law}."
    if meaning == "accepted":
        return f"{statement} in {count:,} {unit}: an exact sampler is at least as far off with p = {house.number(p)}. Checked: {law}."
    chance = f"p = {house.number(p)}" if p > 0 else "p below the smallest number"
    return f"{statement}: after {count:,} {unit} the output is not the target's ({chance}). Checked: {law}."


def say(record: Record) -> str:
    """Return the statement and the last value of every curve."""
    curves = Curves(record, GROUP)
    rows = []
    for name in curves.names:
        x, y, low, high = curves[name]
        rows.append(
            [name, f"{x[-1]:,.0f}", house.number(float(y[-1])), house.number(float(low[-1])), house.number(float(high[-1]))]
        )
    return caption(record) + "\n\n" + table(["statistic", curves.label("x"), "value", "band low", "band high"], rows)


VIEW = View(
    name="lossless_monitor",
    groups=(GROUP,),
    question="Is the output still exactly the target's?",
    reading=(
        "The line is how far the tokens written so far are from the exact law. A dotted green line or band is what an exact sampler "
        "shows with as many samples: staying with it is as good as it gets. The statement is the chi-square test at the end: biased "
        "means that an exact sampler would be that far off less than once in a thousand runs."
    ),
    draw=draw,
    say=say,
    caption=caption,
    wide=True,
)

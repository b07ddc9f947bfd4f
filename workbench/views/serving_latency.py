"""How long do requests wait under each way of serving? Percentiles of their latency, rules beside rules."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench import theme as house
from workbench.views import View
from workbench.views.common import Spec, columns, revision, table, texts
from workbench.views.routing_grid import words

if TYPE_CHECKING:
    from workbench.record import Record

_POLICY = {
    "lru": ("LRU", "target"),
    "lfu": ("LFU", "proposed"),
    "belady": ("Belady", "accepted"),
    "random": ("random", "rejected"),
}
_POINT = (
    ("p50_ms", "median", "circle", 9),
    ("p95_ms", "95th percentile", "diamond", 10),
    ("p99_ms", "99th percentile", "line-ns", 14),
)


def _rows(record: Record) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return (batchings in order, batching of each row, policy of each row)."""
    batching, policy = texts(record, "strategies", "batching"), texts(record, "strategies", "policy")
    return list(dict.fromkeys(batching)), batching, policy


def draw(record: Record, *, theme: str = "light", title: str = "") -> Spec:
    """Return for each way of batching a line a policy from the median to the 99th percentile; the rules on show are ringed."""
    d, (names, batching, policy) = house.design(theme), _rows(record)
    known = [p for p in _POLICY if (policy == p).any()]
    offset = {p: (i - (len(known) - 1) / 2) * 0.8 / max(3, len(known)) for i, p in enumerate(known)}
    y = np.array([names.index(b) + offset[p] for b, p in zip(batching, policy)])
    shown = record.column("strategies", "shown")
    low, high = columns(record, "strategies", "p50_ms", "p99_ms")
    data: list[Spec] = []
    for p in known:
        rows, (name, meaning) = np.flatnonzero(policy == p), _POLICY[p]
        line: list[float | None] = [v for r in rows for v in (low[r] / 1e3, high[r] / 1e3, None)]
        data.append({
            "type": "scatter", "mode": "lines", "x": line, "y": [v for r in rows for v in (y[r], y[r], None)], "name": name, "hoverinfo": "skip", "line": {"color": d.line(meaning), "width": 2, "dash": "dot"},
        })  # fmt: skip
        for column, words_, symbol, size in _POINT:
            values = record.column("strategies", column)[rows] / 1e3
            data.append({
                "type": "scatter", "mode": "markers", "x": values.round(3).tolist(), "y": y[rows].tolist(), "name": words_, "showlegend": p == known[0],
                "marker": {"symbol": symbol, "size": size, "color": d.line(meaning), "line": {"color": d.line(meaning), "width": 2}},
                "customdata": [f"{batching[r]}, {name}" for r in rows], "hovertemplate": f"%{{customdata}}<br>{words_} %{{x:.2f}} s, predicted<extra></extra>",
            })  # fmt: skip
    if shown.any():
        at = int(np.flatnonzero(shown)[0])
        data.append({
            "type": "scatter", "mode": "markers", "x": [record.column("strategies", "p95_ms")[at] / 1e3], "y": [float(y[at])], "name": "on show", "hoverinfo": "skip",
            "marker": {"symbol": "circle-open", "size": 20, "color": d.line("selected"), "line": {"width": 3}},
        })  # fmt: skip
    layout = {
        "height": 420, "showlegend": True, "xaxis": {"rangemode": "tozero", "title": {"text": "latency of a request, s (predicted)"}},
        "yaxis": {"range": [len(names) - 0.4, -0.6], "tickvals": list(range(len(names))), "ticktext": names, "showgrid": False},
    }  # fmt: skip
    return house.picture(data, layout, theme=theme, title=title, revision=revision(record, "serving_latency"))


def caption(record: Record) -> str:
    """Return the rules with the least and the most 95th percentile, and where the rules on show stand."""
    _, batching, policy = _rows(record)
    p95, rate = columns(record, "strategies", "p95_ms", "hit_rate")
    best, worst = int(p95.argmin()), int(p95.argmax())
    label = lambda r: f"{batching[r]} batches with {_POLICY[str(policy[r])][0]}"  # noqa: E731
    if p95[worst] < 1.02 * p95[best]:
        return (
            f"The rules hardly matter here: a 95th percentile of {p95[best] / 1e3:.2f} to {p95[worst] / 1e3:.2f} s (predicted)."
        )
    text = f"Of these rules, {label(best)} give the least 95th percentile of latency: {p95[best] / 1e3:.2f} s (predicted), {words(rate[best])} of the uses hit; {label(worst)} the most, {p95[worst] / 1e3:.2f} s."
    shown = np.flatnonzero(record.column("strategies", "shown"))
    text = text if not len(shown) or shown[0] in {best, worst} else f"{text} On show: {p95[shown[0]] / 1e3:.2f} s."
    return text + _alike(record, batching, policy)


def _alike(record: Record, batching: np.ndarray, policy: np.ndarray) -> str:
    """Return which ways of forming batches made the same ones here, as a sentence of its own; "" where all differ."""
    p50, p95, p99 = columns(record, "strategies", "p50_ms", "p95_ms", "p99_ms")
    rows: dict[tuple[tuple[str, float, float, float], ...], list[str]] = {}
    for name in dict.fromkeys(map(str, batching)):
        mine = [i for i, b in enumerate(batching) if b == name]
        rows.setdefault(tuple(sorted((str(policy[i]), p50[i], p95[i], p99[i]) for i in mine)), []).append(name)
    same = [" and ".join(names) for names in rows.values() if len(names) > 1]
    return f" Here {', '.join(same)} serve alike." if same else ""


def say(record: Record) -> str:
    """Return the sentence and every figure of every rule."""
    _, batching, policy = _rows(record)
    names = ("p50_ms", "p95_ms", "p99_ms", "first_ms", "hit_rate", "distinct", "bytes")
    values = columns(record, "strategies", *names)
    rows = []
    for r in range(len(batching)):
        p50, p95, p99, first, hit, distinct, moved = (float(v[r]) for v in values)
        rows.append(
            [
                batching[r],
                _POLICY[str(policy[r])][0],
                f"{p50:.0f}",
                f"{p95:.0f}",
                f"{p99:.0f}",
                f"{first:.0f}",
                f"{hit:.1%}",
                f"{distinct:.2f}",
                f"{moved / 1e6:.2f}",
            ]
        )
    head = ["batches", "cache", "p50 ms", "p95 ms", "p99 ms", "first token ms", "hits", "experts a batch", "MB / token"]
    return caption(record) + "\n\n" + table(head, rows)


VIEW = View(
    name="serving_latency",
    groups=("strategies",),
    question="Which way of serving keeps requests waiting least?",
    reading=(
        "A row is a way of forming batches, a coloured line in it a rule for the cache (blue LRU, light blue LFU, green Belady with the queue): from the median latency of a request (circle) over the 95th "
        "percentile (diamond) to the 99th (bar). Short lines to the left are good; a long line means that some requests starve while others are fast. All are simulated on the same requests, "
        "with times measured on this machine; the ring marks the rules of the other pictures."
    ),
    draw=draw,
    say=say,
    caption=caption,
)

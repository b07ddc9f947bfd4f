"""Which experts are in fast memory, and when must one be loaded? A simulated server, batch by batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from workbench import theme as house
from workbench.errors import InputError, expected
from workbench.views import View
from workbench.views.common import Spec, columns, note, plural, revision, table
from workbench.views.routing_grid import Window, words

if TYPE_CHECKING:
    from workbench.record import Record

EXACT = 180  # at most so many batches are drawn with their hits; beyond, only what was loaded
HATCHED = 60  # at most so many batches have bars wide enough for the hatching that marks predicted times


def names_of(record: Record) -> list[str]:
    """Return the experts' names: the kind of text each was cut by, or its number."""
    size = record.column("batches", "resident").shape[1]
    given = record.group_attrs("batches").get("names")
    return [str(n) for n in given] if given is not None and len(given) == size else [f"expert {i}" for i in range(size)]


def _part(record: Record, window: Window | None) -> tuple[int, int]:
    """Return [first, last) of the batches that a window shows."""
    count = len(record.column("batches", "step"))
    if window is None:
        return 0, count
    low, high = sorted(window[:2])
    first = int(np.clip(np.ceil(low - 0.25), 0, count - 1))
    return first, int(np.clip(np.floor(high + 0.25) + 1, first + 1, count))


def _chosen(record: Record, selected: Any) -> int | None:
    """Return the expert of a click (`row * E + expert`, in any row), or None.

    Raises:
        InputError: there is no such expert.
    """
    if selected is None:
        return None
    size = len(names_of(record))
    if not isinstance(selected, (int, np.integer)) or selected < 0:
        raise InputError(expected("selected", f"an expert from 0 to {size - 1}", repr(selected)))
    return int(selected) % size


def draw(record: Record, *, selected: Any = None, window: Window | None = None, theme: str = "light", title: str = "") -> Spec:
    """Return the cache's content over the batches, what was hit and loaded, the queue, and where the time goes.

    Args:
        selected: an expert, which is framed. window: first and last batch, and two ordinates that do not matter; None: all.
    """
    d, names = house.design(theme), names_of(record)
    first, last = _part(record, window)
    size, x = len(names), list(range(first, last))
    resident = record.column("batches", "resident")[first:last].T
    data: list[Spec] = [{
        "type": "heatmap", "z": resident.astype(int).tolist(), "x": x, "y": list(range(size)), "zmin": 0, "zmax": 1, "colorscale": [[0, d.background], [1, d.grid]], "showscale": False,
        "name": "in the cache", "customdata": np.repeat(np.arange(size), len(x)).reshape(size, -1).tolist(), "hovertemplate": "batch %{x}, %{y}: in the cache %{z}<extra></extra>",
    }]  # fmt: skip
    step, expert, tokens, hit, evicted = columns(record, "uses", "step", "expert", "tokens", "hit", "evicted")
    inside = (step >= first) & (step < last)
    exact = last - first <= EXACT
    for rows, name, meaning, symbol in (
        (inside & hit, "used, in the cache", "accepted", "circle"),
        (inside & ~hit, "loaded", "rejected", "x"),
    ):
        if name == "used, in the cache" and not exact:
            continue
        said = [
            f"{n} tokens{f', {names[e]} leaves' if e >= 0 else ''}" for n, e in zip(tokens[rows].tolist(), evicted[rows].tolist())
        ]
        data.append({
            "type": "scatter", "mode": "markers", "name": name, "x": step[rows].tolist(), "y": expert[rows].tolist(), "customdata": expert[rows].tolist(), "text": said,
            "marker": {"symbol": symbol, "size": np.clip(3 + 1.1 * tokens[rows] ** 0.5, 4, 11).round(1).tolist() if exact else 4, "color": d.line(meaning), "line": {"width": 0}},
            "hovertemplate": f"batch %{{x}}, %{{y}} {name}: %{{text}}<extra></extra>",
        })  # fmt: skip
    waiting, load, compute, total = (
        c[first:last] for c in columns(record, "batches", "waiting", "load_ms", "compute_ms", "total_ms")
    )
    data.append({
        "type": "bar", "x": x, "y": waiting.tolist(), "yaxis": "y2", "name": "waiting", "showlegend": False, "marker": house.solid(theme, "context") | {"line": {"width": 0}},
        "hovertemplate": "batch %{x}: %{y} known tokens wait<extra></extra>",
    })  # fmt: skip
    for values, name, meaning in (
        (np.minimum(compute, total), "computing", "target"),
        (np.maximum(0, total - compute), "waiting for a load", "chosen"),
    ):
        data.append({
            "type": "bar", "x": x, "y": values.round(2).tolist(), "yaxis": "y3", "name": f"{name} (predicted)", "marker": house.hatch(theme, meaning) if last - first <= HATCHED else house.solid(theme, meaning) | {"line": {"width": 0}},
            "base": (compute if meaning == "chosen" else np.zeros(len(x))).round(2).tolist(), "customdata": load.round(2).tolist(),
            "hovertemplate": f"batch %{{x}}: {name} %{{y:.1f}} ms (all loads %{{customdata}} ms)<extra></extra>",
        })  # fmt: skip
    chosen = _chosen(record, selected)
    frame = [] if chosen is None else [{
        "type": "rect", "x0": first - 0.5, "x1": last - 0.5, "y0": chosen - 0.5, "y1": chosen + 0.5, "line": {"color": d.line("selected"), "width": 3},
    }]  # fmt: skip
    layout = {
        "height": 470, "showlegend": True, "meta": {"zoom": True}, "dragmode": "zoom", "shapes": frame, "bargap": 0.1 if exact else 0,
        "xaxis": {"anchor": "y3", "range": [first - 0.5, last - 0.5], "showgrid": False, "title": {"text": "batch"}},
        "yaxis": {"range": [size - 0.5, -0.5], "domain": [0.47, 1], "showgrid": False, "fixedrange": True, "tickvals": list(range(size)), "ticktext": names},
        "yaxis2": {"domain": [0.27, 0.41], "title": {"text": "waiting"}, "fixedrange": True, "rangemode": "tozero", "nticks": 3},
        "yaxis3": {"domain": [0, 0.21], "title": {"text": "ms"}, "fixedrange": True, "rangemode": "tozero", "nticks": 3},
        "annotations": [note("simulated on routes and times measured here", theme, x=1, y=0.475, size=11)],
    }  # fmt: skip
    return house.picture(data, layout, theme=theme, title=title, revision=f"{revision(record, 'cache_timeline')} {first} {last}")


def _rules(record: Record) -> str:
    attrs = record.group_attrs("batches")
    if "batching" not in attrs:
        return "These rules"
    policy = {"lru": "LRU", "lfu": "LFU", "belady": "Belady", "random": "random eviction"}.get(
        str(attrs["policy"]), str(attrs["policy"])
    )
    return (
        f"{str(attrs['batching']).capitalize()} batches and {policy} with room for {plural(int(attrs['cache_size']), 'expert')}"
    )


def caption(record: Record, *, selected: Any = None, window: Window | None = None) -> str:
    """Return hits, loads and time waited for loads, of all batches, of a stretch, or of one expert."""
    first, last = _part(record, window)
    step, expert, hit = columns(record, "uses", "step", "expert", "hit")
    rows = (step >= first) & (step < last)
    chosen = _chosen(record, selected)
    stretch = "" if window is None else f" in batches {first} to {last - 1}"
    if chosen is not None:
        mine = rows & (expert == chosen)
        share = words(float(hit[mine].mean())) if mine.any() else "none"
        return f"“{names_of(record)[chosen]}” is needed by {plural(int(mine.sum()), 'batch', 'batches')}{stretch}; {share} of the times it is in the cache."
    compute, total = (c[first:last] for c in columns(record, "batches", "compute_ms", "total_ms"))
    waits = float(np.maximum(0, total - compute).sum() / total.sum())
    return (
        f"{_rules(record)}: of {plural(int(rows.sum()), 'use')} of an expert{stretch}, {words(float(hit[rows].mean()))} find it in the cache; "
        f"{words(waits)} of the time is waiting for loads (simulated)."
    )


def say(record: Record, *, selected: Any = None, window: Window | None = None) -> str:
    """Return the sentence and the first batches on show."""
    first, last = _part(record, window)
    names, resident = names_of(record), record.column("batches", "resident")
    step, expert, hit = columns(record, "uses", "step", "expert", "hit")
    tokens, total, waiting = columns(record, "batches", "tokens", "total_ms", "waiting")
    rows = []
    for b in range(first, min(last, first + 16)):
        used = [f"{names[e]}{'' if h else ' (loaded)'}" for e, h in zip(expert[step == b], hit[step == b])]
        rows.append(
            [str(b), str(tokens[b]), ", ".join(used), ", ".join(np.array(names)[resident[b]]), f"{total[b]:.0f}", str(waiting[b])]
        )
    head = ["batch", "tokens", "experts used", "in the cache after it", "ms", "waiting"]
    return caption(record, selected=selected, window=window) + "\n\n" + table(head, rows)


VIEW = View(
    name="cache_timeline",
    groups=("batches", "uses"),
    question="Which expert is at hand, and when must one be loaded?",
    reading=(
        "Left to right run the batches of a simulated server, one row is an expert (named by the kind of text it was cut by); grey: it lies in the cache after the batch. A green dot is a use that found "
        "its expert, a red cross one that had to load it (the hover says who left); larger marks have more tokens. Below: known tokens left in the queue, and where each batch's time goes, hatched "
        "because it is predicted from times measured on this machine. Drag over a stretch to see it closer."
    ),
    draw=draw,
    say=say,
    caption=caption,
    wide=True,
)

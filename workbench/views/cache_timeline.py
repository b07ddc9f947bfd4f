"""Which experts are in fast memory, and when must one be loaded? A simulated server, batch by batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from workbench import theme as house
from workbench.errors import InputError, expected
from workbench.views import View
from workbench.views.common import Spec, columns, note, plural, revision, skyline, table
from workbench.views.routing_grid import Window, words

if TYPE_CHECKING:
    from workbench.record import Record

EXACT = 180  # at most so many batches have words under the mouse
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
    data = [
        _cells(record, first, last, theme),
        *(_key(name, symbol, colour) for name, symbol, colour in (
            ("used from the cache", "square", d.fill("accepted")), ("loaded", "x", d.line("rejected")),
        )),
    ]  # fmt: skip
    waiting, load, compute, total = (
        c[first:last] for c in columns(record, "batches", "waiting", "load_ms", "compute_ms", "total_ms")
    )
    data.append(skyline(
        x, waiting, d.fill("context"), yaxis="y2", name="waiting", showlegend=False, hovertemplate="batch %{x}: %{y} known tokens wait<extra></extra>",
    ))  # fmt: skip
    data += _times(x, np.minimum(compute, total), total, load, theme)
    chosen = _chosen(record, selected)
    frame = [] if chosen is None else [{
        "type": "rect", "x0": first - 0.5, "x1": last - 0.5, "y0": chosen - 0.5, "y1": chosen + 0.5, "line": {"color": d.line("selected"), "width": 3},
    }]  # fmt: skip
    layout = {
        "height": 470, "showlegend": True, "meta": {"zoom": True}, "dragmode": "zoom", "shapes": [*_loads(record, first, last, theme), *frame], "bargap": 0.1,
        "xaxis": {"anchor": "y3", "range": [first - 0.5, last - 0.5], "showgrid": False, "title": {"text": "batch"}},
        "yaxis": {"range": [size - 0.5, -0.5], "domain": [0.47, 1], "showgrid": False, "fixedrange": True, "tickvals": list(range(size)), "ticktext": names},
        "yaxis2": {"domain": [0.27, 0.41], "title": {"text": "waiting"}, "fixedrange": True, "rangemode": "tozero", "nticks": 3},
        "yaxis3": {"domain": [0, 0.21], "title": {"text": "ms"}, "fixedrange": True, "rangemode": "tozero", "nticks": 3},
        "annotations": [note("simulated on routes and times measured here", theme, x=1, y=0.475, size=11)],
    }  # fmt: skip
    return house.picture(data, layout, theme=theme, title=title, revision=f"{revision(record, 'cache_timeline')} {first} {last}")


def _cells(record: Record, first: int, last: int, theme: str) -> Spec:
    """Return the map of experts and batches: not in the cache, in the cache, used from the cache (the stronger the more tokens)."""
    d, names = house.design(theme), names_of(record)
    z = record.column("batches", "resident")[first:last].T.astype(float)
    said = np.where(z > 0, "in the cache", "not in the cache").astype(object)
    step, expert, tokens, hit, evicted = columns(record, "uses", "step", "expert", "tokens", "hit", "evicted")
    rows = (step >= first) & (step < last)
    used, missed = ((expert[kind], step[kind] - first) for kind in (rows & hit, rows & ~hit))
    z[used] = 2 + np.sqrt(tokens[rows & hit] / max(1, int(tokens.max(initial=1))))
    said[used] = [f"used from the cache by {plural(n, 'token')}" for n in tokens[rows & hit].tolist()]
    left = [f", {names[e]} leaves" if e >= 0 else "" for e in evicted[rows & ~hit].tolist()]
    said[missed] = [f"loaded for {plural(n, 'token')}{gone}" for n, gone in zip(tokens[rows & ~hit].tolist(), left)]
    weak, strong = house.mix(d.background, d.fill("accepted"), 0.45), d.fill("accepted")
    told = {"text": said.tolist()} if last - first <= EXACT else {}
    return told | {
        "type": "heatmap", "z": z.round(2).tolist(), "x0": first, "dx": 1, "y0": 0, "dy": 1, "zmin": 0, "zmax": 3, "showscale": False, "name": "in the cache",
        "colorscale": [[0, d.background], [0.3, d.background], [0.3, d.grid], [0.6, d.grid], [0.6, weak], [1, strong]],
        "customdata": np.repeat(np.arange(len(names)), last - first).reshape(len(names), -1).tolist(),
        "hovertemplate": f"batch %{{x}}, %{{y}}{': %{text}' if told else ''}<extra></extra>",
    }  # fmt: skip


def _loads(record: Record, first: int, last: int, theme: str) -> list[Spec]:
    """Return a cross on every use that found its expert missing: all of them one path, for hundreds of marks draw slowly."""
    step, expert, hit = columns(record, "uses", "step", "expert", "hit")
    rows = (step >= first) & (step < last) & ~hit
    path = "".join(
        f"M{b - 0.4:.1f},{e - 0.2:.1f}L{b + 0.4:.1f},{e + 0.2:.1f}M{b - 0.4:.1f},{e + 0.2:.1f}L{b + 0.4:.1f},{e - 0.2:.1f}"
        for b, e in zip(step[rows].tolist(), expert[rows].tolist())
    )
    line = {"color": house.design(theme).line("rejected"), "width": 1.5}
    return [{"type": "path", "path": path, "line": line}] if path else []


def _key(name: str, symbol: str, colour: str) -> Spec:
    """Return an entry of the legend for marks that have none of their own: cells of a map, a path."""
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [None],
        "y": [None],
        "marker": {"symbol": symbol, "size": 9, "color": colour},
    }


def _times(x: list[int], compute: np.ndarray, total: np.ndarray, load: np.ndarray, theme: str) -> list[Spec]:
    """Return where each batch's time goes: computing, and the rest up to the total, which waits for loads."""
    waits, d = total - compute, house.design(theme)
    said = "batch %{x}: waiting for a load %{customdata[0]:.1f} ms (all loads %{customdata[1]} ms)<extra></extra>"
    both = np.stack([waits, load], -1).round(2).tolist()
    if len(x) > HATCHED:
        return [
            skyline(x, total.round(2), d.fill("chosen"), yaxis="y3", name="waiting for a load (predicted)", customdata=both, hovertemplate=said),
            skyline(x, compute.round(2), d.fill("target"), yaxis="y3", name="computing (predicted)", hovertemplate="batch %{x}: computing %{y:.1f} ms<extra></extra>"),
        ]  # fmt: skip
    return [
        {"type": "bar", "x": x, "y": compute.round(2).tolist(), "yaxis": "y3", "name": "computing (predicted)", "marker": house.hatch(theme, "target"), "hovertemplate": "batch %{x}: computing %{y:.1f} ms<extra></extra>"},
        {"type": "bar", "x": x, "y": waits.round(2).tolist(), "base": compute.round(2).tolist(), "yaxis": "y3", "name": "waiting for a load (predicted)", "marker": house.hatch(theme, "chosen"), "customdata": both, "hovertemplate": said},
    ]  # fmt: skip


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
        "Left to right run the batches of a simulated server, one row is an expert (named by the kind of text it was cut by); grey: it lies in the cache after the batch. Green: it was used and was there, "
        "the stronger the more tokens; a red cross: it had to be loaded (the hover says who left). Below: known tokens left in the queue, and where each batch's time goes, hatched "
        "because it is predicted from times measured on this machine. Drag over a stretch to see it closer."
    ),
    draw=draw,
    say=say,
    caption=caption,
    wide=True,
)

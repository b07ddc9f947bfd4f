"""What does a miss cost, beside computing? Loads of each expert, measured and simulated, and the time of a batch by its tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench import theme as house
from workbench.views import View
from workbench.views.common import Spec, columns, error_bars, revision, table, texts

if TYPE_CHECKING:
    from workbench.record import Record

_LINES = (
    ("rest_ms", "all but feed-forward", "context", "dot", "square"),
    ("dense_ms", "dense feed-forward", "target", "dash", "circle"),
    ("expert_ms", "one expert", "accepted", "solid", "diamond"),
)


def draw(record: Record, *, theme: str = "light", title: str = "") -> Spec:
    """Return two bars an expert (copied here, from the simulated store) and the measured milliseconds by tokens."""
    d, names = house.design(theme), [house.escape(n, quote=False) for n in texts(record, "loads", "name")]
    size, copied, low, high, simulated = columns(
        record, "loads", "bytes", "copied_ms", "copied_low", "copied_high", "simulated_ms"
    )
    at, mb = np.arange(len(names)), (size / 1e6).round(1).tolist()
    bandwidth = float(record.group_attrs("loads").get("bandwidth", np.nan))
    data: list[Spec] = [
        {
            "type": "bar", "x": (at - 0.2).tolist(), "y": copied.round(3).tolist(), "width": 0.36, "name": "copied in memory (measured)", "marker": house.solid(theme, "target"),
            "error_y": error_bars(copied, low, high, d.text), "customdata": mb, "hovertemplate": "%{customdata} MB copied in %{y:.2f} ms<extra>measured</extra>",
        },
        {
            "type": "bar", "x": (at + 0.2).tolist(), "y": simulated.round(3).tolist(), "width": 0.36, "name": f"from a store of {bandwidth:g} GB/s (predicted)", "marker": house.hatch(theme, "chosen"),
            "customdata": mb, "hovertemplate": "%{customdata} MB in %{y:.1f} ms<extra>predicted</extra>",
        },
    ]  # fmt: skip
    tokens = record.column("service", "tokens")
    for column, name, meaning, dash, symbol in _LINES:
        data.append({
            "type": "scatter", "mode": "lines+markers", "x": tokens.tolist(), "y": np.maximum(record.column("service", column), 1e-3).round(3).tolist(), "xaxis": "x2", "yaxis": "y2", "name": name,
            "line": {"color": d.line(meaning), "width": 2, "dash": dash}, "marker": {"symbol": symbol, "size": 7}, "hovertemplate": f"{name}, %{{x}} tokens: %{{y:.3g}} ms<extra>measured</extra>",
        })  # fmt: skip
    layout = {
        "height": 400, "showlegend": True, "xaxis": {"domain": [0, 0.5], "tickvals": at.tolist(), "ticktext": names, "tickangle": -40, "showgrid": False},
        "yaxis": {"title": {"text": "ms to load an expert"}, "rangemode": "tozero"},
        "xaxis2": {"domain": [0.62, 1], "anchor": "y2", "type": "log", "tickvals": tokens.tolist(), "title": {"text": "tokens of a batch"}}, "yaxis2": {"anchor": "x2", "type": "log", "title": {"text": "ms to compute it"}, "nticks": 5},
    }  # fmt: skip
    return house.picture(data, layout, theme=theme, title=title, revision=revision(record, "load_times"))


def caption(record: Record) -> str:
    """Return the mean load, measured and simulated, beside computing one expert for 16 tokens."""
    size, copied, simulated = (float(c.mean()) for c in columns(record, "loads", "bytes", "copied_ms", "simulated_ms"))
    tokens, expert = columns(record, "service", "tokens", "expert_ms")
    at = int(np.abs(tokens - 16).argmin())
    text = f"An expert's own part is {size / 1e6:.1f} MB: {house.number(copied)} ms to copy in memory (measured), {house.number(simulated)} ms from the simulated store (predicted)"
    return f"{text}; computing it takes {house.number(float(expert[at]))} ms for {int(tokens[at])} tokens (measured)."


def say(record: Record) -> str:
    """Return the sentence, the loads, and the times by tokens."""
    loads = [
        [str(n), f"{b / 1e6:.1f}", f"{c:.2f}", f"{s:.2f}"]
        for n, b, c, s in zip(texts(record, "loads", "name"), *columns(record, "loads", "bytes", "copied_ms", "simulated_ms"))
    ]
    times = [
        [str(t), *(f"{v:.2f}" for v in row)]
        for t, *row in zip(*columns(record, "service", "tokens", "rest_ms", "dense_ms", "expert_ms"))
    ]
    first = table(["expert", "MB", "copied ms, measured", "store ms, predicted"], loads)
    return (
        caption(record)
        + "\n\n"
        + first
        + "\n\n"
        + table(["tokens", "all but feed-forward ms", "dense feed-forward ms", "one expert ms"], times)
    )


VIEW = View(
    name="load_times",
    groups=("loads", "service"),
    question="What does a miss cost beside computing?",
    reading=(
        "Left: loading the part of each expert that not all experts share, in all layers. Blue: copied from memory to memory on this machine, measured; hatched: its bytes over the bandwidth of the store that the "
        "knob sets, predicted. Right: measured milliseconds of a batch by its tokens (both axes logarithmic): one expert, the dense feed-forward layers it is cut from, and everything else in the model. "
        "A load that is shorter than a layer's computing can be hidden behind it."
    ),
    draw=draw,
    say=say,
    caption=caption,
    wide=True,
)

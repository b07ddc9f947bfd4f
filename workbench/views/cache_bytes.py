"""What does the cache store? Bytes of keys and values by layer and class."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench import theme as house
from workbench.views import View
from workbench.views.common import Curves, Spec, revision, table

if TYPE_CHECKING:
    from workbench.record import Record

GROUP = "curve/cache_bytes"
_MEANING = ("accepted", "rejected", "context")


def draw(record: Record, *, theme: str = "light", title: str = "") -> Spec:
    """Return stacked bars by layer and the dense cache as a line."""
    d, curves = house.design(theme), Curves(record, GROUP)
    *parts, dense = curves.names
    data: list[Spec] = [
        {
            "type": "bar", "x": curves[name][0].astype(int).tolist(), "y": (curves[name][1] / 1e3).round(3).tolist(), "name": name,
            "marker": house.solid(theme, _MEANING[i % 3]), "hovertemplate": f"layer %{{x}}, {house.escape(name)}: %{{y:.1f}} kB<extra></extra>",
        }
        for i, name in enumerate(parts)
    ]  # fmt: skip
    x, y, _, _ = curves[dense]
    data.append({
        "type": "scatter", "mode": "lines", "x": x.astype(int).tolist(), "y": (y / 1e3).round(3).tolist(), "name": dense,
        "line": {"color": d.line("target"), "width": 2}, "hovertemplate": f"{house.escape(dense)}: %{{y:.1f}} kB<extra></extra>",
    })  # fmt: skip
    layout = {
        "barmode": "stack", "showlegend": True, "legend": {"traceorder": "normal"}, "bargap": 0.15,
        "xaxis": {"title": {"text": "layer"}, "showgrid": False, "range": [-0.6, len(x) - 0.4]},
        "yaxis": {"title": {"text": "keys and values, kB"}, "rangemode": "tozero"},
    }  # fmt: skip
    return house.picture(data, layout, theme=theme, title=title, revision=revision(record, "cache_bytes"))


def _totals(record: Record) -> dict[str, float]:
    curves = Curves(record, GROUP)
    return {name: float(curves[name][1].sum()) for name in curves.names}


def caption(record: Record) -> str:
    """Return how many times smaller the cache is, parameters included."""
    *parts, dense = _totals(record).items()
    stored = sum(v for _, v in parts)
    parameters = dict(parts).get("parameters", 0.0)
    return (
        f"The cache takes {stored / 1e6:.2f} MB instead of {dense[1] / 1e6:.2f}: {dense[1] / stored:.2f} times smaller, "
        f"with {parameters / stored:.0%} of it for minimum, step and divisor."
    )


def say(record: Record) -> str:
    """Return the sentence and the bytes of each class."""
    rows = [[name, f"{value / 1e6:.3f}"] for name, value in _totals(record).items()]
    return caption(record) + "\n\n" + table(["class", "MB"], rows)


VIEW = View(
    name="cache_bytes",
    groups=(GROUP,),
    question="What does the cache store?",
    reading=(
        "Each bar is a layer's keys and values: the important tokens at more bits, the others at fewer, and the parameters that restore "
        "them. The line is the dense cache in fp16. Bytes are those of the packed codes, counted."
    ),
    draw=draw,
    say=say,
    caption=caption,
)

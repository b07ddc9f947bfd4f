"""When is the routing learnt? How much of the final choice stands at each step of the training, with the loss and the balance beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench import theme as house
from workbench.views import View
from workbench.views.attention_grid import colours
from workbench.views.common import Spec, revision, table, texts
from workbench.views.routing_grid import words

if TYPE_CHECKING:
    from workbench.record import Record

_DASH = ("solid", "dot", "dash", "dashdot")


def _parts(record: Record) -> list[tuple[str, int, np.ndarray]]:
    """Return (run, layer, rows) of every curve, rows in order of steps."""
    run, layer, step = texts(record, "training", "run"), record.column("training", "layer"), record.column("training", "step")
    found = []
    for name in dict.fromkeys(run):
        for i in np.unique(layer[run == name]).tolist():
            rows = np.flatnonzero((run == name) & (layer == i))
            found.append((str(name), i, rows[np.argsort(step[rows])]))
    return found


def _chance(record: Record) -> float:
    """Return K / E of the probe, from its busiest possible load: choices of a token over experts."""
    attrs = record.group_attrs("training")
    return float(attrs.get("chance", np.nan))


def draw(record: Record, *, theme: str = "light", title: str = "") -> Spec:
    """Return overlap with the final choice over steps, and beside it the loss, the balance loss and the load of each expert."""
    d, step = house.design(theme), record.column("training", "step")
    data: list[Spec] = []
    runs = list(dict.fromkeys(name for name, _, _ in _parts(record)))
    for name, layer, rows in _parts(record):
        colour = d.line(("target", "rejected", "context")[min(runs.index(name), 2)])
        for axis, column, label in (("", "overlap", f"{name}, expert layer {layer + 1}"), ("3", "balance", "")):
            data.append({
                "type": "scatter", "mode": "lines+markers", "x": step[rows].tolist(), "y": record.column("training", column)[rows].round(4).tolist(), "name": label or column,
                "xaxis": f"x{axis}", "yaxis": f"y{axis}", "showlegend": bool(label), "line": {"color": colour, "dash": _DASH[layer % 4], "width": 2}, "marker": {"size": 5, "color": colour},
                "hovertemplate": f"{name}, step %{{x}}: {column} %{{y:.3f}}<extra></extra>",
            })  # fmt: skip
        if layer == 0:
            data.append({
                "type": "scatter", "mode": "lines+markers", "x": step[rows].tolist(), "y": record.column("training", "loss")[rows].round(4).tolist(), "name": f"loss {name}", "xaxis": "x2",
                "yaxis": "y2", "showlegend": False, "line": {"color": colour, "width": 2}, "marker": {"size": 5, "color": colour}, "hovertemplate": "step %{x}: loss %{y:.2f}<extra></extra>",
            })  # fmt: skip
    data.append(_loads(record, theme))
    chance = _chance(record)
    log = {"type": "log", "dtick": 1, "range": [float(np.log10(step.min())) - 0.05, float(np.log10(step.max())) + 0.05]}
    layout: Spec = {
        "height": 460, "showlegend": True,
        "xaxis": log | {"domain": [0, 0.56], "title": {"text": "training step"}}, "yaxis": {"range": [0, 1.03], "tickformat": ".0%", "title": {"text": "experts kept until the end"}},
        "xaxis2": log | {"domain": [0.66, 1], "anchor": "y2", "showticklabels": False}, "yaxis2": {"domain": [0.72, 1], "anchor": "x2", "title": {"text": "held-out loss"}},
        "xaxis3": log | {"domain": [0.66, 1], "anchor": "y3", "showticklabels": False}, "yaxis3": {"domain": [0.4, 0.66], "anchor": "x3", "title": {"text": "balance loss"}},
        "xaxis4": {"type": "category", "domain": [0.66, 1], "anchor": "y4", "showgrid": False, "title": {"text": "training step"}}, "yaxis4": {"domain": [0, 0.3], "anchor": "x4", "dtick": 2, "title": {"text": "expert"}},
        "shapes": [], "annotations": [],
    }  # fmt: skip
    if chance == chance:
        layout["shapes"].append(
            {
                "type": "line",
                "x0": step.min(),
                "x1": step.max(),
                "y0": chance,
                "y1": chance,
                "line": {"color": d.muted, "dash": "dash", "width": 1},
            }
        )
        layout["annotations"].append({
            "text": "two random routers", "x": float(np.log10(step.max())), "y": chance, "xanchor": "right", "yanchor": "top", "showarrow": False, "font": {"size": 12, "color": d.muted},
        })  # fmt: skip
        layout["shapes"][0] = {k: (int(v) if isinstance(v, np.integer) else v) for k, v in layout["shapes"][0].items()}
    return house.picture(data, layout, theme=theme, title=title, revision=revision(record, "router_film"))


def _loads(record: Record, theme: str) -> Spec:
    """Return the share of the choices that each expert of the first expert layer of the first run takes, step by step."""
    rows = _parts(record)[0][2]
    share = record.column("training", "load")[rows].T
    return {
        "type": "heatmap", "z": share.round(4).tolist(), "x": [str(s) for s in record.column("training", "step")[rows].tolist()], "y": list(range(len(share))),
        "xaxis": "x4", "yaxis": "y4", "zmin": 0, "zmax": round(max(2 / len(share), float(share.max())), 2), **colours(theme), "xgap": 1, "ygap": 1,
        "colorbar": {"title": {"text": "load", "side": "right"}, "tickformat": ".0%", "thickness": 10, "len": 0.34, "y": 0.15},
        "name": "load", "hovertemplate": "step %{x}: expert %{y} takes %{z:.1%}<extra></extra>",
    }  # fmt: skip


def _half(record: Record, rows: np.ndarray) -> int:
    """Return the first step from which on at least four fifths of the final choice stands."""
    overlap, step = record.column("training", "overlap")[rows], record.column("training", "step")[rows]
    below = np.flatnonzero(overlap < 0.8)
    return int(step[min(below[-1] + 1, len(step) - 1)]) if len(below) else int(step[0])


def caption(record: Record) -> str:
    """Return when most of the routing stands, as found."""
    _, _, rows = _parts(record)[0]
    step, overlap = record.column("training", "step")[rows], record.column("training", "overlap")[rows]
    tenth = int(np.abs(np.log(step / (step[-1] / 10))).argmin())
    chance = _chance(record)
    base = f" (chance {words(chance)})" if chance == chance else ""
    return (
        f"After {step[tenth]} of {step[-1]} steps {words(float(overlap[tenth]))} of a token's experts are those it keeps{base}; four fifths stand from step {_half(record, rows)} on. "
        + (
            "The paper finds the routing frozen almost from the start; this router is not."
            if overlap[tenth] < 0.5
            else "The routing settles early, as the paper says."
        )
    )


def say(record: Record) -> str:
    """Return the sentence and a row a step of each run and layer."""
    columns = [record.column("training", n) for n in ("step", "overlap", "divergence", "balance", "loss")]
    rows = []
    for run, layer, at in _parts(record):
        rows += [
            [run, str(layer + 1), str(s), f"{o:.1%}", f"{v:.3f}", f"{b:.2f}", f"{x:.2f}"]
            for s, o, v, b, x in zip(*(c[at] for c in columns))
        ]
    head = ["router losses", "expert layer", "step", "overlap with the end", "divergence, nats", "balance", "held-out loss"]
    return caption(record) + "\n\n" + table(head, rows)


VIEW = View(
    name="router_film",
    groups=("training",),
    question="When is the routing learnt?",
    reading=(
        "Left: for each token of a fixed held-out probe, the share of its experts that it also has at the end of the training, by step (logarithmic); the dashed line is what two unrelated routers "
        "would share. Right: the held-out loss, the load-balance loss (the number of choices, 2, at perfect balance), and the share of the choices that each expert of the first expert "
        "layer takes (even columns are balance; with the router losses). Blue was trained with the two router losses, red without; "
        "dashes tell the layers with experts apart."
    ),
    draw=draw,
    say=say,
    caption=caption,
    wide=True,
)

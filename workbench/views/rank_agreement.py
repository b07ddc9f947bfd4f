"""Do layers agree on which tokens matter? Kendall's tau between the rankings of any two layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench import theme as house
from workbench.views import View
from workbench.views.common import Spec, revision, table

if TYPE_CHECKING:
    from workbench.record import Record

GROUP = "maps/rank_agreement"
CLAIM = 0.7  # what the paper reports between all layers but the first


def draw(record: Record, *, theme: str = "light", title: str = "") -> Spec:
    """Return the matrix, first layer at the bottom left."""
    d, tau = house.design(theme), record.column(GROUP, "tau")
    names = list(range(1, len(tau) + 1))
    scale = [[0.0, d.fill("rejected")], [0.5, d.background], [1.0, d.fill("target")]]
    data = [
        {
            "type": "heatmap", "z": tau.round(3).tolist(), "x": names, "y": names, "zmin": -1, "zmax": 1, "colorscale": scale, "name": "tau",
            "text": [[f"{v:.2f}" for v in row] for row in tau], "texttemplate": "%{text}" if len(tau) <= 12 else "", "textfont": {"size": 11},
            "hovertemplate": "layers %{y} and %{x}: tau %{z:.2f}<extra></extra>", "colorbar": {"title": {"text": "tau"}, "thickness": 12, "len": 0.8},
        }
    ]  # fmt: skip
    ends = [0.5, len(tau) + 0.5]
    layout = {
        "xaxis": {
            "title": {"text": "layer"},
            "range": ends,
            "dtick": 1 if len(tau) <= 12 else 4,
            "showgrid": False,
            "constrain": "domain",
        },
        "yaxis": {
            "title": {"text": "layer"},
            "range": ends,
            "dtick": 1 if len(tau) <= 12 else 4,
            "showgrid": False,
            "scaleanchor": "x",
        },
    }
    return house.picture(data, layout, theme=theme, title=title, revision=revision(record, "rank_agreement"))


def _pairs(tau: np.ndarray) -> np.ndarray:
    """Return tau of all pairs of layers behind the first."""
    return tau[1:, 1:][np.triu_indices(len(tau) - 1, 1)]


def caption(record: Record) -> str:
    """Return whether the paper's finding holds here."""
    tau = record.column(GROUP, "tau").astype(float)
    later, first = _pairs(tau), tau[0, 1:]
    verdict = "holds here" if later.min() >= CLAIM else "does not hold here"
    more = ""
    if "shared_top" in record.variables(GROUP):
        shared = _pairs(record.column(GROUP, "shared_top").astype(float)).mean()
        more = f" Of a layer's four best tokens another layer shares {shared:.0%} (by chance {4 / record.group_attrs(GROUP)['tokens']:.0%})."
    return (
        f"Behind the first layer tau is {later.mean():.2f} on average, {later.min():.2f} at least; with the first {first.mean():.2f}. The paper "
        f"reports {CLAIM} or more (reported, unverified): that {verdict}.{more}"
    )


def say(record: Record) -> str:
    """Return the sentence and the matrix."""
    tau = record.column(GROUP, "tau")
    rows = [[str(i + 1), *(f"{v:.2f}" for v in row)] for i, row in enumerate(tau)]
    return caption(record) + "\n\n" + table(["layer", *(str(i + 1) for i in range(len(tau)))], rows)


VIEW = View(
    name="rank_agreement",
    groups=(GROUP,),
    question="Do layers agree on which tokens matter?",
    reading=(
        "Each cell compares how two layers rank the picture's tokens by the question's attention: 1 the same order, 0 unrelated, -1 "
        "reversed; mean over questions, all tokens kept. If layers agree, a token that one layer ignores can leave for good."
    ),
    draw=draw,
    say=say,
    caption=caption,
)

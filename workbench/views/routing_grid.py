"""What the pictures of routing share: the layer on show, the chosen expert, the part of the text, pooled choices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from workbench import theme as house
from workbench.errors import InputError, expected
from workbench.views.attention_grid import edges
from workbench.views.common import Spec

if TYPE_CHECKING:
    from workbench.record import Record

COARSEST = 200  # most columns of tokens on the wire, however long the text
EXACT = 100  # a part of at most so many tokens is drawn token by token
Window = tuple[float, float, float, float]


def layers(record: Record) -> int:
    """Return how many layers have experts."""
    return int(record.column("routing", "load").shape[0])


def experts(record: Record) -> int:
    """Return E."""
    return int(record.column("routing", "load").shape[1])


def layer_of(record: Record, step: int) -> int:
    """Return the row of `routing` that a step shows.

    Raises:
        InputError: there is no such step.
    """
    count = layers(record)
    if not isinstance(step, (int, np.integer)) or not 0 <= step < count:
        raise InputError(expected("step", f"a layer with experts from 0 to {count - 1}", repr(step)))
    return int(step)


def named(record: Record, layer: int) -> str:
    """Return "layer 3" by its place in the model; "every layer" where one choice is for all."""
    place = int(record.column("moe_layers", "layer")[layer])
    return f"layer {place}" if place >= 0 else "every layer"


def chosen_expert(record: Record, selected: Any) -> tuple[int, int] | None:
    """Return (row of `routing`, expert) of a click (`row * E + expert`), or None.

    Raises:
        InputError: there is no such expert.
    """
    if selected is None:
        return None
    most = layers(record) * experts(record)
    if not isinstance(selected, (int, np.integer)) or not 0 <= selected < most:
        raise InputError(
            expected("selected", f"an expert from 0 to {most - 1} (layer * {experts(record)} + expert)", repr(selected))
        )
    return int(selected) // experts(record), int(selected) % experts(record)


def held(record: Record, selected: Any, first: int, last: int) -> np.ndarray | None:
    """Return which tokens of a stretch the chosen expert takes in its own layer, (last - first,) bool; None where none is chosen."""
    chosen = chosen_expert(record, selected)
    if chosen is None:
        return None
    return (record.column("routing", "expert")[chosen[0], first:last] == chosen[1]).any(1)


def token_of(record: Record, token: Any) -> int | None:
    """Return the token's index, or None.

    Raises:
        InputError: there is no such token.
    """
    count = len(record.column("routing", "token_id"))
    if token is None:
        return None
    if not isinstance(token, (int, np.integer)) or not 0 <= token < count:
        raise InputError(expected("token", f"a token from 0 to {count - 1}", repr(token)))
    return int(token)


def part(record: Record, window: Window | None) -> tuple[int, int]:
    """Return [first, last) of the tokens that a window shows."""
    count = len(record.column("routing", "token_id"))
    if window is None:
        return 0, count
    low, high = sorted(window[:2])
    first = int(np.clip(np.ceil(low - 0.25), 0, count - 1))
    return first, int(np.clip(np.floor(high + 0.25) + 1, first + 1, count))


def pieces(record: Record, first: int = 0, last: int | None = None) -> list[str]:
    """Return the tokens' texts, or their ids where the record has none."""
    name = "piece" if "piece" in record.variables("routing") else "token_id"
    return [str(p) for p in record.column("routing", name)[first:last]]


def shares(record: Record, layer: int, first: int, last: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (share of the choices (E, bins), dropped share (bins,), edges (bins + 1,)) of a stretch of tokens."""
    expert, dropped = (record.column("routing", n)[layer, first:last] for n in ("expert", "dropped"))
    count, size = last - first, experts(record)
    cuts = edges(count, min(COARSEST, count))
    bins = np.repeat(np.arange(len(cuts) - 1), np.diff(cuts))
    flat = bins[:, None] * size + expert
    table = np.bincount(flat.ravel(), minlength=(len(cuts) - 1) * size).reshape(-1, size) / (
        np.diff(cuts)[:, None] * expert.shape[1]
    )
    lost = np.add.reduceat(dropped.mean(1), cuts[:-1]) / np.diff(cuts)
    return table.T, lost, cuts + first


def kinds(record: Record, first: int, last: int, theme: str) -> tuple[list[Spec], list[Spec]]:
    """Return (lines between kinds of text, their names above) of a stretch of tokens; one kind needs neither."""
    d, kind = house.design(theme), record.column("routing", "domain")[first:last].astype(str)
    starts = np.flatnonzero(np.r_[True, kind[1:] != kind[:-1]])
    stops = np.r_[starts[1:], len(kind)]
    if not 1 < len(starts) <= 24:
        return [], []
    lines = [
        {"type": "line", "x0": first + s - 0.5, "x1": first + s - 0.5, "yref": "paper", "y0": 0, "y1": 1, "line": {"color": d.muted, "width": 1, "dash": "dot"}}
        for s in starts[1:].tolist()
    ]  # fmt: skip
    names = [
        {"text": house.escape(str(kind[a]), quote=False), "x": first + (a + b) / 2, "xref": "x", "y": 1, "yref": "paper", "yanchor": "bottom", "showarrow": False,
         "font": {"size": 12, "color": d.muted}}
        for a, b in zip(starts.tolist(), stops.tolist()) if b - a > 0.04 * len(kind)
    ]  # fmt: skip
    return lines, names


def words(value: float) -> str:
    """Return a share in a caption: "12 %", and "0.4 %" where that would be nothing."""
    return f"{value:.0%}" if value >= 0.1 or value == 0 else f"{value:.1%}"

"""What the pictures of attention share: names of bins, the token behind a position, the colours of mass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from workbench import theme as house
from workbench.errors import InputError, expected

if TYPE_CHECKING:
    from workbench.record import Record

COARSEST = 240  # most columns of a map of positions


def edges(length: int, bins: int) -> np.ndarray:
    """Return the bins + 1 edges of `numpy.array_split`."""
    size, longer = divmod(length, bins)
    return np.concatenate([[0], np.cumsum([size + 1] * longer + [size] * (bins - longer))]).astype(np.int64)


def span(record: Record, first: int, last: int, letters: int = 28) -> str:
    """Return positions [first, last) with the beginning of their text, safe in a hover."""
    where = f"{first}" if last - first == 1 else f"{first} to {last - 1}"
    if "piece" not in record.variables("attention"):
        return where
    pieces = record.column("attention", "piece")[first : min(last, first + 12)]
    text = "".join(house.token(str(p), 12) for p in pieces)
    return f"{where}  {house.escape(text[:letters] + ('…' if len(text) > letters or last - first > 12 else ''), quote=False)}"


def chosen_head(record: Record, selected: Any) -> tuple[int, int]:
    """Return (layer, head) of a click (`layer * heads + head`), or the middle layer's first head.

    Raises:
        InputError: there is no such head.
    """
    layers, heads = record.column("attention", "mass").shape[:2]
    if selected is None:
        return layers // 2, 0
    if not isinstance(selected, (int, np.integer)) or not 0 <= selected < layers * heads:
        raise InputError(expected("selected", f"a head from 0 to {layers * heads - 1} (layer * {heads} + head)", repr(selected)))
    return int(selected) // heads, int(selected) % heads


def colours(theme: str) -> dict[str, Any]:
    """Return the colour scale of magnitudes: nothing is at the background's end."""
    return {"colorscale": "Cividis", "reversescale": theme == "light"}

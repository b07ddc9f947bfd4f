"""What several views share: the rows of a step, the traces of a curve, the name of a run for a reader's zoom."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench import theme as house
from workbench.errors import InputError, expected

if TYPE_CHECKING:
    from workbench.record import Record

Spec = dict[str, Any]


def revision(record: Record, view: str) -> str:
    """Return a name that stays the same while one run is shown, so that zoom and pan survive a step."""
    attrs = record.attrs
    return f"{view} {attrs.get('system')} {attrs.get('seed')} {attrs.get('created')}"


def has(record: Record, group: str, variable: str) -> bool:
    """Return whether a group holds an (optional) variable."""
    return variable in record.variables(group)


def optional(record: Record, group: str, variable: str, default: Any) -> np.ndarray:
    """Return a column, or `default` repeated to the group's length where the record lacks it."""
    if has(record, group, variable):
        return record.column(group, variable)
    return np.full(len(record.column(group, record.variables(group)[0])), default)


def skyline(x: Any, top: Any, colour: str, **more: Any) -> Spec:
    """Return many narrow bars as one outline that is filled down to zero: one mark for the browser to draw where bars would be hundreds.

    Args:
        x, top: centres and heights of the bars; neighbours meet in the middle between them.
        colour: of the filling. more: what else plotly takes for a scatter trace.
    """
    trace = {
        "type": "scatter",
        "mode": "lines",
        "x": np.asarray(x).tolist(),
        "y": np.asarray(top).tolist(),
        "fill": "tozeroy",
        "fillcolor": colour,
    }
    return trace | {"line": {"shape": "hvh", "width": 0, "color": colour}, "hoveron": "points"} | more


def columns(record: Record, group: str, *names: str) -> list[np.ndarray]:
    """Return several columns of a group as numpy arrays."""
    return [record.column(group, name) for name in names]


def texts(record: Record, group: str, variable: str) -> np.ndarray:
    """Return a column of texts as Python strings, whatever string type the file reader gave it."""
    return np.array([str(v) for v in record.column(group, variable)], dtype=object)


def check_step(record: Record, group: str, step: int) -> np.ndarray:
    """Return the rows of a step; a step that the record does not have is an error with the bounds.

    Raises:
        InputError: naming the steps that are there.
    """
    all_steps = record.column(group, "step")
    rows = np.flatnonzero(all_steps == step)
    if not len(rows):
        known = all_steps[all_steps >= 0]
        bounds = f"a step from {known.min()} to {known.max()}" if len(known) else "a record with steps"
        raise InputError(expected("step", bounds, step, f"group {group}"))
    return rows


def probability(logprob: float) -> float:
    """Return the probability of a log-probability in nats (NaN stays NaN)."""
    return float(np.exp(np.float64(logprob)))


class Curves:
    """The named curves of a group, in the order they were written."""

    def __init__(self, record: Record, group: str) -> None:
        self.attrs = dict(record.group_attrs(group))
        self._names = texts(record, group, "curve")
        self.names = list(dict.fromkeys(self._names))
        self.x, self.y, self.low, self.high = columns(record, group, "x", "y", "y_low", "y_high")

    def __getitem__(self, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return (x, y, y_low, y_high) of a curve."""
        rows = self._names == name
        return self.x[rows], self.y[rows], self.low[rows], self.high[rows]

    def find(self, *words: str) -> str | None:
        """Return the first name that holds any of the words, or None."""
        return next((n for n in self.names for w in words if w in n.lower()), None)

    def label(self, axis: str) -> str:
        """Return the axis label that the record carries ("x" or "y")."""
        return str(self.attrs.get(f"{axis}_label", axis))


def error_bars(y: np.ndarray, low: np.ndarray, high: np.ndarray, colour: str) -> Spec:
    """Return plotly error bars from bounds; nothing where a bound is NaN."""
    up, down = np.nan_to_num(high - y).clip(0), np.nan_to_num(y - low).clip(0)
    return {
        "type": "data",
        "symmetric": False,
        "array": up.tolist(),
        "arrayminus": down.tolist(),
        "color": colour,
        "thickness": 1.5,
        "width": 4,
        "visible": bool((up + down).any()),
    }


def note(text: str, theme: str, *, x: float = 1.0, y: float = 1.0, anchor: str = "right", size: int = 12) -> Spec:
    """Return a muted remark at a place of the plot (paper coordinates): what is cut off, what a line means."""
    return {
        "text": text,
        "xref": "paper",
        "yref": "paper",
        "x": x,
        "y": y,
        "xanchor": anchor,
        "yanchor": "bottom" if y >= 1 else "top",
        "showarrow": False,
        "align": anchor,
        "font": {"size": size, "color": house.design(theme).muted},
    }


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a small text table with aligned columns."""
    widths = [max(house.width(r[i]) for r in [head, *rows]) for i in range(len(head))]
    lines = ["  ".join(cell + " " * (w - house.width(cell)) for cell, w in zip(row, widths)).rstrip() for row in [head, *rows]]
    return "\n".join(lines)


def plural(count: int, one: str, many: str = "") -> str:
    """Return "1 node", "2 nodes"."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def png(pixels: np.ndarray) -> str:
    """Return pixels, (h, w, 3) of 0 to 255, as the `source` of an image trace: a live knob could not wait for them as numbers."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")

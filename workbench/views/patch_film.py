"""Which parts of a picture are left in each layer? The picture once for each layer, what is gone dimmed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench import theme as house
from workbench.views import View
from workbench.views.common import Spec, optional, plural, png, revision, table

if TYPE_CHECKING:
    from workbench.record import Record

TILE = 96  # most pixels of a layer's picture along its longer side
PER_ROW = 4
DIM = 0.16  # what is left of a colour where the token is gone


def draw(record: Record, *, theme: str = "light", title: str = "") -> Spec:
    """Return the mosaic as one image, frames around the asked patches, and an invisible map of patches for the pointer."""
    d = house.design(theme)
    pixels, keep = record.column("image", "pixels"), record.column("patches", "keep")
    score, rows, columns = record.column("patches", "score"), *_grid(record)
    tile = _tile(pixels, rows, columns)
    height, width = tile.shape[:2]
    layers = len(keep)
    across, gap = min(PER_ROW, layers), max(2, width // 24)
    down = -(-layers // across)
    paper = np.array(house.channels(d.background), float)
    canvas = np.tile(paper, (down * (height + 3 * gap), across * (width + gap), 1))
    said = np.full((down * rows, across * columns), "", object)
    notes, shapes = [], []
    for layer in range(layers):
        top, left = (layer // across) * (height + 3 * gap) + 2 * gap, (layer % across) * (width + gap)
        stays = np.kron(keep[layer].reshape(rows, columns), np.ones((height // rows, width // columns)))[..., None]
        canvas[top : top + height, left : left + width] = np.where(stays, tile, paper + DIM * (tile - paper))
        notes.append(_label(layer, int(keep[layer].sum()), left + width / 2, top, theme))
        for patch in range(rows * columns):
            place = (layer // across) * rows + patch // columns, (layer % across) * columns + patch % columns
            said[place] = _hover(record, layer, patch, bool(keep[layer, patch]), float(score[layer, patch]))
        shapes += _frames(record, layer, top, left, height / rows, width / columns, d)
    flat = canvas.round().astype(np.uint8)
    data: list[Spec] = [
        {"type": "image", "source": png(flat), "hoverinfo": "skip", "name": "picture"},
        {  # one map, not a mark for each patch: a browser draws it at once
            "type": "heatmap", "name": "patches", "z": [[0 if word else None for word in row] for row in said.tolist()], "hovertext": said.tolist(), "hoverinfo": "text", "hoverongaps": False,
            "x": [i * (width + gap) + (c + 0.5) * width / columns for i in range(across) for c in range(columns)],
            "y": [i * (height + 3 * gap) + 2 * gap + (r + 0.5) * height / rows for i in range(down) for r in range(rows)], "opacity": 0, "showscale": False,
        },
    ]  # fmt: skip
    tall, wide = flat.shape[:2]
    layout = {
        "height": int(120 + 560 * tall / wide), "showlegend": False, "annotations": notes, "shapes": shapes,
        "xaxis": {"visible": False, "range": [-0.5, wide - 0.5], "constrain": "domain"},
        "yaxis": {"visible": False, "range": [tall - 0.5, -0.5], "scaleanchor": "x"},
    }  # fmt: skip
    return house.picture(data, layout, theme=theme, title=title, revision=revision(record, "patch_film"))


def _grid(record: Record) -> tuple[int, int]:
    attrs = record.group_attrs("patches")
    return int(attrs["rows"]), int(attrs["columns"])


def _tile(pixels: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Return the picture at a size that its patches divide, by taking nearest pixels: small pictures keep their squares."""
    height, width = (max(1, TILE // n) * n for n in (rows, columns))
    y = (np.arange(height) + 0.5) * pixels.shape[0] / height
    x = (np.arange(width) + 0.5) * pixels.shape[1] / width
    return pixels[y.astype(int)][:, x.astype(int)].astype(float)


def _label(layer: int, kept: int, x: float, y: float, theme: str) -> Spec:
    return {
        "text": f"layer {layer + 1}: {kept}", "x": x, "y": y, "xanchor": "center", "yanchor": "bottom", "showarrow": False,
        "font": {"size": 12, "color": house.design(theme).text},
    }  # fmt: skip


def _hover(record: Record, layer: int, patch: int, stays: bool, score: float) -> str:
    if "reason" in record.variables("patches"):
        code = int(record.column("patches", "reason")[layer, patch])
        why = (
            ("gone", "kept by its redundancy score", "kept by its place on the grid", "kept by both scores")[code]
            if stays
            else "gone"
        )
    else:
        gone = "not read here" if record.group_attrs("patches").get("returns") else "gone"
        why = "kept" if stays else gone
    return f"layer {layer + 1}, patch {patch}: {why}<br>the question's attention on it: {score:.1%}"


def _frames(record: Record, layer: int, top: float, left: float, height: float, width: float, d: house.Design) -> list[Spec]:
    """Return frames around the patches that the true answer needs, and around those kept for their place only."""
    asked = optional(record, "patches", "asked", False)
    reason = record.column("patches", "reason")[layer] if "reason" in record.variables("patches") else np.zeros(len(asked))
    columns = _grid(record)[1]
    frames = []
    for patch in np.flatnonzero(asked | (reason == 2)):
        y, x = top + (patch // columns) * height, left + (patch % columns) * width
        line = (
            {"color": d.line("chosen"), "width": 2} if asked[patch] else {"color": d.line("proposed"), "width": 1, "dash": "dash"}
        )
        frames.append({"type": "rect", "x0": x, "x1": x + width, "y0": y, "y1": y + height, "line": line})
    return frames


def caption(record: Record) -> str:
    """Return what was asked, what was said with and without pruning, and whether the asked patches are still there."""
    attrs, keep = record.group_attrs("patches"), record.column("patches", "keep")
    asked = np.flatnonzero(optional(record, "patches", "asked", False))
    said = f"“{attrs['question']}”: {attrs['said']}"
    if attrs["said"] != attrs["said_dense"]:
        said += f", with all tokens {attrs['said_dense']}"
    truth = f" (true: {attrs['answer']})" if attrs["answer"] else " (no true answer is known)"
    returns = bool(attrs.get("returns", False))  # a layer may read again what the one before left out
    left = f"{int(keep[-1].sum())} of {keep.shape[1]} picture tokens {'are read by' if returns else 'reach'} the last layer"
    if len(asked) and returns:
        seen = int(keep[:, asked].all(1).sum())
        left += f"; {seen} of {len(keep)} layers read all of what was asked for"
    elif len(asked):
        gone = np.flatnonzero(~keep[:, asked].any(1))
        left += (
            f"; what was asked for is there until layer {int(gone[0])}" if len(gone) else "; what was asked for stays to the end"
        )
    if attrs.get("budget", 0) != attrs.get("run_budget", 0) or record.group_attrs("attention").get("replayed"):
        said = f"“{attrs['question']}”: release the slider to ask again"
        truth = ""
    return f"{said}{truth}. {left}."


def say(record: Record) -> str:
    """Return the sentence and the tokens of each layer."""
    keep, columns = record.column("patches", "keep"), _grid(record)[1]
    asked = np.flatnonzero(optional(record, "patches", "asked", False))
    rows = [
        [str(i + 1), str(int(k.sum())), plural(int(k[asked].sum()), "patch", "patches") if len(asked) else "-",
         " ".join(f"{p // columns},{p % columns}" for p in np.flatnonzero(k)[:8]) + (" …" if k.sum() > 8 else "")]
        for i, k in enumerate(keep)
    ]  # fmt: skip
    return caption(record) + "\n\n" + table(["layer", "kept", "of what was asked", "row,column of the first kept"], rows)


VIEW = View(
    name="patch_film",
    groups=("image", "patches"),
    question="Which parts of the picture does each layer still see?",
    reading=(
        "The picture once for each layer, with the number of its tokens left. Dim: gone, for this layer and all later ones (ZipVL may read it again in a later layer). An orange "
        "frame marks where the true answer is; a dashed blue one, a patch kept for its place on the grid only."
    ),
    draw=draw,
    say=say,
    caption=caption,
    wide=True,
)

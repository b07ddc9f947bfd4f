"""Every pixel of the real pair: band after band of rows, so that no whole volume stands in memory; the record keeps a lattice of it."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import numpy as np

from workbench.systems.geometry import analysis, classical
from workbench.systems.geometry.analysis import Choice, Found
from workbench.systems.geometry.pairs import Setting
from workbench.tape import NullTape

ROWS = 48  # of a band
MARGIN = 24  # rows around a band that its matches, windows and medians may need
STRIDE = 4  # the record keeps the volume at every fourth row and column


class Whole(NamedTuple):
    """Groups, labels and quality meters of the whole picture, and the milliseconds its volumes took."""

    groups: dict[str, dict[str, np.ndarray]]
    labels: dict[str, dict[str, Any]]
    meters: list[dict[str, Any]]
    milliseconds: float


def band(setting: Setting, first: int, last: int) -> Setting:
    """Return rows [first, last) of a setting: the camera's centre moves with them."""
    pair = setting.pair
    k, h = pair.intrinsics.copy(), pair.intrinsics @ pair.rotation @ np.linalg.inv(pair.intrinsics)
    up = np.array([[1, 0, 0], [0, 1, -first], [0, 0, 1.0]])
    k = up @ k
    rotation = np.linalg.inv(k) @ (up @ h @ np.linalg.inv(up)) @ k
    cut = pair._replace(target=pair.target[first:last], source=pair.source[first:last], intrinsics=k, rotation=rotation)
    true, moving, whole = setting.true[first:last], setting.moving[first:last], (first, len(setting.true))
    return setting._replace(pair=cut, true=true, moving=moving, offset=None, whole=whole)


def analyse(setting: Setting, choice: Choice, tape: NullTape) -> Whole:
    """Return what `analysis.analyse` finds on every pixel of a pair whose matches lie within `MARGIN` rows."""
    height = setting.true.shape[0]
    maps: dict[str, list[np.ndarray]] = {}
    lattice: dict[str, list[np.ndarray]] = {"cost": [], "probability": [], "valid": [], "fused": []}
    spent, depths = 0.0, np.zeros(0, np.float32)
    for top in range(0, height, ROWS):
        tape.step(top, height, phase="rows")
        low, high = max(0, top - MARGIN), min(height, top + ROWS + MARGIN)
        part = band(setting, low, high)
        began = time.perf_counter()
        swept = analysis.volume_of(part, choice)
        spent += (time.perf_counter() - began) * 1e3
        found = analysis.analyse(part, choice, None, swept)
        keep = slice(top - low, min(top + ROWS, height) - low)
        for name, image in found.maps.items():
            maps.setdefault(name, []).append(image[keep])
        rows = slice(keep.start + (-top) % STRIDE, keep.stop, STRIDE)
        for name, planes in (("cost", swept.cost), ("probability", found.law), ("valid", swept.valid), ("fused", found.fused)):
            lattice[name].append(planes[:, rows, ::STRIDE].copy())
        depths = swept.depths
    whole = {name: np.concatenate(bands) for name, bands in maps.items()}
    volume = {name: np.concatenate(bands, 1) for name, bands in lattice.items()}
    if setting.offset is not None and classical.available():
        whole["depth_classical"] = classical.matched(setting, choice.nearest, choice.farthest)
    return _packed(setting, whole, volume, depths, spent, choice)


def _packed(setting: Setting, maps: Any, volume: Any, depths: np.ndarray, spent: float, choice: Choice) -> Whole:
    seen = analysis.Volume(volume["cost"], volume["valid"], depths)
    found = Found(seen, volume["probability"], volume["fused"], maps)
    judged = analysis.judge(found, setting)
    attrs = {n: getattr(choice, n) for n in ("gamma", "beta", "sigma", "product")} | {"stride": STRIDE}
    groups, labels = analysis.groups(found, setting, judged, attrs)
    meters = [*analysis.quality(found, setting, judged), *analysis.bad(found, setting, 2.0)]
    return Whole(groups, labels, meters, spent)

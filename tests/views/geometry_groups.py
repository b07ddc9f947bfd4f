"""The record of a small real run: a street in 16 x 40 pixels, 12 depths, analysed as ProDepth does.

It stands beside the simulated record because both use `maps` in sizes of their own.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from tests.views.simulator import run_attrs
from workbench.data import scenes
from workbench.record import Record
from workbench.systems.geometry import analysis, studies, volume
from workbench.systems.geometry.pairs import Setting

DEPTH_VIEWS = (
    "depth_maps", "cost_curve", "error_split", "movers_found", "uncertainty_maps", "ghost_speed", "threshold_sweep", "volume_slice",
    "depth_wipe", "point_cloud",
)  # fmt: skip


def setting(speed: float) -> Setting:
    """Return the street, its car going at a speed."""
    shown = scenes.preset("street", seen_by=scenes.camera(16, 40, 30.0)).moving(0.4 * speed)
    now, other = scenes.render(shown, shown.camera), shown.moved_camera(0.4)
    pair = volume.Pair(now.image, scenes.render(shown, other, -1.0).image, shown.camera.intrinsics, *shown.camera.to(other))
    return Setting(pair, now.depth.astype(np.float32), np.isin(now.thing, shown.movers), 12.0, 0.4)


@lru_cache(maxsize=1)
def record() -> Record:
    """Return the volume, the maps and the curves."""
    choice, here = analysis.Choice(depth_bins=12), setting(0.5)
    found = analysis.analyse(here, choice)
    judged = analysis.judge(found, here)
    columns, attrs = analysis.groups(found, here, judged, {"teacher": "simulated", "product": "masked"})
    for group, lines, labels in studies.sweeps(setting, 0.5, choice, None, studies.NullTape()):
        columns[group], attrs[group] = lines, labels
    columns["curve/here"] = studies.here(judged, {"object_speed": 0.5, "gamma": 0.6, "beta": 0.6})
    for group, image in (("image", here.pair.target), ("image/source", here.pair.source)):
        columns[group] = {"pixels": np.rint(image * 255).astype(np.uint8)}
    return Record.from_columns(columns, run_attrs(0, {}), attrs)

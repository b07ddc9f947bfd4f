"""What surrounds one analysis: how long a volume takes, and how errors answer to object speed, gamma and beta."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from workbench.meters import interleaved
from workbench.systems.geometry import analysis, volume
from workbench.systems.geometry.analysis import Choice, Judged, joined, rows
from workbench.systems.geometry.pairs import Setting
from workbench.tape import NullTape

SPEEDS = (-1.0, -0.75, -0.5, -0.25, 0.0, 0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.1, 1.2)
GAMMAS = (0.0, 0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.01)
BETAS = (0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.8, 1.2, 1.8, 3.0)
ABSREL = "mean absolute relative error"


def flops(depths: int, height: int, width: int, channels: int) -> float:
    """Return the sweep's predicted operations, by the kernel's own count: a sample's place, then four taps and a difference a channel."""
    from workbench.kernels.plane_sweep import SPEC

    return SPEC.flops(C=channels, h=height, w=width, D=depths)


def grid_sampled(pair: volume.Pair, depths: np.ndarray) -> Any:
    """Return the same L1 volume the usual way, (D, h, w): torch's `grid_sample` of D copies of the source."""
    import torch

    height, width = pair.target.shape[:2]
    target, source = (torch.from_numpy(np.ascontiguousarray(i.transpose(2, 0, 1), np.float32)) for i in pair[:2])
    k, rotation, shift = (torch.as_tensor(np.asarray(a, np.float32)) for a in pair[2:])
    y, x = torch.meshgrid(torch.arange(height, dtype=torch.float32), torch.arange(width, dtype=torch.float32), indexing="ij")
    rays = torch.linalg.inv(k) @ torch.stack([x, y, torch.ones_like(x)]).reshape(3, -1)
    points = torch.as_tensor(depths)[:, None, None] * (rotation @ rays)[None] + shift[None, :, None]
    seen = k @ points
    grid = seen[:, :2] / (seen[:, 2:] + 1e-7)
    grid = (2 * grid / torch.tensor([width - 1, height - 1])[None, :, None] - 1).reshape(-1, 2, height, width).permute(0, 2, 3, 1)
    copies = source[None].expand(len(depths), -1, -1, -1)
    warped = torch.nn.functional.grid_sample(copies, grid, align_corners=True)
    return (target[None] - warped).abs().mean(1)


def speed(setting: Setting, choice: Choice, tape: NullTape, own: float | None = None) -> list[dict[str, Any]]:
    """Return the speed meters: milliseconds of the L1 volume beside `grid_sample`, and predicted operations.

    Args:
        own: milliseconds of a volume that took too long to be repeated (full resolution).
    """
    pair = setting.pair
    depths = volume.bins(choice.nearest, choice.farthest, choice.depth_bins, choice.binning)
    height, width = pair.target.shape[:2]
    samples = len(depths) * height * width
    predicted = flops(len(depths), height, width, 3)
    if own is not None:
        found, base = own, float("nan")
        versus, count = "", 1
    else:
        tape.step(0, 1, phase="timing the volume")
        timed = interleaved(
            {"ours": lambda: volume.sweep(pair, depths), "grid": lambda: grid_sampled(pair, depths)}, repeats=7, warmup=2
        )
        found, base, versus, count = timed["ours"].median, timed["grid"].median, "grid_sample", 7
    meter = analysis.meter
    return [
        meter("voxel samples", samples / found / 1e3, "M/s", "speed", "higher", samples / base / 1e3, versus, samples=count),
        meter("time of a volume", found, "ms", "speed", "lower", base, versus, samples=count),
        meter("operations", predicted / 1e6, "MFLOP", "cost", "lower", float("nan"), "", provenance="predicted"),
    ]


def speed_at(measured: list[dict[str, Any]], depths: int, height: int, width: int) -> list[dict[str, Any]]:
    """Return the speed meters for another number of depth candidates: operations counted anew, times from the measured rates."""
    before = {row["meter"]: row for row in measured}
    operations = flops(depths, height, width, 3) / 1e6
    if operations == before["operations"]["value"]:
        return measured
    rate, took = before["voxel samples"], before["time of a volume"]
    samples = depths * height * width / 1e3
    took = took | {
        "value": samples / rate["value"],
        "baseline": samples / rate["baseline"],
        "provenance": "estimated",
        "samples": 0,
    }
    return [rate, took, before["operations"] | {"value": operations}]


def sweeps(
    at: Callable[[float], Setting], now: float, choice: Choice, networks: Any, tape: NullTape
) -> Iterator[tuple[str, dict[str, np.ndarray], dict[str, str]]]:
    """Yield (group, columns, labels): errors over object speed, over gamma and over beta, all else as it stands."""
    moving: dict[str, list[float]] = {"multi": [], "single": [], "fused": [], "ManyDepth": []}
    for i, value in enumerate(SPEEDS):
        tape.step(i, len(SPEEDS), phase="object speeds")
        setting = at(value)
        errors = analysis.table(analysis.analyse(setting, choice, networks), setting)
        for name, ys in moving.items():
            ys.append(errors[name, "moving"]["abs_rel"])
    lines = [rows(name, SPEEDS, ys) for name, ys in moving.items()]
    s = np.linspace(-1, 0.97, 60)
    lines.append(rows("closed form", s, np.abs(1 / (1 - s) - 1)))
    yield "curve/object_speed", joined(lines), {"x_label": "object speed m / B", "y_label": "error on the moving thing (AbsRel)"}
    here = at(now)
    swept = analysis.volume_of(here, choice)
    for name, values in (("gamma", GAMMAS), ("beta", BETAS)):
        lines = []
        for part in ("all", "moving", "still"):
            lines.append(rows(part, values, np.full(len(values), np.nan)))
        for i, value in enumerate(values):
            tape.step(i, len(values), phase=f"sweeping {name}")
            turned = replace(choice, gamma=value) if name == "gamma" else replace(choice, beta=value)
            found = analysis.analyse(here, turned, networks, swept)
            errors = analysis.table(found, here, fused_only=True)
            for line, part in zip(lines, ("all", "moving", "still"), strict=True):
                line["y"][i] = errors["fused", part]["abs_rel"]
        yield f"curve/{name}", joined(lines), {"x_label": name, "y_label": ABSREL}


def here(judged: Judged, knobs: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return where the present knobs stand on the swept curves: `speed multi`, `gamma all`, ... , one row each."""
    errors = judged.errors
    parts = [
        rows(f"speed {m}", knobs["object_speed"], errors[m, "moving"]["abs_rel"])
        for m in ("multi", "single", "fused", "ManyDepth")
    ]
    for name in ("gamma", "beta"):
        parts += [rows(f"{name} {part}", knobs[name], errors["fused", part]["abs_rel"]) for part in ("all", "moving", "still")]
    return joined(parts)

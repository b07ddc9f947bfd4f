"""Cost volumes on this machine: speed beside `grid_sample` and the cost model, live knobs, and bad pixels beside a classical matcher.

    python benchmarks/geometry.py              # everything; the whole motorcycle takes about a minute of it
    python benchmarks/geometry.py --quick      # without every pixel of the motorcycle

Ratios are taken in turn in one process. Errors do not depend on the machine; times do.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import workbench as wb
from workbench import kernels, threads
from workbench.data import scenes
from workbench.meters import interleaved
from workbench.record import Record
from workbench.system import device_name
from workbench.systems.geometry import analysis, classical, fusion, pairs, prodepth, scores, studies, volume
from workbench.systems.geometry import full as whole
from workbench.systems.geometry.analysis import Choice
from workbench.systems.geometry.prodepth import LIVE, ProDepth

#: (depths, height, width, channels): the live page, the paper's own matching size and features, every pixel of the motorcycle.
SIZES = ((64, 64, 160, 3), (192, 64, 160, 3), (128, 48, 160, 64), (64, 500, 741, 3))


def pair_of(height: int, width: int, channels: int) -> volume.Pair:
    """Return two random frames and a small motion."""
    images = np.random.default_rng(0).random((2, height, width, channels), np.float32)
    return volume.Pair(*images, scenes.camera(height, width, 0.75 * width).intrinsics, np.eye(3), np.array([0.4, 0, 0.1]))


def volumes(quick: bool) -> None:
    """Print milliseconds, samples a second, and the cost model, of `plane_sweep` and of `grid_sample`."""
    print("one L1 volume: plane_sweep beside grid_sample of D copies (torch)")
    for depths, height, width, channels in SIZES[: 3 if quick else 4]:
        pair, candidates = pair_of(height, width, channels), volume.bins(1.5, 40, depths, "log")
        work = {"ours": lambda: volume.sweep(pair, candidates), "grid": lambda: studies.grid_sampled(pair, candidates)}  # noqa: B023
        with kernels.used() as used:
            work["ours"]()
        found = interleaved(work, repeats=7 if height < 100 else 3, warmup=1)
        ours, grid = found["ours"].median, found["grid"].median
        samples, operations = depths * height * width, studies.flops(depths, height, width, channels)
        ideal = 4 * height * width * (2 * channels + depths)
        copied = 8 * depths * height * width * channels
        print(
            f"  D {depths:3}, {height} x {width}, C {channels:2} ({dict(used)['plane_sweep']['backend']}): {ours:7.1f} ms, {samples / ours / 1e3:6.1f} M samples/s; "
            f"grid_sample {grid:7.1f} ms, {samples / grid / 1e3:5.1f} M/s: {grid / ours:.1f}x"
        )
        print(
            f"      predicted {operations / 1e9:.2f} GFLOP at {operations / ideal:.0f} FLOP a byte (copies: {operations / copied:.1f}); "
            f"reached {operations / ours / 1e6:.1f} GFLOP/s"
        )


def _render(shown: scenes.Scene) -> None:
    scenes.render(shown, shown.camera)


def frames() -> None:
    """Print the milliseconds of one ray-cast frame."""
    print("a ray-cast frame of 64 x 160, ms (median of 15)")
    for name in scenes.PRESETS:
        work = {texture: partial(_render, scenes.preset(name, texture=texture)) for texture in ("waves", "photograph")}
        found = interleaved(work, repeats=15, warmup=2)
        print(f"  {name:9}", ", ".join(f"{texture} {found[texture].median:5.1f}" for texture in work))


def knobs() -> None:
    """Print what one move of each live knob takes to compute on the shipped run: the pair, its volume, all maps and curves."""
    record = wb.load(Path(wb.__file__).parent / "recorded" / "prodepth.zarr.zip")
    print("a move of a live knob at 64 x 160, 64 depths, compute, ms (median and slowest of 9)")
    for name in LIVE:
        info = ProDepth.knobs()[name]
        low, high = info.bounds or (None, None)
        ends = [info.choices[0], info.choices[-1]] if info.choices else [low, (low + high) / 2 if name != "depth_bins" else 64]
        print(f"  {name:18}", _moves(record, name, ends))
    print(f"  {'depth_bins at 192':18}", _moves(record, "depth_bins", [191, 192]))


def _moves(record: Record, name: str, ends: list[Any]) -> str:
    """Return milliseconds of moves to and fro, none of which finds what an earlier one left."""
    system, times = ProDepth(), []
    for i in range(11):
        system.set(**{name: ends[i % 2]})
        prodepth._joined.cache_clear()
        if name in prodepth.MATCHED:  # the others keep the pair's volume, as on a page
            prodepth._kept.cache_clear()
        start = time.perf_counter()
        system.rederive(record)
        times.append((time.perf_counter() - start) * 1e3)
    return f"{np.median(times[2:]):6.1f} {max(times[2:]):6.1f}"


def banded(setting: pairs.Setting, depths: np.ndarray, cost: str, patch: int, rows: int = 100) -> np.ndarray:
    """Return the cheapest depth of every pixel, (h, w), band after band of rows so that no whole volume stands in memory."""
    height, out = setting.true.shape[0], []
    for top in range(0, height, rows):
        low, high, last = max(0, top - whole.MARGIN), min(height, top + rows + whole.MARGIN), min(top + rows, height)
        seen = volume.sweep(whole.band(setting, low, high).pair, depths, cost=cost, patch=patch)
        out.append(fusion.cheapest(seen.cost, seen.valid, seen.depths)[top - low : last - low])
    return np.concatenate(out)


def motorcycle(full: bool) -> None:
    """Print bad pixels of the real pair, nothing pasted, beside the classical matcher."""
    setting = pairs.motorcycle(full=full, paste=False)
    near, far = pairs.RANGES["motorcycle"]
    threshold = 2.0 if full else 0.5
    height, width = setting.true.shape
    print(
        f"motorcycle, {height} x {width}, nothing pasted: bad-2.0 (share off by 2 px of the original, missing ones too), AbsRel"
    )
    rows: dict[str, Any] = {}
    for cost, patch in (("l1", 3), ("l1", 7), ("mix", 3), ("mix", 7)):
        rows[f"plane sweep, {cost}, patch {patch}"] = banded(setting, volume.bins(near, far, 128, "inverse"), cost, patch)
    if classical.available():
        rows[classical.NAME] = classical.matched(setting, near, far)
    else:
        print("  OpenCV is not installed: pip install -e '.[dev]' brings it")
    for name, depth in rows.items():
        bad = scores.bad_pixels(depth, setting.true, setting.focal_baseline, threshold)
        error = scores.errors(depth, setting.true)
        print(
            f"  {name:26} bad-2.0 {bad:6.1%}, AbsRel {error['abs_rel']:.4f}, delta < 1.25 {error['delta']:.3f}, {error['pixels']} pixels"
        )


def whole_record() -> None:
    """Print how long every pixel of the motorcycle takes with a ghost pasted in, and the size of its record."""
    start = time.perf_counter()
    record = wb.run("prodepth", scene="motorcycle", resolution="full", binning="inverse", depth_bins=96, study=False)
    seconds = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        size = record.save(Path(folder) / "full.zarr.zip").stat().st_size
    print(f"every pixel of the motorcycle, 96 depths: {seconds:.1f} s, its record {size / 1e6:.1f} MB")
    for row in analysis.rows_of(record, lambda kind: kind == "quality"):
        print(f"  {row['meter']:20} {row['value']:.3f} {row['unit']}; {row['baseline_name']} {row['baseline']:.3f}")


def reference() -> None:
    """Print the errors and areas of the street at half the camera's speed, and both sweeps."""
    setting = pairs.scene("street", "waves", 0, 0.4, 0.5)
    judged = analysis.judge(analysis.analyse(setting, Choice()), setting)
    print("street, object speed 0.5, simulated teacher: AbsRel still, moving, all")
    for method in ("multi", "single", "fused", "ManyDepth"):
        values = [judged.errors[method, part]["abs_rel"] for part in ("still", "moving", "all")]
        print(f"  {method:10}", "  ".join(f"{v:.3f}" for v in values))
    print("  area of finding what moves:", ", ".join(f"{n} {a:.2f}" for n, a in judged.areas.items()))
    for name, values in (("gamma", (0.2, 0.4, 0.6, 0.8, 1.01)), ("beta", (0.1, 0.3, 0.6, 1.2, 3.0))):
        errors = [
            analysis.table(analysis.analyse(setting, Choice(**{name: v})), setting, fused_only=True)["fused", "all"]
            for v in values
        ]
        print(f"  {name}:", ", ".join(f"{v:g}: {e['abs_rel']:.3f}" for v, e in zip(values, errors, strict=True)))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="leave out every pixel of the motorcycle")
    args = parser.parse_args()
    threads.configure()
    print(f"{device_name()}, {threads.wanted()} threads")
    frames()
    volumes(args.quick)
    knobs()
    reference()
    motorcycle(full=False)
    if not args.quick:
        motorcycle(full=True)
        whole_record()


if __name__ == "__main__":
    main()

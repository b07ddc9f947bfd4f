"""From a pair and the live knobs to everything that a record shows: depths, doubts, errors, in milliseconds at 64 x 160."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from workbench.errors import InputError, expected
from workbench.record import Record
from workbench.systems.geometry import classical, fusion, pairs, scores, volume
from workbench.systems.geometry.pairs import Setting
from workbench.systems.geometry.volume import Volume

Columns = dict[str, dict[str, np.ndarray]]
DEPTHS = {"multi": "depth_multi", "single": "depth_single", "fused": "depth_fused", "ManyDepth": "depth_manydepth"}
#: Methods that only some runs have: trained networks, and a classical matcher for rectified pairs.
SOMETIMES = {"decoder": "depth_network", "semi-global": "depth_classical"}
#: Measures of how likely a pixel moves, and whether a *small* value is the alarm. All in one place, for maps and for the ROC.
MEASURES = {
    "U": ("uncertainty", 1), "entropy": ("entropy", 1), "peak ratio": ("peak_ratio", 1), "smallest cost": ("lowest_cost", 1), "spread": ("spread", 1),
}  # fmt: skip
RESOLUTION = 10  # bits of a cost that are kept: a quarter of a grey level


@dataclass(frozen=True)
class Choice:
    """The live knobs, by the names that `ProDepth` gives them."""

    gamma: float = 0.6
    beta: float = 0.6
    sigma: float = 20.0
    temperature: float = 1.0
    depth_bins: int = 64
    binning: str = "log"
    cost: str = "l1"
    patch: int = 3
    coherence: int = 5
    u_form: str = "paper"
    product: str = "masked"
    unit: float = 1.0
    nearest: float = 1.5
    farthest: float = 40.0


@dataclass(frozen=True)
class Found:
    """What one analysis leaves: the volume, its softmax, the fused law, and maps by their name in the record."""

    volume: Volume
    law: np.ndarray
    fused: np.ndarray
    maps: dict[str, np.ndarray]


Reader = Callable[[Setting], tuple[np.ndarray, np.ndarray, Callable[[str, np.ndarray], np.ndarray]]]


def volume_of(setting: Setting, choice: Choice) -> Volume:
    """Return the pair's cost volume for the chosen depths, rounded to what eight-bit pictures can tell apart."""
    depths = volume.bins(choice.nearest, choice.farthest, choice.depth_bins, choice.binning)
    found = volume.sweep(setting.pair, depths, cost=choice.cost, patch=choice.patch)
    if not found.valid.any():
        wanted = "depths at which the other frame shows some pixel"
        got = f"{choice.nearest:g} to {choice.farthest:g} m, where it shows none"
        raise InputError(expected("nearest and farthest", wanted, got, then="Raise farthest, or lower the baseline"))
    return found._replace(cost=thrifty(found.cost, RESOLUTION))


def coherent(depth: np.ndarray, side: int) -> np.ndarray:
    """Return a depth with holes filled and, above side 1, the median of a window: a moving thing is wrong as a whole."""
    filled = pairs.nearest_known(depth)
    if side < 2:
        return filled
    from scipy.ndimage import median_filter

    return median_filter(filled, side)


def join(setting: Setting, choice: Choice, networks: Any = None, swept: Volume | None = None) -> Found:
    """Return the opinions on depth and what becomes of them, all but the doubts: what a moving slider shows first.

    Args:
        networks: trained ones (`networks.Networks`); None: the simulated teacher, and the argmin depth as the auxiliary one.
        swept: the volume where it is known already.
    """
    seen = volume_of(setting, choice) if swept is None else swept
    raw = fusion.cheapest(seen.cost, seen.valid, seen.depths)
    if networks is None:
        single, sigma, p_s = pairs.opinion(setting, choice.sigma, seen.depths)
        other = coherent(raw, choice.coherence)
    else:
        own = networks_volume(setting)
        single, share = networks.teacher(setting.pair.target)
        sigma = np.maximum(choice.sigma * share, 1e-3)
        p_s = fusion.min_max(fusion.single_law(seen.depths, single, sigma))
        other = networks.decode("auxiliary", setting.pair.target, own)
    law = fusion.matching_law(seen.cost, choice.temperature)
    u = fusion.dynamic_probability(single, other, choice.beta, form=choice.u_form, unit=choice.unit).astype(np.float32)
    everywhere = choice.product == "everywhere"
    fused, modulated = fusion.pcvm(seen.cost, fusion.min_max(law), p_s, u, choice.gamma, everywhere=everywhere)
    maps = {
        "depth_true": setting.true, "depth_multi": raw, "depth_single": single, "sigma": sigma, "depth_cv": other, "uncertainty": u,
        "depth_fused": fusion.cheapest(modulated, seen.valid, seen.depths),
        "depth_manydepth": np.where(fusion.unreliable(single, raw), single, raw),
        "moving_true": setting.moving, "weight": fusion.loss_weight(u, choice.gamma),
    }  # fmt: skip
    if networks is not None:
        maps["depth_network"] = networks.decode("multi", setting.pair.target, _modulated(own, setting, u, single, sigma, choice))
    if setting.offset is not None and classical.available():
        maps["depth_classical"] = classical.matched(setting, choice.nearest, choice.farthest)
    return Found(seen, law, fused, _narrow(maps))


def analyse(setting: Setting, choice: Choice, networks: Any = None, swept: Volume | None = None) -> Found:
    """Return everything that ProDepth and ManyDepth make of a pair; arguments as for `join`."""
    return doubted(join(setting, choice, networks, swept), setting)


def doubted(joint: Found, setting: Setting) -> Found:
    """Return joined depths with what a volume says of its own reliability, and how well the frames agree under the joined one."""
    seen, maps = joint.volume, dict(joint.maps)
    error = volume.photometric(setting.pair, maps["depth_fused"]).astype(np.float32)
    maps["photometric"] = thrifty(error, RESOLUTION)
    doubt = fusion.doubt(seen, joint.law)
    found = {"entropy": doubt.entropy, "peak_ratio": doubt.peak_ratio, "lowest_cost": doubt.lowest, "p_max": doubt.p_max}
    found["spread"] = doubt.spread
    unknown = ~seen.valid.any(0)
    maps |= {n: np.where(unknown, np.nan, m) for n, m in found.items()}
    return Found(seen, joint.law, joint.fused, _narrow(maps))


def _narrow(maps: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {n: m if m.dtype in (bool, np.float32) else m.astype(np.float32) for n, m in maps.items()}


def networks_volume(setting: Setting) -> np.ndarray:
    """Return the volume that the trained networks read: always 64 logarithmic depths, L1, 3 x 3."""
    from workbench.systems.geometry import networks as nets

    depths = volume.bins(nets.NEAREST, nets.FARTHEST, nets.BINS, "log")
    return volume.sweep(setting.pair, depths, patch=3).cost


def _modulated(cost: np.ndarray, setting: Setting, u: Any, single: Any, sigma: Any, choice: Choice) -> np.ndarray:
    from workbench.systems.geometry import networks as nets

    depths = volume.bins(nets.NEAREST, nets.FARTHEST, nets.BINS, "log")
    p_cv = fusion.min_max(fusion.matching_law(cost, choice.temperature))
    p_s = fusion.min_max(fusion.single_law(depths, single, sigma))
    return fusion.pcvm(cost, p_cv, p_s, u, choice.gamma, everywhere=choice.product == "everywhere")[1]


# ---- groups ----------------------------------------------------------------------------------------------------------


def rows(name: str, x: Any, y: Any) -> dict[str, np.ndarray]:
    """Return the columns of one curve without bounds."""
    x, y = np.atleast_1d(np.asarray(x, float)), np.atleast_1d(np.asarray(y, float))
    nothing = np.full(len(x), np.nan)
    return {"curve": np.full(len(x), name, object), "x": x, "y": y, "y_low": nothing, "y_high": nothing}


def joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return several curves as one group's columns."""
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def parts_of(setting: Setting) -> dict[str, np.ndarray]:
    """Return the parts of a picture that are judged apart."""
    return {"still": ~setting.moving, "moving": setting.moving, "all": np.ones_like(setting.moving)}


def table(found: Found, setting: Setting, fused_only: bool = False) -> dict[tuple[str, str], dict[str, float]]:
    """Return errors by (method, part), all methods on the pixels for which each of them has a depth."""
    names = {method: name for method, name in (DEPTHS | SOMETIMES).items() if name in found.maps}
    answered = np.logical_and.reduce([np.isfinite(found.maps[name]) for name in names.values()])
    names = {"fused": names["fused"]} if fused_only else names
    return {
        (method, part): scores.errors(found.maps[name], setting.true, where & answered)
        for method, name in names.items()
        for part, where in parts_of(setting).items()
    }


def error_curves(errors: dict[tuple[str, str], dict[str, float]]) -> dict[str, np.ndarray]:
    """Return AbsRel as one curve a method over the parts 0 still, 1 moving, 2 all, with delta < 1.25 and pixels as columns."""
    methods = list(dict.fromkeys(m for m, _ in errors))
    out = []
    for method in methods:
        line = [errors[method, part] for part in ("still", "moving", "all")]
        columns = rows(method, range(3), [e["abs_rel"] for e in line])
        out.append(columns | {k: np.array([e[k] for e in line], float) for k in ("delta", "rmse", "pixels")})
    return joined(out)


def find_movers(found: Found, setting: Setting, points: int = 60) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Return (ROC curves of every measure, thinned to some points; areas under them)."""
    ok = np.isfinite(found.maps["depth_multi"])
    out, areas = [], {}
    for name, (key, sign) in MEASURES.items():
        x, y, areas[name] = scores.roc(sign * found.maps[key][ok], setting.moving[ok])
        keep = np.unique(np.searchsorted(x, np.linspace(0, 1, points)).clip(0, len(x) - 1))
        out.append(rows(name, x[keep], y[keep]))
    return joined(out), areas


@dataclass(frozen=True)
class Judged:
    """Errors by (method, part), the curves of finding what moves, and the areas under them."""

    errors: dict[tuple[str, str], dict[str, float]]
    lines: dict[str, np.ndarray]
    areas: dict[str, float]


def judge(found: Found, setting: Setting) -> Judged:
    """Return how well depths and measures do on a setting."""
    return Judged(table(found, setting), *find_movers(found, setting))


def groups(found: Found, setting: Setting, judged: Judged, attrs: dict[str, Any]) -> tuple[Columns, dict[str, dict[str, Any]]]:
    """Return the record's groups (volume, maps, errors, ROC) and their attributes; `fused` is 0 where nothing was joined.

    Errors are left out where no true depth is known, the ROC where nothing moves.

    With `stride` among the attributes, the volume holds every so many rows and columns of the maps.
    """
    step = int(attrs.get("stride", 1))
    v, joint = found.volume, (found.maps["weight"] == 0) | (attrs.get("product") == "everywhere")
    columns: Columns = {
        "cost_volume": {
            "cost": v.cost, "probability": thrifty(found.law, 14), "valid": v.valid, "depth": v.depths, "fused": thrifty(found.fused, 7) * joint[::step, ::step],
        },
        "maps": found.maps,
    }  # fmt: skip
    if np.isfinite(setting.true).any():
        columns["curve/errors"] = error_curves(judged.errors)
    if setting.moving.any():
        columns["curve/movers"] = judged.lines
    pair = setting.pair
    camera = {n: np.asarray(getattr(pair, n), float).ravel().tolist() for n in ("intrinsics", "rotation", "translation")}
    weight, error = found.maps["weight"], found.maps["photometric"]
    losses = {"loss_plain": fusion.reweighted(error, np.ones_like(error)), "loss_weighted": fusion.reweighted(error, weight)}
    labels = {
        "cost_volume": camera | attrs,
        "maps": camera | attrs | losses,
        "curve/errors": attrs | {"x_label": "part: 0 still, 1 moving, 2 all", "y_label": "mean absolute relative error"},
        "curve/movers": {
            "x_label": "share of still pixels that are flagged",
            "y_label": "share of moving pixels that are found",
            **{f"auc {n}": float(a) for n, a in judged.areas.items()},
        },
    }
    return columns, {name: attrs for name, attrs in labels.items() if name in columns}


def thrifty(values: np.ndarray, bits: int) -> np.ndarray:
    """Return values rounded to multiples of 2^-bits: files shrink, pictures do not change."""
    out = values * np.float32(2**bits)
    np.rint(out, out=out)
    out *= np.float32(2.0**-bits)
    return out


def meter(
    name: str, value: float, unit: str, kind: str, better: str, baseline: float, versus: str, **more: Any
) -> dict[str, Any]:
    """Return one row of `meters` as a dict."""
    return {
        "meter": name, "value": value, "unit": unit, "kind": kind, "better": better, "provenance": more.get("provenance", "measured"),
        "baseline": baseline, "baseline_name": versus, "low": np.nan, "high": np.nan, "samples": int(more.get("samples", 0)),
    }  # fmt: skip


def quality(found: Found, setting: Setting, judged: Judged, provenance: str = "measured") -> list[dict[str, Any]]:
    """Return the quality meters: errors of the fused depth beside matching alone, and who finds the movers."""
    errors, out = judged.errors, []
    if not np.isfinite(setting.true).any():
        share = float(np.mean(found.maps["weight"] == 0))
        return [meter("pixels distrusted", share, "share", "quality", "lower", np.nan, "", provenance=provenance)]
    for part, name in (("all", "error, all"), ("moving", "error, moving"), ("still", "error, still")):
        e = errors["fused", part]
        if np.isfinite(e["abs_rel"]):
            args = ("AbsRel", "quality", "lower", errors["multi", part]["abs_rel"], "matching alone")
            out.append(meter(name, e["abs_rel"], *args, samples=e["pixels"], provenance=provenance))
    e = errors["fused", "all"]
    args = ("share", "quality", "higher", errors["multi", "all"]["delta"], "matching alone")
    out.append(meter("delta < 1.25", e["delta"], *args, samples=e["pixels"], provenance=provenance))
    if setting.moving.any():
        areas = judged.areas
        out.append(
            meter("movers found by U", areas["U"], "AUC", "quality", "higher", areas["entropy"], "entropy", provenance=provenance)
        )
    return out


def bad(found: Found, setting: Setting, pixels: float, provenance: str = "measured") -> list[dict[str, Any]]:
    """Return the meters of bad pixels (error above 2 px of the original size) where all stands still: joined, and matching alone.

    Matching alone stands beside a classical matcher where there is one.
    """
    true = np.where(setting.moving, np.nan, setting.true)
    names = [n for n in ("depth_fused", "depth_multi", "depth_classical") if n in found.maps]
    share = {n: scores.bad_pixels(found.maps[n], true, setting.focal_baseline, pixels) for n in names}
    how: dict[str, Any] = {"provenance": provenance, "samples": int(np.isfinite(true).sum())}
    kind = ("share", "quality", "lower")
    out = [meter("bad-2.0, still", share["depth_fused"], *kind, share["depth_multi"], "matching alone", **how)]
    if "depth_classical" in share:
        out.append(meter("bad-2.0, matching", share["depth_multi"], *kind, share["depth_classical"], classical.NAME, **how))
    return out


def columns_of(meters: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Return rows of meters as columns."""
    return {name: np.array([m[name] for m in meters], object if isinstance(meters[0][name], str) else None) for name in meters[0]}


def rows_of(record: Record, keep: Callable[[str], bool]) -> list[dict[str, Any]]:
    """Return a record's meters whose kind passes, as dicts."""
    names = record.variables("meters")
    values = {n: record.column("meters", n) for n in names}
    return [{n: values[n][i] for n in names} for i in range(len(values["kind"])) if keep(str(values["kind"][i]))]

"""What a run of a picture-pruning paper writes: the picture, its kept tokens, costs, and every method on one exam."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from workbench.instruments.vision import VisionReader
from workbench.meters import interleaved, write_meter
from workbench.systems.attention import pictures, schedules
from workbench.systems.attention.pictures import Outcome, Picture
from workbench.tape import NullTape, Tape

#: Mean shares of picture tokens at which methods are compared; the first layer keeps everything, so 1/8 is the least of eight.
SHARES = (0.14, 0.2, 0.25, 0.35, 0.5, 0.75)
TAUS = (0.3, 0.6, 0.8, 0.9, 0.97)
LABELS = {
    "curve/accuracy": {"x_label": "picture tokens kept, mean over layers", "y_label": "right answers"},
    "curve/schedule": {"x_label": "layer", "y_label": "picture tokens"},
}
CALIBRATION_SEED, HELD_OUT_SEED = 1, 2
SHAPES: dict[str, Callable[[float, int, int], list[int]]] = {
    "uniform": schedules.uniform,
    "fastv": schedules.step,
    "linear": schedules.linear,
}
FITTED, SEARCHED = "P-Sigmoid, fitted at each budget", "G-Search, by allowed loss"
LOSSES = (1.0, 2.0, 5.0, 10.0, 20.0)  # points that G-Search may lose, for the curve of a study
Step = Callable[[int, int, str], None]


def rows(name: str, x: Any, y: Any, low: Any = np.nan, high: Any = np.nan) -> dict[str, np.ndarray]:
    """Return one named curve as columns."""
    x = np.atleast_1d(np.asarray(x, float))
    full = [np.broadcast_to(np.asarray(v, float), x.shape).copy() for v in (y, low, high)]
    return {"curve": np.full(len(x), name, dtype=object), "x": x, "y": full[0], "y_low": full[1], "y_high": full[2]}


def joined(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return several curves in one group."""
    return {k: np.concatenate([p[k] for p in parts]) for k in parts[0]} | {
        "curve": np.array([str(v) for p in parts for v in p["curve"]])
    }


def points(name: str, found: Sequence[Outcome]) -> dict[str, np.ndarray]:
    """Return outcomes as a curve of accuracy over share, with Wilson's interval."""
    ends = np.array([o.interval() for o in found])
    return rows(name, [o.share for o in found], [o.accuracy for o in found], ends[:, 0], ends[:, 1])


@functools.lru_cache(maxsize=4)
def baselines(
    reader: VisionReader, number: int, seed: int, step: Step = lambda done, total, text: None
) -> dict[str, list[Outcome]]:
    """Return outcomes of every method that needs no fitting, at the shares of this file, on one held-out exam.

    "what the answer needs" keeps the asked patches first: no method can know them, so it is the ceiling.
    """
    exam = pictures.exam(reader, number, seed)
    layers, tokens = reader.layers, exam.glance.patches
    ways: dict[str, tuple[Callable[..., list[int]], pictures.Ranking, bool]] = {
        "same share in every layer": (schedules.uniform, pictures.by_text, False),
        "one step after layer 2 (FastV)": (schedules.step, pictures.by_text, False),
        "straight line": (schedules.linear, pictures.by_text, False),
        "ranked by the picture itself": (schedules.uniform, pictures.by_picture, True),
        "an even grid": (schedules.uniform, pictures.by_grid(exam.glance.grid), False),
        "chance": (schedules.uniform, pictures.by_chance(seed), False),
        "what the answer needs (ceiling)": (schedules.uniform, pictures.by_truth(exam.asked), False),
    }
    found: dict[str, list[Outcome]] = {}
    for i, (name, (schedule, ranking, own)) in enumerate(ways.items()):
        step(i, len(ways) + 1, "comparing methods")
        found[name] = []
        for share in SHARES:
            if schedule is schedules.step and share * layers < 2:
                continue  # two full layers are already more than this share
            rule, at = pictures.scheduled(schedule(share, layers, tokens), ranking)
            found[name].append(pictures.sit(reader, exam, rule, at=at, own=own))
    step(len(ways), len(ways) + 1, "comparing methods")
    found["nothing after layer l"] = [
        pictures.sit(reader, exam, rule, at=at)
        for rule, at in (pictures.scheduled([tokens] * full + [0] * (layers - full)) for full in range(1, layers))
    ]
    found["ZipVL's rule, layer by layer"] = [
        pictures.sit(reader, exam, pictures.holding(tau), at=range(1, layers), inside=True) for tau in TAUS
    ]
    return found


def adaptive(reader: VisionReader, number: int, seed: int) -> list[Outcome]:
    """Return the outcomes of the shipped ATP modules on the exam; none for a reader that they were not trained for."""
    from workbench.systems.attention import atp_modules as atp

    exam = pictures.exam(reader, number, seed)
    if reader.loaded.name != "scene-reader":
        return []
    return [
        pictures.sit(reader, exam, atp.Pruner(found.modules, found.after, exam.glance.grid), at=found.after, own=True)
        for found in atp.trained(reader.device).values()
    ]


def write_picture(tape: Tape, shown: Picture, score: np.ndarray, keep: np.ndarray, **more: Any) -> None:
    """Write the picture and what each layer keeps of it; `more` are columns (`reason`) and facts for the caption."""
    tape.write("image", pixels=(np.clip(resized(shown.image, 256), 0, 1) * 255).round().astype(np.uint8))
    asked = np.zeros(keep.shape[1], bool)
    asked[list(shown.asked)] = True
    columns = {"reason": more.pop("reason")} if "reason" in more else {}
    tape.write("patches", score=score, keep=keep, asked=asked, **columns)
    grid = more.pop("grid")
    tape.describe("patches", rows=grid[0], columns=grid[1], question=shown.question, answer=shown.answer, **more)


def resized(image: np.ndarray, most: int) -> np.ndarray:
    """Return the picture with its longer side at most `most` pixels (a smaller one stays)."""
    from skimage.transform import resize

    longest = max(image.shape[:2])
    if longest <= most:
        return image
    shape = tuple(max(1, round(s * most / longest)) for s in image.shape[:2])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(resize(image, shape, anti_aliasing=True), np.float32)


def write_schedule(tape: Tape, mine: Mapping[str, Any], layers: int, tokens: int) -> None:
    """Write tokens by layer of this run and, at the same mean share, of the fixed shapes."""
    (counts,) = mine.values()
    share = max(float(np.mean(counts)) / tokens, 1 / layers)
    known = {n: f for n, f in SHAPES.items() if n != "fastv" or share * layers >= 2}  # its two full layers may be more than this
    shapes = dict(mine) | {n: f(share, layers, tokens) for n, f in known.items()}
    tape.write("curve/schedule", **joined([rows(name, np.arange(1, layers + 1), c) for name, c in shapes.items()]))
    tape.describe("curve/schedule", **LABELS["curve/schedule"])


def read_off(record: Any, share: float, names: Sequence[str]) -> float:
    """Return the accuracy at a share, interpolated between the measured points of these curves and that of all tokens."""
    curve = {n: record.column("curve/accuracy", n) for n in ("curve", "x", "y")}
    mine = np.isin(curve["curve"].astype(str), [*names, "all picture tokens"])
    order = np.argsort(curve["x"][mine])
    return float(np.interp(share, curve["x"][mine][order], curve["y"][mine][order]))


def write_rank_agreement(tape: Tape, scores: Sequence[Any]) -> None:
    """Write how layers agree on tokens, mean over the questions behind the scores (one `Scores` a layer)."""
    cross = np.stack([s.cross.cpu().numpy() for s in scores], 1)  # question, layer, token
    tau, top = (np.mean([f(c) for c in cross], 0).astype(np.float32) for f in (schedules.kendall, schedules.shared_top))
    tape.write("maps/rank_agreement", tau=tau, shared_top=top)
    tape.describe("maps/rank_agreement", samples=len(cross), tokens=cross.shape[2])


def write_exam(tape: Tape, dense: Outcome, pruned: Outcome) -> None:
    """Write how well both did."""
    write_meter(
        tape, "accuracy", pruned.accuracy, "of held-out questions right", kind="quality", better="higher", baseline=dense.accuracy,
        baseline_name="all picture tokens", spread=pruned.interval(), samples=len(pruned.right),
    )  # fmt: skip
    same = float((pruned.right == dense.right).mean())
    write_meter(
        tape, "agreement", same, "right or wrong as without pruning", kind="quality", better="higher", baseline=1.0,
        baseline_name="all picture tokens", samples=len(pruned.right),
    )  # fmt: skip
    write_meter(
        tape, "right_word_logprob", float(pruned.logprob.mean()), "nats / answer", kind="quality", better="higher",
        baseline=float(dense.logprob.mean()), baseline_name="all picture tokens", samples=len(pruned.right),
    )  # fmt: skip


def cost_facts(config: Any, layers: int, text: int) -> dict[str, float]:
    """Return what multiply-adds (million) and cache bytes (kB) are made of: fixed, for each token, for each token squared.

    With them `cost_meters` needs no model, so that a slider can use it; a test holds them to `pictures.macs`.
    """
    one, two, three = (pictures.macs(config, [n] * layers, text) / layers for n in (0, 1, 2))
    square = (three - 2 * two + one) / 2
    none, single = (pictures.cache_bytes(config, [n] * layers, text) / layers for n in (0, 1))
    return {
        "macs_fixed": one / 1e6, "macs_token": (two - one - square) / 1e6, "macs_square": square / 1e6, "cache_fixed": none / 1e3,
        "cache_token": (single - none) / 1e3,
    }  # fmt: skip


def cost_meters(facts: Mapping[str, Any], counts: Any, tokens: int) -> list[dict[str, Any]]:
    """Return what a schedule costs, by counting: share, multiply-adds, cache bytes. counts: (L,), or (L, B) for many questions."""

    def macs(k: np.ndarray) -> float:
        each = facts["macs_fixed"] + facts["macs_token"] * k + facts["macs_square"] * k * k
        return float(each.reshape(len(k), -1).mean(1).sum())

    def cache(k: np.ndarray) -> float:
        return float((facts["cache_fixed"] + facts["cache_token"] * k).reshape(len(k), -1).mean(1).sum())

    kept = np.asarray(counts, float)
    full = np.full(len(kept), float(tokens))
    common: dict[str, Any] = {"provenance": "derived", "baseline_name": "all picture tokens", "kind": "cost", "better": "lower"}
    return [
        {"name": "kept_share", "value": float(kept.mean()) / tokens, "unit": "of picture tokens, mean over layers", "baseline": 1.0, **common},
        {"name": "multiply_adds", "value": macs(kept), "unit": "million a question", "baseline": macs(full), **common},
        {"name": "cache_bytes", "value": cache(kept), "unit": "kB, two bytes a number", "baseline": cache(full), **common},
    ]  # fmt: skip


def replayed_meters(record: Any, costs: Sequence[Mapping[str, Any]], accuracy: float) -> dict[str, np.ndarray]:
    """Return the recorded meters for another setting: counted costs, an estimated accuracy, and nothing for what must be run."""
    table = {name: record.column("meters", name).copy() for name in record.variables("meters")}
    known = {str(c["name"]): float(c["value"]) for c in costs} | {"accuracy": accuracy}
    derived = {str(c["name"]) for c in costs}
    provenance = []
    for i, name in enumerate(table["meter"].astype(str)):
        if table["provenance"][i] == "reported":
            provenance.append("reported")
            continue
        table["value"][i] = known.get(name, np.nan)
        table["low"][i] = table["high"][i] = np.nan
        provenance.append("derived" if name in derived else "estimated")
    return table | {"provenance": np.array(provenance)}


def write_speed(tape: NullTape, reader: VisionReader, glance: Any, rule: Any, at: Sequence[int], own: bool) -> None:
    """Time one question with tokens really removed, beside the same layers with all of them, in turn."""
    import torch

    def once(mine: Any, layers: Sequence[int], scored: bool) -> Callable[[], Any]:
        def work() -> Any:
            with torch.inference_mode():
                return reader.answer(glance, mine, at=layers, mode="remove", own=scored)

        return work

    found = interleaved({"pruned": once(rule, at, own), "dense": once(None, (), False)}, repeats=7, warmup=2)
    pruned, dense = found["pruned"], found["dense"]
    write_meter(
        tape, "questions_per_second", 1e3 / pruned.median, "questions/s, tokens removed", kind="speed", better="higher",
        baseline=1e3 / dense.median, baseline_name="all picture tokens, same run", spread=(1e3 / pruned.p90, 1e3 / pruned.p10),
        samples=pruned.count,
    )  # fmt: skip

"""What follows from recorded trees without a model: trimmed trees, predicted times, acceptance by rank, checks of the law."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.meters import wilson
from workbench.record import Record
from workbench.system import Columns

if TYPE_CHECKING:
    from workbench.systems.speculation.rsd import Output
    from workbench.systems.speculation.tree import Law, Step

#: name -> (bytes/s, FLOP/s) of the card's memory and fp16 tensor cores as its data sheet reports them; None = this machine.
LATENCY_MODELS: dict[str, tuple[float, float] | None] = {
    "this machine (measured)": None,
    "memory-bound ideal": (1.0, float("inf")),
    "H100 SXM (data sheet)": (3.35e12, 9.89e14),
    "T4 (data sheet)": (3.2e11, 6.5e13),
}


def observe(output: Output, step: Step, emitted: list[int], law: Law, temperature: float, rng: np.random.Generator) -> None:
    """Add to an output each emitted token's log-probability, probability-integral transform and gap of the best logits.

    The transform orders tokens by falling probability: it is uniform on [0, 1) if and only if tokens follow the target.
    """
    nodes = [0, *step.walk.path]
    for node, token in zip(nodes, emitted):
        logits = step.target_logits[node]
        if temperature == 0:
            top = np.partition(logits, -2)[-2:] if len(logits) > 1 else np.array([-np.inf, 0.0])
            output.gaps.append(float(top[1] - top[0]))
        probs = law(logits) if temperature > 0 else None
        if probs is None:
            shifted = logits - logits.max()
            output.logprobs.append(float(shifted[token] - np.log(np.exp(shifted).sum())))
        else:
            p = probs[token]
            output.logprobs.append(float(np.log(p)) if p > 0 else -np.inf)
            output.ranks.append(float(probs[probs > p].sum() + rng.random() * probs[probs == p].sum()))


@dataclass(frozen=True)
class Replay:
    """A recorded run as a smaller tree would have gone."""

    kept: np.ndarray  # (row,) bool: the node is in the trimmed tree
    replayed: np.ndarray  # (step,) tokens emitted in the step
    first_flip: int  # first step whose outcome changes; -1 = none, the replay is exact


def trim(record: Record, depth: int, width: int) -> Replay:
    """Return what trees of at most `depth` levels and `width` siblings (beam items for rsd-s) would have emitted.

    Exact up to the first step in which the walk tried a node outside the trimmed tree: siblings are tried in the recorded order, and a
    smaller beam is a prefix of a larger one by perturbed score. From that step on the text would differ: an estimate.
    """
    col = {v: record.column("tree", v) for v in ("step", "depth", "node", "parent", "sibling_rank", "accepted", "visited")}
    beam = record.knobs.get("method") == "rsd-s" and "perturbed" in record.variables("tree")
    kept = _keep_beam(record, col, depth, width) if beam else _keep_ranks(col, depth, width)
    steps = len(record.column("steps", "emitted"))
    accepted = np.bincount(col["step"][col["accepted"] & kept & (col["depth"] > 0)], minlength=steps)
    # A tried node that is trimmed away changes what is left to emit, even where it was rejected.
    changed = np.unique(col["step"][col["visited"] & ~kept])
    replayed = np.minimum(accepted[:steps] + 1, record.column("steps", "emitted"))
    return Replay(kept, replayed.astype(np.int32), int(changed[0]) if changed.size else -1)


def _starts(step: np.ndarray) -> np.ndarray:
    """Return the row at which each row's step begins."""
    first = np.r_[True, step[1:] != step[:-1]]
    return np.maximum.accumulate(np.where(first, np.arange(len(step)), 0))


def _keep_ranks(col: dict[str, np.ndarray], depth: int, width: int) -> np.ndarray:
    kept = (col["depth"] <= depth) & (col["sibling_rank"] < width)
    return _with_parents(kept, col)


def _keep_beam(record: Record, col: dict[str, np.ndarray], depth: int, width: int) -> np.ndarray:
    scores, kept = record.column("tree", "perturbed"), col["depth"] == 0
    starts = _starts(col["step"])
    parents = starts + np.maximum(col["parent"], 0)
    for level in range(1, depth + 1):
        rows = np.flatnonzero((col["depth"] == level) & kept[parents])
        order = np.lexsort((-scores[rows], col["step"][rows]))
        rows = rows[order]
        steps = col["step"][rows]
        begin = np.searchsorted(steps, steps)
        kept[rows[np.arange(len(rows)) - begin < width]] = True
    return kept


def _with_parents(kept: np.ndarray, col: dict[str, np.ndarray]) -> np.ndarray:
    """Drop nodes whose ancestors are dropped. Level order: a parent always comes before its child."""
    parents = _starts(col["step"]) + np.maximum(col["parent"], 0)
    for level in range(1, int(col["depth"].max(initial=0)) + 1):
        rows = col["depth"] == level
        kept[rows] &= kept[parents[rows]]
    return kept


def predict(record: Record, model: str, rows: np.ndarray, calls: np.ndarray) -> tuple[np.ndarray, np.ndarray, float, str]:
    """Return predicted (target ms, draft ms) for `rows` target rows and draft `calls`, one plain step's ms, and provenance."""
    attrs = record.group_attrs("curve/latency")
    card = LATENCY_MODELS[model]
    if card is None:
        x, y = record.column("curve/latency", "x"), record.column("curve/latency", "y")
        measured = record.column("curve/latency", "curve") == "measured"
        target = np.interp(rows, x[measured], y[measured])
        return target, calls * float(attrs["draft_ms"]), float(np.interp(1, x[measured], y[measured])), "measured"
    bandwidth, peak = card
    size, draft_size = float(attrs["target_bytes"]), float(attrs["draft_bytes"])
    if model.startswith("memory-bound"):
        bandwidth = size / (float(np.interp(1, [1], [float(attrs["target_ms"])])) / 1e3)
    flops = float(attrs["target_flops_per_row"])
    target = np.maximum(size / bandwidth, flops * rows / peak) * 1e3
    return target, calls * draft_size / bandwidth * 1e3, max(size / bandwidth, flops / peak) * 1e3, "predicted"


def derive(record: Record, keep_depth: int, keep_width: int, latency_model: str) -> Columns:
    """Return the groups that follow from a recorded run and the live knobs (numpy only; a slider waits for it)."""
    if "tree" not in record or "steps" not in record:
        return {}
    replay = trim(record, keep_depth, keep_width)
    out: Columns = {"tree": _columns(record, "tree") | {"kept": replay.kept}, "steps": _columns(record, "steps")}
    out["steps"]["replayed"] = replay.replayed
    if "curve/latency" in record:
        _add_prediction(record, replay, keep_depth, latency_model, out)
    out["curve/acceptance"] = acceptance_by_rank(record, replay.kept)
    out["attrs"] = {"curve/acceptance": {"x_label": "sibling rank", "y_label": "share of tried siblings accepted"}}  # type: ignore[dict-item]
    return out


def _columns(record: Record, group: str) -> dict[str, np.ndarray]:
    return {str(v): record.column(group, str(v)) for v in record.variables(group)}


def _add_prediction(record: Record, replay: Replay, keep_depth: int, model: str, out: Columns) -> None:
    rows = np.bincount(record.column("tree", "step")[replay.kept], minlength=len(replay.replayed))
    levels = np.zeros(len(replay.replayed), np.int64)
    np.maximum.at(levels, record.column("tree", "step")[replay.kept], record.column("tree", "depth")[replay.kept])
    target, draft, plain, provenance = predict(record, model, rows, levels)
    out["steps"]["predicted_target_ms"], out["steps"]["predicted_draft_ms"] = target, draft
    eta = float(replay.replayed.mean())
    total = float((target + draft).mean()) or float("nan")
    exact = replay.first_flip < 0
    out["meters"] = _replace_meters(
        record,
        {
            "replayed_tokens_per_target_call": (eta, "tokens / target call", "derived" if exact else "estimated", 1.0, "plain decoding"),
            "predicted_speedup": (eta * plain / total, "x plain", "estimated" if not exact or provenance == "measured" else provenance,
                                  1.0, f"plain decoding on {model}"),
        },
    )  # fmt: skip


def _replace_meters(record: Record, new: dict[str, tuple[float, str, str, float, str]]) -> dict[str, np.ndarray]:
    """Return the meters with the derived ones replaced (or added) at the end."""
    old = _columns(record, "meters")
    stay = ~np.isin(old["meter"].astype(str), list(new))
    fresh: dict[str, list[Any]] = {
        "meter": list(new), "value": [v[0] for v in new.values()], "unit": [v[1] for v in new.values()],
        "kind": ["speed"] * len(new), "better": ["higher"] * len(new), "provenance": [v[2] for v in new.values()],
        "baseline": [v[3] for v in new.values()], "baseline_name": [v[4] for v in new.values()],
        "low": [np.nan] * len(new), "high": [np.nan] * len(new), "samples": [0] * len(new),
    }  # fmt: skip
    return {k: np.concatenate([old[k][stay], np.asarray(fresh[k], dtype=old[k].dtype)]) for k in old}


def acceptance_by_rank(record: Record, kept: np.ndarray) -> dict[str, np.ndarray]:
    """Return the share of tried siblings that were accepted, by rank, with 95 % Wilson intervals; and what drawing with
    replacement would accept under the same recorded laws (estimated on the recorded candidates)."""
    rank, tried = record.column("tree", "sibling_rank"), record.column("tree", "visited") & kept
    accepted = record.column("tree", "accepted") & kept
    ranks = np.unique(rank[tried & (rank >= 0)])
    rows: list[tuple[str, float, float, float, float]] = []
    for r in ranks:
        n, k = int((tried & (rank == r)).sum()), int((accepted & (rank == r)).sum())
        rows.append(("as run (measured)", float(r), k / n, *wilson(k, n)))
    if "laws" in record:
        rows += [("drawn with replacement, same laws (estimated)", float(j), a, np.nan, np.nan)
                 for j, a in enumerate(_with_replacement(record, len(ranks)))]  # fmt: skip
    names, x, y, low, high = zip(*rows) if rows else ((), (), (), (), ())
    return {"curve": np.array(names, object), "x": np.array(x, float), "y": np.array(y, float),
            "y_low": np.array(low, float), "y_high": np.array(high, float)}  # fmt: skip


def _with_replacement(record: Record, trials: int) -> list[float]:
    """Return the mean acceptance of trial 1, 2, ... with independent draws, given that the trials before were rejected."""
    first = record.column("laws", "trial") == 0
    key = record.column("laws", "step")[first].astype(np.int64) * 4096 + record.column("laws", "node")[first]
    _, group = np.unique(key, return_inverse=True)
    target = record.column("laws", "target")[first].astype(np.float64)
    draft = record.column("laws", "draft")[first].astype(np.float64)
    count = int(group.max(initial=-1)) + 1
    residual, out, alive = target.copy(), [], np.ones(count)
    for _ in range(trials):
        accept = np.bincount(group, np.minimum(residual, draft), count)
        out.append(float((alive * accept).sum() / max(alive.sum(), 1e-12)))
        alive = alive * (1 - accept)
        residual = np.maximum(residual - draft, 0)
        mass = np.bincount(group, residual, count)
        residual = residual / np.maximum(mass, 1e-12)[group]
    return out

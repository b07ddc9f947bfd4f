"""What an OpenMoE run writes, and what another capacity, order, K or group makes of the recorded candidates."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.data import domains
from workbench.meters import write_meter
from workbench.record import Record
from workbench.system import Columns
from workbench.systems.routing import analysis
from workbench.systems.routing.claims import all_claims, late, sides_of, spread_of_mean, with_claims

if TYPE_CHECKING:
    from workbench.instruments.router import Routing
    from workbench.systems.routing.openmoe import OpenMoE, Pass
    from workbench.tape import Tape

LIVE = ("capacity_factor", "order", "top_k", "group_size")
GIVEN = ", the id given"
BINS = 16  # of positions, in the drop curves
MOST_TOKENS = 14  # token ids shown with their own shares
PROBES = {"moe-8": ("e8", 8), "moe-16": ("e16", 16)}
LABELS = {
    "curve/drops": {"x_label": "position in the text, token", "y_label": "share of the choices dropped"},
    "curve/drop_quality": {"x_label": "position in the text, token", "y_label": "loss added by the limit, nats"},
    "curve/information": {"x_label": "layer", "y_label": "share of the expert's entropy explained"},
}
Rows = dict[str, np.ndarray]


def curve(name: str, x: Any, y: Any, low: Any = np.nan, high: Any = np.nan) -> Rows:
    """Return one named curve as columns."""
    x = np.atleast_1d(np.asarray(x, float))
    full = [np.broadcast_to(np.asarray(v, float), x.shape).copy() for v in (y, low, high)]
    return {"curve": np.full(len(x), name, object), "x": x, "y": full[0], "y_low": full[1], "y_high": full[2]}


def joined(parts: list[Rows]) -> Rows:
    """Return several curves in one group."""
    return {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}


# ---- a run --------------------------------------------------------------------------------------------------------------


def write(system: OpenMoE, tape: Tape, found: Routing, free: Pass, limited: Pass | None, speed: dict[str, float]) -> None:
    """Write every group of a run: the free routing, what explains it, its training, and what the limit costs."""
    from workbench.systems.routing.openmoe import RANKS

    ids, position, text, kind = system._texts.flat()
    probability = analysis.softmax(found.logits)
    ranks = min(max(RANKS, found.top_k), found.experts)
    if found.rule == "own":
        candidate, own = found.expert, found.weight
    else:
        candidate = np.argsort(-probability, axis=-1, kind="stable")[..., :ranks].astype(np.int16)
        own = np.take_along_axis(probability, candidate.astype(np.int64), -1)
    columns = {
        "token_id": ids.astype(np.int32), "position": position, "text": text, "domain": np.array([str(k) for k in kind]),
        "piece": np.array(system._loaded.pieces(ids.tolist())), "candidate": candidate, "probability": own.astype(np.float32),
    }  # fmt: skip
    facts = {
        "experts": found.experts, "rule": found.rule, "model_k": found.top_k, "outside": [k for k in dict.fromkeys(kind) if k in domains.OUTSIDE],
        "seed": int(system.seed), "null": found.null,
    }  # fmt: skip
    knobs = live_of(system, facts)
    facts |= knobs | {f"run_{n}": value for n, value in knobs.items()}
    facts |= dict(zip(("parameters", "expert_parameters"), parameters(system._loaded.model, found)))
    served = serve(facts, columns)
    tape.write("routing", **columns, **served)
    tape.describe("routing", **facts)
    _write_layers(tape, found, served)
    first = found.expert[..., 0].astype(np.int64)
    for group, values in groupings(columns, first, found.experts).items():
        tape.write(group, **values)
    shares = _write_information(system, tape, columns, first, found)
    if len(first) > 1:
        pairs = [analysis.transitions(a, b, found.experts) for a, b in itertools.pairwise(first)]
        tape.write("transition", share=np.stack(pairs).astype(np.float32))
        tape.write("layer_overlap", told=analysis.told(first, found.experts).astype(np.float32))
    film = _film(system._loaded.name)
    if film:
        tape.write("training", **film)
        tape.describe("training", chance=2 / PROBES[system._loaded.name][1])  # the probes keep the two choices of the training
    drops = drop_curves(facts, columns, served["dropped"])
    tape.write("curve/drops", **drops)
    if limited is not None and free.loss.size:
        tape.write("curve/drop_quality", **quality_curves(system, free, limited))
        tape.describe("curve/drop_quality", **LABELS["curve/drop_quality"], **added_loss(system, free, limited))
    tape.describe("curve/drops", **LABELS["curve/drops"])
    _write_meters(system, tape, found, (free, limited, speed), served)
    tape.write("claims", **all_claims(facts, columns, first, shares, served["dropped"], film, (free, limited)))


def live_of(system: OpenMoE, facts: dict[str, Any]) -> dict[str, Any]:
    """Return the live knobs, K as a number: the model's own where none is asked for."""
    return {n: getattr(system, n) for n in LIVE} | {"top_k": system.top_k or int(facts["model_k"])}


def null_of(facts: dict[str, Any]) -> int:
    """Return how many of the last experts compute nothing."""
    return int(facts.get("null", 0))


def serve(facts: dict[str, Any], columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return expert, weight, dropped, load and served under the limit that `facts` say."""
    from workbench.systems.routing.openmoe import choose

    expert, weight = choose(columns["probability"], columns["candidate"], int(facts["top_k"]), str(facts["rule"]))
    groups = analysis.groups_of(columns["text"], columns["domain"], int(facts["group_size"]))
    experts = int(facts["experts"])
    slot = analysis.serve(
        expert, weight, groups, experts, float(facts["capacity_factor"]), str(facts["order"]), int(facts["seed"]), null_of(facts)
    ).slot
    dropped = slot < 0
    load = np.stack([np.bincount(e.ravel(), minlength=experts) for e in expert])
    kept = np.stack([np.bincount(e[~d], minlength=experts) for e, d in zip(expert, dropped)])
    return {
        "expert": expert,
        "weight": weight,
        "dropped": dropped,
        "load": load.astype(np.int64),
        "served": kept.astype(np.int64),
    }


def _layer_columns(layer: Any, balance: Any, served: dict[str, np.ndarray], null: int) -> dict[str, Any]:
    load = real_load(served, null)
    return {
        "step": np.arange(len(load), dtype=np.int32), "layer": np.asarray(layer, np.int32), "balance": np.asarray(balance, float),
        "imbalance": load.max(1) / load.mean(1), "dropped": served["dropped"].mean((1, 2)),
    }  # fmt: skip


def real_load(served: dict[str, np.ndarray], null: int) -> np.ndarray:
    """Return the load of the experts that compute, (L, E - null)."""
    return served["load"][:, : served["load"].shape[1] - null]


def _write_layers(tape: Tape, found: Routing, served: dict[str, np.ndarray]) -> None:
    balance = [analysis.load_balance(x, e) for x, e in zip(found.logits, found.expert)]
    tape.write("moe_layers", **_layer_columns(found.layers, balance, served, found.null))


def groupings(columns: dict[str, np.ndarray], first: np.ndarray, experts: int) -> dict[str, Rows]:
    """Return how kinds, positions and token ids spread over the experts: `first` (L, N), the first choices."""
    kinds, kind = np.unique(columns["domain"], return_inverse=True)
    order = list(dict.fromkeys(columns["domain"]))
    kind = np.array([order.index(k) for k in kinds])[kind]
    length = int(columns["position"].max()) + 1
    bins = (
        np.minimum(columns["position"].astype(np.int64) * 8 // length, 7) if length >= 8 else columns["position"].astype(np.int64)
    )
    edges = [f"{-(-i * length // 8)}–{-(-(i + 1) * length // 8) - 1}" if length >= 8 else str(i) for i in range(min(8, length))]
    _, value, times = np.unique(columns["token_id"], return_inverse=True, return_counts=True)
    often = np.argsort(-times, kind="stable")[:MOST_TOKENS]
    pieces = {int(v): str(p) for v, p in zip(value[::-1], columns["piece"][::-1])}
    made: dict[str, Rows] = {}
    for name, names, values in (
        ("domain", order, kind), ("position", edges, bins), ("token", [pieces[int(i)] for i in often], np.where(np.isin(value, often), value, -1)),
    ):  # fmt: skip
        rows = often if name == "token" else np.arange(len(names))
        tables = [_rows_of(values, f, rows, experts) for f in first]
        total = tables[0].sum(1)
        share = np.stack([t / np.maximum(1, t.sum(1, keepdims=True)) for t in tables])
        made[f"grouping/{name}"] = {
            "name": np.array([str(n) for n in names]),
            "share": share.astype(np.float32),
            "occurrences": total.astype(np.int64),
        }
    return made


def _rows_of(values: np.ndarray, first: np.ndarray, rows: np.ndarray, experts: int) -> np.ndarray:
    seen = values >= 0
    table = analysis.counts(np.r_[values[seen], rows.max()], np.r_[first[seen], 0], experts)
    table[rows.max(), 0] -= 1
    return table[rows]


def _write_information(
    system: OpenMoE, tape: Tape, columns: dict[str, np.ndarray], first: np.ndarray, found: Routing
) -> dict[str, list[analysis.Explained]]:
    """Write and return what explains the first choice, by layer: token id, the id before it, position and kind, and what context adds to the id."""
    kinds = np.unique(columns["domain"], return_inverse=True)[1]
    before = np.where(columns["position"] > 0, np.r_[0, columns["token_id"][:-1]], columns["token_id"].max() + 1)
    values = {"token id": columns["token_id"], "the id before": before, "position": columns["position"], "kind of text": kinds}
    shares: dict[str, list[analysis.Explained]] = {}
    parts: list[Rows] = []
    asked: list[tuple[str, Any, Any]] = [(name, v, None) for name, v in values.items()]
    asked += [(f"{name}{GIVEN}", values[name], columns["token_id"]) for name in ("the id before", "kind of text")]
    for name, v, given in asked:
        shares[name] = [analysis.explained(v, f, columns["text"], found.experts, int(system.seed), given=given) for f in first]
        y, low, high, chance = np.array(shares[name]).T
        parts += [curve(name, found.layers, y, low, high), curve(f"{name}, chance", found.layers, chance)]
    tape.write("curve/information", **joined(parts))
    tape.describe("curve/information", **LABELS["curve/information"])
    return shares


# ---- the router while it was trained -----------------------------------------------------------------------------------


@functools.cache
def _film(name: str) -> dict[str, np.ndarray] | None:
    """Return the rows of group `training` from the probes shipped with a small mixture; None for any other model."""
    if name not in PROBES:
        return None
    folder = Path(__file__).resolve().parents[2] / "models" / "moe" / PROBES[name][0]
    files = {"with router losses": folder / "probes.safetensors", "without": folder / "probes_free.safetensors"}
    parts = [_film_of(run, path) for run, path in files.items() if path.exists()]
    return {k: np.concatenate([p[k] for p in parts]) for k in parts[0]} if parts else None


def _film_of(run: str, path: Path, top_k: int = 2) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    held = load_file(path)
    steps = sorted(int(n.split(".")[1]) for n in held if n.startswith("logits."))
    ids = held["tokens"].astype(np.int64)[:, :-1].reshape(-1)
    experts = held[f"logits.{steps[-1]}"].shape[2]
    often = np.bincount(ids) >= analysis.ENOUGH
    rows: list[tuple[Any, ...]] = []
    last = _choices(held[f"logits.{steps[-1]}"], top_k)
    final = [analysis.counts(ids, c[:, 0], experts)[often] for c in last]
    for step in steps:
        logits = held[f"logits.{step}"].astype(np.float32)
        now = _choices(logits, top_k)
        loss = float(held[f"losses.{step}"][4:].mean())
        for layer, chosen in enumerate(now):
            own = analysis.counts(ids, chosen[:, 0], experts)[: len(often)][often]
            load = np.bincount(chosen.ravel(), minlength=experts) / chosen.size
            rows.append((
                run, step, layer, float(analysis.shared_choices(chosen, last[layer]).mean()), float(np.nanmean(analysis.divergence(own, final[layer]))),
                analysis.load_balance(logits[layer], chosen), loss, load,
            ))  # fmt: skip
    names = ("run", "step", "layer", "overlap", "divergence", "balance", "loss", "load")
    return {n: np.stack([np.asarray(r[i]) for r in rows]) for i, n in enumerate(names)}


def _choices(logits: np.ndarray, top_k: int) -> np.ndarray:
    return np.argsort(-logits.astype(np.float32), axis=-1, kind="stable")[..., :top_k]


# ---- drops and what they cost -------------------------------------------------------------------------------------------


def _binned(position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (bin of each token, centre of each bin)."""
    length = int(position.max()) + 1
    bins = min(BINS, length)
    cuts = np.linspace(0, length, bins + 1)
    return np.minimum(position * bins // length, bins - 1).astype(np.int64), (cuts[:-1] + cuts[1:] - 1) / 2


def drop_curves(facts: dict[str, Any], columns: dict[str, np.ndarray], dropped: np.ndarray) -> Rows:
    """Return the dropped share by position: mean over layers and choices, with a 95 % interval over texts."""
    place, centre = _binned(columns["position"])
    rate, bins, parts = dropped.mean((0, 2)), len(centre), []
    for name, side in sides_of(facts, columns).items():
        texts, text = np.unique(columns["text"][side], return_inverse=True)
        cell = text * bins + place[side]  # one for each text and bin
        hit, tried = (np.bincount(cell, w, len(texts) * bins).reshape(-1, bins) for w in (rate[side], None))
        share = hit.sum(0) / np.maximum(1, tried.sum(0))
        half = spread_of_mean(hit / np.maximum(1, tried))
        parts.append(curve(name, centre, share, np.maximum(0, share - half), np.minimum(1, share + half)))
    return joined(parts)


def quality_curves(system: OpenMoE, free: Pass, limited: Pass) -> Rows:
    """Return the loss that the limit adds by position, for each side, with a 95 % interval over texts."""
    _, position, text, kind = system._texts.flat()
    columns = {"domain": kind.astype(str), "position": position}
    place, centre = _binned(position.reshape(system._texts.ids.shape)[0, :-1])
    added = limited.loss - free.loss
    sides = sides_of({"outside": domains.OUTSIDE}, columns)
    parts = []
    for name, side in sides.items():
        rows = np.unique(text[side])
        means = np.stack([added[np.ix_(rows, np.flatnonzero(place == b))].mean(1) for b in range(len(centre))])
        half = spread_of_mean(means.T)
        parts.append(curve(name, centre, means.mean(1), means.mean(1) - half, means.mean(1) + half))
    return joined(parts)


def added_loss(system: OpenMoE, free: Pass, limited: Pass) -> dict[str, list[float]]:
    """Return the mean added loss of each side and half its 95 % interval over texts, in the order of the curves."""
    _, position, text, kind = system._texts.flat()
    by_text = (limited.loss - free.loss).mean(1)
    sides = sides_of({"outside": domains.OUTSIDE}, {"domain": kind.astype(str), "position": position})
    rows = [by_text[np.unique(text[side])] for side in sides.values()]
    half = [float(spread_of_mean(r[:, None])[0]) if len(r) > 1 else -1.0 for r in rows]
    return {"mean": [float(r.mean()) for r in rows], "half": half}


def _write_meters(system: OpenMoE, tape: Tape, found: Routing, passes: tuple[Any, ...], served: dict[str, np.ndarray]) -> None:
    free, limited, speed = passes
    write_meter(
        tape, "throughput", 1 / speed["read"], "tokens/s, routing read", kind="speed", better="higher", baseline=1 / speed["alone"],
        baseline_name="the model alone, in turn", samples=11,
    )  # fmt: skip
    write_meter(tape, **active_meter(*parameters(system._loaded.model, found), used_share(served, found.null)))
    if limited is not None and free.loss.size:
        _write_limited(tape, free, limited)
    for row in served_meters(served, served_slots(system, found), system._k == found.top_k, found.null):
        write_meter(tape, **row)


def _write_limited(tape: Tape, free: Pass, limited: Pass) -> None:
    """Write what only the model with the limit inside can measure."""
    assert limited.dropped is not None
    write_meter(
        tape, "dropped_in_the_model", limited.dropped.mean(), "share of choices, the limit in place", kind="cost", better="lower", baseline=0.0,
        baseline_name="no limit", samples=limited.dropped.size,
    )  # fmt: skip
    write_meter(
        tape, "perplexity", float(np.exp(limited.loss.mean())), "held-out text, the limit in place", kind="quality", better="lower",
        baseline=float(np.exp(free.loss.mean())), baseline_name="no limit", samples=limited.loss.size,
    )  # fmt: skip


def parameters(model: Any, found: Routing) -> tuple[int, int]:
    """Return (all parameters, those of the routed experts)."""
    modules = dict(model.named_modules())
    blocks = [modules[name.rpartition(".")[0]] for name in found.names]
    held = (p.numel() for block in blocks for n, p in block.named_parameters() if "experts" in n and "shared" not in n)
    return sum(p.numel() for p in model.parameters()), sum(held)


def used_share(served: dict[str, np.ndarray], null: int) -> float:
    """Return the share of the experts with weights that a token goes to, mean: K / E where there are no others."""
    load = real_load(served, null)
    return float(load.sum() / load.size / served["expert"].shape[1])


def active_meter(total: int, held: int, share: float) -> dict[str, Any]:
    """Return the parameters that one token uses where it goes to a `share` of the experts."""
    return {
        "name": "active_parameters", "value": (total - held * (1 - share)) / 1e6, "unit": "M per token", "kind": "cost", "better": "lower",
        "provenance": "derived", "baseline": total / 1e6, "baseline_name": "all parameters",
    }  # fmt: skip


def served_slots(system: OpenMoE, found: Routing) -> float:
    """Return slots that are reserved, per choice (the padding of the paper's grouped products)."""
    _, _, text, kind = system._texts.flat()
    groups = analysis.groups_of(text, kind, system.group_size)
    return slots_per_choice(groups, found.experts - found.null, system._k, system.capacity_factor)


def slots_per_choice(groups: list[slice], experts: int, top_k: int, factor: float) -> float:
    """Return E * C over all groups, divided by the choices."""
    reserved = sum(experts * analysis.capacity(g.stop - g.start, experts, top_k, factor) for g in groups)
    return reserved / (top_k * sum(g.stop - g.start for g in groups))


def served_meters(served: dict[str, np.ndarray], slots: float, own_k: bool = True, null: int = 0) -> list[dict[str, Any]]:
    """Return the meters that follow from the recorded candidates for any limit: drops, imbalance, padding, weight that is kept.

    They are estimates where a layer before the last drops, or K is not the model's: routers behind it would see other inputs.
    """
    how = "derived" if own_k and not served["dropped"][:-1].any() else "estimated"
    dropped, load, weight = served["dropped"], real_load(served, null), served["weight"]
    kept = float(weight[~dropped].sum(dtype=np.float64) / weight.sum(dtype=np.float64))
    imbalance = load.max(1) / load.mean(1)
    return [
        {"name": "drop_rate", "value": dropped.mean(), "unit": "share of choices, from recorded routing", "kind": "cost", "better": "lower", "baseline": 0.0,
         "baseline_name": "no limit", "provenance": how, "samples": dropped.size},
        {"name": "load_imbalance", "value": imbalance.mean(), "unit": "x the mean load, busiest expert", "kind": "cost", "better": "lower", "baseline": 1.0,
         "baseline_name": "even load", "provenance": how, "spread": (imbalance.min(), imbalance.max())},
        {"name": "slots", "value": slots, "unit": "x the choices, reserved", "kind": "cost", "better": "lower", "baseline": 1.0,
         "baseline_name": "no padding", "provenance": "derived"},
        {"name": "kept_weight", "value": kept, "unit": "share of the routers' weight", "kind": "quality", "better": "higher", "baseline": 1.0,
         "baseline_name": "no limit", "provenance": how, "samples": dropped.size},
    ]  # fmt: skip


# ---- live knobs ---------------------------------------------------------------------------------------------------------


def derive(system: OpenMoE, record: Record) -> Columns:
    """Return choices, drops, loads and costs under another limit (numpy and one kernel; a slider waits for it)."""
    if "routing" not in record or "candidate" not in record.variables("routing"):
        return {}
    facts = dict(record.group_attrs("routing"))
    facts |= live_of(system, facts)
    refuse(facts)
    old = {n: record.column("routing", n) for n in record.variables("routing")}
    served = serve(facts, old)
    layers = {n: record.column("moe_layers", n) for n in record.variables("moe_layers")}
    groups = analysis.groups_of(old["text"], old["domain"], int(facts["group_size"]))
    null = null_of(facts)
    slots = slots_per_choice(groups, int(facts["experts"]) - null, int(facts["top_k"]), float(facts["capacity_factor"]))
    moved = any(facts[n] != facts[f"run_{n}"] for n in LIVE)
    rows = served_meters(served, slots, facts["top_k"] == facts["model_k"], null)
    if "parameters" in facts:
        rows.append(active_meter(int(facts["parameters"]), int(facts["expert_parameters"]), used_share(served, null)))
    made: dict[str, Any] = {
        "routing": old | served,
        "moe_layers": layers | _layer_columns(layers["layer"], layers["balance"], served, null),
        "curve/drops": drop_curves(facts, old, served["dropped"]),
        "meters": _replaced(record, rows, moved),
    }
    if "claims" in record:
        made["claims"] = with_claims(record, late(facts, old, served["dropped"]))
    return made | {"attrs": {"routing": facts, "curve/drops": LABELS["curve/drops"]}}


def refuse(facts: dict[str, Any]) -> None:
    """Raise `InputError` for a K that this router cannot be asked for."""
    from workbench.errors import InputError, expected

    if facts["rule"] == "own" and facts["top_k"] != facts["model_k"]:
        raise InputError(expected("top_k", f"{facts['model_k']}: this router chooses by a rule of its own", facts["top_k"]))
    if facts["top_k"] > facts["experts"]:
        raise InputError(expected("top_k", f"1 to {facts['experts']} (the model's experts)", facts["top_k"]))


def _replaced(record: Record, rows: list[dict[str, Any]], moved: bool) -> dict[str, np.ndarray]:
    """Return the meters with these rows; what only a run under the limit can measure is left empty until there is one."""
    table = {n: record.column("meters", n).copy() for n in record.variables("meters")}
    names = table["meter"].astype(str).tolist()
    table["provenance"] = table["provenance"].astype(object)
    if moved:
        for name in ("perplexity", "dropped_in_the_model"):
            if name in names:
                at = names.index(name)
                table["value"][at] = np.nan
                table["provenance"][at] = "estimated"
    for row in (r for r in rows if r["name"] in names):
        at = names.index(row["name"])
        table["value"][at], table["provenance"][at] = row["value"], row["provenance"]
        table["low"][at], table["high"][at] = row.get("spread", (np.nan, np.nan))
    table["provenance"] = np.array([str(v) for v in table["provenance"]])
    return table

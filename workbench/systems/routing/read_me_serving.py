"""How the requests of a Read-ME run are served under other rules: everything that its live knobs change."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.errors import InputError, expected
from workbench.record import Record
from workbench.system import Columns
from workbench.systems.routing import serving
from workbench.systems.routing.claims import verdict, with_claims
from workbench.systems.routing.openmoe_report import curve, groupings, joined

if TYPE_CHECKING:
    from workbench.systems.routing.read_me import ReadMe

LABELS = {
    "curve/keep": {"x_label": "share of neurons kept", "y_label": "perplexity"},
    "curve/layer_choice": {"x_label": "layer", "y_label": "share of the tokens"},
    "curve/hit_rate": {"x_label": "experts in the cache", "y_label": "uses that find their expert"},
}
#: Cache hits in per cent that the paper gives for 2 to 5 experts in the cache: reported, unverified.
REPORTED = {
    "LRU, reported": (33.90, 52.42, 66.95, 83.48),
    "Belady, reported": (44.16, 61.82, 77.21, 88.03),
}
PLAIN = "first come, LRU, nothing loaded ahead"
SERVED = ("hit_rate", "mean_ms", "p50_ms", "p95_ms", "p99_ms", "first_ms", "distinct", "bytes")
Rows = dict[str, np.ndarray]


def routed(columns: Rows, choice: np.ndarray, experts: int) -> dict[str, Rows]:
    """Return the groups of routing for one choice for all layers: one row, nothing dropped."""
    load = np.bincount(choice, minlength=experts)[None].astype(np.int64)
    share = load[0] / load.sum()
    ones = np.ones((1, len(choice), 1))
    made = {
        "routing": columns | {
            "expert": choice[None, :, None].astype(np.int16), "weight": ones.astype(np.float32), "dropped": ones < 0, "load": load, "served": load,
        },
        "moe_layers": {
            "step": np.zeros(1, np.int32), "layer": np.full(1, -1, np.int32), "balance": np.array([experts * (share**2).sum()]),
            "imbalance": np.array([share.max() * experts]), "dropped": np.zeros(1),
        },
    }  # fmt: skip
    return made | groupings(made["routing"], choice[None].astype(np.int64), experts)


def simulated(size: np.ndarray, bandwidth: float) -> np.ndarray:
    return size / (bandwidth * 1e6)


def requests_of(record: Record, router: str) -> serving.Requests:
    """Return the recorded requests as a router sends them.

    Raises:
        InputError: the record has no choices of that router.
    """
    names = [str(n) for n in record.column("traffic", "router")]
    if router not in names:
        raise InputError(expected("router", f"one of {', '.join(names)} (those of this run)", repr(router)))
    prompt, output = (record.column("traffic", n).astype(np.int64) for n in ("prompt", "output"))
    expert = np.zeros((len(prompt), int((prompt + output).max())), np.int64)
    expert[record.column("routing", "text"), record.column("routing", "position")] = record.column("traffic", "choice")[
        names.index(router)
    ]
    return serving.Requests(expert, prompt, prompt + output, record.column("traffic", "gap"))


def shared_bytes(record: Record) -> float:
    """Return the bytes of what all experts share, from those of their own parts (layers of one width)."""
    kept, shared = (record.column("masks", n).astype(np.float64) for n in ("kept", "permanent"))
    own = (kept - shared[:, None]).sum()
    if own < 1e-9:
        raise InputError(expected("permanent", "True where no expert holds a neuron of its own", False))
    return float(shared.sum() * record.column("loads", "bytes").sum() / own)


def machine_of(record: Record, loading: str, bandwidth: float, permanent: bool = True) -> serving.Machine:
    """Return the measured costs of the run, with loads as measured copies or as bytes over a bandwidth (GB/s).

    Args:
        permanent: what all experts share is not loaded; else copies take longer in proportion to the bytes.
    """
    load = (
        record.column("loads", "copied_ms")
        if loading == "measured copy"
        else simulated(record.column("loads", "bytes"), bandwidth)
    )
    if not permanent:
        load = load + shared_bytes(record) * load.sum() / record.column("loads", "bytes").sum()
    sizes, rest, expert = (record.column("service", n) for n in ("tokens", "rest_ms", "expert_ms"))
    attrs = record.group_attrs("service")
    rest = rest + sizes * float(attrs.get("router_ms_per_token", 0.0))
    return serving.Machine(sizes, rest, expert, load, int(attrs["layers"]))


def dense_of(record: Record, requests: serving.Requests, rules: serving.Rules) -> serving.Served:
    """Return the same requests served first come by the dense model: one feed-forward part for all tokens, always at hand, no router."""
    sizes, rest, dense = (record.column("service", n) for n in ("tokens", "rest_ms", "dense_ms"))
    whole = serving.Machine(sizes, rest, dense, np.zeros(1), 1)
    one = serving.Requests(requests.expert * 0, requests.prompt, requests.length, requests.gap)
    return serving.serve(one, whole, replace(rules, batching="fifo", policy="lru", cache_size=1))


def rules_of(system: ReadMe, **changed: Any) -> serving.Rules:
    """Return the knobs as rules of serving."""
    names = ("batching", "policy", "cache_size", "lookahead", "max_tokens", "arrival_rate", "prefetch", "at_hand_first", "seed")
    return serving.Rules(**{n: getattr(system, n) for n in names} | changed)


def derive(system: ReadMe, record: Record) -> Columns:
    """Return batches, hits, latencies, rivals and meters for the present rules (compiled loops; a slider waits for it)."""
    if "traffic" not in record:
        return {}
    experts = record.column("masks", "shared").shape[1]
    if system.cache_size > experts:
        raise InputError(expected("cache_size", f"1 to {experts} (the experts of this run)", system.cache_size))
    requests, machine = requests_of(record, system.router), machine_of(record, system.loading, system.bandwidth, system.permanent)
    shown = serving.serve(requests, machine, rules_of(system), keep_plans=True)
    own = record.column("loads", "bytes")
    size = own if system.permanent else own + shared_bytes(record)
    rivals = {
        (batching, policy): serving.serve(requests, machine, rules_of(system, batching=batching, policy=policy))
        for batching in serving.BATCHINGS
        for policy in dict.fromkeys(("lru", "lfu", "belady", system.policy))
    }
    plain = serving.serve(requests, machine, rules_of(system, batching="fifo", policy="lru", prefetch=False, at_hand_first=False))
    made: dict[str, Any] = {
        "batches": _batches(shown), "uses": _uses(shown),
        "strategies": _strategies(system, rivals, size), "curve/hit_rate": joined(hit_curves(shown, rules_of(system), experts)),
    }  # fmt: skip
    meters = served_meters(shown, plain, size, dense_of(record, requests, rules_of(system)))
    made["meters"] = _replaced(record, [*meters, _read_meter(record, system.router)])
    made["claims"] = with_claims(record, _served_claims(system, rivals))
    made["loads"] = {n: record.column("loads", n) for n in record.variables("loads")} | {
        "simulated_ms": simulated(own, system.bandwidth)
    }
    facts = dict(record.group_attrs("routing"))
    if facts["router"] != system.router:
        columns = {n: record.column("routing", n) for n in record.variables("routing")}
        choice = record.column("traffic", "choice")[[str(n) for n in record.column("traffic", "router")].index(system.router)]
        made |= routed(columns, choice, experts)
    rules = {
        n: getattr(system, n)
        for n in (
            "batching",
            "policy",
            "cache_size",
            "lookahead",
            "max_tokens",
            "arrival_rate",
            "prefetch",
            "permanent",
            "router",
        )
    }
    rules["lookahead"] = "queue" if system.lookahead is None else system.lookahead
    attrs = {
        "routing": facts | {"router": system.router}, "batches": rules | {"names": list(facts["names"])}, "strategies": rules,
        "curve/hit_rate": LABELS["curve/hit_rate"] | rules, "loads": {"bandwidth": float(system.bandwidth), "loading": system.loading},
    }  # fmt: skip
    return made | {"attrs": {g: a for g, a in attrs.items() if g in made}}


def _batches(served: serving.Served) -> Rows:
    return {
        "step": np.arange(len(served.tokens), dtype=np.int32), "start_ms": served.start_ms, "load_ms": served.load_ms, "compute_ms": served.compute_ms,
        "total_ms": served.total_ms, "tokens": served.tokens, "distinct": served.distinct, "waiting": served.waiting, "resident": served.resident,
    }  # fmt: skip


def _uses(served: serving.Served) -> Rows:
    return {
        "step": served.use_batch, "expert": served.use_expert, "tokens": served.use_tokens, "hit": served.hit, "evicted": served.evicted,
    }  # fmt: skip


def _summary(served: serving.Served, size: np.ndarray) -> tuple[float, ...]:
    """Return the figures of `SERVED` of one simulation."""
    late = served.latency_ms
    moved = size[served.use_expert[~served.hit]].sum() / served.tokens.sum()
    first = float((served.first_ms - served.arrival_ms).mean())
    return (
        served.hit_rate,
        float(late.mean()),
        *np.percentile(late, [50, 95, 99]).tolist(),
        first,
        float(served.distinct.mean()),
        float(moved),
    )


def _strategies(system: ReadMe, rivals: dict[tuple[str, str], serving.Served], size: np.ndarray) -> Rows:
    rows = [(*names, *_summary(served, size), names == (system.batching, system.policy)) for names, served in rivals.items()]
    return {n: np.array([r[i] for r in rows]) for i, n in enumerate(("batching", "policy", *SERVED, "shown"))}


def hit_curves(served: serving.Served, rules: serving.Rules, experts: int) -> list[Rows]:
    """Return hit rates by cache size on the batches of one simulation: each policy, the bound, and what is known without running it."""
    sizes, uses = np.arange(1, experts + 1), served.use_expert
    found = []
    for name, policy in (("Belady, as far as the queue tells", "belady"), ("LRU", "lru"), ("LFU", "lfu"), ("random", "random")):
        rate = [serving.replay(served, replace(rules, policy=policy, cache_size=int(k)), experts).mean() for k in sizes]
        found.append(curve(name, sizes, rate))
    batch = served.use_batch if rules.at_hand_first else None
    if not rules.at_hand_first:
        free = [replace(rules, policy="lru", cache_size=int(k), at_hand_first=True) for k in sizes]
        found.append(curve("LRU, experts at hand first", sizes, [serving.replay(served, r, experts).mean() for r in free]))
    found.append(
        curve("the most any cache can hit", sizes, [serving.most_hits(uses, int(k), experts, batch) / len(uses) for k in sizes])
    )
    found.append(curve("even independent draws, LRU", sizes, sizes / experts))
    return found + [curve(name, np.arange(2, 6), np.array(values) / 100) for name, values in REPORTED.items()]


# ---- meters and claims of serving ------------------------------------------------------------------------------------------------


def _speed(served: serving.Served) -> float:
    """Return tokens a second, from the first arrival to the last token."""
    return float(1e3 * served.tokens.sum() / (served.start_ms[-1] + served.total_ms[-1] - served.arrival_ms[0]))


def served_meters(
    shown: serving.Served | None = None,
    plain: serving.Served | None = None,
    size: np.ndarray | None = None,
    dense: serving.Served | None = None,
) -> list[dict[str, Any]]:
    """Return the meters of a simulation beside the dense model's and beside plain serving; empty ones before there is any."""
    mine = other = (np.nan,) * len(SERVED)
    speed = (np.nan, np.nan)
    if shown is not None and plain is not None and size is not None and dense is not None:
        mine, other, speed = _summary(shown, size), _summary(plain, size), (_speed(shown), _speed(dense))
    both = dict(zip(SERVED, zip(mine, other)))
    rows = (
        ("throughput", *speed, "tokens/s", "speed", "higher", "the dense model, first come"),
        ("p95_latency", *both["p95_ms"], "ms of a request", "speed", "lower", PLAIN),
        ("loaded", *(b / 1e6 for b in both["bytes"]), "MB / token", "cost", "lower", PLAIN),
        ("experts_of_a_batch", *both["distinct"], "experts, mean", "cost", "lower", PLAIN),
        ("hit_rate", *both["hit_rate"], "share of uses", "quality", "higher", PLAIN),
    )
    names = ("name", "value", "baseline", "unit", "kind", "better", "baseline_name")
    return [dict(zip(names, r)) | {"provenance": "predicted"} for r in rows]


def _read_meter(record: Record, router: str) -> dict[str, Any]:
    """Return the perplexity that was measured with a router's experts."""
    kind, reader = (np.array([str(v) for v in record.column("perplexity", n)]) for n in ("kind", "reader"))
    at = int(np.flatnonzero((kind == "all kinds") & (reader == router))[0])
    value, low, high = (float(record.column("perplexity", n)[at]) for n in ("value", "low", "high"))
    return {"name": "perplexity", "value": value, "spread": (low, high)}


def _replaced(record: Record, rows: list[dict[str, Any]]) -> Rows:
    """Return the meters with these rows' figures."""
    table = {n: record.column("meters", n).copy() for n in record.variables("meters")}
    names = table["meter"].astype(str).tolist()
    for row in rows:
        at = names.index(row["name"])
        table["value"][at] = row["value"]
        if "baseline" in row:
            table["baseline"][at] = row["baseline"]
        table["low"][at], table["high"][at] = row.get("spread", (np.nan, np.nan))
    return table


def _served_claims(system: ReadMe, rivals: dict[tuple[str, str], serving.Served]) -> list[tuple[Any, ...]]:
    """Return what the simulation under the present rules says about the paper's statements on serving."""
    aware, first = rivals["expert-aware", "belady"], rivals["fifo", "belady"]
    least, plain = float(aware.distinct.mean()), float(first.distinct.mean())
    knows, lru = aware.hit_rate, rivals["expert-aware", "lru"].hit_rate
    late = {names: float(np.percentile(s.latency_ms, 95)) for names, s in rivals.items()}
    ours, same = late["expert-aware", "belady"], min(v for (b, p), v in late.items() if b != "expert-aware" and p == "belady")
    whole = late["fifo", "lru"]
    where = f"cache of {system.cache_size}, {system.arrival_rate:g} requests/s"
    none = (np.nan, np.nan)
    return [
        ("batches by expert need fewer experts", f"experts of a batch, {least:.2f}, over {plain:.2f} of first come, {where} (holds below 0.9; the paper reports 3.51 and 5.08, unverified)",
         least / plain, *none, 1.0, "first come", verdict(least < 0.9 * plain, least >= plain)),
        ("knowing the queue saves loads", f"uses that hit, {where} (holds 2 points above; the paper's gain is of another stream)", knows, *none, lru,
         "LRU, same batching", verdict(knows > lru + 0.02, knows <= lru)),
        ("batches by expert shorten the tail", f"95th percentile of latency over the best other batching's, {where} (holds below 0.95; the paper reports 0.90, unverified)", ours / same,
         *none, 1.0, "same cache, other batches", verdict(ours / same < 0.95, ours >= same)),
        ("batching and cache together shorten it", f"95th percentile of latency over first come with LRU, {where} (holds below 0.95)", ours / whole,
         *none, 1.0, "first come with LRU", verdict(ours / whole < 0.95, ours >= whole)),
    ]  # fmt: skip

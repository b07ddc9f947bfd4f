"""What a ZipVL run writes, and what a new tau makes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.instruments import taps
from workbench.meters import write_meter, write_reported
from workbench.record import Record
from workbench.system import Columns
from workbench.systems.attention.packed_cache import account

if TYPE_CHECKING:
    from workbench.instruments.attention import Attention
    from workbench.systems.attention.packed_cache import LayerCache
    from workbench.systems.attention.zipvl import Prefill, ZipVL
    from workbench.tape import Tape

GRID = 65  # points of a cumulative curve
LABELS = {
    "curve/ratio": {"x_label": "layer", "y_label": "share of the tokens kept"},
    "curve/cache_bytes": {"x_label": "layer", "y_label": "bytes of keys and values"},
    "curve/sorted_mass": {"x_label": "share of the tokens, heaviest first", "y_label": "share of the attention they hold"},
    "curve/divergence": {"x_label": "token after the prompt", "y_label": "divergence from the dense run, nats"},
}


def write(
    system: ZipVL,
    tape: Tape,
    runs: tuple[Prefill, Prefill],
    packed: list[LayerCache],
    pooled: Attention,
    compared: tuple[Any, ...],
) -> None:
    """Write every group of a run: `runs` are the dense and the sparse prefill, `compared` is (tokens, dense, sparse logits)."""
    dense, sparse = runs
    keep, mass = np.stack(sparse.keep), np.stack(sparse.mass)
    pieces = np.array(system._loaded.pieces(system._ids.tolist()))
    tape.write(
        "attention", mass=pooled.mass, token_score=np.stack(sparse.score), keep=keep, keep_ratio=keep.mean(1), token_mass=mass,
        sink_share=pooled.sink_share, piece=pieces,
    )  # fmt: skip
    facts = _facts(system, packed)
    tape.describe("attention", **facts)
    _write_detail(tape, pooled)
    if system._glance is not None:
        _write_picture(system, tape, sparse, compared)
    _check_bytes(packed, keep, facts)
    _write_text(system, tape, pieces, compared)
    _write_times(tape, dense, sparse, keep.shape[1])
    _write_quality(tape, compared)
    for meter in _cost_meters(keep, facts):
        write_meter(tape, **meter)
    write_reported(tape, *REPORTED)
    curves = _curves(keep, mass, facts, system.tau) | {"curve/sorted_mass": _sorted_mass(mass)}
    for group, columns in curves.items():
        tape.write(group, **columns)
        tape.describe(group, **LABELS[group])


def _write_detail(tape: Tape, pooled: Attention) -> None:
    """Write who looks at every token, and the one layer whose heads can be drawn at any detail."""
    tape.write("readers", received=np.sqrt(np.nan_to_num(pooled.readers) * 255**2).round().clip(0, 255).astype(np.uint8))
    for layer, (query, key, log_sum) in pooled.heads_of.items():
        tape.write("heads", query=query, key=key, log_sum=log_sum)
        tape.describe("heads", layer=layer, window=pooled.window_of[layer] or 0, softcap=pooled.softcap_of[layer] or 0.0)


def _write_picture(system: ZipVL, tape: Tape, sparse: Prefill, compared: tuple[Any, ...]) -> None:
    """Write what each layer keeps of the picture; unlike with methods that drop tokens, they may come back."""
    from workbench.systems.attention.pictures_report import write_picture

    glance, (tokens, _, logits) = system._glance, compared
    part = slice(glance.first, glance.first + glance.patches)
    words = system._loaded.tokenizer.convert_ids_to_tokens
    write_picture(
        tape, system._shown, np.stack(sparse.score)[:, part], np.stack(sparse.keep)[:, part], grid=glance.grid, said=words(int(logits[0].argmax())),
        said_dense=words(int(tokens[0])), first=glance.first, returns=True,
    )  # fmt: skip


def layer_macs(inner: Any, layers: int) -> int:
    """Return the multiplications with weights that a layer makes for one token, on average; of a mixture only the chosen experts."""
    from workbench.instruments import router

    weights = [(n, p) for n, p in inner.named_parameters() if p.ndim > 1 and "embed" not in n and not n.startswith("w")]
    routed = [p.numel() for n, p in weights if ".experts." in n and "shared" not in n]
    if routed:
        found = router.capture(inner, [0])
        idle = sum(routed) * (1 - found.top_k / found.experts)
    else:
        idle = 0.0
    return round((sum(p.numel() for _, p in weights) - idle) / layers)


def _facts(system: ZipVL, packed: list[LayerCache]) -> dict[str, Any]:
    """Return what `derive` needs besides the arrays."""
    inner = taps.decoder(system._loaded.model)
    return {
        "probes": len(system._probes), "forced": system._forced, "run_tau": system.tau, "tau": system.tau, "count_sink": system.count_sink, "skip": system.skip, "others": system.others,
        "bits_high": system.bits_high, "bits_low": system.bits_low, "channels": packed[0].keys[0].shape[1],
        "width": int(inner.config.hidden_size), "layer_macs": layer_macs(inner, len(packed)),
        "fixed_ratio": -1.0 if system.fixed_ratio is None else system.fixed_ratio,
    }  # fmt: skip


def _check_bytes(packed: list[LayerCache], keep: np.ndarray, facts: dict[str, Any]) -> None:
    """Raise if the bytes that are stored are not those of the formula that `derive` uses for other values of tau."""
    bits = (int(facts["bits_high"]), int(facts["bits_low"]))
    for cache, kept in zip(packed, keep):
        if cache.nbytes() != account(len(kept), int(kept.sum()), int(facts["channels"]), bits):
            raise AssertionError("the packed cache does not have the bytes that its formula says")


def _write_text(system: ZipVL, tape: Tape, pieces: np.ndarray, compared: tuple[Any, ...]) -> None:
    tokens, truth, logits = compared
    same = logits.argmax(-1).numpy() == truth.argmax(-1).numpy()
    tape.write("text", token_id=system._ids.astype(np.int32), piece=pieces, generated=False, step=-1, source="prompt")
    tape.write(
        "text", token_id=np.array(tokens, np.int32), piece=np.array(system._loaded.pieces(tokens)), generated=True,
        step=np.arange(len(tokens), dtype=np.int32), source=np.where(same, "agrees", "differs"),
    )  # fmt: skip


REPORTED = (
    ("kept share", 0.528, "share of tokens, LLaVA-v1.5-7B, tau 0.975", "cost", "lower", 1.0, "dense"),
    ("prefill", 2.6, "x dense, LongVA-7B", "speed", "higher", 1.0, "dense"),
)


def _write_times(tape: Tape, dense: Prefill, sparse: Prefill, length: int) -> None:
    write_meter(
        tape, "prefill", length / sparse.seconds, "tokens/s", kind="speed", better="higher", baseline=length / dense.seconds,
        baseline_name="dense prefill, same text, same run", spread=(length / max(sparse.times), length / min(sparse.times)), samples=len(sparse.times),
    )  # fmt: skip
    write_meter(
        tape, "attention_time", sum(sparse.attention_ms) + sum(sparse.probe_ms), "ms", kind="cost", better="lower",
        baseline=sum(dense.attention_ms), baseline_name="dense attention", samples=len(sparse.keep),
    )  # fmt: skip
    write_meter(tape, "probe_time", sum(sparse.probe_ms), "ms", kind="cost", better="lower", samples=len(sparse.keep))


def _write_quality(tape: Tape, compared: tuple[Any, ...]) -> None:
    import torch

    tokens, truth, logits = compared
    log_p, log_q = truth.log_softmax(-1), logits.log_softmax(-1)
    divergence = (log_p.exp() * (log_p - log_q)).sum(-1).clamp(min=0).numpy().astype(np.float64)
    ours, theirs = (law.argmax(-1).numpy() for law in (logits, truth))
    same = (ours == theirs).astype(float)
    write_meter(
        tape, "next_token_agreement", same.mean(), "1 = every token", kind="quality", better="higher", baseline=1.0,
        baseline_name="dense run", samples=len(tokens),
    )  # fmt: skip
    write_meter(
        tape, "words_right", (ours == np.array(tokens)).mean(), "of the compared words named first", kind="quality", better="higher",
        baseline=(theirs == np.array(tokens)).mean(), baseline_name="dense run", samples=len(tokens),
    )  # fmt: skip
    ids = torch.tensor(tokens)[:, None]
    surprise, dense = (float(-law.gather(1, ids).mean()) for law in (log_q, log_p))
    write_meter(
        tape, "perplexity", float(np.exp(surprise)), "on the compared words", kind="quality", better="lower", baseline=float(np.exp(dense)),
        baseline_name="dense run", samples=len(tokens),
    )  # fmt: skip
    low, high = np.percentile(divergence, [10, 90])
    write_meter(
        tape, "divergence", divergence.mean(), "nats / token", kind="quality", better="lower", baseline=0.0, baseline_name="dense run",
        spread=(low, high), samples=len(tokens),
    )  # fmt: skip
    tape.write(
        "curve/divergence",
        curve="this run against dense",
        x=np.arange(1.0, len(tokens) + 1),
        y=divergence,
        y_low=np.nan,
        y_high=np.nan,
    )
    tape.describe("curve/divergence", **LABELS["curve/divergence"])


def _sorted_mass(mass: np.ndarray) -> dict[str, Any]:
    """Return the cumulative mass of every layer, heaviest token first, at evenly spaced shares of the tokens."""
    held = np.cumsum(-np.sort(-mass.astype(np.float64), axis=1), axis=1)
    held = np.concatenate([np.zeros((len(mass), 1)), held], 1) / held[:, -1:]
    at = np.unique(np.r_[0 : min(12, held.shape[1]), np.linspace(0, held.shape[1] - 1, GRID).astype(int)])
    count = len(at)
    return {
        "curve": np.repeat([f"layer {i}" for i in range(len(mass))], count),
        "x": np.tile(at / mass.shape[1], len(mass)), "y": held[:, at].reshape(-1), "y_low": np.nan, "y_high": np.nan,
    }  # fmt: skip


def _stacked(curves: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    layers = len(next(iter(curves.values())))
    rows = layers * len(curves)
    return {
        "curve": np.repeat(list(curves), layers), "x": np.tile(np.arange(layers, dtype=float), len(curves)),
        "y": np.concatenate([np.asarray(c, float) for c in curves.values()]), "y_low": np.full(rows, np.nan), "y_high": np.full(rows, np.nan),
    }  # fmt: skip


def _curves(keep: np.ndarray, mass: np.ndarray, facts: dict[str, Any], tau: float) -> dict[str, dict[str, np.ndarray]]:
    """Return ratio and bytes by layer."""
    from workbench.systems.attention.zipvl import smallest_count

    length = keep.shape[1]
    bytes_ = np.array([_layer_bytes(int(k.sum()), length, facts) for k in keep])
    ratios = {"kept": keep.mean(1)}
    if facts["fixed_ratio"] < 0:
        ratios["needed without the first token"] = np.array([smallest_count(m[1:], tau) / length for m in mass])
    names = ("important tokens", "other tokens", "parameters")
    return {
        "curve/ratio": _stacked(ratios),
        "curve/cache_bytes": _stacked({n: bytes_[:, i] for i, n in enumerate(names)} | {"fp16, dense": np.full(len(keep), 4.0 * length * facts["channels"])}),
    }  # fmt: skip


def _layer_bytes(kept: int, length: int, facts: dict[str, Any]) -> tuple[int, int, int]:
    bits = (int(facts["bits_high"]), int(facts["bits_low"]))
    if facts["others"] == "evict":
        return account(kept, kept, int(facts["channels"]), bits)
    return account(length, kept, int(facts["channels"]), bits)


def _cost_meters(keep: np.ndarray, facts: dict[str, Any], replayed: bool = False) -> list[dict[str, Any]]:
    """Return what a choice of tokens costs. Away from the run's own choice the mass was seen under another one: estimated."""
    length, r = keep.shape[1], keep.mean(1).astype(np.float64)
    own = "estimated" if replayed else "derived"
    work = (r * r if facts["skip"] == "queries" else r).mean() + facts["probes"] / length
    # per token of a layer: the products with weights, and causal attention: scores and sum over half the keys each
    share = length * facts["width"] / (length * facts["width"] + facts["layer_macs"])
    stored = sum(sum(_layer_bytes(int(k.sum()), length, facts)) for k in keep)
    dense = 4.0 * length * facts["channels"] * len(keep)
    common = {"provenance": own, "samples": len(keep)}
    return [
        {"name": "kept_share", "value": r.mean(), "unit": "share of tokens, mean over layers", "kind": "cost", "better": "lower",
         "baseline": 1.0, "baseline_name": "dense", "spread": (r.min(), r.max()), **common},
        {"name": "attention_work", "value": work, "unit": "of dense multiplications, probes included", "kind": "cost", "better": "lower",
         "baseline": 1.0, "baseline_name": "dense", **common},
        {"name": "largest_possible_gain", "value": 1 / (1 - share * (1 - min(work, 1.0))), "unit": "x dense prefill, by operations", "kind": "speed",
         "better": "higher", "baseline": 1.0, "baseline_name": "dense", **common},
        {"name": "cache_bytes", "value": stored / 1e6, "unit": "MB", "kind": "cost", "better": "lower", "baseline": dense / 1e6,
         "baseline_name": "fp16, dense", **common},
    ]  # fmt: skip


def derive(system: ZipVL, record: Record) -> Columns:
    """Return the kept sets, ratios, bytes and costs of another tau (numpy only; a slider waits for it)."""
    from workbench.systems.attention.zipvl import important, needed

    if "attention" not in record or "token_mass" not in record.variables("attention"):
        return {}
    facts = dict(record.group_attrs("attention"))
    if facts["fixed_ratio"] >= 0:
        return {}
    old = {name: record.column("attention", name) for name in record.variables("attention")}
    mass, score = old["token_mass"], old["token_score"]
    sink, forced = bool(system.count_sink), int(facts["forced"])
    keep = np.stack([important(s, needed(m, system.tau, sink), forced, sink=not sink) for m, s in zip(mass, score)])
    groups = {"attention": old | {"keep": keep, "keep_ratio": keep.mean(1).astype(np.float32)}}
    groups |= _curves(keep, mass, facts, system.tau)
    replayed = (system.tau, sink) != (facts["run_tau"], bool(facts["count_sink"]))
    groups["meters"] = _replaced(record, _cost_meters(keep, facts, replayed), known=not replayed)
    if "patches" in record:
        first = int(record.group_attrs("patches")["first"])
        patches = {n: record.column("patches", n) for n in record.variables("patches")}
        groups["patches"] = patches | {"keep": keep[:, first : first + patches["keep"].shape[1]]}
    attrs: dict[str, Any] = {name: LABELS[name] for name in ("curve/ratio", "curve/cache_bytes")}
    return {**groups, "attrs": attrs | {"attention": facts | {"tau": system.tau, "replayed": replayed}}}


def _replaced(record: Record, rows: list[dict[str, Any]], known: bool) -> dict[str, np.ndarray]:
    """Return the recorded meters with these rows in the place of those of the same name.

    Under another tau (not `known`) speed and quality must be measured again: they are left empty until the true run.
    """
    table = {name: record.column("meters", name).copy() for name in record.variables("meters")}
    names = table["meter"].astype(str).tolist()
    table["provenance"] = table["provenance"].astype(object)
    if not known:
        own = table["provenance"] != "reported"
        for column in ("value", "low", "high"):
            table[column][own] = np.nan
        table["provenance"][own] = "estimated"
    for row in rows:
        at = names.index(row["name"])
        table["value"][at], table["provenance"][at] = row["value"], row["provenance"]
        table["low"][at], table["high"][at] = row.get("spread", (np.nan, np.nan))
    table["provenance"] = np.array([str(v) for v in table["provenance"]])
    return table

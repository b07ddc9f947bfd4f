"""Groups of Read-ME for tests of views: requests that switch experts now and then, served by the system's own simulation."""

from __future__ import annotations

from typing import Any

import numpy as np

from workbench.systems.routing import experts as cut
from workbench.systems.routing import read_me_serving as report
from workbench.systems.routing import serving
from workbench.systems.routing.openmoe_report import curve, joined

KINDS, LAYERS = ("play", "code", "style <b>&"), 4
READERS = ("dense", "learned", "domain", "table", "random", "another kind's", "random neurons", *(f"only {k}" for k in KINDS))


class Rules:
    """Stands for a system's live knobs."""

    batching, policy, cache_size, lookahead, max_tokens, arrival_rate, prefetch, at_hand_first, seed = (
        "expert-aware",
        "belady",
        2,
        8,
        16,
        20.0,
        True,
        False,
        0,
    )


def requests(seed: int) -> serving.Requests:
    """Return ten requests over three experts."""
    rng = np.random.default_rng(seed)
    expert = rng.integers(0, 3, (10, 12)).repeat(2, 1)
    prompt, output = rng.integers(2, 12, 10), rng.integers(1, 12, 10)
    return serving.Requests(expert, prompt, prompt + output, rng.exponential(1.0, 10))


def groups(seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return every group that the views of Read-ME draw, and their attributes."""
    rng, size = np.random.default_rng(seed), np.array([4_000_000, 5_000_000, 6_000_000])
    machine = serving.Machine(np.array([1, 16, 256]), np.array([3.0, 8, 60]), np.array([1.0, 4, 30]), size / 1e6, LAYERS)
    rivals = {
        (b, p): serving.serve(requests(seed), machine, report.rules_of(Rules, batching=b, policy=p))  # type: ignore[arg-type]
        for b in serving.BATCHINGS
        for p in ("lru", "lfu", "belady")
    }
    shown = serving.serve(requests(seed), machine, report.rules_of(Rules), keep_plans=True)  # type: ignore[arg-type]
    chosen = cut.masks(rng.random((LAYERS, 3, 40)), 0.5)
    rows = [
        (k, r, *(v := 8.0 + i + 3 * j, v - 1, v + 1)) for i, k in enumerate((*KINDS, "all kinds")) for j, r in enumerate(READERS)
    ]
    names = ("kind", "reader", "value", "low", "high")
    layers = np.arange(LAYERS)
    made: dict[str, Any] = {
        "batches": report._batches(shown),
        "uses": report._uses(shown),
        "strategies": report._strategies(Rules, rivals, size),  # type: ignore[arg-type]
        "curve/hit_rate": joined(report.hit_curves(shown, report.rules_of(Rules), 3)),
        "perplexity": {n: np.array([r[i] for r in rows]) for i, n in enumerate(names)},
        "curve/keep": joined([
            curve(name, np.array([0.25, 0.5, 1.0]), np.array(y), np.array(y) - 1, np.array(y) + 1)
            for name, y in (("own kind's expert", [40.0, 15, 9]), ("random neurons", [900.0, 300, 9]))
        ]),
        "masks": {
            "name": np.array(KINDS), "shared": cut.shared_share(chosen), "permanent": cut.permanent(chosen).mean(-1), "kept": chosen.mean(-1),
        },
        "curve/layer_choice": joined([
            curve("the learned router's choice", layers, np.full(LAYERS, 0.7), np.full(LAYERS, 0.6), np.full(LAYERS, 0.8)),
            curve("the layer before's own choice", layers[1:], np.full(LAYERS - 1, 0.8), np.full(LAYERS - 1, 0.7), np.full(LAYERS - 1, 0.9)),
            curve("always the layer's commonest", layers, np.full(LAYERS, 0.4)),
        ]),
        "service": {"tokens": np.array([1, 16, 256]), "rest_ms": machine.rest_ms, "expert_ms": machine.expert_ms, "dense_ms": machine.expert_ms * 2},
        "loads": {
            "name": np.array(KINDS), "bytes": size, "copied_ms": size / 8e6, "copied_low": size / 9e6, "copied_high": size / 7e6, "simulated_ms": size / 1e6,
        },
    }  # fmt: skip
    attrs = {
        "batches": {"names": list(KINDS), "batching": "expert-aware", "policy": "belady", "cache_size": 2}, "curve/keep": report.LABELS["curve/keep"] | {"dense": 9.0, "keep": 0.5},
        "curve/hit_rate": report.LABELS["curve/hit_rate"] | {"cache_size": 2}, "curve/layer_choice": report.LABELS["curve/layer_choice"], "loads": {"bandwidth": 1.0}, "masks": {"keep": 0.5},
        "service": {"layers": LAYERS},
    }  # fmt: skip
    return made, attrs

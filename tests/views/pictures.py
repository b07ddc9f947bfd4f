"""Groups of the pruning papers for tests of views: numbers that a small pruned attention really has."""

from __future__ import annotations

from typing import Any

import numpy as np

from workbench.systems.attention import schedules
from workbench.systems.attention.atp_llava import survivors
from workbench.systems.attention.g_search import kept_of

LAYERS, SIDE, QUESTIONS = 4, 4, 30


def heads(seed: int, length: int = 40, layer: int = 1) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return random queries and keys of two heads, the log-sums of their scores, and who looks at every token."""
    rng = np.random.default_rng(seed)
    query, key = rng.standard_normal((2, length, 8)).astype(np.float32), rng.standard_normal((1, length, 8)).astype(np.float32)
    scores = np.where(np.tri(length, dtype=bool), query @ key[0].T, -np.inf)
    log_sum = np.log(np.exp(scores).sum(-1)).astype(np.float32)
    law = np.exp(scores - log_sum[..., None]).mean(0)
    pooled = law.reshape(10, length // 10, length).mean(1)
    received = np.sqrt(np.stack([pooled] * 3) * 255**2).round().astype(np.uint8)
    return {"heads": {"query": query, "key": key, "log_sum": log_sum}, "readers": {"received": received}}, {
        "heads": {"layer": layer}
    }


def groups(seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return every group that the views of picture pruning draw, and their attributes."""
    rng, patches = np.random.default_rng(seed), SIDE * SIDE
    score = rng.dirichlet(np.full(patches, 0.3), LAYERS).astype(np.float32)
    counts = [16, 9, 4, 2]
    scores = rng.random((2, QUESTIONS, patches)).astype(np.float32)
    spatial = np.where(np.arange(patches) % 3 == 0, 0.25, -100).astype(np.float32)
    seen = {
        "theta_r": rng.uniform(0.4, 0.9, (2, QUESTIONS)),
        "theta_s": rng.uniform(0.1, 0.6, (2, QUESTIONS)),
        "redundancy": scores,
        "spatial": np.stack([spatial] * 2),
    }
    kept, codes = survivors(seen, 0.0, 0.0, "both")
    tokens = np.stack([np.full(QUESTIONS, patches), *kept.sum(-1), kept[-1].sum(-1)])
    reason = np.concatenate([np.ones((2, patches), np.int8), codes[:, 0]])
    keep = kept_of(score, counts)
    tau = np.mean([schedules.kendall(rng.random((LAYERS, patches))) for _ in range(5)], 0).astype(np.float32)
    lines = [("this run", i + 1.0, float(c)) for i, c in enumerate(counts)] + [
        ("uniform", i + 1.0, 16.0 if not i else 5.0) for i in range(LAYERS)
    ]
    right = [
        ("this run", 0.48, 0.8),
        ("all picture tokens", 1.0, 0.9),
        ("chance", 0.3, 0.3),
        ("chance", 0.6, 0.6),
        ("same share in every layer", 0.5, 0.7),
    ]
    tried = [("passes", 2.0, 9.0), ("loses too much", 2.0, 8.0), ("passes", 3.0, 4.0)]

    def curve(rows: list[tuple[str, float, float]], spread: float = np.nan) -> dict[str, Any]:
        y = np.array([r[2] for r in rows])
        return {
            "curve": np.array([r[0] for r in rows]),
            "x": np.array([r[1] for r in rows]),
            "y": y,
            "y_low": y - spread,
            "y_high": y + spread,
        }

    made = {
        "image": {"pixels": rng.integers(0, 255, (32, 32, 3), np.uint8)},
        "patches": {"score": score, "keep": keep, "reason": (reason * keep).astype(np.int8), "asked": np.arange(patches) == 5},
        "thresholds/exam": {"layer": np.array([0, 1], np.int32), **{k: v.astype(np.float32) for k, v in seen.items()}, "kind": np.array(["colour", "count", "name"] * 10), "right": rng.random(QUESTIONS) < 0.7, "kept": tokens.mean(0).astype(np.float32)},
        "maps/rank_agreement": {"tau": tau, "shared_top": np.abs(tau)},
        "curve/schedule": curve(lines), "curve/accuracy": curve(right, 0.05), "curve/search": curve(tried),
    }  # fmt: skip
    attrs = {
        "patches": {
            "rows": SIDE,
            "columns": SIDE,
            "question": "colour of 7",
            "answer": "red",
            "said": "red",
            "said_dense": "red",
        },
        "maps/rank_agreement": {"samples": 5, "tokens": patches},
        "curve/schedule": {"x_label": "layer", "y_label": "picture tokens"},
        "curve/accuracy": {"x_label": "picture tokens kept, mean over layers", "y_label": "right answers"},
        "curve/search": {"x_label": "layer", "y_label": "picture tokens tried", "wanted": 80.0, "evaluations": 3},
    }
    return made, attrs

"""Groups of routing for tests of views: a router that reads token ids, served under a capacity by the system's own functions."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from workbench.systems.routing import analysis, openmoe_report

LAYERS, EXPERTS, TEXTS, LENGTH, IDS = 2, 4, 6, 16, 12


def groups(
    seed: int, layers: int = LAYERS, experts: int = EXPERTS, length: int = LENGTH
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return every group that the views of routing draw, and their attributes."""
    rng, tokens = np.random.default_rng(seed), TEXTS * length
    ids = rng.integers(0, IDS, tokens)
    taste = 2 * rng.standard_normal((layers, IDS, experts), np.float32)
    probability = analysis.softmax(taste[:, ids] + rng.standard_normal((layers, tokens, experts), np.float32) / 2)
    candidate = np.argsort(-probability, -1)[..., :8].astype(np.int16)
    kind = np.repeat(["play", "play", "code", "code", "cipher", "cipher"], length)
    columns = {
        "token_id": ids.astype(np.int32), "position": np.tile(np.arange(length, dtype=np.int32), TEXTS), "text": np.repeat(np.arange(TEXTS, dtype=np.int32), length),
        "domain": kind.astype(object), "piece": np.array([f" w{i}" if i else " <b>&" for i in ids], object), "candidate": candidate,
        "probability": np.take_along_axis(probability, candidate.astype(np.int64), -1).astype(np.float32),
    }  # fmt: skip
    facts = {
        "experts": experts, "rule": "softmax", "model_k": 2, "outside": ["cipher"], "seed": seed, "capacity_factor": 1.0, "order": "token", "top_k": 2, "group_size": 1,
        "run_capacity_factor": 1.0, "run_order": "token", "run_top_k": 2, "run_group_size": 1,
    }  # fmt: skip
    served = openmoe_report.serve(facts, columns)
    first = candidate[..., 0].astype(np.int64)
    made: dict[str, Any] = {
        "routing": columns | served,
        "moe_layers": openmoe_report._layer_columns(1 + 2 * np.arange(layers), np.linspace(2.1, 2.4, layers), served, 0),
        "transition": {
            "share": np.stack([analysis.transitions(a, b, experts) for a, b in itertools.pairwise(first)]).astype(np.float32)
        },
        "layer_overlap": {"told": analysis.told(first, experts).astype(np.float32)},
        "curve/drops": openmoe_report.drop_curves(facts, columns, served["dropped"]),
        "training": training(),
        "claims": claims(),
    }
    made["curve/drop_quality"] = made["curve/drops"]
    made["curve/information"] = openmoe_report.joined([
        openmoe_report.curve(name, 1 + 2 * np.arange(layers), np.full(layers, y), y - 0.05, y + 0.05) for name, y in (("token id", 0.8), ("position", 0.01), ("token id, chance", 0.1), ("position, the id given", 0.05))
    ])  # fmt: skip
    kinds = np.unique(kind, return_inverse=True)
    for name, names, value in (
        ("domain", kinds[0], kinds[1]),
        ("position", [str(i) for i in range(8)], columns["position"].astype(np.int64) * 8 // length),
        ("token", [f" w{i}" for i in range(IDS)], ids),
    ):
        tables = np.stack([np.bincount(value * experts + f, minlength=len(names) * experts).reshape(-1, experts) for f in first])
        share = tables / np.maximum(1, tables.sum(-1, keepdims=True))
        made[f"grouping/{name}"] = {
            "name": np.array([str(n) for n in names], object),
            "share": share.astype(np.float32),
            "occurrences": tables[0].sum(-1),
        }
    return made, {"routing": facts, "training": {"chance": 0.5}, **openmoe_report.LABELS}


def training() -> dict[str, np.ndarray]:
    """Return a router that settles over five steps, with and without its losses."""
    rows = [
        (run, step, layer, min(1.0, 0.4 + 0.15 * i), 0.3 / (i + 1), 2.0, 6.0 - i, np.full(EXPERTS, 0.25))
        for run in ("with router losses", "without")
        for i, step in enumerate((8, 20, 60, 200, 600))
        for layer in range(LAYERS)
    ]
    names = ("run", "step", "layer", "overlap", "divergence", "balance", "loss", "load")
    return {n: np.stack([np.asarray(r[i]) for r in rows]) for i, n in enumerate(names)}


def claims() -> dict[str, np.ndarray]:
    """Return one claim of each verdict."""
    rows = [
        ("experts follow ids", "share", 0.8, 0.7, 0.9, 0.1, "the kind explains", "holds"),
        ("early", "overlap", 0.3, np.nan, np.nan, 0.25, "chance", "fails"),
        ("late <b>", "drops", 0.2, 0.1, 0.3, 0.2, "early", "unclear"),
    ]
    names = ("claim", "measure", "value", "low", "high", "compared", "compared_name", "verdict")
    return {n: np.array([r[i] for r in rows]) for i, n in enumerate(names)}

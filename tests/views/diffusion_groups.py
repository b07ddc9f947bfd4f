"""Groups of the diffusion papers for tests of views: what small exact laws really give, stretched over twelve rounds."""

from __future__ import annotations

from typing import Any

import numpy as np

from workbench.systems.diffusion import bounds, study
from workbench.systems.diffusion.problems import task_entropies
from workbench.systems.diffusion.report import joined, rows

ROUNDS, LENGTH = 12, 14
WORDS = ("the", "old", "king", "rides", "from", "New", "York", "to", "Cape", "Town", ".", "he", "<b>", "​")


def film(seed: int) -> dict[str, Any]:
    """Return one film: a confidence for every hidden position, one or two decided in each round."""
    rng = np.random.default_rng(seed)
    commit = rng.permutation(np.r_[np.arange(ROUNDS), rng.integers(0, ROUNDS, LENGTH - ROUNDS - 1), -1]).astype(np.int32)
    hidden = commit[None] >= np.arange(ROUNDS)[:, None]
    confidence = np.where(hidden, rng.uniform(0.1, 1, (ROUNDS, LENGTH)), np.nan)
    return {
        "confidence": confidence.astype(np.float32), "entropy": -np.log(confidence).astype(np.float32), "margin": (0.5 * confidence).astype(np.float32),
        "top1": np.where(hidden, 3, -1).astype(np.int32), "commit_round": commit, "token_id": np.arange(LENGTH, dtype=np.int32), "piece": np.array(WORDS, dtype=object),
        "information": np.where(commit >= 0, rng.exponential(1.0, LENGTH), np.nan).astype(np.float32), "explored": (commit % 5 == 2), "right": commit < 9,
    }  # fmt: skip


def groups(seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return every group that a view of the diffusion papers draws, and their attributes."""
    rng = np.random.default_rng(seed)
    mine, other = film(seed), film(seed + 1)
    shown = mine | {"estimated": mine["commit_round"] > 7}
    entropies = task_entropies("shuffle", 4)
    assert entropies is not None
    kinds = np.array(["exploit", "explore", "fallback", "static"] * 3, dtype=object)
    committed = np.array([int((mine["commit_round"] == r).sum()) for r in range(ROUNDS)], np.int32)
    told = rng.exponential(0.7, ROUNDS)
    return {
        "unmasking": mine, "film/baseline": other, "film/shown": shown,
        "rounds": {
            "kind": kinds, "sequences": np.tile(np.array([1, 4, 1, 1], np.int32), 3), "committed": committed, "information_marginal": told, "information_joint": 0.9 * told,
            "budget_marginal": bounds.marginal_budget(committed, 1.0), "budget_joint": bounds.joint_budget(committed, 1.0), "wall_ms": np.full(ROUNDS, 3.0), "confident": committed,
        },
        "candidates": {
            "step": np.repeat([1, 5, 9], 2).astype(np.int32), "place": np.array([-1, 3] * 3, np.int32), "piece": np.array(["the state itself", "York"] * 3, dtype=object),
            "logprob": np.array([0, -1.2, 0, -0.4, 0, -2.0], np.float32), "unlocked": np.array([1, 3, 2, 0, 0, 1], np.int32), "won": np.array([0, 1, 1, 0, 0, 1], bool), "wins": np.array([0, 1, 1, 0, 1, 0], bool),
        },
        "parallel": parallel(), **curves(rng), **study.lost_bits(entropies, [[0, 1], [2, 3]]),
    }, {
        "unmasking": {"rule": "static", "baseline": "one token a round", "prompt": "copy <pad> A B <sep>", "block_length": 4},
        "rounds": {"exact": True}, "curve/rules": {**study.LABELS, "samples": 100, "rule": "static"}, "curve/oracle": study.LABELS,
        "curve/rounds": {"x_label": "nat", "y_label": "rounds", "exact": False}, "curve/knee": {"x_label": "states", "y_label": "times one"},
        "curve/sweep_accuracy": {"judged": True},
    }  # fmt: skip


def parallel() -> dict[str, Any]:
    """Return the marginals and combinations of every round: two cities, half of whose combinations cannot be."""
    kind = ["marginal"] * 4 + ["combination"] * 4
    one = {
        "place": [5, 5, 6, 6, 0, 1, 2, 3], "piece": ["New", "Cape", "York", "Town", "New York", "Cape Town", "New Town", "Cape York"],
        "probability": [0.6, 0.4, 0.6, 0.4, 0.36, 0.16, 0.24, 0.24], "joint": [np.nan] * 4 + [0.6, 0.4, 0.0, 0.0], "drawn": [True, False, False, True, False, False, True, False],
    }  # fmt: skip
    out = {name: np.tile(np.array(values, dtype=object if name == "piece" else None), ROUNDS) for name, values in one.items()}
    out["probability"], out["joint"] = out["probability"].astype(np.float32), out["joint"].astype(np.float32)
    step = np.repeat(np.arange(ROUNDS, dtype=np.int32), len(kind))
    return out | {"place": out["place"].astype(np.int32), "step": step, "kind": np.array(kind * ROUNDS, dtype=object)}


def curves(rng: np.random.Generator) -> dict[str, Any]:
    """Return the curves: rules against an ideal, an oracle, rounds over nats with bounds, sweeps and costs."""
    k = np.arange(1, 5)
    share = 100 / k.astype(float) ** 2
    nats = rng.uniform(2, 12, 40)
    sweeps = {f"curve/sweep{end}": joined([rows("factor rule", [0.5, 1, 1.5], v), rows("exploring, K = 4", [0.5, 1, 1.5], w)]) for end, v, w in (("", 9.0, 6.0), ("_sequences", 9.0, 20.0), ("_accuracy", 90.0, 92.0))}  # fmt: skip
    return {
        "curve/rules": joined([
            rows("static", k, share, share - 4, share + 4, k), rows("threshold", [1.1, 1.6], [99, 80], [95, 70], [100, 90], [0.9, 0.7]), rows("ideal (closed form)", k, share, setting=k),
            rows("LLaDA 1.5, threshold (reported)", [1.3, 3.0], [100, 90], setting=[1.0, 0.9]),
        ]),
        "curve/here": joined([rows("static", 2, 25.0, setting=2), rows("threshold", 1.1, 99.0, setting=0.9)]),
        "curve/oracle": joined([rows("one threshold for all", [1.0, 2.0], [99, 40], [95, 30], [100, 50], [0.9, 0.5]), rows("best threshold for each prompt", 1.7, 99.0, 95.0, 100.0)]),
        "curve/rounds": joined([rows("ete", nats, np.ceil(nats / 2), nats / 1.5), rows("factor rule alone", nats, np.ceil(nats), nats / 1.5)]),
        "curve/bounds": joined([
            rows("joint bound", [0, 12], [0, 6], setting=2.0), rows("marginal bound", [0, 12], [0, 12], setting=1.0), rows("threshold's bound (our extension)", [0, 12], [0, 4], setting=3.0),
            rows("f", 8, 1.0), rows("trigger", 8, 2.0), rows("explore weight", 8, 0.5),
        ]),
        "curve/knee": rows("measured here", k, 1 + 0.1 * k, 1 + 0.05 * k, 1 + 0.2 * k),
        "curve/roofline": joined([rows("predicted, H100 (bf16): whole sequence", k, k, setting=0.9), rows("predicted, H100 (bf16): window of 16 tokens, the rest cached", k, 1.0, setting=18.0), rows("K", 4, 1.0)]),
        **sweeps,
    }  # fmt: skip

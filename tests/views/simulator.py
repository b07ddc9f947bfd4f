"""A small, honest speculative decoder on two Markov tables: real draws, real rejections, every group the views draw.

It exists so that the pictures are tested on data whose truth is known, without a model and in milliseconds.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from tests.views.diffusion_groups import groups as groups_of_diffusion
from tests.views.pictures import groups as groups_of_pictures
from tests.views.pictures import heads
from tests.views.routing import groups as groups_of_routing
from tests.views.serving import groups as groups_of_serving
from workbench.record import Record

WORDS = [
    " the", " sky", " is", " blue", " because", " light", " scatters", ",", ".", "\n", " of", " a", " red", " sun", " short",
    " wavelengths", " air", " שלום", "\\xe2\\x80", " <b>&", " supercalifragilistic", " and", " in", " it",
]  # fmt: skip


def tables(seed: int, size: int = len(WORDS)) -> tuple[np.ndarray, np.ndarray]:
    """Return (target, draft) next-token laws [V, V]; the draft is a noisy copy."""
    rng = np.random.default_rng(seed)
    target = rng.dirichlet(np.full(size, 0.25), size)
    return target, 0.4 * target + 0.6 * rng.dirichlet(np.full(size, 0.4), size)


class Simulator:
    """Draft by Gumbel-top-k at every node, walk by recursive rejection sampling, write down everything."""

    def __init__(self, seed: int, branching: tuple[int, ...]) -> None:
        self.rng = np.random.default_rng(seed)
        self.target, self.draft = tables(seed)
        self.branching = branching
        self.rows: dict[str, dict[str, list[Any]]] = {g: {} for g in ("tree", "laws", "steps", "text")}

    def put(self, group: str, **values: Any) -> None:
        for name, value in values.items():
            self.rows[group].setdefault(name, []).append(value)

    def grow(self, root: int) -> dict[str, list[Any]]:
        tree: dict[str, list[Any]] = {"token": [root], "parent": [-1], "depth": [0], "rank": [-1], "logq": [np.nan]}
        for level, count in enumerate(self.branching):
            for parent in [n for n, d in enumerate(tree["depth"]) if d == level]:
                logq = np.log(self.draft[tree["token"][parent]])
                for rank, token in enumerate(np.argsort(-(logq + self.rng.gumbel(size=len(logq))))[:count]):
                    row = (int(token), parent, level + 1, rank, float(logq[token]))
                    for name, value in zip(tree, row):
                        tree[name].append(value)
        return tree

    def walk(self, step: int, tree: dict[str, list[Any]]) -> tuple[list[int], int, str, dict[int, tuple[float, float]]]:
        node, path, tried = 0, [], {}
        while True:
            p, q = self.target[tree["token"][node]], self.draft[tree["token"][node]]
            residual, remaining, accepted = p.copy(), q.copy(), -1
            children = [n for n, parent in enumerate(tree["parent"]) if parent == node]
            for trial, child in enumerate(children):
                self.law(step, node, trial, p, q, residual, remaining)
                token, u = tree["token"][child], self.rng.random()
                tried[child] = (u, residual[token] / remaining[token])
                if u < tried[child][1]:
                    accepted = child
                    break
                residual = np.maximum(residual - remaining, 0)
                residual /= residual.sum()
                remaining = np.where(np.arange(len(q)) == token, 0, remaining)
                remaining /= remaining.sum()
            if accepted < 0:
                if children:
                    self.law(step, node, len(children), p, q, residual, remaining)
                return path, int(self.rng.choice(len(p), p=residual)), "residual" if children else "bonus", tried
            path.append(accepted)
            node = accepted

    def law(self, step: int, node: int, trial: int, *laws: np.ndarray) -> None:
        for token in np.flatnonzero((laws[0] > 0.002) | (laws[1] > 0.002)):
            values = dict(zip(("target", "draft", "residual", "remaining"), (float(law[token]) for law in laws)))
            self.put("laws", step=step, node=node, trial=trial, token_id=int(token), piece=WORDS[token], **values)

    def step(self, index: int, root: int) -> int:
        tree = self.grow(root)
        path, final, stop, tried = self.walk(index, tree)
        for node, token in enumerate(tree["token"]):
            u, ratio = tried.get(node, (np.nan, np.nan))
            parent = tree["parent"][node]
            logp = float(np.log(self.target[tree["token"][parent], token])) if node else np.nan
            self.put(
                "tree", step=index, node=node, parent=parent, depth=tree["depth"][node], sibling_rank=tree["rank"][node],
                token_id=token, piece=WORDS[token], draft_logprob=tree["logq"][node], target_logprob=logp,
                visited=node == 0 or node in tried, accepted=node == 0 or node in path, uniform=u, ratio=ratio,
            )  # fmt: skip
        for token, source in [*((tree["token"][n], "draft") for n in path), (final, stop)]:
            self.put("text", token_id=token, piece=WORDS[token], generated=True, step=index, source=source)
        nodes, jitter = len(tree["token"]), self.rng.uniform(0.9, 1.15, 3)
        draft, target, verify = 9.0 * len(self.branching) * jitter[0], (80 + 4 * nodes) * jitter[1], 1.5 * jitter[2]
        self.put(
            "steps", step=index, drafted=nodes - 1, accepted=len(path), emitted=len(path) + 1, draft_ms=draft, target_ms=target,
            verify_ms=verify, total_ms=draft + target + verify, rows=nodes, stop=stop,
            predicted_draft_ms=9.0 * len(self.branching), predicted_target_ms=max(80.0, 12.0 * nodes),
        )  # fmt: skip
        return final


def record(seed: int = 4, steps: int = 12, branching: tuple[int, ...] = (3, 2, 1), **knobs: Any) -> Record:
    """Return a record of a simulated run with every group that a view of speculative decoding draws."""
    sim = Simulator(seed, branching)
    for token in (0, 1, 2, 3):
        sim.put("text", token_id=token, piece=WORDS[token], generated=False, step=-1, source="prompt")
    last = 3
    for index in range(steps):
        last = sim.step(index, last)
    columns: dict[str, Any] = {g: {k: np.array(v) for k, v in c.items()} for g, c in sim.rows.items()}
    columns["attention"] = attention(seed)
    groups, attrs = curves(columns, seed)
    attrs["attention"] = {"tau": 0.9}
    families = (groups_of_pictures, groups_of_diffusion, groups_of_routing, groups_of_serving)
    for more, names in (heads(seed), *(groups_of(seed) for groups_of in families)):
        columns |= more
        attrs |= names
    emitted = float(np.mean(columns["steps"]["emitted"]))
    columns |= groups | {"meters": meters(emitted)}
    columns["settings"], attrs["settings"] = (
        {"depth": np.array([len(branching)]), "error": np.array([""])},
        {"varied": '["depth"]'},
    )
    return Record.from_columns(columns, run_attrs(seed, {"method": "rsd-c", "depth": len(branching)} | knobs), attrs)


def run_attrs(seed: int, knobs: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes every record carries."""
    return {
        "system": "simulator", "knobs": knobs, "seed": seed, "created": "2026-01-01T00:00:00+00:00", "versions": json.dumps({}),
        "device": "none", "kernels": json.dumps({}), "workbench_version": "0", "schema_version": 1,
    }  # fmt: skip


def meters(emitted: float) -> dict[str, Any]:
    """Return the group `meters`: a speed with a baseline, block efficiency, one quality."""
    rows = [
        ("tokens_per_second", 10 * emitted / 1.6, "tokens/s", "speed", "higher", "measured", 10.0, "plain decoding", np.nan, np.nan),
        ("tokens_per_target_call", emitted, "tokens", "speed", "higher", "measured", 1.0, "plain decoding", 1.0, 4.0),
        ("predicted_speedup", emitted / 1.4, "x plain", "speed", "higher", "predicted", 1.0, "plain decoding", np.nan, np.nan),
        ("mean_logprob_under_target", -1.42, "nats / token", "quality", "higher", "measured", -1.5, "plain decoding", -3.0, -0.2),
    ]  # fmt: skip
    names = ("meter", "value", "unit", "kind", "better", "provenance", "baseline", "baseline_name", "low", "high")
    return {n: np.array([r[i] for r in rows]) for i, n in enumerate(names)}


def curves(columns: dict[str, Any], seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the curve groups, measured on the simulated run or on fresh draws from its tables, and their labels."""
    tree = columns["tree"]
    rows = []
    for rank in np.unique(tree["sibling_rank"][tree["visited"] & (tree["depth"] > 0)]):
        tried = tree["visited"] & (tree["sibling_rank"] == rank)
        n, k = int(tried.sum()), int((tried & tree["accepted"]).sum())
        rows.append(("as run (measured)", rank, k / n, max(0, k / n - n**-0.5), min(1, k / n + n**-0.5)))
        rows.append(("drawn with replacement, same laws (estimated)", rank, 0.7 * k / n, np.nan, np.nan))
    groups = {"curve/acceptance": rows, "curve/lossless": monitor(seed), "curve/latency": latency(), **study()}
    groups |= attention_curves(columns["attention"])
    nature = {
        "curve/acceptance": ("sibling rank", "share of tried siblings accepted"),
        "curve/lossless": ("samples", "distance from the exact law"),
        "curve/latency": ("rows verified in one target call", "ms"),
        "curve/length": ("depth of the tree (levels)", "tokens per target call"),
        "curve/sorted_mass": ("share of the tokens, heaviest first", "share of the attention they hold"),
        "curve/cache_bytes": ("layer", "bytes of keys and values"),
        "curve/ratio": ("layer", "share of the tokens kept"),
        "curve/budget": ("nodes the target verifies in a step", "tokens per target call"),
    }
    attrs: dict[str, Any] = {g: {"x_label": x, "y_label": y} for g, (x, y) in nature.items()}
    attrs["curve/lossless"] |= {"p_value": 0.43, "dof": 23, "samples": 4000, "law": "exact law of the first token"}
    names = ("curve", "x", "y", "y_low", "y_high")
    return {g: {n: np.array([r[i] for r in values]) for i, n in enumerate(names)} for g, values in groups.items()}, attrs


def attention(seed: int, layers: int = 3, heads: int = 2, length: int = 40) -> dict[str, Any]:
    """Return the attention of random queries and keys, pooled in 10 bins, and the tokens that hold 0.9 of it."""
    rng = np.random.default_rng(seed)
    scores = rng.standard_normal((layers, heads, length, length)) * 2
    scores[:, :, :, 0] += 3
    scores[:, :, ~np.tri(length, dtype=bool)] = -np.inf
    probs = np.exp(scores - scores.max(-1, keepdims=True))
    probs /= probs.sum(-1, keepdims=True)
    mass = probs.reshape(layers, heads, 10, length // 10, 10, length // 10).sum(-1).mean(3)
    token = probs.mean(1).sum(1)
    held = np.cumsum(-np.sort(-token, axis=1), axis=1) / length
    counts = (held < 0.9).sum(1) + 1
    keep = np.stack([np.isin(np.arange(length), np.argsort(-t)[:c]) for t, c in zip(token, counts)])
    return {
        "mass": mass.astype(np.float32), "token_score": token.astype(np.float32), "keep": keep, "keep_ratio": keep.mean(1).astype(np.float32),
        "token_mass": token.astype(np.float32), "piece": np.array([f" t{i}" for i in range(length)]),
    }  # fmt: skip


def attention_curves(columns: dict[str, Any]) -> dict[str, list[tuple[Any, ...]]]:
    """Return sorted mass, kept share and cache bytes of the simulated attention."""
    token, keep = columns["token_mass"], columns["keep"]
    held = np.cumsum(-np.sort(-token, axis=1), axis=1) / token.sum(1, keepdims=True)
    n = keep.shape[1]
    rows = [(f"layer {i}", (j + 1) / n, float(h), np.nan, np.nan) for i, line in enumerate(held) for j, h in enumerate(line)]
    bits = {"important tokens": 4, "other tokens": 2, "parameters": 1, "fp16, dense": 16}
    kept = keep.sum(1)
    stored = [
        (name, float(i), float(b * (k if name == "important tokens" else n)), np.nan, np.nan)
        for name, b in bits.items()
        for i, k in enumerate(kept)
    ]
    ratio = [("kept", float(i), k / n, np.nan, np.nan) for i, k in enumerate(kept)]
    ratio += [("needed without the first token", float(i), 0.9 * k / n, np.nan, np.nan) for i, k in enumerate(kept)]
    return {"curve/sorted_mass": rows, "curve/cache_bytes": stored, "curve/ratio": ratio}


def monitor(seed: int) -> list[tuple[Any, ...]]:
    """Return the running check of an exact sampler against its own law, which it must pass."""
    rng, law = np.random.default_rng(seed), tables(seed)[0][3]
    draws, rows = rng.choice(len(law), 4000, p=law), []
    for n in np.unique(np.geomspace(50, 4000, 30).astype(int)):
        counts = np.bincount(draws[:n], minlength=len(law))
        expected = float(np.sqrt(2 / np.pi) * np.sqrt(law * (1 - law) / n).sum() / 2)
        chi = float(((counts - n * law) ** 2 / (n * law)).sum() / (len(law) - 1))
        rows.append(("total variation", n, float(np.abs(counts / n - law).sum() / 2), np.nan, np.nan))
        rows.append(("total variation expected of an exact sampler", n, expected, np.nan, np.nan))
        rows.append(("chi-square / dof", n, chi, 0.51, 1.66))
    return rows


def latency() -> list[tuple[Any, ...]]:
    """Return milliseconds by rows: flat up to 8 rows, then a jump."""
    rows = (1, 2, 4, 6, 8, 9, 12, 16)
    return [("measured", r, 80 + 4 * r + 90 * (r > 8), np.nan, np.nan) for r in rows] + [
        ("memory-bound ideal", r, 84.0, np.nan, np.nan) for r in rows
    ]


def study() -> dict[str, list[tuple[Any, ...]]]:
    """Return block efficiency by depth and by nodes for four methods."""
    out: dict[str, list[tuple[Any, ...]]] = {"curve/length": [], "curve/budget": []}
    for i, (method, width) in enumerate((("chain", 1), ("with-replacement", 2), ("rsd-c", 2), ("rsd-s", 2))):
        for depth in (1, 2, 3, 4):
            eta = 1 + (1 - (0.45 + 0.07 * i) ** depth) * (0.9 + 0.2 * i)
            nodes = depth if method == "chain" else depth * width if method == "rsd-s" else width ** (depth + 1) - width
            out["curve/length"].append((method, depth, eta, np.nan, np.nan))
            out["curve/budget"].append((method, nodes, eta, np.nan, np.nan))
    return out

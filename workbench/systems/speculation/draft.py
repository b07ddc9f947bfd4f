"""Tree builders: how the draft's law becomes a token tree. RSD-C and RSD-S of the paper, and what they are compared with.

| paper | here |
|---|---|
| L | `depth`, levels of the tree |
| b | `branching`, children of every node of a level |
| W | `width`, beam items kept in every level |
| phi | `tree.cumulative`, log q of the path |
| G, Gt | `tree.perturbed`, Gumbel-perturbed score, conditioned on the parent's in a beam |
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from workbench.systems.speculation.tree import Builder, DraftView, TokenTree

#: Below this vocabulary the draws are a few numpy calls; a kernel launch costs more than the work.
SMALL_VOCAB = 512


def gumbel_top(log_probs: np.ndarray, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return ids (n, k) and perturbed log-probs (n, k), k <= count, in descending order; -inf marks a missing one.

    The order of the perturbed values is exactly the order of sequential draws without replacement.
    """
    count = min(count, log_probs.shape[-1])
    if log_probs.shape[-1] > SMALL_VOCAB:
        from workbench.kernels import gumbel_topk

        seed = int(rng.integers(2**63 - 1))
        ids, perturbed, _ = gumbel_topk(log_probs.astype(np.float32, copy=False), count, 1.0, seed)
        return np.asarray(ids), np.asarray(perturbed)
    return _top(log_probs + rng.gumbel(size=log_probs.shape), count)


def _top(scores: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ids and scores (n, count) of the largest entries of each row, descending, ties by id."""
    if scores.shape[-1] > SMALL_VOCAB:
        near = np.argpartition(-scores, count - 1, axis=-1)[:, :count]
        near.sort(-1)
        part = np.take_along_axis(scores, near, -1)
        order = np.argsort(-part, axis=-1, kind="stable")
        return np.take_along_axis(near, order, -1), np.take_along_axis(part, order, -1)
    ids = np.argsort(-scores, axis=-1, kind="stable")[:, :count]
    return ids, np.take_along_axis(scores, ids, -1)


class Drawer:
    """Draws children of nodes from the draft's law: Gumbel-perturbed at temperature > 0, the likeliest at 0."""

    def __init__(self, rng: np.random.Generator, temperature: float) -> None:
        self.rng, self.temperature = rng, temperature

    def laws(self, view: DraftView, tree: TokenTree, nodes: Sequence[int]) -> np.ndarray:
        """Return log q (n, V) of these nodes and remember q in the tree."""
        logits = view.logits(tree, nodes)
        silent = np.isneginf(logits.max(-1, keepdims=True))  # a draft with nothing to say proposes nothing
        probs = view.law(np.where(silent, 0, logits) if silent.any() else logits)
        probs = np.where(silent, 0, probs) if silent.any() else probs
        tree.draft_probs |= dict(zip(nodes, probs))
        with np.errstate(divide="ignore"):
            return np.log(probs)

    def top(self, log_probs: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return ids and scores (n, <= count) of the children to try, in the order to try them."""
        if self.temperature == 0:
            return _top(log_probs, min(count, log_probs.shape[-1]))
        return gumbel_top(log_probs, count, self.rng)


def constant_branching(branching: Sequence[int], drawer: Drawer) -> Builder:
    """Return RSD-C: every node of level l gets `branching[l]` children drawn without replacement (Gumbel-top-k)."""

    def build(tree: TokenTree, view: DraftView) -> None:
        level = [0]
        for count in branching:
            log_probs = drawer.laws(view, tree, level)
            ids, scores = drawer.top(log_probs, count)
            level = [
                tree.add(node, int(token), float(log_probs[i, token]), float(score))
                for i, node in enumerate(level)
                for token, score in zip(ids[i], scores[i])
                if score > -np.inf
            ]
            if not level:
                return

    return build


def condition_on_parent(parent: float, scores: np.ndarray) -> np.ndarray:
    """Return sibling scores (k,) conditioned so that their maximum equals the parent's (section 2.2, stable form).

    Args:
        parent: the parent's perturbed score.
        scores: phi + log q + Gumbel of the siblings, descending; scores[0] is the maximum Z over all tokens.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        v = parent - scores + np.log1p(-np.exp(scores - scores[0]))  # -inf at the maximum itself
        conditioned = parent - np.maximum(v, 0) - np.log1p(np.exp(-np.abs(v)))
    return np.where(np.isneginf(scores), -np.inf, conditioned)


def stochastic_beam(width: int, depth: int, drawer: Drawer) -> Builder:
    """Return RSD-S: stochastic beam search, `width` sequences drawn without replacement from the draft's sequence law."""

    def build(tree: TokenTree, view: DraftView) -> None:
        beam = [0]
        for _ in range(depth):
            log_probs = drawer.laws(view, tree, beam)
            ids, scores = drawer.top(log_probs, width)
            candidates = []
            for i, node in enumerate(beam):
                raw = tree.cumulative[node] + scores[i].astype(np.float64)
                final = condition_on_parent(tree.perturbed[node], raw) if drawer.temperature > 0 else raw
                candidates += [
                    (score, node, int(t), float(log_probs[i, t])) for score, t in zip(final, ids[i]) if score > -np.inf
                ]
            candidates.sort(key=lambda c: -c[0])  # values only: the order of siblings stays the order of their draws
            beam = [tree.add(node, token, logq, float(score)) for score, node, token, logq in candidates[:width]]
            if not beam:
                return

    return build


def with_replacement(branching: Sequence[int], drawer: Drawer) -> Builder:
    """Return the multi-draft baseline: siblings drawn independently; duplicates share a node but are tried again."""

    def build(tree: TokenTree, view: DraftView) -> None:
        level = [0]
        for count in branching:
            log_probs = drawer.laws(view, tree, level)
            draws = [drawer.top(log_probs, 1) for _ in range(count)]
            grown: list[int] = []
            for i, node in enumerate(level):
                for ids, scores in draws:
                    if scores[i, 0] > -np.inf:
                        grown += _add_or_repeat(tree, node, int(ids[i, 0]), log_probs[i], float(scores[i, 0]))
            level = grown
            if not level:
                return

    return build


def _add_or_repeat(tree: TokenTree, node: int, token: int, log_probs: np.ndarray, score: float) -> list[int]:
    same = [c for c in tree.trials[node] if tree.tokens[c] == token]
    if same:
        tree.trials[node].append(same[0])
        return []
    return [tree.add(node, token, float(log_probs[token]), score)]


def likeliest(branching: Sequence[int], drawer: Drawer) -> Builder:
    """Return the deterministic tree: the `branching[l]` likeliest children of every node of level l."""
    return constant_branching(branching, Drawer(drawer.rng, 0.0))

"""Acceptance rules: walk a scored tree and decide what is emitted. Every rule but those of `BROKEN` is lossless.

| paper | here |
|---|---|
| p | `target_probs`, the target's processed law at a node |
| q | `tree.draft_probs[node]`, the law the node's children were drawn from |
| r_j | `residual`, what is left to emit after j - 1 rejections |
| Q_j | `remaining`, the draft's law without the rejected siblings |
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from workbench.systems.speculation.tree import TokenTree, Walk

TargetLaw = Callable[[int], np.ndarray]


def residual_law(residual: np.ndarray, remaining: np.ndarray) -> np.ndarray:
    """Return [r - Q]+ normalised; r itself where nothing is left (then the trial was certain to be accepted)."""
    left = residual - remaining
    np.maximum(left, 0, out=left)
    mass = left.sum(dtype=np.float64)
    if mass <= 0:
        return residual
    left /= mass
    return left


def without(remaining: np.ndarray, token: int) -> np.ndarray | None:
    """Return Q with `token` removed and renormalised, or None when no support is left."""
    rest = remaining.copy()
    rest[token] = 0
    mass = rest.sum(dtype=np.float64)
    if mass <= 0:
        return None
    rest /= mass
    return rest


def draw(probs: np.ndarray, uniform: float) -> int:
    """Return the token at which the cumulative law passes `uniform` in [0, 1)."""
    cumulative = np.cumsum(probs, dtype=np.float64)
    return int(min(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"), len(probs) - 1))


def recursive_rejection(tree: TokenTree, target_law: TargetLaw, rng: np.random.Generator) -> Walk:
    """Walk the tree by recursive rejection sampling for siblings drawn without replacement (section 3 of the paper)."""
    return _reject(tree, target_law, rng, next_remaining=without)


def rejection_with_replacement(tree: TokenTree, target_law: TargetLaw, rng: np.random.Generator) -> Walk:
    """Walk the tree where siblings were drawn independently: Q stays q after a rejection."""
    return _reject(tree, target_law, rng, next_remaining=lambda remaining, token: remaining)


def _reject(
    tree: TokenTree,
    target_law: TargetLaw,
    rng: np.random.Generator,
    next_remaining: Callable[[np.ndarray, int], np.ndarray | None],
) -> Walk:
    walk, node = Walk(), 0
    while True:
        residual = target_law(node)
        remaining = tree.draft_probs.get(node)
        accepted = None
        for trial, child in enumerate(tree.trials[node]):
            if remaining is None:
                break
            token = tree.tokens[child]
            ratio = float(residual[token]) / float(remaining[token])
            uniform = float(rng.random())
            walk.tried[child] = (uniform, ratio)
            walk.trail.append((node, trial, residual, remaining))
            if uniform < ratio:
                accepted = child
                break
            residual = residual_law(residual, remaining)
            remaining = next_remaining(remaining, token)
        if accepted is None:
            if tree.trials[node]:  # what the last rejection left, so that a picture can show all of the walk
                walk.trail.append(
                    (node, len(tree.trials[node]), residual, np.zeros_like(residual) if remaining is None else remaining)
                )
            return _finish(walk, tree, node, residual, rng)
        walk.path.append(accepted)
        node = accepted


def _finish(walk: Walk, tree: TokenTree, node: int, law: np.ndarray, rng: np.random.Generator) -> Walk:
    walk.stop = "residual" if tree.trials[node] else "bonus"
    walk.final_probs = law
    walk.final = draw(law, float(rng.random()))
    return walk


def sample_then_follow(tree: TokenTree, target_law: TargetLaw, rng: np.random.Generator) -> Walk:
    """Draw from the target at each node and go on while the draw is a child: lossless for any tree, however chosen."""
    walk, node = Walk(), 0
    while True:
        probs = target_law(node)
        uniform = float(rng.random())
        token = draw(probs, uniform)
        children = {tree.tokens[c]: c for c in tree.trials[node]}
        for child in tree.trials[node]:
            walk.tried[child] = (uniform, float(probs[tree.tokens[child]]))
        if token not in children:
            walk.stop = "residual" if children else "bonus"
            walk.final, walk.final_probs = token, probs
            return walk
        node = children[token]
        walk.path.append(node)


def sorted_siblings(tree: TokenTree, target_law: TargetLaw, rng: np.random.Generator) -> Walk:
    """BROKEN on purpose: tries the siblings in order of draft probability instead of the order they were drawn in."""
    order = [sorted(children, key=lambda c: -tree.logprobs[c]) for children in tree.trials]
    return recursive_rejection(_with_trials(tree, order), target_law, rng)


def unrenormalised(tree: TokenTree, target_law: TargetLaw, rng: np.random.Generator) -> Walk:
    """BROKEN on purpose: forgets to renormalise the draft's law after a rejected sibling is removed."""

    def removed(remaining: np.ndarray, token: int) -> np.ndarray:
        rest = remaining.copy()
        rest[token] = 0
        return rest

    return _reject(tree, target_law, rng, next_remaining=removed)


def _with_trials(tree: TokenTree, trials: list[list[int]]) -> TokenTree:
    fields = {name: getattr(tree, name) for name in TokenTree.__dataclass_fields__}
    return TokenTree(**(fields | {"trials": trials}))

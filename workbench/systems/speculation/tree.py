"""The token tree that speculative decoders share: build it, score it in one target call, keep the accepted path.

A method brings two things: a *builder* that asks the draft for a `TokenTree`, and an *acceptance rule* that walks it. The
loop in between (`speculate`) is the same for every paper: draft, one target call over the flattened tree, walk, keep.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from workbench.models.session import Session, chain_parents
from workbench.tape import NullTape


@dataclass
class TokenTree:
    """A flattened token tree in level order. Node 0 is the root: the last emitted token.

    `trials[node]` lists the children of a node in the order they are to be tried. A child may occur twice where siblings
    were drawn with replacement.
    """

    tokens: list[int]
    parents: list[int] = field(default_factory=lambda: [-1])
    depths: list[int] = field(default_factory=lambda: [0])
    ranks: list[int] = field(default_factory=lambda: [-1])
    logprobs: list[float] = field(default_factory=lambda: [float("nan")])  # log q(token | parent)
    cumulative: list[float] = field(default_factory=lambda: [0.0])  # phi: log q of the path
    perturbed: list[float] = field(default_factory=lambda: [0.0])  # G, the Gumbel-perturbed score
    trials: list[list[int]] = field(default_factory=lambda: [[]])
    draft_probs: dict[int, np.ndarray] = field(default_factory=dict)  # node -> (V,) law its children were drawn from

    def __len__(self) -> int:
        return len(self.tokens)

    def add(self, parent: int, token: int, logprob: float, perturbed: float) -> int:
        """Append a child, next in its parent's trial order, and return its index."""
        node = len(self.tokens)
        self.tokens.append(token)
        self.parents.append(parent)
        self.depths.append(self.depths[parent] + 1)
        self.ranks.append(len(self.trials[parent]))
        self.logprobs.append(logprob)
        self.cumulative.append(self.cumulative[parent] + logprob)
        self.perturbed.append(perturbed)
        self.trials.append([])
        self.trials[parent].append(node)
        return node


@dataclass
class Walk:
    """What the acceptance rule did: the accepted path, the token that ends the step, and every trial on the way."""

    path: list[int] = field(default_factory=list)  # accepted nodes, from depth 1 on
    final: int = -1
    final_probs: np.ndarray | None = None  # law the final token was drawn from
    stop: str = "bonus"  # or "residual"
    tried: dict[int, tuple[float, float]] = field(default_factory=dict)  # node -> (uniform, ratio)
    trail: list[tuple[int, int, np.ndarray, np.ndarray]] = field(default_factory=list)  # (node, trial, r_j, Q_j)


class Law(Protocol):
    """Turn logits into the law that is drawn from and compared with (temperature and top-p applied)."""

    def __call__(self, logits: np.ndarray) -> np.ndarray: ...


def processed_law(temperature: float, top_p: float) -> Law:
    """Return the function from logits (..., V) to the processed law (..., V) float32.

    Args:
        temperature: 0 puts all mass on the arg-max; otherwise logits are divided by it.
        top_p: keep the smallest set of likeliest tokens whose mass reaches `top_p` (1 keeps all).
    """

    def law(logits: np.ndarray) -> np.ndarray:
        logits = np.asarray(logits, dtype=np.float32 if logits.dtype == np.float32 else np.float64)
        if temperature == 0:
            return one_hot(logits.argmax(-1), logits.shape[-1])
        scaled = (logits - logits.max(-1, keepdims=True)) / logits.dtype.type(temperature)
        probs = np.exp(scaled, out=scaled)
        probs /= probs.sum(-1, keepdims=True)
        return probs if top_p >= 1 else np.apply_along_axis(_nucleus, -1, probs, top_p)

    return law


def one_hot(index: Any, size: int) -> np.ndarray:
    """Return a law with all mass on `index` (any shape) over `size` tokens."""
    index = np.asarray(index)
    out = np.zeros((*index.shape, size), np.float32)
    np.put_along_axis(out, index[..., None], 1, -1)
    return out


def _nucleus(probs: np.ndarray, top_p: float) -> np.ndarray:
    """Keep the smallest set of likeliest tokens whose mass reaches `top_p`, ties by id, and renormalise."""
    # A nucleus token is at least (1 - top_p) / V likely, so only those need sorting.
    likely = np.flatnonzero(probs >= (1 - top_p) / len(probs))
    order = likely[np.argsort(-probs[likely], kind="stable")]
    inside = np.cumsum(probs[order], dtype=np.float64) - probs[order] < top_p
    out = np.zeros_like(probs)
    out[order[inside]] = probs[order[inside]]
    return out / out.sum()


Builder = Callable[[TokenTree, "DraftView"], None]
Rule = Callable[[TokenTree, Callable[[int], np.ndarray], np.random.Generator], Walk]


class DraftView:
    """The draft as a builder sees it: laws of tree nodes, level by level, on top of what has been emitted."""

    def __init__(self, session: Session, law: Law, sequence: Sequence[int], tape: NullTape) -> None:
        self.session, self.law, self.tape = session, law, tape
        # What the draft has not seen yet: the tokens of the last step, the root last.
        self.catch_up = list(sequence[session.length :])
        self.rows: dict[int, int] = {0: len(self.catch_up) - 1}  # tree node -> pending row
        self.calls = 0

    def logits(self, tree: TokenTree, nodes: Sequence[int]) -> np.ndarray:
        """Return (len(nodes), V) logits of these nodes; their parents must have been asked before."""
        with self.tape.timed("draft"):
            self.calls += 1
            if nodes[0] == 0:
                return self.session.forward(self.catch_up, chain_parents(len(self.catch_up)), last_only=True)
            first = len(self.catch_up) + len(self.rows) - 1
            self.rows |= {node: first + i for i, node in enumerate(nodes)}
            parents = [self.rows[tree.parents[n]] for n in nodes]
            return self.session.forward([tree.tokens[n] for n in nodes], parents)

    def keep(self, path: Sequence[int], hand_over: Callable[[Any], None]) -> None:
        """Commit the catch-up rows and those accepted nodes that the draft has already read.

        A draft that reads the target's hidden states has a method `commit(rows, token_ids, target)`; `hand_over` calls it.
        """
        commit = getattr(self.session, "commit", None)
        if commit is not None:
            hand_over(commit)
        elif self.calls:
            known = [self.rows[n] for n in path if n in self.rows]
            self.session.keep([*range(len(self.catch_up)), *known])


@dataclass
class Step:
    """One round: the tree, what the walk did with it, and how many draft calls it took."""

    tree: TokenTree
    walk: Walk
    target_logits: np.ndarray
    draft_calls: int

    @property
    def emitted(self) -> list[int]:
        """Tokens this step writes: the accepted path, then the residual or bonus token."""
        return [*(self.tree.tokens[n] for n in self.walk.path), self.walk.final]


def speculate(
    target: Session, draft: Session | None, sequence: Sequence[int], build: Builder, rule: Rule, laws: tuple[Law, Law],
    rng: np.random.Generator, tape: NullTape,
) -> Step:  # fmt: skip
    """Do one step: draft a tree, score it in one target call, walk it, keep the accepted rows.

    Args:
        target: holds all of `sequence` but its last token.
        draft: holds a prefix of `sequence`; None drafts nothing (plain decoding).
        sequence: every token so far; the last one is the root.
        build: grows the tree; rule: walks it.
        laws: (target law, draft law).
        rng: uniforms of the walk.
        tape: takes the times "draft", "target", "verify", "kv".
    """
    tree = TokenTree([int(sequence[-1])])
    view = None
    if draft is not None:
        view = DraftView(draft, laws[1], sequence, tape)
        build(tree, view)
    with tape.timed("target"):
        logits = target.forward(tree.tokens, tree.parents)
    with tape.timed("verify"):
        walk = rule(tree, lambda node: laws[0](logits[node]), rng)
    with tape.timed("kv"):
        # The draft first: one that shares the target's cache must drop its rows before the target's become the prefix.
        kept = [0, *walk.path]
        if view is not None:
            view.keep(walk.path, lambda commit: commit(kept, [tree.tokens[n] for n in kept], target))
        target.keep(kept)
    return Step(tree, walk, logits, view.calls if view is not None else 0)


def prefill(target: Session, draft: Session | None, prompt: Sequence[int]) -> None:
    """Read all but the last token of the prompt into the target, and into a draft that has a cache of its own."""
    ids = list(prompt[:-1])
    if not ids:
        return
    target.forward(ids, chain_parents(len(ids)), last_only=True)
    commit = getattr(draft, "commit", None)
    if commit is not None:
        commit(list(range(len(ids))), ids, target)
    target.keep(range(len(ids)))
    if draft is not None and commit is None and draft.length < len(ids):
        draft.forward(ids, chain_parents(len(ids)), last_only=True)
        draft.keep(range(len(ids)))

"""One step's token tree as a picture needs it: what became of each node, where it stands, what is folded away."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from workbench.views.common import check_step, columns, optional

if TYPE_CHECKING:
    from workbench.record import Record

#: Trees with more nodes than `MAX_NODES`, or more rows than fit one label each, fold what the walk never tried.
MAX_NODES, MAX_ROWS = 64, 20
FINAL = -2  # stands for the token that ends the step; it is not a node of the drafted tree
ROOT, ACCEPTED, REJECTED, UNTRIED, TRIMMED, WRITTEN = "root", "accepted", "rejected", "never tried", "trimmed", "written"


@dataclass
class StepTree:
    """The drafted tree of one step, node by node, and the token that ended the step."""

    step: int
    parent: np.ndarray
    depth: np.ndarray
    rank: np.ndarray
    token_id: np.ndarray
    piece: list[str]
    draft: np.ndarray  # probability under the draft given the parent
    target: np.ndarray
    uniform: np.ndarray
    ratio: np.ndarray
    state: list[str]
    accepted: np.ndarray  # in the run, also where the live knobs now trim the node away
    final_piece: str = ""
    final_source: str = ""
    children: dict[int, list[int]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.parent)

    @property
    def last(self) -> int:
        """The last node that the run accepted (0 = the root): the written token follows it."""
        return int(np.flatnonzero(self.accepted)[-1]) if self.accepted.any() else 0

    @property
    def cut(self) -> bool:
        """Whether the live knobs trim a node that the run accepted: what is written would then change."""
        return self.state[self.last] == TRIMMED

    def count(self, state: str) -> int:
        """Return how many nodes are in a state."""
        return self.state.count(state)

    def below(self, node: int) -> int:
        """Return how many nodes hang below a node."""
        return sum(1 + self.below(c) for c in self.children.get(node, ()) if c != FINAL)


def step_tree(record: Record, step: int) -> StepTree:
    """Return the tree of a step.

    Raises:
        InputError: the record has no such step.
    """
    rows = check_step(record, "tree", step)
    parent, depth, rank, token_id, piece, draft, target, visited, accepted = (
        c[rows]
        for c in columns(
            record, "tree", "parent", "depth", "sibling_rank", "token_id", "piece", "draft_logprob", "target_logprob", "visited", "accepted"
        )
    )  # fmt: skip
    kept = optional(record, "tree", "kept", True)[rows]
    uniform, ratio = (optional(record, "tree", name, np.nan)[rows] for name in ("uniform", "ratio"))
    state = [_state(*flags) for flags in zip(parent, kept, visited, accepted)]
    tree = StepTree(
        step,
        parent,
        depth,
        rank,
        token_id,
        [str(p) for p in piece],
        np.exp(draft),
        np.exp(target),
        uniform,
        ratio,
        state,
        accepted,
    )
    tree.final_piece, tree.final_source = final_token(record, step)
    for node in np.lexsort((rank, parent)):
        if node:
            tree.children.setdefault(int(parent[node]), []).append(int(node))
    if tree.final_source:
        tree.children.setdefault(tree.last, []).append(FINAL)
    return tree


def _state(parent: int, kept: bool, visited: bool, accepted: bool) -> str:
    if parent < 0:
        return ROOT
    if not kept:
        return TRIMMED
    return ACCEPTED if accepted else REJECTED if visited else UNTRIED


def final_token(record: Record, step: int) -> tuple[str, str]:
    """Return (piece, source) of the token that the target itself wrote at the end of a step; ("", "") if it was cut off."""
    if "text" not in record:
        return "", ""
    steps, pieces, sources = columns(record, "text", "step", "piece", "source")
    rows = np.flatnonzero(steps == step)
    if not len(rows) or str(sources[rows[-1]]) == "draft":
        return "", ""
    return str(pieces[rows[-1]]), str(sources[rows[-1]])


@dataclass
class Place:
    """A mark of the picture: a node, the final token, or "+n" for what is folded."""

    node: int  # node index; FINAL
    x: float
    y: float = 0.0
    parent: int = -1  # index into the list of places
    folded: int = 0  # nodes folded into this mark
    is_fold: bool = False  # the mark stands for folded siblings only


def place(tree: StepTree) -> tuple[list[Place], int]:
    """Return the marks from the root on (parents first), and how many rows they take.

    Above `MAX_NODES` nodes or `MAX_ROWS` rows, what hangs below a node that was never tried is folded into it; if that is
    not enough, siblings that were never tried are folded into one "+n".
    """
    for fold in (0, 1, 2):
        places: list[Place] = []
        rows = _descend(tree, 0, -1, 0, fold, places)
        if rows <= MAX_ROWS and len(places) <= MAX_NODES + 1:
            break
    return places, rows


def _descend(tree: StepTree, node: int, parent: int, row: int, fold: int, places: list[Place]) -> int:
    """Append a node and what is below it, starting at a row; return the first free row."""
    depth = tree.depth[tree.last] + 1 if node == FINAL else tree.depth[node]
    me = Place(node, float(depth), float(row), parent)
    places.append(me)
    mine = len(places) - 1
    children = tree.children.get(node, [])
    passed_over = {UNTRIED, TRIMMED}
    if fold and node >= 0 and tree.state[node] in passed_over and children:
        me.folded = tree.below(node)
        return row + 1
    folded = [c for c in children if c != FINAL and tree.state[c] in passed_over] if fold == 2 else []
    shown = [c for c in children if c not in folded or len(folded) == 1]
    first = len(places)
    for child in shown:
        row = _descend(tree, child, mine, row, fold, places)
    if len(folded) > 1:
        count = sum(1 + tree.below(c) for c in folded)
        places.append(Place(folded[0], float(depth + 1), float(row), mine, count, True))
        row += 1
    ys = [p.y for p in places[first:] if p.parent == mine]
    if not ys:
        return row + 1
    me.y = (ys[0] + ys[-1]) / 2
    return row


def extent(record: Record) -> tuple[int, int]:
    """Return (most rows of any step, deepest level of any step): axes that stay fixed while a reader steps through."""
    step, parent, depth, visited = columns(record, "tree", "step", "parent", "depth", "visited")
    starts = np.searchsorted(step, step)  # of each row's step
    above = starts + np.maximum(parent, 0)
    everything = np.ones(len(step), bool)
    rows, nodes = _leaves(step, above, everything, parent), np.bincount(step)
    folded = _leaves(step, above, (parent < 0) | visited[above], parent)
    rows = np.where((rows < MAX_ROWS) & (nodes <= MAX_NODES), rows, np.minimum(folded, MAX_ROWS - 1))
    return int(rows.max(initial=1)) + 1, int(depth.max(initial=0))


def _leaves(step: np.ndarray, above: np.ndarray, shown: np.ndarray, parent: np.ndarray) -> np.ndarray:
    """Return how many shown nodes of each step have no shown children."""
    inner = np.unique(above[shown & (parent >= 0)])
    return np.bincount(step[shown], minlength=int(step.max()) + 1) - np.bincount(step[inner], minlength=int(step.max()) + 1)

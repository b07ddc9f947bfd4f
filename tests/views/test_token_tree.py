"""The tree of a step: states, sizes, the folded rest, the token the target writes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.views.simulator import record as simulate
from workbench.errors import InputError
from workbench.record import Record
from workbench.views import token_tree
from workbench.views.tree_layout import ACCEPTED, FINAL, MAX_ROWS, REJECTED, TRIMMED, UNTRIED, place, step_tree

VIEW = token_tree.VIEW


def trace(spec: dict[str, Any], name: str) -> dict[str, Any]:
    return next(t for t in spec["data"] if t["name"] == name)


@pytest.mark.parametrize("step", range(12))
def test_states_are_those_of_the_record(record: Record, step: int) -> None:
    tree, data = step_tree(record, step), record["tree"].to_dataframe()
    data = data[data.step == step]
    assert tree.count(ACCEPTED) == data.accepted.sum() - 1  # the root counts as accepted
    assert tree.count(REJECTED) == (data.visited & ~data.accepted).sum()
    assert tree.count(UNTRIED) == (~data.visited).sum()
    np.testing.assert_allclose(tree.draft[1:], np.exp(data.draft_logprob.to_numpy()[1:]), rtol=1e-6)


@pytest.mark.parametrize("step", range(12))
def test_the_last_token_hangs_on_the_last_accepted_node(record: Record, step: int) -> None:
    tree = step_tree(record, step)
    places, _ = place(tree)
    final = next(p for p in places if p.node == FINAL)
    parent = places[final.parent].node
    assert tree.state[parent] == (ACCEPTED if parent else "root")
    assert not any(tree.state[c] == ACCEPTED for c in tree.children[parent] if c != FINAL)
    steps, pieces = record.column("text", "step"), record.column("text", "piece")
    assert tree.final_piece == pieces[steps == step][-1]
    assert final.x == places[final.parent].x + 1


def test_every_node_is_a_mark_and_a_click_finds_it(record: Record) -> None:
    spec = VIEW.spec(record, step=3)
    nodes = token_tree.nodes_of(spec)
    assert sorted(n for n in nodes if n >= 0) == list(range(16))
    assert nodes.count(FINAL) == 1


def test_area_is_the_draft_probability(record: Record) -> None:
    spec, tree = VIEW.spec(record, step=3), step_tree(record, 3)
    sizes = dict(zip(token_tree.nodes_of(spec), trace(spec, "nodes")["marker"]["size"]))
    for node in range(1, len(tree)):
        wanted = max(token_tree.LEAST, token_tree.LARGEST * tree.draft[node] ** 0.5)
        assert sizes[node] == pytest.approx(wanted, abs=0.06)


def test_states_differ_without_colour(record: Record) -> None:
    spec = VIEW.spec(record, step=5)
    tree, nodes = step_tree(record, 5), token_tree.nodes_of(spec)
    symbols = dict(zip(nodes, trace(spec, "nodes")["marker"]["symbol"]))
    rejected = [n for n in range(len(tree)) if tree.state[n] == REJECTED]
    assert rejected
    assert {symbols[n] for n in rejected} == {"circle-x"}
    dashed = [s for s in spec["layout"]["shapes"] if s["line"]["dash"] == "4px,3px"]
    assert len(dashed) == tree.count(UNTRIED)
    assert trace(spec, f"edges: {UNTRIED}")["line"]["dash"] == "dash"
    assert trace(spec, f"edges: {REJECTED}")["line"]["dash"] == "solid"
    assert trace(spec, "ring: chosen")["marker"]["symbol"] == "circle-open"  # the double border


def test_labels_and_ranks_are_direct(record: Record) -> None:
    spec, tree = VIEW.spec(record, step=0), step_tree(record, 0)
    labels = " ".join(trace(spec, "tokens")["text"])
    assert all(f"␣{word}"[:5] in labels for word in (p.strip() for p in tree.piece) if word.isalpha() and word.isascii())
    assert sorted(trace(spec, "sibling ranks")["text"]) == sorted(str(r + 1) for r in tree.rank[1:])


def test_a_selected_node_gets_a_ring(record: Record) -> None:
    spec = VIEW.spec(record, step=3, selected=2)
    ring, nodes = trace(spec, "ring: selected"), trace(spec, "nodes")
    i = token_tree.nodes_of(spec).index(2)
    assert (ring["x"][0], ring["y"][0]) == (nodes["x"][i], nodes["y"][i])
    with pytest.raises(InputError, match="from 0 to 15"):
        VIEW.spec(record, step=3, selected=16)


def test_hover_says_ratio_draw_and_outcome(record: Record) -> None:
    spec, tree = VIEW.spec(record, step=5), step_tree(record, 5)
    node = tree.state.index(REJECTED)
    text = trace(spec, "nodes")["hovertext"][token_tree.nodes_of(spec).index(node)]
    assert f"{tree.ratio[node]:.3f}" in text
    assert f"{tree.uniform[node]:.3f}" in text
    assert "rejected" in text


def test_large_trees_fold_what_was_never_tried_and_say_so() -> None:
    large = simulate(branching=(4, 3, 2, 2), steps=5, seed=5)
    for step in range(5):
        tree = step_tree(large, step)
        places, rows = place(tree)
        assert rows <= MAX_ROWS
        shown = [p.node for p in places if p.node >= 0 and not p.is_fold]
        assert len(shown) + sum(p.folded for p in places) == len(tree)  # nothing is lost
        assert {n for n in range(len(tree)) if tree.state[n] in (ACCEPTED, REJECTED)} <= set(shown)
        assert f"{sum(p.folded for p in places)} nodes" in VIEW.describe(large, step=step)


def test_the_widest_trees_fold_siblings_into_one_mark() -> None:
    wide = simulate(branching=(8, 8), steps=3, seed=2)
    places, rows = place(step_tree(wide, 0))
    assert rows <= MAX_ROWS
    assert any(p.is_fold for p in places)
    labels = trace(VIEW.spec(wide, step=0), "tokens")["text"]
    assert any(t.startswith("+") for t in labels)


def trimmed_to(record: Record, keep: list[int], step: int) -> Record:
    columns = {str(v): record["tree"][v].values for v in record["tree"].variables}
    kept = (columns["step"] != step) | np.isin(columns["node"], [0, *keep])
    return record.with_groups({"tree": columns | {"kept": kept}})


def test_trimmed_nodes_are_dotted(record: Record) -> None:
    trimmed = trimmed_to(record, [1, 4, 10], 3)  # the accepted path alone
    tree, spec = step_tree(trimmed, 3), VIEW.spec(trimmed, step=3)
    assert (tree.count(TRIMMED), tree.count(ACCEPTED), tree.cut) == (12, 3, False)
    assert any(t["name"] == "trimmed away" for t in spec["data"])
    assert trace(spec, f"edges: {TRIMMED}")["line"]["dash"] == "dot"
    assert "12 nodes are trimmed away." in VIEW.describe(trimmed, step=3)


def test_a_trimmed_path_no_longer_claims_what_was_written(record: Record) -> None:
    trimmed = trimmed_to(record, [1, 2, 3], 3)
    assert step_tree(trimmed, 3).cut
    spec = VIEW.spec(trimmed, step=3)
    assert not any(t["name"] == "ring: chosen" for t in spec["data"])
    assert "2 of them accepted in the run: from here on the replay is an estimate" in VIEW.describe(trimmed, step=3)


def test_caption_counts_survivors(record: Record) -> None:
    tree = step_tree(record, 5)
    assert f"{tree.count(ACCEPTED)} of 15 drafted tokens survive" in VIEW.describe(record, step=5)
    assert "from what the rejections left" in VIEW.describe(record, step=5)

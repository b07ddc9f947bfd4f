"""The ladder melts as the algorithm says, the strip holds every token, the timeline adds up."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.views.simulator import record as simulate
from tests.views.simulator import tables
from workbench.record import Record
from workbench.views import rejection_ladder, step_timeline, text_strip
from workbench.views.rejection_ladder import ladder


def traces(spec: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [t for t in spec["data"] if t["name"] == name]


def test_the_ladder_starts_with_both_laws_and_melts_by_the_rule(record: Record) -> None:
    found = ladder(record, 5, None)
    assert found is not None
    target, draft = tables(4)
    root = int(record.column("tree", "token_id")[record.column("tree", "step") == 5][0])
    residual, remaining = target[root].copy(), draft[root].copy()
    from tests.views.simulator import WORDS

    ids = [WORDS.index(p) for p in found.pieces]
    assert [r.outcome for r in found.rungs] == ["rejected", "rejected", "rejected", "written"]
    for rung in found.rungs:
        np.testing.assert_allclose(rung.residual[:-1], residual[ids], atol=1e-6)
        np.testing.assert_allclose(rung.remaining[:-1], remaining[ids], atol=1e-6)
        assert rung.residual.sum() == pytest.approx(1)
        if rung.token >= 0:
            token = ids[rung.token]
            assert rung.ratio == pytest.approx(residual[token] / remaining[token], rel=1e-5)
            residual = np.maximum(residual - remaining, 0)
            residual /= residual.sum()
            remaining[token] = 0
            remaining /= remaining.sum()


def test_the_first_node_with_a_rejection_is_shown(record: Record) -> None:
    for step in range(12):
        found, data = ladder(record, step, None), record["laws"].to_dataframe()
        data = data[data.step == step]
        rejected = data[data.trial > 0].node
        assert found is not None
        assert found.node == (rejected.iloc[0] if len(rejected) else data.node.iloc[0])


def test_a_click_on_a_child_shows_where_it_was_tried(record: Record) -> None:
    assert ladder(record, 3, 1).node == 1  # type: ignore[union-attr]
    assert ladder(record, 3, 0).node == 0  # type: ignore[union-attr]
    assert ladder(record, 5, 2).node == 0  # type: ignore[union-attr]  # rejected: tried among the root's children
    assert ladder(record, 3, 12).node == ladder(record, 3, None).node  # type: ignore[union-attr]  # never reached


def test_what_is_left_is_estimated_where_the_run_did_not_record_it(record: Record) -> None:
    columns = {str(v): record["laws"][v].values for v in record["laws"].variables}
    keep = columns["trial"] < 3  # as a recorder that stops with the last trial
    shorter = record.with_groups({"laws": {k: v[keep] for k, v in columns.items()}})
    whole, cut = ladder(record, 5, None), ladder(shorter, 5, None)
    assert whole is not None
    assert cut is not None
    assert (whole.rungs[-1].estimated, cut.rungs[-1].estimated) == (False, True)
    np.testing.assert_allclose(cut.rungs[-1].residual, whole.rungs[-1].residual, atol=0.02)
    bars = rejection_ladder.VIEW.spec(shorter, step=5)["data"]
    assert bars[-2]["marker"]["pattern"]["shape"] == "/"  # hatched
    assert "est." in rejection_ladder.VIEW.spec(shorter, step=5)["layout"]["annotations"][3]["text"]


def test_the_tried_row_is_framed_and_the_verdict_stands_above(record: Record) -> None:
    spec = rejection_ladder.VIEW.spec(record, step=5)
    assert [s["line"]["dash"] for s in spec["layout"]["shapes"]] == ["dash"] * 3
    verdicts = [a["text"] for a in spec["layout"]["annotations"]]
    assert [("rejected" in v, "written" in v) for v in verdicts] == [(True, False)] * 3 + [(False, True)]


def test_a_step_without_drafts_says_so() -> None:
    plain = simulate(branching=(1,), steps=3)
    laws = {str(v): plain["laws"][v].values[plain["laws"]["step"].values != 1] for v in plain["laws"].variables}
    without = plain.with_groups({"laws": laws})
    assert "nothing was tried" in rejection_ladder.VIEW.describe(without, step=1)
    assert rejection_ladder.VIEW.spec(without, step=1)["data"] == []


def test_the_strip_holds_every_token_once_and_lines_fit() -> None:
    long = simulate(branching=(2, 2), steps=190)
    spec = text_strip.VIEW.spec(long, line_length=60)
    (tokens,) = traces(spec, "tokens")
    assert len(tokens["text"]) == min(len(long.column("text", "piece")), text_strip.MAX_TOKENS) > 400
    grid = text_strip.Grid(long, 60)
    assert (grid.left + grid.size <= 60).all()
    order = np.lexsort((grid.left, grid.line))
    np.testing.assert_array_equal(order, np.arange(len(order)))  # reading order
    same_line = grid.line[1:] == grid.line[:-1]
    assert (grid.left[1:] >= (grid.left + grid.size)[:-1])[same_line].all()  # no overlap
    assert spec["layout"]["height"] > grid.lines * 20


def test_the_step_is_ringed_and_every_source_has_its_mark(record: Record) -> None:
    spec = text_strip.VIEW.spec(record, step=3)
    (ring,) = traces(spec, "this step")
    count = int((record.column("text", "step") == 3).sum())
    assert ring["x"].count(None) == count == 4
    assert traces(text_strip.VIEW.spec(record), "this step")[0]["x"] == []
    for source in ("residual", "bonus"):
        (second,) = traces(spec, f"{source}: second border")
        assert second["x"].count(None) == (record.column("text", "source") == source).sum()
    assert traces(spec, "rejection before it")[0]["x"].count(None) == (record.column("text", "source") == "residual").sum()
    assert traces(spec, "prompt")[0]["line"]["dash"] != traces(spec, "draft, accepted")[0]["line"]["dash"]


def test_a_click_on_a_token_finds_its_step(record: Record) -> None:
    (tokens,) = traces(text_strip.VIEW.spec(record), "tokens")
    np.testing.assert_array_equal(tokens["customdata"], record.column("text", "step"))


def test_bars_stack_to_the_parts_and_ticks_are_plain_decoding(record: Record) -> None:
    spec = step_timeline.VIEW.spec(record, step=2)
    draft, target, verify, *predicted = [t for t in spec["data"] if t["type"] == "bar"]
    steps = record["steps"]
    np.testing.assert_allclose(draft["y"], steps["draft_ms"], atol=1e-3)
    np.testing.assert_allclose(target["base"], steps["draft_ms"], atol=1e-3)
    np.testing.assert_allclose(np.add(verify["base"], verify["y"]), steps["total_ms"], atol=3e-3)
    np.testing.assert_allclose(predicted[1]["base"], steps["predicted_draft_ms"], atol=1e-3)
    assert {b["marker"]["pattern"]["shape"] for b in predicted} == {"/"}
    (ticks,) = traces(spec, "plain, same tokens")
    np.testing.assert_allclose(ticks["y"][::3], 100.0 * steps["emitted"])  # 10 tokens/s in the meters
    assert spec["layout"]["shapes"][0]["x0"] == 1.5


def test_a_stalled_step_does_not_flatten_the_others(record: Record) -> None:
    columns = {str(v): record["steps"][v].values.copy() for v in record["steps"].variables}
    columns["target_ms"][4] = 9000.0
    stalled = record.with_groups({"steps": columns})
    spec = step_timeline.VIEW.spec(stalled)
    assert spec["layout"]["yaxis"]["range"][1] < 2000
    assert "1 bar cut off" in spec["layout"]["annotations"][0]["text"]

"""Curves, checks and the plane of speed and quality say what the record says."""

from __future__ import annotations

import html
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.views.simulator import meters, run_attrs
from tests.views.simulator import record as simulate
from workbench.errors import UnknownNameError
from workbench.record import Record
from workbench.views import acceptance_by_rank, latency_profile, length_and_budget, lossless_monitor, speed_quality
from workbench.views.speed_quality import Plane


def trace(spec: dict[str, Any], name: str) -> dict[str, Any]:
    return next(t for t in spec["data"] if t["name"] == name)


def test_acceptance_shows_intervals_and_marks_estimates(record: Record) -> None:
    spec, data = acceptance_by_rank.VIEW.spec(record), record["curve/acceptance"].to_dataframe()
    for name, rows in data.groupby("curve"):
        shown = trace(spec, str(name))
        np.testing.assert_allclose(shown["y"], rows.y, atol=1e-4)
        np.testing.assert_allclose(np.add(shown["y"], shown["error_y"]["array"]), rows.y_high.fillna(rows.y), atol=1e-3)
        estimated = "estimated" in str(name)
        assert shown["marker"]["symbol"].endswith("-open") == estimated
        assert shown["line"]["dash"] == ("dot" if estimated else "solid")
    assert list(spec["layout"]["xaxis"]["ticktext"]) == ["1st", "2nd", "3rd"]


def test_both_budgets_share_one_scale(record: Record) -> None:
    layout = length_and_budget.VIEW.spec(record)["layout"]
    assert layout["yaxis"]["range"] == layout["yaxis2"]["range"]
    data = length_and_budget.VIEW.spec(record)["data"]
    assert sorted(t["name"] for t in data) == sorted(["chain", "with-replacement", "rsd-c", "rsd-s"] * 2)
    assert {t["xaxis"] for t in data} == {"x", "x2"}
    assert len({(t["marker"]["symbol"], t["line"]["dash"]) for t in data}) == 4  # told apart without colour
    assert "At depth 4, rsd-s writes most: 2.22" in length_and_budget.VIEW.describe(record)


@pytest.mark.parametrize(("p_value", "statement", "ink"), [(0.43, "No bias seen", "accepted"), (1e-9, "Biased", "rejected")])
def test_the_monitor_states_the_verdict_plainly(record: Record, p_value: float, statement: str, ink: str) -> None:
    columns = {str(v): record["curve/lossless"][v].values for v in record["curve/lossless"].variables}
    judged = record.with_groups(
        {"curve/lossless": columns}, {"curve/lossless": record["curve/lossless"].attrs | {"p_value": p_value}}
    )
    assert lossless_monitor.VIEW.describe(judged).startswith(statement)
    texts = [a["text"] for a in lossless_monitor.VIEW.spec(judged)["layout"]["annotations"]]
    assert any(statement in t for t in texts)
    colours = {t["line"]["color"] for t in lossless_monitor.VIEW.spec(judged)["data"] if t["name"] == "chi-square / dof"}
    assert len(colours) == 1


def test_the_monitor_draws_what_an_exact_sampler_shows(record: Record) -> None:
    spec = lossless_monitor.VIEW.spec(record)
    names = [t["name"] for t in spec["data"]]
    assert names == ["expected of an exact sampler", "total variation", "low", "an exact sampler, 95 %", "chi-square / dof"]
    assert spec["layout"]["xaxis"]["range"][0] == pytest.approx(np.log10(50))


def test_without_a_p_value_nothing_is_claimed(record: Record) -> None:
    columns = {str(v): record["curve/lossless"][v].values for v in record["curve/lossless"].variables}
    untested = record.with_groups({"curve/lossless": columns}, {"curve/lossless": {"x_label": "samples", "y_label": "distance"}})
    assert lossless_monitor.VIEW.describe(untested).startswith("Not tested")


def test_the_knee_is_the_largest_cheap_count(record: Record) -> None:
    profile = latency_profile.Profile(record)
    assert profile.knee == 8  # the simulated jump lies at 9 rows
    assert profile.rows == 16
    assert profile.cost(16) == pytest.approx(234 / 84)
    assert (
        latency_profile.VIEW.describe(record)
        == "Up to 8 rows cost at most 1.6x one row (84 ms); this run's tree of 16 rows costs 2.8x."
    )


def plane_record(speed: float, quality: float, better: str = "higher") -> Record:
    columns = meters(1.0)
    columns["value"] = np.array([10 * speed, 1.0, 1.0, quality])
    columns["better"] = np.array(["higher", "higher", "higher", better])
    return Record.from_columns({"meters": columns}, run_attrs(0, {}))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(-9, 9)), min_size=1, max_size=6), st.sampled_from(["higher", "lower"]))
def test_the_front_is_what_no_point_beats(points: list[tuple[int, int]], better: str) -> None:
    records = [plane_record(s / 3, q, better) for s, q in points]
    plane = Plane(records[0], [(str(i), r) for i, r in enumerate(records[1:])], None, None)
    sign = 1 if better == "higher" else -1
    every = {(round(p.speed, 6), sign * p.quality) for p in plane.points}
    wanted = {a for a in every if not any(b != a and b[0] >= a[0] and b[1] >= a[1] for b in every)}
    front = plane.front()
    assert {(round(p.speed, 6), sign * p.quality) for p in front} == wanted
    assert [p.speed for p in front] == sorted(p.speed for p in front)


def test_this_run_is_ringed_and_the_baseline_is_drawn(record: Record) -> None:
    other = simulate(branching=(1,), seed=9)
    spec = speed_quality.VIEW.spec(record, others=[("chain", other)])
    this, base, earlier = (trace(spec, n) for n in ("this run", "baseline", "earlier runs"))
    value = record.meter("tokens_per_second")
    assert this["x"] == [pytest.approx(value["value"] / value["baseline"])]
    assert this["marker"]["line"]["width"] == 4
    assert (base["x"], base["y"]) == ([1.0], [-1.5])
    assert earlier["customdata"] == [0]
    assert earlier["text"] == ["chain"]


def test_two_baselines_of_one_point_are_both_named() -> None:
    columns = plane_record(2, 0.5)
    names = columns.column("meters", "baseline_name").astype(object)
    mixed = {n: columns.column("meters", n) for n in columns.variables("meters")}
    names[:] = [f"{name}, same run" for name in ("grid_sample", *names[1:-1], "matching alone")]
    shown = Record.from_columns({"meters": mixed | {"baseline_name": names}}, run_attrs(0, {}))
    assert trace(speed_quality.VIEW.spec(shown), "baseline")["text"] == ["grid_sample \u00b7 matching alone"]
    assert speed_quality.VIEW.describe(shown).endswith("(matching alone).")


def test_a_run_that_measured_something_else_is_said_to_be_missing(record: Record) -> None:
    columns = {n: record.column("meters", n) for n in record.variables("meters")}
    other = Record.from_columns(
        {"meters": columns | {"meter": np.char.add("other ", columns["meter"].astype(str))}}, run_attrs(0, {})
    )
    said = speed_quality.VIEW.describe(record, others=[("one", other), ("two", record)])
    assert said.endswith("1 run without these two numbers is not drawn.")
    assert "not drawn" not in speed_quality.VIEW.describe(record, others=[("two", record)])


def test_lower_is_better_turns_the_axis_so_that_up_is_better() -> None:
    layout = speed_quality.VIEW.spec(plane_record(2, 0.1, "lower"))["layout"]
    assert layout["yaxis"]["range"][0] > layout["yaxis"]["range"][1]


def test_the_name_of_the_upright_axis_fits_beside_the_hero() -> None:
    columns = meters(1.0)
    columns["unit"] = np.array(["tokens/s", "x", "x", "held-out text, the limit in place <of 8>"])
    record = Record.from_columns({"meters": columns}, run_attrs(0, {}))
    (name,) = speed_quality.draw(record)["layout"]["annotations"]
    lines = re.sub("</?b>", "", name["text"]).split("<br>")
    assert html.unescape(" ".join(lines)).endswith(", held-out text, the limit in place <of 8> (higher is better)")
    assert max(len(html.unescape(line)) for line in lines) <= 34


def test_another_meter_can_be_chosen_and_a_wrong_one_names_the_nearest(record: Record) -> None:
    spec = speed_quality.VIEW.spec(record, speed="tokens_per_target_call")
    assert trace(spec, "this run")["x"] == [pytest.approx(record.meter("tokens_per_target_call")["value"])]
    with pytest.raises(UnknownNameError, match="tokens_per_second"):
        speed_quality.VIEW.spec(record, speed="token_per_second")


def test_runs_of_another_system_are_left_out(record: Record) -> None:
    columns = meters(1.0)
    columns["meter"] = np.array(["images_per_second", "b", "c", "accuracy"])
    foreign = Record.from_columns({"meters": columns}, run_attrs(0, {}))
    spec = speed_quality.VIEW.spec(record, others=[("foreign", foreign)])
    assert trace(spec, "earlier runs")["x"] == []


def test_a_sweep_is_drawn_with_one_point_a_setting_on_its_own_baseline() -> None:
    import workbench as wb
    from workbench.models import TableLM

    rng = np.random.default_rng(5)
    target, draft = (TableLM(rng.dirichlet(np.full(5, 0.8), 5)) for _ in range(2))
    fixed = {"target": target, "draft": draft, "prompt": [0, 1], "max_new_tokens": 6, "temperature": 1.0}
    sweep = wb.sweep("rsd", {"depth": [1, 2], "width": [1, 2]}, **fixed)
    points = trace(sweep.figure("speed_quality").to_plotly_json(), "earlier runs")
    value, baseline = (np.asarray(sweep["meters"][v].sel(meter="tokens_per_second")) for v in ("value", "baseline"))
    np.testing.assert_allclose(points["x"], value / baseline)
    assert points["text"] == ["depth 1, width 1", "depth 1, width 2", "depth 2, width 1", "depth 2, width 2"]
    assert sweep.text("speed_quality").startswith("4 settings; no other beats these")
    assert "runs/0" in sweep._repr_html_()
    assert sweep.figure("token_tree", setting=1, step=0).data

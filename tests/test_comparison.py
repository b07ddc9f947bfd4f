"""Records side by side: what differs, how meters change, pictures on one scale."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

import workbench as wb
from tests.views.simulator import record as simulate
from tests.views.simulator import run_attrs
from workbench import theme
from workbench.comparison import Comparison, beside
from workbench.errors import InputError, UnknownNameError
from workbench.record import Record


@pytest.fixture(scope="module")
def pair() -> Comparison:
    return wb.compare(simulate(), simulate(branching=(1, 1), method="chain"))


def test_knobs_that_differ_are_listed_and_others_are_not(pair: Comparison) -> None:
    assert pair.knobs == [{"knob": "method", "values": ["rsd-c", "chain"]}, {"knob": "depth", "values": [3, 2]}]
    assert pair.labels == ["method rsd-c, depth 3", "method chain, depth 2"]


def test_meters_carry_values_and_changes(pair: Comparison) -> None:
    row = next(r for r in pair.meters if r["meter"] == "tokens_per_second")
    values = [r.meter("tokens_per_second")["value"] for r in pair.records]
    assert row["values"] == values
    assert row["changes"][0] == ""
    assert row["changes"][1].endswith("faster" if values[1] > values[0] else "slower")


def test_a_meter_that_one_record_lacks_is_a_dash(pair: Comparison) -> None:
    without = Record.from_columns(
        {"text": {str(v): pair.records[0]["text"][v].values for v in pair.records[0]["text"].variables}}, run_attrs(0, {})
    )
    both = Comparison([pair.records[0], without])
    assert both.meters[0]["values"][1] != both.meters[0]["values"][1]
    assert both.meters[0]["changes"][1] == ""
    assert both.views == ["text_strip"]
    assert "–" in repr(both)


@pytest.mark.parametrize("design", theme.DESIGNS)
def test_every_shared_view_is_drawn_twice_on_one_scale(pair: Comparison, design: str) -> None:
    for name in pair.views:
        figure = pair.figure(name, theme=design).to_plotly_json()
        go.Figure(figure)  # validates
        single = [r.figure(name, theme=design).to_plotly_json() for r in pair.records]
        assert len(figure["data"]) == sum(len(s["data"]) for s in single)
        mine: dict[str, list[Any]] = {k: v["range"] for k, v in figure["layout"].items() if k[1:5] == "axis" and "range" in v}
        count = max(len([k for k in s["layout"] if k.startswith("xaxis")]) for s in single)
        other = f"xaxis{count + 1}"
        if "xaxis" not in mine:  # plotly chooses the range: one for both
            assert figure["layout"][other].get("matches") == "x"
            continue
        assert mine["xaxis"] == mine[other]
        for s in [s for s in single if "range" in s["layout"]["xaxis"]]:
            low, high = sorted(mine["xaxis"])
            assert low <= min(s["layout"]["xaxis"]["range"])
            assert high >= max(s["layout"]["xaxis"]["range"])


def test_cells_do_not_overlap(pair: Comparison) -> None:
    for name in ("step_timeline", "token_tree"):
        layout = pair.figure(name).to_plotly_json()["layout"]
        letter = "x" if name == "step_timeline" else "y"
        parts = sorted(v["domain"] for k, v in layout.items() if k.startswith(f"{letter}axis"))
        assert parts[0][1] < parts[1][0]


def test_each_record_can_have_its_own_step(pair: Comparison) -> None:
    figure = pair.figure("text_strip", step=[1, 2])
    rings = [t for t in figure.data if t.name == "this step"]
    assert [r.xaxis for r in rings] == ["x", "x2"]
    assert all(r.x for r in rings)


def test_both_forms_of_display_hold_knobs_and_meters(pair: Comparison) -> None:
    for text in (repr(pair), pair._repr_html_()):
        for part in ("method", "chain", "rsd-c", "tokens"):
            assert part in text


def test_one_record_or_a_stranger_is_an_error(pair: Comparison) -> None:
    with pytest.raises(InputError, match="at least two records, got 1"):
        wb.compare(pair.records[0])
    with pytest.raises(InputError, match="expected records, got dict"):
        Comparison([pair.records[0], {}])  # type: ignore[list-item]
    with pytest.raises(UnknownNameError, match="token_tree"):
        pair.figure("token_trees")


def test_a_picture_keeps_its_own_proportions_in_every_cell() -> None:
    spec = {
        "data": [],
        "layout": {"margin": {"t": 30}, "xaxis": {"range": [0, 4]}, "yaxis": {"range": [3, 0], "scaleanchor": "x"}},
    }
    layout = beside([spec, spec], ["a", "b"], "light")["layout"]
    assert (layout["yaxis"]["scaleanchor"], layout["yaxis2"]["scaleanchor"]) == ("x", "x2")


def test_numbers_of_different_units_are_never_compared(pair: Comparison) -> None:
    one, other = pair.records
    columns = {n: other.column("meters", n).copy() for n in other.variables("meters")}
    columns["unit"] = np.array(["words/s", *columns["unit"][1:]], dtype=object)
    name, unit = str(columns["meter"][0]), str(one.column("meters", "unit")[0])
    found = [r for r in Comparison([one, other.with_groups({"meters": columns})]).meters if r["meter"] == name]
    assert [r["unit"] for r in found] == [unit, "words/s"]
    assert [np.isfinite(r["values"]).tolist() for r in found] == [[True, False], [False, True]]
    assert [r["changes"] for r in found] == [["", ""], ["", ""]]


def test_the_plane_leaves_out_what_is_measured_in_other_units(pair: Comparison) -> None:
    one, other = pair.records
    columns = {n: other.column("meters", n).copy() for n in other.variables("meters")}
    columns["unit"] = np.array(["elephants"] * len(columns["unit"]), dtype=object)
    strange = other.with_groups({"meters": columns})
    assert "twin" in one.text("speed_quality", others=[("twin", other)])
    assert "twin" not in one.text("speed_quality", others=[("twin", strange)])

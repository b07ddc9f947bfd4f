"""What holds for every picture: plotly accepts it, the text twin speaks, options are checked, a step is fast and stays in place."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from workbench import theme, views
from workbench.errors import InputError, RecordError, UnknownNameError
from workbench.export import dumps, steps_of
from workbench.record import Record

NAMES = list(views.registry())
STEPPED = [n for n in NAMES if views.get(n).steps]


@pytest.mark.parametrize("design", theme.DESIGNS)
@pytest.mark.parametrize("name", NAMES)
def test_plotly_accepts_every_property(record: Record, name: str, design: str) -> None:
    spec = record.figure(name, theme=design).to_plotly_json()
    checked = go.Figure(spec)  # with validation: an unknown property or a bad value raises
    assert len(checked.data) == len(spec["data"])
    assert checked.layout.template.layout.paper_bgcolor == theme.design(design).background
    assert checked.layout.title.text == theme.label(views.get(name).question, 200).replace("␣", " ")
    assert checked.layout.uirevision


@pytest.mark.parametrize("name", NAMES)
def test_the_twin_and_the_caption_say_something(record: Record, name: str) -> None:
    view = views.get(name)
    caption = view.describe(record)
    assert caption.endswith(".")
    assert "nan" not in caption.lower()
    assert record.text(name).startswith(caption)
    assert len(view.reading) > 80
    assert view.question.endswith("?")


@pytest.mark.parametrize("name", STEPPED)
def test_axes_stay_where_they_are_while_stepping(record: Record, name: str) -> None:
    view = views.get(name)
    specs = [view.spec(record, step=s) for s in steps_of(record, view)]
    ranges = [{k: v.get("range") for k, v in s["layout"].items() if k in {"xaxis", "yaxis"}} for s in specs]
    assert all(r == ranges[0] for r in ranges)
    assert len({s["layout"]["uirevision"] for s in specs}) == 1
    assert len({s["layout"].get("height") for s in specs}) == 1


@pytest.mark.parametrize("name", STEPPED)
def test_a_step_that_is_not_there_names_the_bounds(record: Record, name: str) -> None:
    last = steps_of(record, views.get(name))[-1]
    with pytest.raises(InputError, match=f"from 0 to {last}"):
        record.figure(name, step=99)


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_option_or_theme_names_the_nearest(record: Record, name: str) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'theme'"):
        record.figure(name, themes="dark")
    with pytest.raises(UnknownNameError, match="dark, light"):
        record.figure(name, theme="sepia")


@pytest.mark.parametrize("name", NAMES)
def test_a_record_without_the_group_is_an_error_that_names_it(record: Record, name: str) -> None:
    first = views.get(name).groups[0]
    kept = {g: {str(v): record[g][v].values for v in record[g].variables} for g in record.groups if g != first}
    poorer = Record.from_columns(kept, record.attrs)
    assert name not in poorer.views()
    with pytest.raises(RecordError, match=first):
        poorer.figure(name)


@pytest.mark.parametrize("name", NAMES)
def test_bars_of_a_shared_axis_are_as_wide_as_one_place(record: Record, name: str) -> None:
    """Plotly makes bars without a width as wide as the gap between their nearest neighbours: a trace of few would cover its neighbours' places."""
    view = views.get(name)
    spec = view.spec(record, **({"step": steps_of(record, view)[-1]} if view.steps else {}))
    places: dict[Any, set[str]] = {}
    for bar in (t for t in spec["data"] if t["type"] == "bar" and "width" not in t):
        along = bar["y"] if bar.get("orientation") == "h" else bar["x"]
        places.setdefault((bar.get("xaxis", "x"), bar.get("yaxis", "y")), set()).add(json.dumps(along))
    assert all(len(different) == 1 for different in places.values())


@pytest.mark.parametrize("name", NAMES)
def test_drawing_is_fast_enough_for_a_slider(record: Record, name: str) -> None:
    view = views.get(name)
    step: dict[str, Any] = {"step": min(3, steps_of(record, view)[-1])} if view.steps else {}
    view.spec(record, **step)
    best = min(_seconds(lambda: view.spec(record, **step)) for _ in range(5))
    assert best < 0.025  # 1 to 5 ms on a free machine; the tests may share theirs


def _seconds(call: Any) -> float:
    start = time.thread_time()  # of this thread alone: other tests share the machine
    call()
    return time.thread_time() - start


def test_figures_say_when_the_algorithm_is_broken_on_purpose(record: Record) -> None:
    columns = {str(v): record["text"][v].values for v in record["text"].variables}
    broken = record.with_groups({"text": columns}, {"text": {"broken": "sorted siblings"}})
    for name in broken.views():
        texts = [a["text"] for a in views.get(name).spec(broken)["layout"]["annotations"]]
        assert any("broken on purpose" in t for t in texts)
    assert not any("broken" in a["text"] for a in views.get("token_tree").spec(record)["layout"].get("annotations", ()))


def test_every_view_draws_a_real_record_also_from_a_file(real: Record, tmp_path: Any) -> None:
    again = Record.load(real.save(tmp_path / "run.wb"))
    expected = [
        "token_tree",
        "rejection_ladder",
        "text_strip",
        "step_timeline",
        "acceptance_by_rank",
        "lossless_monitor",
        "speed_quality",
    ]
    assert real.views() == again.views() == expected
    for name in expected:
        view = views.get(name)
        for step in steps_of(real, view) or [None]:
            where = {} if step is None else {"step": step}
            assert dumps(view.spec(real, **where)) == dumps(view.spec(again, **where))
            assert view.text(real, **where) == view.text(again, **where)
        go.Figure(view.spec(again))


def test_json_never_holds_what_a_browser_cannot_read() -> None:
    text = dumps({"a": np.array([1.0, np.nan]), "b": float("inf"), "c": "</script>", "d": np.float32(2)})
    assert json.loads(text) == {"a": [1.0, None], "b": None, "c": "</script>", "d": 2.0}
    assert "</" not in text


@pytest.mark.parametrize(
    "knobs",
    [
        {"method": "autoregressive"},
        {"method": "chain", "depth": 3},
        {"method": "rsd-c", "depth": 2, "width": [2, 2]},
        {"method": "with-replacement", "depth": 2, "width": 2},
        {"method": "top-k", "depth": 2, "width": 2},
        {"method": "rsd-s", "depth": 2, "width": 2, "temperature": 0.0},
        {"method": "rsd-s", "depth": 2, "width": 2, "break_it": "sorted-siblings", "keep_depth": 1},
        {"method": "rsd-s", "depth": 1, "width": 2, "max_new_tokens": 1},
    ],
    ids=lambda k: " ".join(map(str, k.values())),
)
def test_every_method_can_be_drawn_at_every_step(knobs: dict[str, Any]) -> None:
    import workbench as wb
    from workbench.models import TableLM

    rng = np.random.default_rng(5)
    tables = [TableLM(rng.dirichlet(np.full(5, 0.8), 5)) for _ in range(2)]
    base = {"target": tables[0], "draft": tables[1], "prompt": [0, 1], "max_new_tokens": 8, "temperature": 1.0}
    record = wb.run("rsd", **(base | knobs))
    assert {"token_tree", "text_strip", "step_timeline", "speed_quality"} <= set(record.views())
    for name in record.views():
        view = views.get(name)
        for step in steps_of(record, view) or [None]:
            where = {} if step is None else {"step": step}
            go.Figure(view.spec(record, **where))
            assert "nan" not in view.describe(record, **where)

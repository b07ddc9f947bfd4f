"""The calls a reader makes, on the toy system and on a table model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import workbench as wb
from workbench.api import settings_of
from workbench.errors import InputError, RecordError, UnknownNameError, WorkbenchError
from workbench.record import Record
from workbench.system import System
from workbench.tape import NullTape, Tape

pytestmark = pytest.mark.usefixtures("toy")
TABLES: dict[str, Any] = {"prompt": [0], "max_new_tokens": 3, "temperature": 1.0}


def tables() -> dict[str, Any]:
    P, Q = np.random.default_rng(0).dirichlet(np.ones(4), (2, 4))
    return TABLES | {"target": wb.models.TableLM(P), "draft": wb.models.TableLM(Q)}


def test_catalog_lists_every_system_with_its_fields() -> None:
    rows = {row["name"]: row for row in wb.catalog().rows}
    assert {"name", "title", "year", "arxiv", "family", "views", "status"} <= set(rows["rsd"])
    assert rows["rsd"]["arxiv"] == "2402.14160"
    assert rows["rsd"]["status"] == "ready"
    assert "Recursive Speculative Decoding" in wb.catalog()._repr_html_()
    assert "rsd" in repr(wb.catalog())


def test_contract_names_are_there() -> None:
    assert set(wb.__all__) >= {"catalog", "run", "open", "load", "compare", "sweep", "WorkbenchError", "Record"}
    for name in (*wb.__all__, "models", "kernels", "views"):
        assert getattr(wb, name) is not None
    assert callable(wb.sweep), "a module of that name must not take its place"
    with pytest.raises(AttributeError, match="has no attribute 'runn'"):
        _ = wb.runn


def test_run_save_load(tmp_path: Path) -> None:
    record = wb.run("toy", seed=1, steps=4)
    assert record.groups == ("meters", "curve/above", "curve/draws")
    assert wb.load(record.save(tmp_path / "toy.zarr.zip")).equals(record)
    assert record.meter("draws_per_call")["value"] == 4.0


def test_run_takes_your_tape_and_refuses_one_that_records_nothing() -> None:
    seen: list[int] = []
    record = wb.run("toy", tape=Tape(lambda p, _: seen.append(p.done)), steps=3)
    assert seen == [1, 2, 3]
    assert "curve/draws" in record
    with pytest.raises(InputError, match="tape: expected a recording Tape, got NullTape"):
        wb.run("toy", tape=NullTape())


def test_wrong_names_and_values() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'rsd'"):
        wb.run("rsdd")
    with pytest.raises(UnknownNameError, match="Did you mean 'depth'"):
        wb.run("rsd", dept=3)
    with pytest.raises(InputError, match="steps: expected a whole number from 1 to 50 draws, got 51"):
        wb.run("toy", steps=51)
    for error in (UnknownNameError, InputError):
        assert issubclass(error, WorkbenchError)
    assert issubclass(UnknownNameError, KeyError)
    assert issubclass(InputError, ValueError)


def test_a_table_model_runs_from_the_contract_line() -> None:
    a, b = (wb.run("rsd", **tables(), seed=7) for _ in range(2))
    np.testing.assert_array_equal(a["text"]["token_id"], b["text"]["token_id"])
    assert a["text"]["generated"].values.sum() == 3
    kinds = set(a["meters"]["kind"].values)
    assert {"speed", "quality"} <= kinds


@pytest.mark.parametrize(
    ("grid", "count"), [({"steps": [1, 2], "scale": [0.5, 1.0, 2.0]}, 6), ([{"steps": 1}, {"scale": 0.5}], 2)]
)
def test_settings(grid: Any, count: int) -> None:
    settings = settings_of(grid)
    assert len(settings) == count
    assert settings[0]["steps"] == 1


@pytest.mark.parametrize("grid", [{}, [], {"steps": []}, [{}]])
def test_an_empty_grid_is_an_error(grid: Any) -> None:
    with pytest.raises(InputError, match="grid: expected at least one knob with at least one value"):
        wb.sweep("toy", grid)


def swept(**options: Any) -> Record:
    settings = [{"steps": 2}, {"steps": 3, "mode": "extra"}, {"mode": "fails"}, {"width": [2, 2]}, {"mode": "breaks"}]
    return wb.sweep("toy", settings, seed=5, **options)


def test_sweep_is_one_record(tmp_path: Path) -> None:
    record = swept()
    meters, settings = record["meters"], record["settings"]
    assert meters["meter"].values.tolist() == ["draws_per_call", "worst", "extra"]
    assert meters["value"].dims == ("setting", "meter")
    np.testing.assert_array_equal(
        meters["value"], [[2, np.nan, np.nan], [3, np.nan, 7], [np.nan] * 3, [5, np.nan, np.nan], [np.nan] * 3]
    )
    assert meters["kind"].values.tolist() == ["speed", "quality", "cost"]
    np.testing.assert_array_equal(settings["steps"], [2, 3, 5, 5, 5])
    assert settings["width"].values.tolist() == ["null", "null", "null", "[2, 2]", "null"]
    assert settings["mode"].values.tolist() == ["plain", "extra", "fails", "plain", "breaks"]
    assert json.loads(settings.attrs["varied"]) == ["steps", "mode", "width"]
    errors = settings["error"].values.tolist()
    assert [bool(e) for e in errors] == [False, False, True, False, True]
    assert "expected anything but 'fails'" in errors[2]
    assert errors[4] == "ZeroDivisionError: a bug"
    loaded = wb.load(record.save(tmp_path / "sweep.zarr.zip"))
    assert loaded.equals(record)
    assert loaded.at(1).equals(record.at(1))


def test_a_run_of_a_sweep_is_that_run() -> None:
    record = swept()
    alone = wb.run("toy", seed=5, steps=3, mode="extra")
    one = record.at(1)
    assert one.groups == alone.groups
    for group in alone.groups:
        assert one[group].identical(alone[group])
    assert one.knobs == alone.knobs
    assert record.meter("extra", setting=1)["value"] == 7.0
    with pytest.raises(InputError, match="setting: expected an index below 5"):
        record.meter("extra")
    with pytest.raises(RecordError, match="Setting 2 left no run, it failed: mode"):
        record.at(2)
    with pytest.raises(UnknownNameError, match="an index below 5"):
        record.at(5)


def test_a_sweep_is_deterministic() -> None:
    a, b = swept(), swept()
    for group in a.groups:
        assert a[group].identical(b[group])


def test_a_sweep_through_dask_is_the_same() -> None:
    from distributed import Client

    with Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address=None) as client:
        there = swept(client=client)
        by_address = swept(client=client.scheduler.address)
    here = swept()
    assert there.groups == here.groups == by_address.groups
    for group in here.groups:
        assert there[group].identical(here[group])


def test_a_wrong_setting_is_said_before_any_work() -> None:
    with pytest.raises(InputError, match="Setting 1: steps: expected a whole number from 1 to 50"):
        wb.sweep("toy", {"steps": [1, 99]})
    with pytest.raises(UnknownNameError, match="Setting 0: knob of toy"):
        wb.sweep("toy", {"stepz": [1]})
    with pytest.raises(WorkbenchError, match="Every setting failed; the first: mode"):
        wb.sweep("toy", {"mode": ["fails"]})


def test_an_unreachable_scheduler_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workbench.sweep_pool._CONNECT_SECONDS", 0.2)
    with pytest.raises(InputError, match="a dask client or the address of a running scheduler"):
        wb.sweep("toy", {"steps": [1]}, client="tcp://127.0.0.1:1")
    with pytest.raises(InputError, match="a dask client or the address of a running scheduler"):
        wb.sweep("toy", {"steps": [1]}, client=3)


def test_open_builds_the_page_of_any_system(toy: type[System]) -> None:
    bench = wb.open("toy", steps=3)
    assert bench.system.steps == 3
    with pytest.raises(InputError, match="steps"):
        wb.open("toy", steps=99)

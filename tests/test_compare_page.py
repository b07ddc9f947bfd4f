"""The page that compares, without a browser: what it does with a sweep that a reader put on the shelf."""

from __future__ import annotations

from pathlib import Path

import pytest

import workbench as wb
from widgets.bench import Bench
from widgets.compare import MOST, SHIPPED, Compare
from widgets.shelf import Shelf, new_key
from workbench import system as systems

TABLES = {"prompt": [0], "target": "table-target", "draft": "table-draft", "max_new_tokens": 3}


@pytest.fixture
def visitor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))
    return new_key()


def test_the_runs_of_a_sweep_stand_side_by_side(visitor: str, tmp_path: Path) -> None:
    sweep = wb.sweep("rsd", {"depth": [1, 2, 3, 4, 5]}, **TABLES)
    file = sweep.save(tmp_path / "sweep.zarr.zip")
    kept = Shelf(visitor).upload(file.read_bytes(), "a sweep.zarr.zip")
    page = Compare()
    page._heard({"kind": "hello", "visitor": visitor})
    page._heard({"kind": "choose", "keys": [kept.key]})
    assert page.comparison is not None
    assert page.comparison.labels == [f"a sweep: depth {i}" for i in (1, 2, 3, 4)][:MOST]
    assert page.list.message == f"On show: the first {MOST} of 5 runs, those of a sweep counted one by one."
    assert page.picture.figure
    bench = Bench(systems.get("rsd")())
    bench._wanted = kept.key
    bench._heard({"kind": "hello", "visitor": visitor})
    assert "is a sweep of 5 runs. Choose it on the page that compares runs." in bench.header.message
    bench.close()


def test_every_number_of_the_tables_says_how_it_was_come_by(visitor: str) -> None:
    page = Compare()
    page._heard({"kind": "hello", "visitor": visitor})
    page._heard({"kind": "choose", "keys": [SHIPPED + "rsd", SHIPPED + "zipvl"]})
    assert page.comparison is not None
    html = page.tables.object
    figures = sum(v == v for row in page.comparison.meters for v in row["values"])
    assert html.count("class='provenance ") == figures > 10

"""The offline page: one file, no network, the scrubber moves; too large a page is refused before it is drawn."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.views.simulator import record as simulate
from tests.views.simulator import run_attrs
from workbench import export
from workbench.errors import InputError, StorageError, WorkbenchError
from workbench.record import Record


@pytest.fixture(scope="module")
def record() -> Record:
    return simulate(steps=6)


@pytest.fixture(scope="module")
def page(record: Record, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record.html(tmp_path_factory.mktemp("page") / "run.html")


def test_the_page_is_one_file_without_addresses(page: Path, record: Record) -> None:
    text = page.read_text(encoding="utf-8")
    ours = text.replace(__import__("plotly.offline").offline.get_plotlyjs(), "")
    assert "http" not in ours
    assert "src=" not in ours
    assert "{{" not in ours
    for name in record.views():
        assert f"id='{name}'" in ours


def test_the_summary_says_what_ran_what_was_measured_and_what_to_try(record: Record) -> None:
    html = export.record_summary(record)
    for part in ("simulator", "seed 4", "method", "tokens per second", "predicted", "record.figure", "laws"):
        assert part in html
    assert "faster" in html
    assert "plain decoding" in html
    assert record._repr_mimebundle_()["text/plain"].startswith("<Record of 'simulator'")


@pytest.mark.parametrize(
    ("value", "baseline", "kind", "better", "said"),
    [
        (18.3, 10.0, "speed", "higher", "▲ 1.83× faster"),
        (5.0, 10.0, "speed", "higher", "▼ 2.00× slower"),
        (5.0, 10.0, "cost", "lower", "▼ 2.00× cheaper"),
        (0.1, 0.3, "quality", "lower", "▼ 0.200 better"),
        (-1.6, -1.5, "quality", "higher", "▼ 0.100 worse"),
        (1.0, 1.0, "quality", "higher", "= no change"),
        (1.0, float("nan"), "quality", "higher", ""),
    ],
)
def test_a_change_has_an_arrow_a_size_and_a_word(value: float, baseline: float, kind: str, better: str, said: str) -> None:
    assert export.change({"value": value, "baseline": baseline, "kind": kind, "better": better})[0] == said


def test_a_difference_within_the_bounds_is_noise() -> None:
    meter = {"value": -1.42, "baseline": -1.5, "kind": "quality", "better": "higher", "low": -1.6, "high": -1.2}
    assert export.change(meter) == ("= same within noise", "same")
    assert export.change(meter | {"low": -1.45}) == ("▲ 0.0800 better", "good")


def test_the_estimate_is_near_the_truth(page: Path, record: Record) -> None:
    from plotly.offline import get_plotlyjs

    from workbench import views

    guess = sum(export._estimate(record, v) for v in views.for_record(record))
    assert guess == pytest.approx(page.stat().st_size - len(get_plotlyjs().encode()), rel=0.25)


def test_too_large_a_page_is_refused_with_numbers(record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from workbench import views

    sizes = {v.name: export._estimate(record, v) for v in views.for_record(record)}
    largest = sorted(sizes, key=lambda n: -sizes[n])[:4]
    named = ", ".join(f"{n} {sizes[n] / 1e6:.1f} MB" for n in largest)
    monkeypatch.setattr(export, "MAX_BYTES", 1_000_000)
    with pytest.raises(InputError, match=rf"at most 1 MB, got about \d\.\d MB \({named}, plotly \d\.\d MB\)") as told:
        record.html(tmp_path / "run.html")
    total = float(str(told.value).split("about ")[1].split()[0])
    drawn = sum(sizes.values()) / 1e6
    assert drawn < total < drawn + 6, "the total counts the pictures and plotly itself"
    assert list(tmp_path.iterdir()) == []


def test_a_record_without_pictures_is_refused(tmp_path: Path) -> None:
    import numpy as np

    empty = Record.from_columns({"samples": {"token_id": np.zeros((2, 2), np.int32)}}, run_attrs(0, {}))
    with pytest.raises(InputError, match="a view can draw"):
        empty.html(tmp_path / "run.html")


def test_a_full_disk_leaves_the_old_file_and_no_rest(record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "run.html"
    old.write_text("old")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StorageError, match="No space left on device"):
        record.html(old)
    assert old.read_text() == "old"
    assert list(tmp_path.iterdir()) == [old]


def test_a_folder_that_is_not_there_is_a_sentence(record: Record, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="Choose another folder"):
        record.html(tmp_path / "nowhere" / "run.html")


def test_every_shipped_run_fits_into_a_mail() -> None:
    """The estimate is checked above against a page; here it must hold for what readers get."""
    from plotly.offline import get_plotlyjs

    from widgets.recorded import recorded_run
    from workbench import system as systems
    from workbench import views

    for key in systems.registry():
        record = recorded_run(key)
        assert record is not None
        size = sum(export._estimate(record, v) for v in views.for_record(record)) + len(get_plotlyjs())
        print(f"{key}: {size / 1e6:.1f} MB")
        assert size < export.MAX_BYTES


def test_picture_files(record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    with pytest.raises(InputError, match=r"ends in \.png, \.svg"):
        record.image(tmp_path / "tree.gif", "token_tree")
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "kaleido" else importlib.util.find_spec(name))
    with pytest.raises(InputError, match="kaleido, which is not installed"):
        record.image(tmp_path / "tree.png", "token_tree")
    monkeypatch.setattr(export, "find_spec", lambda name: object())

    def no_browser(*_: Any, **__: Any) -> None:
        raise RuntimeError("no browser")

    monkeypatch.setattr("plotly.graph_objects.Figure.to_image", no_browser)
    with pytest.raises(WorkbenchError, match="needs a Chromium or Chrome"):
        record.image(tmp_path / "tree.png", "token_tree")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.ui
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")  # kaleido's pipes
def test_a_picture_file_is_drawn_without_a_page(record: Record, tmp_path: Path) -> None:
    from PIL import Image

    png = record.image(tmp_path / "tree.png", "token_tree", step=1, width=300, height=200, scale=2)
    svg = record.image(tmp_path / "tree.svg", "token_tree", step=1)
    with Image.open(png) as opened:
        assert opened.size == (600, 400)
    assert svg.read_text(encoding="utf-8").startswith("<svg")


@pytest.mark.ui
def test_the_page_answers_a_pointer_and_saves_its_pictures(page: Path, record: Record, offline: Any) -> None:
    tab = offline(page)
    tab.wait_for_selector("#speed_quality .main-svg")
    tab.locator("#speed_quality").scroll_into_view_if_needed()
    tab.locator("#speed_quality .points path").first.hover(force=True)
    tab.wait_for_selector("#speed_quality .hovertext")
    for kind, start in (("PNG", b"\x89PNG"), ("SVG", b"<svg")):
        with tab.expect_download() as saved:
            tab.locator("button[data-view=token_tree]", has_text=kind).click()
        assert saved.value.suggested_filename == f"token_tree-step-0.{kind.lower()}"
        assert Path(saved.value.path()).read_bytes().startswith(start)
    tab.locator("section:has(#token_tree) details summary").click()
    assert tab.inner_text("#token_tree-words").split() == record.text("token_tree", step=0).split()
    assert offline.problems == []


@pytest.mark.ui
def test_the_scrubber_moves_by_keys_and_the_design_changes(page: Path, record: Record, offline: Any) -> None:
    from workbench import views

    tab = offline(page)
    tab.wait_for_selector("#speed_quality .main-svg")
    assert tab.text_content("#where") == "step 0 of 5"
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowRight")
    assert tab.text_content("#where") == "step 2 of 5"
    assert tab.text_content("#token_tree-caption") == views.get("token_tree").describe(record, step=2)
    tab.keyboard.press("End")
    assert tab.text_content("#text_strip-caption") == views.get("text_strip").describe(record, step=5)
    tab.locator("#scrub").fill("3")
    assert tab.text_content("#where") == "step 3 of 5"
    tab.click("#theme")
    tab.wait_for_function(
        "getComputedStyle(document.querySelector('#token_tree .main-svg')).backgroundColor === 'rgb(18, 21, 26)'"
    )
    assert offline.problems == []

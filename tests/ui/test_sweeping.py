"""Sweep a knob on the page; keep runs and compare them; save pictures; what a record file or an upload may do."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import expect

from tests.ui.conftest import Live
from workbench.record import Record


@pytest.fixture(autouse=True)
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A shelf of this test's own."""
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))
    return tmp_path / "runs"


def sweep(live: Live, knob: str, values: str) -> Any:
    box = live.page.locator(f".knob[data-knob={knob}]")
    box.get_by_role("button", name="sweep").first.click()
    box.locator(".values").fill(values)
    box.locator(".go").click()
    return live.page.locator("figure.picture", has=live.page.locator(".close"))


def points(picture: Any) -> list[list[float]]:
    return picture.locator(".js-plotly-plot").evaluate(
        "(plot) => [Array.from(plot._fullData[1].x), Array.from(plot._fullData[1].y)]"
    )


def test_a_live_knob_is_swept_at_once(live: Live, site: str) -> None:
    live.open(f"{site}/walk")
    picture = sweep(live, "threshold", "0, 2, 4, 8")
    expect(picture.locator(".title")).to_have_text("What does “Threshold” trade?")
    expect(picture).to_have_attribute("data-drawn", re.compile(r"[1-9]"))
    x, y = points(picture)
    assert x == [0, 2, 4, 8]
    assert y == sorted(y, reverse=True)
    assert y[0] > y[-1]
    expect(live.badge).to_have_attribute("data-state", "measured")
    picture.locator(".js-plotly-plot").evaluate(
        "(plot) => plot.emit('plotly_click', { points: [{ x: 4, y: 0, customdata: 2, data: {}, pointIndex: 2 }] })"
    )
    expect(live.page.locator("#knob-threshold")).to_have_value("4")
    picture.locator(".close").click()
    expect(picture).to_be_hidden()
    assert live.errors == []


def test_a_run_knob_is_swept_while_the_curve_grows(live: Live, site: str) -> None:
    live.open(f"{site}/walk?pace_ms=60")
    picture = sweep(live, "length", "5, 10, 15, 20")
    expect(live.badge).to_have_attribute("data-state", "running")
    expect(live.page.locator(".detail")).to_contain_text("sweep of length")
    seen = set()
    live.until(
        lambda: seen.add(len(points(picture)[0]) if picture.locator(".main-svg").count() else 0) or max(seen) == 4,
        "four settings",
    )  # type: ignore[func-returns-value]
    assert len(seen - {0}) >= 2, "the curve came all at once"
    expect(live.page.locator(".detail")).to_contain_text("sweep of length: 4 of 4 settings")
    expect(live.badge).to_have_attribute("data-state", "measured")
    expect(live.page.locator("#knob-length")).to_have_value("12")
    plane = live.picture("What does speed cost?").locator(".js-plotly-plot")
    live.until(lambda: plane.evaluate("(plot) => plot._fullData[0].x.length") == 5, "every run of the sweep stands on the plane")
    picture.locator(".js-plotly-plot").evaluate(
        "(plot) => plot.emit('plotly_click', { points: [{ x: 15, y: 0, customdata: 2, data: {}, pointIndex: 2 }] })"
    )
    expect(live.page.locator("#knob-length")).to_have_value("15")
    expect(live.page.locator(".where")).to_have_text("step 0 of 14")
    assert live.errors == []


def test_a_sweep_is_cancelled_and_keeps_what_it_has(live: Live, site: str) -> None:
    live.open(f"{site}/walk?pace_ms=100")
    picture = sweep(live, "length", "3, 200, 300")
    live.until(lambda: bool(picture.locator(".main-svg").count()) and len(points(picture)[0]) == 1, "the first setting")
    live.page.get_by_role("button", name="cancel").click()
    expect(live.badge).to_have_attribute("data-state", "cancelled")
    expect(live.page.locator(".detail")).to_contain_text("1 of 3 settings")
    expect(picture.locator("figcaption")).to_contain_text("2 settings to come")


def test_a_setting_that_fails_is_a_cross_and_a_sentence(live: Live, site: str) -> None:
    live.open(f"{site}/walk?motto=boom&length=4", state="failed")
    picture = sweep(live, "walkers", "20, 30")
    expect(picture.locator(".empty")).to_contain_text("Something went wrong inside")
    expect(live.page.locator(".detail")).to_contain_text("2 of 2 settings")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [("3", "values of length: expected 2 to 12 different ones"), ("3, 4000", "length: expected a whole number from 2 to 400 steps"),
     ("a, b", "length: expected a number"), (", ".join(map(str, range(2, 40))), "expected 2 to 12 different ones")],
)  # fmt: skip
def test_values_that_cannot_be_swept_are_refused_before_any_run(live: Live, site: str, values: str, sentence: str) -> None:
    live.open(f"{site}/walk")
    sweep(live, "length", values)
    expect(live.page.locator(".banner")).to_contain_text(sentence)
    expect(live.badge).to_have_attribute("data-state", "measured")


def keep(live: Live, address: str) -> None:
    live.open(address)
    live.page.get_by_role("button", name="keep").click()
    expect(live.page.locator(".banner[data-tone=kept]")).to_be_visible()


def test_runs_are_kept_named_compared_scrubbed_and_deleted(live: Live, site: str) -> None:
    keep(live, f"{site}/walk?length=6&walkers=40")
    keep(live, f"{site}/walk?length=9&walkers=60&theme=dark")
    live.page.get_by_role("link", name="compare runs").click()
    rows = live.page.locator(".run-row")
    own = live.page.locator(".run-row", has=live.page.locator(".run-note"))
    expect(own).to_have_count(2)
    expect(own.nth(0).locator("input.run-name")).to_have_value("walk")
    own.nth(0).locator("input.run-name").fill("the long one")
    own.nth(0).locator(".run-note").fill("for <b>Monday</b>")
    own.nth(0).locator(".run-note").press("Tab")
    expect(live.page.get_by_label("note on the long one")).to_have_value("for <b>Monday</b>")
    own.nth(1).locator("input.run-name").fill("the short one")
    own.nth(1).locator("input.run-name").press("Tab")
    expect(live.page.get_by_label("note on the short one")).to_be_visible()
    for index in range(2):
        own.nth(index).locator("input[type=checkbox]").click()
    table = live.page.locator("table.sides").first
    expect(table).to_contain_text("the long one")
    expect(table.locator("tr", has_text="length")).to_contain_text("9")
    expect(table.locator("tr", has_text="walkers")).to_contain_text("40")
    live.hero.wait_for()
    live.page.keyboard.press("End")
    expect(live.caption).to_contain_text("the long one: After step 8,")
    expect(live.caption).to_contain_text("the short one: After step 5,")
    own.nth(0).get_by_role("button", name="delete").click()
    own.nth(0).get_by_role("button", name="delete").click()
    expect(own).to_have_count(1)
    expect(table).to_have_count(0)
    assert rows.count() >= 1
    assert live.errors == []


def test_the_address_of_a_comparison_brings_it_back(live: Live, site: str) -> None:
    live.page.goto(f"{site}/compare?theme=dark")
    for name in ("ZipVL, as shipped", "ProDepth, as shipped"):
        live.page.get_by_label(f"compare {name}", exact=True).check()
    table = live.page.locator("table.sides").first
    expect(table).to_contain_text("ProDepth, as shipped")
    live.page.wait_for_function("() => location.search.includes('runs=')")
    live.page.reload()
    expect(live.page.locator("table.sides").first).to_contain_text("ProDepth, as shipped")
    assert "theme=dark" in live.page.url
    live.page.get_by_label("compare ZipVL, as shipped", exact=True).uncheck()
    live.page.get_by_label("compare ProDepth, as shipped", exact=True).uncheck()
    live.page.wait_for_function("() => !location.search.includes('runs=')")


def test_a_kept_run_is_opened_again_and_nobody_else_sees_it(live: Live, browser: Any, site: str) -> None:
    keep(live, f"{site}/walk?length=7&walkers=50")
    live.page.goto(f"{site}/compare")
    address = str(live.page.get_by_label("open walk").get_attribute("href"))
    live.page.goto(f"{site}/{address.removeprefix('./')}")
    expect(live.page.locator("#knob-walkers")).to_have_value("50")
    expect(live.page.locator(".where")).to_have_text("step 0 of 6")
    expect(live.page.locator(".detail")).to_contain_text("kept as “walk”")
    context = browser.new_context()
    other = Live(context)
    other.page.goto(f"{site}/compare")
    expect(other.page.locator(".runs")).to_contain_text("None yet.")
    other.page.goto(f"{site}/{address.removeprefix('./')}")
    expect(other.page.locator(".banner")).to_contain_text("expected one that is on your shelf")
    context.close()


def test_download_and_upload_are_the_same_run(live: Live, site: str, tmp_path: Path) -> None:
    live.open(f"{site}/walk?length=6")
    live.page.locator(".menu summary").click()
    with live.page.expect_download() as caught:
        live.page.get_by_role("button", name="download record").click()
    path = tmp_path / "run.zarr.zip"
    caught.value.save_as(path)
    record = Record.load(path)
    np.testing.assert_equal(record.knobs["length"], 6)
    live.page.goto(f"{site}/compare")
    expect(live.page.locator(".runs")).to_contain_text("None yet.")
    live.page.locator("#upload-file").set_input_files(path)
    expect(live.page.locator(".banner")).to_contain_text("“run” is on your shelf.")
    with live.page.expect_download() as caught:
        live.page.get_by_label("download run", exact=True).click()
    caught.value.save_as(tmp_path / "again.zarr.zip")
    assert Record.load(tmp_path / "again.zarr.zip").equals(record)
    assert live.errors == []


@pytest.mark.parametrize(
    ("data", "sentence"),
    [(b"no record at all", "is not a whole Workbench record"), (b"PK\x05\x06" + b"\0" * 18, "not a Workbench record"), (b"", "is not a whole Workbench record")],
)  # fmt: skip
def test_a_file_that_is_no_record_is_refused(live: Live, site: str, data: bytes, sentence: str, shelf: Path) -> None:
    live.page.goto(f"{site}/compare")
    expect(live.page.locator(".runs")).to_contain_text("None yet.")
    live.page.locator("#upload-file").set_input_files({"name": "x.zarr.zip", "mimeType": "application/zip", "buffer": data})
    expect(live.page.locator(".banner[data-tone=error]")).to_contain_text(sentence)
    assert not list(shelf.glob("*/*.zip"))


def test_a_picture_is_saved_as_png_and_as_svg_with_its_question(live: Live, site: str, tmp_path: Path) -> None:
    from PIL import Image

    live.open(f"{site}/walk")
    live.hero.hover()
    for form in ("PNG", "SVG"):
        with live.page.expect_download() as caught:
            live.hero.get_by_role("button", name=form).click()
        assert caught.value.suggested_filename == f"how-many-are-far-away.{form.lower()}"
        caught.value.save_as(tmp_path / form)
    assert Image.open(io.BytesIO((tmp_path / "PNG").read_bytes())).width > 800
    text = (tmp_path / "SVG").read_text(encoding="utf-8")
    assert text.startswith("<svg")
    assert "How many are far away?" in text


def test_the_offline_page_is_downloaded(live: Live, site: str, tmp_path: Path) -> None:
    live.open(f"{site}/walk?length=4")
    live.page.locator(".menu summary").click()
    with live.page.expect_download() as caught:
        live.page.get_by_role("button", name="download offline page").click()
    caught.value.save_as(tmp_path / "run.html")
    assert "How many are far away?" in (tmp_path / "run.html").read_text(encoding="utf-8")


def test_copies_say_exactly_what_the_page_shows(live: Live, site: str) -> None:
    live.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    live.open(f"{site}/walk?length=6&threshold=3.5&motto=it's%20one&strict=true")
    said = {}
    for name in ("copy as Python", "copy as command", "copy link"):
        if not live.page.locator(".menu").get_attribute("open") is not None:
            live.page.locator(".menu summary").click()
        live.page.get_by_role("button", name=name).click()
        said[name] = live.page.evaluate("navigator.clipboard.readText()")
    assert 'wb.run("walk", threshold=3.5, length=6, motto="it\'s one", strict=True)' in said["copy as Python"]
    command = "workbench run walk --threshold 3.5 --length 6 --motto 'it'\"'\"'s one' --strict true --out run.zarr.zip"
    assert said["copy as command"] == command
    assert said["copy link"] == live.page.url


def test_a_link_says_what_it_cannot_hold(live: Live, site: str) -> None:
    live.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    live.open(f"{site}/walk?motto=short&walkers=60")
    live.page.locator("#knob-motto").fill("step " * 400)
    live.page.locator("#knob-motto").blur()
    expect(live.page).not_to_have_url(re.compile("motto"))
    live.page.locator(".menu summary").click()
    live.page.locator("button.share").click()
    expect(live.page.locator("button.share")).to_have_text("copied, without motto: too long for a link")
    assert "walkers=60" in live.page.evaluate("navigator.clipboard.readText()")


def test_where_a_page_may_not_copy_the_text_stands_selected_line_by_line(live: Live, site: str) -> None:
    """Plain http from another machine: browsers keep the clipboard from such pages."""
    live.page.add_init_script("Object.defineProperty(Navigator.prototype, 'clipboard', { get: () => undefined })")
    live.open(f"{site}/walk?length=7")
    live.page.locator(".menu > summary").click()
    live.page.get_by_role("button", name="copy as Python").press("Enter")
    text = live.page.get_by_label("text to copy")
    expect(text).to_have_value('import workbench as wb\n\nrecord = wb.run("walk", length=7)')
    expect(text).to_be_focused()
    assert text.evaluate("(node) => node.selectionEnd - node.selectionStart === node.value.length")
    live.page.keyboard.press("Escape")
    expect(text).to_be_hidden()
    expect(live.page.locator(".menu > summary")).to_be_focused()
    assert live.errors == []

"""A folder of records as a static site: cards and pages that open from a file, one script for all, nothing half-written."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.views.simulator import record as simulate
from workbench import cli, site, views
from workbench.errors import InputError, StorageError
from workbench.record import Record


@pytest.fixture(scope="module", autouse=True)
def few_pictures() -> Iterator[None]:
    """Draw what the tests look at: all views of every step would take half a minute."""
    patch, every = pytest.MonkeyPatch(), views.registry()
    few = {n: every[n] for n in ("token_tree", "text_strip", "speed_quality")}
    patch.setattr(views, "registry", lambda: few)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    simulate(steps=5).save(folder / "First run.zarr.zip")
    simulate(steps=3, seed=1).save(folder / "first-run.zarr.zip")
    (folder / "damaged.zarr.zip").write_bytes(b"no zip <script>")
    (folder / "notes.txt").write_text("not a record")
    return folder


@pytest.fixture(scope="module")
def made(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> site.Site:
    return site.write_site(runs, tmp_path_factory.mktemp("out") / "site")


def test_every_record_has_a_page_and_what_has_none_is_said(made: site.Site) -> None:
    assert made.pages == {"First run.zarr.zip": "first-run.html", "first-run.zarr.zip": "first-run-2.html"}
    assert list(made.left_out) == ["damaged.zarr.zip"]
    index = made.index.read_text(encoding="utf-8")
    assert "damaged.zarr.zip" in index
    assert "not a whole Workbench record" in index
    assert "2 runs" in index
    assert {p.name for p in made.index.parent.iterdir()} == {"index.html", site.PLOTLY, *made.pages.values()}


def test_the_script_stands_there_once_and_nothing_comes_from_a_network(made: site.Site) -> None:
    folder = made.index.parent
    for page in (made.index, *(folder / p for p in made.pages.values())):
        text = page.read_text(encoding="utf-8")
        assert re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=[\"']([^\"']+)", text) == [site.PLOTLY]
        assert "http" not in text
        assert "{{" not in text
        assert page.stat().st_size < 2_000_000


def test_a_site_is_made_again_and_another_folder_is_not_touched(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "site"
    out.mkdir()
    first = site.write_site(runs, out)
    (out / "first-run.html").write_text("old")
    again = site.write_site(runs, out)
    assert first == again
    assert (out / "first-run.html").stat().st_size > 1000
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    (tmp_path / "file").write_text("x")
    for wrong in ("mine", "file"):
        with pytest.raises(InputError, match="holds other files"):
            site.write_site(runs, tmp_path / wrong)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "mine", "site"]


def test_a_full_disk_leaves_the_old_site(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "site"
    site.write_site(runs, out)
    before = (out / "index.html").read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StorageError, match="No space left on device"):
        site.write_site(runs, out)
    assert (out / "index.html").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["site"]


def test_folders_without_records(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected records \(\*\.zarr\.zip\), got none"):
        site.write_site(tmp_path, tmp_path / "site")
    with pytest.raises(StorageError, match="Check the path"):
        site.write_site(tmp_path / "nowhere", tmp_path / "site")
    (tmp_path / "a.zarr.zip").write_bytes(b"x")
    with pytest.raises(InputError, match=r"a record that can be shown.*a\.zarr\.zip"):
        site.write_site(tmp_path, tmp_path / "site")
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr.zip"]


def test_the_command_line_makes_pages_and_sites(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.call(["export", str(runs), "--html", str(tmp_path / "site")]) == 0
    err = capsys.readouterr().err
    assert "Left out damaged.zarr.zip: " in err
    assert err.endswith(f"Saved {tmp_path / 'site' / 'index.html'}\n")
    alone = simulate(steps=2).save(tmp_path / "one.zarr.zip")
    assert cli.call(["export", str(alone)]) == 0
    assert (tmp_path / "one.html").is_file(), "by default beside the record"


SCRIPT = "</script><script>window.stolen = 1</script><img src=x onerror='window.stolen = 2'>{{POOL}}"


def poisoned(steps: int = 3) -> Record:
    """Return a record that says harmful things wherever it may say anything."""
    record = simulate(steps=steps)
    for name in ("system", "device", "created"):
        record.tree.attrs[name] = SCRIPT
    record.tree.attrs["knobs"] = json.dumps({SCRIPT: SCRIPT, "method": SCRIPT})
    record["text"]["piece"].values[:] = SCRIPT
    record["tree"]["piece"].values[:] = SCRIPT
    columns = {n: np.array(record.column("meters", n)) for n in record.variables("meters")}
    for name in ("meter", "unit", "baseline_name"):
        columns[name][0] = SCRIPT
    return record.with_groups({"meters": columns})


@pytest.mark.ui
def test_cards_lead_to_pages_and_a_hostile_record_is_only_text(runs: Path, tmp_path: Path, offline: Any) -> None:
    folder = tmp_path / "runs"
    folder.mkdir()
    (folder / "a.zarr.zip").write_bytes((runs / "First run.zarr.zip").read_bytes())
    poisoned().save(folder / "evil.zarr.zip")
    made = site.write_site(folder, tmp_path / "site")
    tab = offline(made.index, "dark")
    tab.wait_for_selector("article:first-of-type .main-svg")
    assert tab.locator("article").count() == 2
    assert tab.evaluate("document.documentElement.dataset.theme") == "dark"
    assert "window.stolen = 1" in tab.inner_text("article:last-of-type")
    tab.click("#theme")
    tab.locator("article h2 a").first.click()
    tab.wait_for_selector("#token_tree .main-svg")
    assert tab.evaluate("document.documentElement.dataset.theme") == "light", "the reader's choice goes along"
    tab.keyboard.press("ArrowRight")
    assert tab.text_content("#where") == "step 1 of 4"
    tab.get_by_role("link", name="all runs").click()
    tab.wait_for_selector("article .main-svg")
    for page in (made.index, made.index.parent / "evil.html"):
        tab.goto(page.as_uri())
        tab.wait_for_selector(".main-svg")
        assert tab.evaluate("window.stolen") is None
    assert "window.stolen = 1" in tab.inner_text("#text_strip-words, h1")
    assert offline.problems == []

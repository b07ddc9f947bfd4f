"""Every page for everybody: names, roles, sizes and contrast by axe in both designs; 200 % zoom; a phone's width."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.ui.conftest import Live
from tests.ui.walk import Walk
from workbench import system as systems
from workbench.tape import Tape

RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"], "resultTypes": ["violations"]}
KEYS = sorted(key for key, entry in systems.registry().items() if not entry.error)
DESIGNS = ("light", "dark")
GROUND = {"light": "rgb(255, 255, 255)", "dark": "rgb(18, 21, 26)"}


@pytest.fixture(scope="module")
def site(browser: Any) -> Iterator[str]:
    """The address of a server with every page, as `make serve` opens them."""
    from widgets import serve

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = serve.serve(port=port, threaded=True)
    yield f"http://localhost:{port}"
    server.stop()


def complaints(page: Any) -> list[str]:
    """Return what axe finds wrong: rule, element and the sentence for each."""
    found = Axe().run(page, options=RULES).response["violations"]
    return [f"{v['id']}: {n['target']} {n['html'][:160]} {n['failureSummary']}" for v in found for n in v["nodes"]]


def standing(live: Live, path: str) -> None:
    """Wait until a page is there, with its first picture if it has one."""
    (live.hero if path in KEYS else live.page.locator("button.theme")).wait_for(timeout=60_000)


def painted(live: Live, theme: str) -> None:
    """Wait until the page's ground is that of a theme, and every picture on show is drawn in it."""
    live.page.wait_for_function(f"() => getComputedStyle(document.body).backgroundColor === '{GROUND[theme]}'")
    live.page.wait_for_timeout(300)


def look(live: Live, theme: str) -> None:
    button = live.page.locator("button.theme")
    if button.inner_text() == theme:
        button.click()
    painted(live, theme)
    assert complaints(live.page) == [], theme


@pytest.mark.parametrize("path", ["", "compare", *KEYS])
def test_names_roles_and_contrast(live: Live, site: str, path: str) -> None:
    live.page.goto(f"{site}/{path}")
    standing(live, path)
    for theme in DESIGNS:
        look(live, theme)


# ---- zoom and phones -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["", "compare", *KEYS])
def test_phones_and_zoom_need_no_sideways_scrolling(browser: Any, site: str, path: str) -> None:
    """A page zoomed to 200 % on a 1280-pixel screen is laid out like one of 640 pixels; a phone has 375 and a finger."""
    context = browser.new_context(viewport={"width": 375, "height": 700}, device_scale_factor=2, has_touch=True)
    live = Live(context)
    live.page.goto(f"{site}/{path}")
    standing(live, path)
    for width in (375, 640):
        live.page.set_viewport_size({"width": width, "height": 700})
        live.page.wait_for_timeout(300)  # pictures follow the width
        assert live.page.evaluate("document.documentElement.scrollWidth") <= width
        for text in live.page.locator("h1, .question, figcaption, .knob label, .card h3").all():
            if text.is_visible():
                box, size = text.bounding_box(), text.evaluate("(node) => parseFloat(getComputedStyle(node).fontSize)")
                assert box["x"] >= 0
                assert box["x"] + box["width"] <= width + 1
                assert size >= 12
        for frame in live.page.locator("figure.picture .frame:visible").all():
            wide = frame.evaluate("(node) => [node.clientWidth, node.scrollWidth, node.firstChild.layout?.meta?.least ?? 540]")
            assert wide[1] == max(wide[0], wide[2])  # a picture keeps the width that it needs, and its frame moves
            assert (frame.get_attribute("tabindex") == "0") == (wide[1] > wide[0])  # by the keyboard, too
    context.close()


# ---- what is passed on -----------------------------------------------------------------------------------------------


def test_the_offline_page_and_the_site(browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.ui.walk import VIEWS
    from workbench import views
    from workbench.site import write_site

    monkeypatch.setattr(views, "registry", lambda: VIEWS)
    (tmp_path / "runs").mkdir()
    Walk(length=4).record(Tape()).save(tmp_path / "runs" / "a.zarr.zip")
    site = write_site(tmp_path / "runs", tmp_path / "site")
    for width in (1280, 375):
        for theme in DESIGNS:
            context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=theme)
            page = context.new_page()
            for file in (site.index, site.index.parent / "a.html"):
                page.goto(file.as_uri())
                page.locator(".main-svg").first.wait_for()
                assert page.evaluate("document.documentElement.scrollWidth") <= width
                assert complaints(page) == []
            context.close()

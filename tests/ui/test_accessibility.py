"""Every page for everybody: names and contrast by axe in both designs, the keyboard, no motion where none is wanted, zoom, phones."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests.ui.conftest import Live
from tests.ui.walk import Walk
from workbench import system as systems
from workbench.tape import Tape

RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"], "resultTypes": ["violations"]}
KEYS = sorted(key for key, entry in systems.registry().items() if not entry.error)
DESIGNS = ("light", "dark")
GROUND = {"light": "rgb(255, 255, 255)", "dark": "rgb(18, 21, 26)"}


@pytest.fixture(scope="module")
def every(browser: Any) -> Iterator[str]:
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
def test_names_roles_and_contrast(live: Live, every: str, path: str) -> None:
    live.page.goto(f"{every}/{path}")
    standing(live, path)
    for theme in DESIGNS:
        look(live, theme)


def test_open_menus_messages_and_sweeps_too(live: Live, site: str) -> None:
    live.open(f"{site}/walk?threshold=99")
    expect(live.page.locator(".banner")).to_be_visible()
    live.page.locator(".menu summary").click()
    live.page.get_by_text("Advanced").click()
    live.page.get_by_label("sweep Threshold").first.click()
    live.page.get_by_text("In words").first.click()
    for theme in DESIGNS:
        look(live, theme)


# ---- the keyboard ----------------------------------------------------------------------------------------------------

#: What has the focus, through shadow roots: tag, name as a reader hears it, whether a ring shows.
FOCUSED = """() => { let node = document.activeElement; while (node?.shadowRoot?.activeElement) node = node.shadowRoot.activeElement
  if (!node || node === document.body) return null
  const style = getComputedStyle(node), label = node.labels?.[0]?.textContent
  window.wbSeen ??= new Map(); if (!window.wbSeen.has(node)) window.wbSeen.set(node, window.wbSeen.size)
  return { place: window.wbSeen.get(node), tag: node.tagName, ring: style.outlineStyle !== 'none' && style.outlineWidth !== '0px',
    name: (node.getAttribute('aria-label') || label || node.textContent || node.title || '').trim() } }"""
#: Everything that can be worked with and is on show, through shadow roots.
WORKABLE = """() => { const found = []
  const walk = (root) => root.querySelectorAll('*').forEach((node) => { if (node.shadowRoot) walk(node.shadowRoot)
    if (node.matches('a[href], button, input, select, textarea, summary') && !node.disabled && node.tabIndex >= 0 && node.checkVisibility({ visibilityProperty: true })) found.push(node) })
  walk(document)
  return { count: found.length, missed: found.filter((node) => !window.wbSeen?.has(node)).map((node) => node.outerHTML.slice(0, 120)) } }"""


def walk_through(page: Any, most: int = 400) -> list[dict[str, Any]]:
    """Press Tab from the top until the focus comes back, and return where it was."""
    seen: list[dict[str, Any]] = []
    page.evaluate("() => { window.wbSeen = new Map() }")
    for _ in range(most):
        page.keyboard.press("Tab")
        now = page.evaluate(FOCUSED)
        if now is None:  # the window itself: from there the next Tab enters at the top
            continue
        if now["place"] < len(seen):
            return seen
        seen.append(now)
    pytest.fail(f"{most} times Tab did not come round")


def test_tab_reaches_every_control_with_a_ring_and_a_name(live: Live, site: str) -> None:
    live.open(f"{site}/walk")
    expect(live.page.locator("figure.picture[data-drawn]")).to_have_count(4)
    live.page.get_by_text("Advanced").click()
    seen = walk_through(live.page)
    workable = live.page.evaluate(WORKABLE)
    assert workable["missed"] == []
    assert len(seen) >= workable["count"] > 20
    assert [s for s in seen if not s["ring"]] == []
    assert [s for s in seen if not s["name"]] == []


@pytest.mark.parametrize("path", ["", "compare"])
def test_tab_reaches_everything_on_the_other_pages(live: Live, site: str, path: str) -> None:
    live.page.goto(f"{site}/{path}")
    live.page.locator("button.theme").wait_for()
    seen = walk_through(live.page)
    assert live.page.evaluate(WORKABLE)["missed"] == []
    assert [s for s in seen if not s["ring"] or not s["name"]] == []


def test_every_kind_of_control_answers_to_keys(live: Live, site: str) -> None:
    live.open(f"{site}/walk")
    page = live.page
    before = live.drawn()
    page.locator("#knob-threshold").focus()
    page.keyboard.press("ArrowRight")
    expect(live.hero).not_to_have_attribute("data-drawn", before)
    expect(page.get_by_label("Threshold as a number")).to_have_value("2.1")
    page.locator("#knob-law").focus()
    page.keyboard.press("ArrowDown")
    live.page.wait_for_function("() => window.location.search.includes('law=lazy')")
    page.get_by_role("button", name="small").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#knob-length")).to_have_value("8")
    page.locator(".menu summary").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="copy as Python")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="copy as Python")).to_be_hidden()
    page.locator("button.theme").focus()
    page.keyboard.press("Space")
    painted(live, "dark")
    assert live.errors == []


# ---- motion, zoom, phones --------------------------------------------------------------------------------------------

MOVING = """() => { const found = []
  const walk = (root) => root.querySelectorAll('*').forEach((node) => { if (node.shadowRoot) walk(node.shadowRoot)
    if (node.closest?.('.js-plotly-plot')) return
    const style = getComputedStyle(node), long = (text) => text.split(',').some((t) => parseFloat(t) > 0)
    if (long(style.transitionDuration) || (style.animationName !== 'none' && long(style.animationDuration))) found.push(node.outerHTML.slice(0, 100)) })
  walk(document); return found }"""


def test_nothing_moves_for_a_reader_who_wants_no_motion(browser: Any, site: str) -> None:
    for wish, moves in (("reduce", False), ("no-preference", True)):
        context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion=wish)
        live = Live(context).open(f"{site}/walk")
        assert bool(live.page.evaluate(MOVING)) == moves, wish
        context.close()


@pytest.mark.parametrize("path", ["", "compare", *KEYS])
@pytest.mark.parametrize(("width", "scale"), [(375, 3), (640, 2)], ids=["phone", "zoom-200"])
def test_phones_and_zoom_need_no_sideways_scrolling(browser: Any, every: str, path: str, width: int, scale: int) -> None:
    """A page zoomed to 200 % on a 1280-pixel screen is laid out like one of 640 pixels."""
    context = browser.new_context(viewport={"width": width, "height": 700}, device_scale_factor=scale, has_touch=width < 500)
    live = Live(context)
    live.page.goto(f"{every}/{path}")
    standing(live, path)
    assert live.page.evaluate("document.documentElement.scrollWidth") <= width
    for text in live.page.locator("h1, .question, figcaption, .knob label, .card h3").all():
        if text.is_visible():
            box, size = text.bounding_box(), text.evaluate("(node) => parseFloat(getComputedStyle(node).fontSize)")
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width + 1
            assert size >= 12
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

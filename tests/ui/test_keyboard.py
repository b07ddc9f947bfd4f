"""The keyboard alone reaches and works every control, open menus and messages are as axe wants them, and nothing moves unasked."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import expect

from tests.ui.conftest import Live
from tests.ui.test_accessibility import DESIGNS, look, painted


def test_open_menus_messages_and_sweeps_too(live: Live, site: str) -> None:
    live.open(f"{site}/walk?threshold=99")
    expect(live.page.locator(".banner")).to_be_visible()
    live.page.locator(".menu summary").click()
    live.page.get_by_text("Advanced").click()
    live.page.get_by_label("sweep Threshold").first.click()
    live.page.get_by_text("In words").first.click()
    for theme in DESIGNS:
        look(live, theme)


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
    if path == "compare":
        expect(live.page.get_by_role("button", name="upload a run")).to_be_enabled()  # once the shelf is open
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


# ---- motion ----------------------------------------------------------------------------------------------------------

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

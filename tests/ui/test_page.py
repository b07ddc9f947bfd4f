"""The live page in a real browser."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from playwright.sync_api import expect

from tests.ui.conftest import Live
from workbench.errors import InputError


def test_page_paints_without_errors(live: Live, site: str) -> None:
    live.open(f"{site}/walk")
    expect(live.page.locator("h1")).to_have_text("Random walks")
    expect(live.caption).to_contain_text("beyond the threshold")
    np.testing.assert_equal(len(live.curve()), 12)
    expect(live.page.locator(".meter")).to_have_count(2)
    assert live.errors == []


def test_live_knob_redraws_only_what_it_changes(live: Live, site: str) -> None:
    live.open(f"{site}/walk")
    expect(live.page.locator("figure.picture[data-drawn]")).to_have_count(4)
    live.page.get_by_title("last step (End)").click()
    expect(live.caption).to_contain_text("step 11")
    before, words, drawn = live.curve(), live.caption.inner_text(), live.drawn()
    still = live.picture("Where are the walkers?").get_attribute("data-drawn")
    live.slide("threshold", 0.5)
    expect(live.hero).not_to_have_attribute("data-drawn", drawn)
    expect(live.caption).not_to_have_text(words)
    assert np.sum(live.curve()) > np.sum(before)
    expect(live.picture("Where are the walkers?")).to_have_attribute("data-drawn", str(still))
    expect(live.badge).to_have_attribute("data-state", "measured")
    assert live.errors == []


def test_a_fast_hand_ends_on_the_last_value(live: Live, site: str) -> None:
    live.open(f"{site}/walk")
    for value in np.linspace(0, 9.5, 40):
        live.slide("threshold", float(value))
    live.slide("threshold", 0.0)
    live.page.get_by_title("last step (End)").click()
    expect(live.caption).to_contain_text(re.compile(r"step 11.* (8|9)\d%|100%"))


def test_arrow_keys_and_space_move_through_the_steps(live: Live, site: str) -> None:
    live.open(f"{site}/walk")
    for key, step in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("End", 11), ("Home", 0)):
        live.page.keyboard.press(key)
        expect(live.page.locator(".steps")).to_have_attribute("data-step", str(step))
        expect(live.caption).to_contain_text(f"step {step},")
    live.page.keyboard.press("Space")
    expect(live.page.locator(".steps")).to_have_attribute("data-step", "2")
    assert live.errors == []


def test_keys_typed_into_a_knob_do_not_step(live: Live, site: str) -> None:
    live.open(f"{site}/walk")
    live.page.locator("#knob-motto").click()
    live.page.keyboard.press("ArrowLeft")
    live.page.keyboard.press("ArrowRight")
    expect(live.page.locator(".steps")).to_have_attribute("data-step", "0")


def test_run_knob_runs_shows_progress_and_cancels(live: Live, site: str) -> None:
    live.open(f"{site}/walk?pace_ms=200&length=60", state="running")
    expect(live.page.locator(".growing")).to_contain_text("one step at a time")
    expect(live.page.locator(".detail")).to_contain_text("%")
    expect(live.page.locator("figure.picture[data-drawn]").first).to_be_visible()
    live.page.get_by_role("button", name="cancel").click()
    expect(live.badge).to_have_attribute("data-state", "cancelled")
    expect(live.page.locator(".growing")).to_be_hidden()
    live.slide("pace_ms", 0, release=True)
    expect(live.badge).to_have_attribute("data-state", "measured")
    np.testing.assert_equal(len(live.curve()), 60)
    assert live.errors == []


def test_old_picture_stays_until_the_new_one_is_there(live: Live, site: str) -> None:
    live.open(f"{site}/walk?pace_ms=50")
    live.slide("length", 30, release=True)
    expect(live.badge).to_have_attribute("data-state", "running")
    expect(live.hero).to_be_visible()
    expect(live.badge).to_have_attribute("data-state", "measured")
    expect(live.page.locator(".dimmed")).to_have_count(0)
    np.testing.assert_equal(len(live.curve()), 30)


@pytest.mark.parametrize(
    ("motto", "sentence"),
    [(" ", "motto: expected at least one word, got an empty text. Write one."),
     ("boom", "Something went wrong inside; the log has the details.")],
)  # fmt: skip
def test_errors_are_a_sentence_and_the_page_lives_on(live: Live, site: str, motto: str, sentence: str) -> None:
    live.open(f"{site}/walk")
    live.write("motto", motto)
    expect(live.page.locator(".banner")).to_contain_text(sentence)
    expect(live.badge).to_have_attribute("data-state", "failed")
    live.write("motto", "again and again")
    expect(live.badge).to_have_attribute("data-state", "measured")
    expect(live.page.locator(".banner")).to_be_hidden()


def test_values_a_visitor_may_not_ask_for(live: Live, site: str) -> None:
    live.open(f"{site}/walk")
    live.slide("walkers", 4000, release=True)
    expect(live.page.locator(".banner")).to_contain_text("walkers: expected at most 2000 on a shared page, got 4000")
    expect(live.page.locator("#knob-walkers")).to_have_value("200")
    live.page.get_by_text("Advanced").click()
    for path in ("/etc/passwd", "../secret", "~/model", "pyproject.toml"):
        live.write("model", path)
        expect(live.page.locator(".banner")).to_contain_text("Files on the server are not opened from a page.")
        expect(live.page.locator("#knob-model")).to_have_value("coin")
    live.write("model", "some-org/some-model")
    expect(live.badge).to_have_attribute("data-state", "measured")


def test_a_page_that_others_reach_offers_its_own_models_only(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.ui.walk import Walk
    from widgets import controls

    monkeypatch.setattr(controls, "any_model", False)
    assert controls.read(Walk(), "model", "die", public=True) == "die"
    with pytest.raises(InputError, match="one of coin, die"):
        controls.read(Walk(), "model", "some-org/some-model", public=True)


def test_link_restores_the_knobs_and_survives_nonsense(live: Live, site: str) -> None:
    live.open(f"{site}/walk?threshold=4.5&walkers=77&law=lazy&branching=3,2&strict=true")
    for name, value in (("threshold", "4.5"), ("walkers", "77"), ("law", "lazy")):
        expect(live.page.locator(f"#knob-{name}")).to_have_value(value)
    expect(live.page.locator("#knob-strict")).to_be_checked()
    live.slide("threshold", 3.0, release=True)
    live.page.wait_for_function("() => window.location.search.includes('threshold=3')")
    kept = parse_qs(urlsplit(live.page.url).query)
    assert kept["walkers"] == ["77"]
    assert kept["law"] == ["lazy"]
    live.open(f"{site}/walk?threshold=99&walkers=x&nobody=1")
    expect(live.page.locator(".banner")).to_contain_text("threshold: expected a number from 0.0 to 10.0 steps")
    expect(live.page.locator("#knob-threshold")).to_have_value("2")
    assert live.errors == []


def test_double_click_and_reset_bring_the_default_back(live: Live, site: str) -> None:
    live.open(f"{site}/walk?threshold=4.5")
    live.page.locator("#knob-threshold").dblclick()
    expect(live.page.locator("#knob-threshold")).to_have_value("2")
    live.page.get_by_label("Threshold as a number").fill("7")
    live.page.get_by_label("Threshold as a number").press("Enter")
    expect(live.page.locator("#knob-threshold")).to_have_value("7")
    live.page.get_by_label("reset Threshold").click()
    expect(live.page.locator("#knob-threshold")).to_have_value("2")


def test_an_explanation_that_closes_does_not_swallow_a_click_below_it(live: Live, site: str) -> None:
    live.open(f"{site}/walk")
    live.page.get_by_text("Advanced").click()
    live.page.locator("#knob-model").focus()
    expect(live.page.locator("[data-knob=model] .doc")).to_be_visible()
    live.page.locator("#knob-strict").click()
    expect(live.page.locator("#knob-strict")).to_be_checked()
    expect(live.page.locator("[data-knob=strict] .doc")).to_be_visible()
    expect(live.page.locator("[data-knob=model] .doc")).to_be_hidden()


def test_presets_set_and_run(live: Live, site: str) -> None:
    live.open(f"{site}/walk")
    live.page.get_by_role("button", name="small").click()
    expect(live.page.locator("#knob-length")).to_have_value("8")
    expect(live.page.locator(".where")).to_have_text("step 0 of 7")
    np.testing.assert_equal(len(live.curve()), 8)


def test_cards_of_a_server_with_one_address_lead_to_their_papers_in_both_themes(live: Live, site: str) -> None:
    for theme, more in (("light", ""), ("dark", "&theme=dark")):
        live.page.goto(f"{site}/app?theme={theme}")
        expect(live.page.locator("a.card[data-name=rsd]")).to_have_attribute("href", f"app?system=rsd{more}")
        expect(live.page.get_by_role("link", name="compare runs")).to_have_attribute("href", "app?page=compare")
    live.page.goto(f"{site}/app?page=compare")
    expect(live.page.get_by_role("link", name="all papers")).to_have_attribute("href", "app")
    expect(live.page.get_by_role("link", name="open").first).to_have_attribute("href", re.compile(r"^app\?system=\w+$"))


def test_theme_changes_page_and_pictures(live: Live, site: str) -> None:
    live.open(f"{site}/walk")
    live.page.get_by_role("button", name="dark").click()
    live.page.wait_for_function("() => getComputedStyle(document.body).backgroundColor === 'rgb(18, 21, 26)'")
    expect(live.page.locator("figure.picture .js-plotly-plot .main-svg").first).to_have_css("background-color", "rgb(18, 21, 26)")
    assert live.errors == []


def test_a_click_on_the_plane_brings_a_run_back(live: Live, site: str) -> None:
    live.open(f"{site}/walk")
    live.slide("length", 5, release=True)
    expect(live.page.locator(".where")).to_have_text("step 0 of 4")
    plane = live.picture("What does speed cost?").locator(".js-plotly-plot")
    plane.evaluate("(plot) => plot.emit('plotly_click', { points: [{ x: 0, y: 0, customdata: 0, data: {}, pointIndex: 0 }] })")
    expect(live.page.locator("#knob-length")).to_have_value("12")
    expect(live.page.locator(".where")).to_have_text("step 0 of 11")


def test_words_say_the_same(live: Live, site: str) -> None:
    live.open(f"{site}/walk")
    live.page.get_by_text("In words").first.click()
    expect(live.page.locator(".twin").first).to_contain_text("step 12: 0.")


@pytest.mark.parametrize("width", [800, 420])
def test_narrow_pages_fold_into_one_column(live: Live, site: str, width: int) -> None:
    live.page.set_viewport_size({"width": width, "height": 900})
    live.open(f"{site}/walk")
    assert live.page.evaluate("document.documentElement.scrollWidth") <= width
    boxes = [live.page.locator(name).first.bounding_box() or {} for name in (".knobs", "figure.picture")]
    assert boxes[0]["y"] + boxes[0]["height"] <= boxes[1]["y"]
    assert abs(boxes[0]["x"] - boxes[1]["x"]) < 2


def test_two_visitors_do_not_see_each_other(browser: Any, site: str) -> None:
    contexts = [browser.new_context() for _ in range(2)]
    one, other = (Live(context) for context in contexts)
    one.open(f"{site}/walk?pace_ms=200&length=200&motto=mine", state="running")
    other.open(f"{site}/walk?motto=yours", state="waiting")
    expect(other.page.locator(".detail")).to_contain_text("before you")
    expect(other.page.locator(".growing")).to_be_hidden()
    expect(one.page.locator(".growing")).to_contain_text("mine")
    one.page.get_by_role("button", name="cancel").click()
    one.state("cancelled")
    other.state("measured")
    np.testing.assert_equal(len(other.curve()), 12)
    expect(one.page.locator(".meter")).to_have_count(0)
    assert one.errors == other.errors == []
    for context in contexts:
        context.close()


def test_catalogue_lists_every_system_with_its_question(live: Live, site: str) -> None:
    from workbench.api import catalog

    live.page.goto(site)
    expect(live.page.locator(".card")).to_have_count(len(catalog().rows))
    for row in catalog().rows:
        expect(live.page.locator(".card", has_text=row["question"] or row["name"])).to_be_visible()
    assert live.errors == []
